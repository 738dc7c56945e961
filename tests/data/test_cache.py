"""Tests of the cache of decoded images."""

import errno
import os
import pickle
import resource
import signal

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


def test_sizes_do_not_share_a_file(tmp_path):
    path = draw(tmp_path / "a.png", 10)
    small = ImageCache([path], 16, 8, tmp_path / "cache")
    expected = np.asarray(small(path))
    large = ImageCache([path], 32, 16, tmp_path / "cache")
    assert not large.stamps[0] and np.asarray(large(path)).shape == (32, 16, 3)
    again = ImageCache([path], 16, 8, tmp_path / "cache")
    assert again.stamps[0] and np.array_equal(np.asarray(again(path)), expected)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="data.cache disk cannot write"):
        ImageCache([], 16, 8, tmp_path / "file" / "cache")


def test_a_cache_that_was_cut_is_decoded_anew(tmp_path):
    """The times of change are at the end: no black image in the place of a lost one."""
    path = draw(tmp_path / "a.png", 10)
    expected = np.asarray(ImageCache([path], 16, 8, tmp_path / "cache")(path))
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = ImageCache([path], 16, 8, tmp_path / "cache")
    assert np.array_equal(np.asarray(again(path)), expected)


def test_a_full_disk_is_told_before_training(tmp_path):
    """A map that runs full ends its process by SIGBUS; the size limit stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(InputError, match=r"data.cache disk cannot write.*MB are needed"):
            ImageCache([f"{number}.jpg" for number in range(100)], 64, 32, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_room_on_the_disk_is_taken_at_once(tmp_path):
    ImageCache([f"{number}.jpg" for number in range(100)], 64, 32, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 >= 100 * 64 * 32 * 3


def test_room_is_taken_where_an_earlier_run_was_killed_before_it(tmp_path):
    paths = [f"{number}.jpg" for number in range(100)]
    cache = ImageCache(paths, 64, 32, tmp_path)
    cache.stamps[3] = 7
    (file,) = tmp_path.iterdir()
    hole = tmp_path / "hole"
    with hole.open("wb") as sparse:
        sparse.truncate(file.stat().st_size)
    content = file.read_bytes()
    os.replace(hole, file)
    with file.open("r+b") as sparse:  # the times of change alone were written
        sparse.seek(len(content) - 800)
        sparse.write(content[-800:])
    assert ImageCache(paths, 64, 32, tmp_path).stamps[3] == 7
    assert file.stat().st_blocks * 512 >= 100 * 64 * 32 * 3


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_cannot_reserve(tmp_path, monkeypatch, code):
    def refuses(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    path = draw(tmp_path / "a.png", 10)
    assert ImageCache([path], 16, 8, tmp_path / "cache")(path).size == (8, 16)


def test_names_of_any_bytes(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    draw(path, 10)
    assert ImageCache([path], 16, 8, tmp_path / "cache")(path).size == (8, 16)


def test_memory_that_does_not_suffice(monkeypatch):
    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(InputError, match=r"data.cache ram needs 1 MB.*--shm-size"):
        ImageCache([f"{number}.jpg" for number in range(100)], 64, 32)


def test_a_spawned_worker_shares_the_cache_on_disk(tmp_path):
    path = draw(tmp_path / "a.png", 10)
    cache = ImageCache([path], 16, 8, tmp_path / "cache")
    content = pickle.dumps(cache)
    other = pickle.loads(content)
    cache(path)
    assert other.stamps[0] == cache.stamps[0] > 0
    assert np.array_equal(other.pixels, cache.pixels)


@pytest.mark.slow
def test_a_spawned_worker_shares_the_cache_in_memory(tmp_path):
    paths = [draw(tmp_path / f"{value}.png", value) for value in (10, 90)]
    cache = ImageCache(paths, 16, 8)
    context = torch.multiprocessing.get_context("spawn")
    worker = context.Process(target=cache.__call__, args=(paths[1],))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert cache.stamps[0] == 0 and cache.stamps[1] > 0 and cache.pixels[1].any()


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


def test_files_without_a_time_are_read_too(tmp_path):
    """Some archives and containers set all times to the beginning of 1970."""
    path = draw(tmp_path / "a.png", 200)
    os.utime(path, ns=(0, 0))
    cache = ImageCache([path], 16, 8)
    for _ in range(2):
        assert np.asarray(cache(path))[0, 0, 0] == 200
