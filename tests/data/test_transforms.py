"""Tests of torchreid_spectral.data.transforms."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_spectral.data.transforms import crop_defaults, patch_transforms
from torchreid_spectral.errors import InputError

WHITE = Image.fromarray(np.full((20, 10, 3), 255, np.uint8))


@pytest.fixture
def transforms(torchreid):
    from torchreid_spectral import _compat

    def build(words, padding=3):
        with crop_defaults(padding):
            return _compat.submodule("data.transforms").build_transforms(
                8, 6, transforms=words, norm_mean=[0.0] * 3, norm_std=[1.0] * 3
            )

    return build


def names(compose):
    return [type(step).__name__ for step in compose.transforms]


def test_order_is_that_of_the_recipe(transforms):
    train, test = transforms(["random_flip", "random_pad_crop", "random_erase"])
    assert names(train) == [
        "Resize", "RandomHorizontalFlip", "RandomCrop", "ToTensor", "Normalize", "RandomErasing"
    ]  # fmt: skip
    assert names(test) == ["Resize", "ToTensor", "Normalize"]
    assert names(transforms("random_pad_crop")[0])[:2] == ["Resize", "RandomCrop"]


def test_without_the_word_nothing_changes(transforms):
    assert "RandomCrop" not in names(transforms(["random_flip", "random_crop"])[0])


def test_crops_at_random_with_black_borders(transforms):
    train, _ = transforms(["random_pad_crop"])
    torch.manual_seed(0)
    crops = [train(WHITE) for _ in range(200)]
    assert {crop.shape for crop in crops} == {(3, 8, 6)}
    assert {crop.unique().numel() for crop in crops} == {1, 2}  # white, or white and black
    whites = [int(crop[0].sum()) for crop in crops]
    assert max(whites) == 48 and min(whites) == (8 - 3) * (6 - 3)


def test_no_padding_crops_nothing(transforms):
    train, test = transforms(["random_pad_crop"], padding=0)
    torch.testing.assert_close(train(WHITE), test(WHITE))


def test_patching_again_changes_nothing(torchreid):
    from torchreid_spectral import _compat

    before = _compat.submodule("data.transforms").build_transforms
    patch_transforms()
    assert _compat.submodule("data.transforms").build_transforms is before
    assert _compat.submodule("data.datamanager").build_transforms is before


def test_rejects():
    with pytest.raises(InputError, match="crop_padding must be >= 0 pixels, got -1"):
        with crop_defaults(-1):
            pass
