"""Augmentation on the device draws what torchreid's own transforms draw."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_spectral.data import device_transforms
from torchreid_spectral.data.device_transforms import DeviceTransforms
from torchreid_spectral.data.transforms import crop_defaults
from torchreid_spectral.errors import InputError

DRAWS = 4000
HEIGHT, WIDTH = 16, 8
WORDS = ["random_flip", "random_crop", "random_pad_crop", "color_jitter", "random_erase"]


@pytest.fixture
def transforms(torchreid):
    from torchreid_spectral import _compat

    def build(words, **normalize):
        with crop_defaults(2):
            return _compat.submodule("data.transforms").build_transforms(
                HEIGHT, WIDTH, transforms=words, **normalize
            )[0]

    return build


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(40, 140, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def draw(train, image, count=DRAWS):
    """Images by torchreid's transforms, and as many by ours."""
    device = DeviceTransforms(train)
    batch = torch.stack([device.loader(image)] * count)
    return torch.stack([train(image) for _ in range(count)]), device(batch)


def moments(images):
    """Mean of each pixel, of its square, and of products of neighbours, with standard errors."""
    products = (images, images**2, images[..., 1:, :] * images[..., :-1, :],
                images[..., 1:] * images[..., :-1])  # fmt: skip
    values = torch.cat([product.flatten(1) for product in products], 1).double()
    return values.mean(0), values.std(0) / len(images) ** 0.5


@pytest.mark.parametrize("words", [[], *([word] for word in WORDS), WORDS])
def test_every_step_has_torchreids_distribution(torchreid, transforms, image, words):
    torchreid.utils.set_random_seed(0)
    theirs, ours = draw(transforms(words), image)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    (mean, error), (own_mean, own_error) = moments(theirs), moments(ours)
    # Pillow resizes in fixed point: a pixel may be off by one of 255 steps, /0.225.
    tolerance = 5 * (error**2 + own_error**2).sqrt() + (0.04 if "random_crop" in words else 1e-5)
    assert ((own_mean - mean).abs() < tolerance).all()


@pytest.mark.parametrize(("word", "count"), [("random_flip", 2), ("random_pad_crop", 25)])
def test_the_same_pictures_as_often(torchreid, transforms, image, word, count):
    torchreid.utils.set_random_seed(1)
    theirs, ours = draw(transforms([word]), image)
    pictures, numbers = torch.cat([theirs, ours]).flatten(1).unique(dim=0, return_inverse=True)
    assert len(pictures) == count
    frequencies = [part.bincount(minlength=count) for part in numbers.split(DRAWS)]
    difference = (frequencies[0] - frequencies[1]).abs()
    assert (difference < 5 * (2 * DRAWS / count) ** 0.5).all()


@pytest.mark.parametrize("word", ["random_crop", "color_jitter"])
def test_every_picture_is_one_of_torchreids(torchreid, transforms, image, word):
    """Offsets and grey levels of ours have a near twin among theirs, and the other way round."""
    torchreid.utils.set_random_seed(2)
    theirs, ours = (part[:2000].flatten(1) for part in draw(transforms([word]), image))
    furthest = torch.cdist(theirs, ours, p=float("inf"))
    steps = 1.01 if word == "random_crop" else 6.0  # of 255; jitter is continuous
    for nearest in (furthest.min(0).values, furthest.min(1).values):
        assert nearest.quantile(0.99) < steps / 255 / 0.224


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_jitter_of_one_strength_is_pillows(torchreid, image, factor):
    from torchvision.transforms.functional import adjust_brightness, adjust_contrast, pil_to_tensor

    pixels, strength = pil_to_tensor(image)[None].float(), torch.tensor(factor)
    for ours, theirs in (
        (device_transforms._contrasted(pixels, strength), adjust_contrast(image, factor)),
        (device_transforms._blended(pixels, 0.0, strength), adjust_brightness(image, factor)),
    ):
        assert (ours[0] - pil_to_tensor(theirs)).abs().max() <= 1  # rounding of float32


def test_erased_rectangles_have_torchreids_sizes(torchreid, transforms, image):
    torchreid.utils.set_random_seed(3)
    train = transforms(["random_erase"], norm_mean=[2.0] * 3, norm_std=[1.0] * 3)
    areas = [(part == 2.0).all(1).sum((1, 2)).double() for part in draw(train, image)]
    whole = [(area == 0).double().mean() for area in areas]
    assert abs(whole[0] - whole[1]) < 5 * (0.5 / DRAWS) ** 0.5
    grid = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    sizes = [area[area > 0].quantile(grid) for area in areas]
    assert (sizes[0] - sizes[1]).abs().max() <= 4  # of up to 51 pixels


def test_each_image_draws_for_itself_and_bytes_are_untouched(transforms, image):
    device = DeviceTransforms(transforms(WORDS))
    batch = torch.stack([device.loader(image)] * 8)
    before = batch.clone()
    assert len(device(batch).flatten(1).unique(dim=0)) == 8
    assert torch.equal(batch, before) and batch.dtype == torch.uint8
    assert device(batch.view(2, 4, *batch.shape[1:])).shape == (2, 4, 3, HEIGHT, WIDTH)


def test_a_pool_of_patches_stays_with_the_loader(transforms):
    with pytest.raises(InputError, match=r"data.augment device has no RandomPatch"):
        DeviceTransforms(transforms(["random_patch"]))
