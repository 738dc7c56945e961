"""Tests of the cache of decoded images."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_spectral.data.cache import ImageCache
from torchreid_spectral.data.loading import EpochLoader
from torchreid_spectral.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def draw(path, value):
    pixels = np.full((20, 10, 3), value, dtype=np.uint8)
    pixels[5:9] = 255 - value
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("disk", [False, True])
def test_it_gives_what_a_resize_gives(tmp_path, disk):
    paths = [draw(tmp_path / f"{value}.png", value) for value in (10, 90, 200)]
    cache = ImageCache(paths, 16, 8, tmp_path / "cache" if disk else None)
    for path in paths * 2:
        expected = Image.open(path).convert("RGB").resize((8, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(cache(path)), np.asarray(expected))
    os.remove(paths[0])
    with pytest.raises(OSError, match="0.png"):
        cache(paths[0])


def test_a_cache_on_disk_is_kept_and_a_changed_file_noticed(tmp_path):
    path = draw(tmp_path / "a.png", 10)
    ImageCache([path], 16, 8, tmp_path / "cache")(path)
    again = ImageCache([path], 16, 8, tmp_path / "cache")
    assert again.stamps[0] > 0
    draw(tmp_path / "a.png", 200)
    os.utime(path, ns=(1, 1))
    assert np.asarray(again(path))[0, 0, 0] == 200


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="data.cache disk cannot write"):
        ImageCache([], 16, 8, tmp_path / "file" / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_sees_the_same_pixels(torchreid, data_root, workers):
    from torchreid_spectral.data.datasets import synthetic_defaults
    from torchreid_spectral.data.synthetic import SyntheticSpec

    from ..conftest import TINY

    with synthetic_defaults(SyntheticSpec(**TINY)):
        manager = torchreid.data.ImageDataManager(
            root=str(data_root), sources="synthetic_pedestrians", height=48, width=24,
            batch_size_train=16, workers=workers, num_instances=4, use_gpu=False,
            transforms=["random_flip", "random_crop", "random_erase"],
        )  # fmt: skip
    paths = [item[0] for item in manager.train_loader.dataset.data]
    batches = []
    for reader in (None, ImageCache(paths, 48, 24)):
        torchreid.utils.set_random_seed(3)
        loader = EpochLoader(manager.train_loader, reader=reader)
        batches.append([batch["img"] for _ in range(2) for batch in loader])
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))
