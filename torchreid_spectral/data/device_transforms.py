"""torchreid's augmentation of a whole batch on the device, with the distributions of its loader.

The loader's workers then only decode and resize, and hand over bytes: a quarter of the copying.
Every image draws for itself, as in torchreid; the draws come from torch's global generator on the
CPU, whose state is in the checkpoints. Pixels are whole numbers up to the normalisation, as those
of Pillow are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from torchreid_spectral.errors import InputError

__all__ = ["DeviceTransforms"]


class DeviceTransforms:
    """The random part of torchreid's training transforms, for ``(B, 3, H, W)`` bytes.

    Args:
        train: ``transform_tr`` of torchreid's data manager.

    Attributes:
        loader: What is left to the loader: resize, and bytes as a tensor.

    Raises:
        InputError: If a step has no device version.
    """

    def __init__(self, train: Any) -> None:  # noqa: ANN401
        from torchvision.transforms import (  # after torchreid, which makes it importable
            Compose,
            PILToTensor,
        )

        resize, *self.steps = train.transforms
        self.loader = Compose([resize, PILToTensor()])
        for step in self.steps:
            if type(step).__name__ not in _STEPS:
                raise InputError(
                    f"data.augment device has no {type(step).__name__}: use data.augment loader, "
                    "or leave it out of data.transforms."
                )

    def __call__(self, images: Tensor) -> Tensor:
        """Augment and normalise.

        Args:
            images: Bytes ``(B, 3, H, W)``, or of tracklets ``(B, F, 3, H, W)``.

        Returns:
            float32 of the same shape, on the same device.
        """
        result = images.reshape(-1, *images.shape[-3:]).float()
        for step in self.steps:
            result = _STEPS[type(step).__name__](result, step)
        return result.reshape(images.shape)


def _flip(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    return _where(torch.rand(len(images)) < step.p, images.flip(-1), images)


def _pad_crop(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    height, width = images.shape[-2:]
    top = torch.randint(2 * step.padding + 1, (len(images),))
    left = torch.randint(2 * step.padding + 1, (len(images),))
    return _windows(pad(images, (step.padding,) * 4), top, left, height, width)


def _enlarge_crop(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    count, _, height, width = images.shape
    size = round(height * 1.125), round(width * 1.125)
    larger = interpolate(images, size, mode="bilinear", align_corners=False).round()
    top = (torch.rand(count) * (size[0] - height)).round().long()
    left = (torch.rand(count) * (size[1] - width)).round().long()
    windows = _windows(larger, top, left, height, width)
    return _where(torch.rand(count) <= step.p, windows, images)


def _jitter(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    """Change brightness and contrast in random order."""
    count = len(images)
    brightness, contrast = (
        torch.empty(count, 1, 1, 1).uniform_(*span).to(images.device)
        for span in (step.brightness, step.contrast)
    )
    return _where(
        torch.rand(count) < 0.5,
        _contrasted(_blended(images, 0.0, brightness), contrast),
        _blended(_contrasted(images, contrast), 0.0, brightness),
    )


def _contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its mean grey, as Pillow's ``ImageEnhance.Contrast`` does."""
    red, green, blue = images.unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    return _blended(images, grey.mean(dim=(1, 2)).round()[:, None, None, None], factor)


def _blended(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (other + factor * (images - other)).clamp(0, 255).floor()


def _to_unit(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    return images / 255


def _normalize(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    mean, std = (images.new_tensor(part)[:, None, None] for part in (step.mean, step.std))
    return (images - mean) / std


def _erase(images: Tensor, step: Any) -> Tensor:  # noqa: ANN401
    """Fill a random rectangle; of a hundred draws the first that is smaller than the image."""
    count, _, height, width = images.shape
    area = torch.empty(count, 100).uniform_(step.sl, step.sh) * (height * width)
    aspect = torch.empty(count, 100).uniform_(step.r1, 1 / step.r1)
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths < width) & (heights < height)
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide = heights.gather(1, first), widths.gather(1, first)
    top = (torch.rand(count, 1) * (height - tall + 1)).floor()
    left = (torch.rand(count, 1) * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + tall)
    inside_columns = (columns >= left) & (columns < left + wide)
    erased = fits.any(dim=1) & (torch.rand(count) <= step.probability)
    mask = inside_rows[:, :, None] & inside_columns[:, None, :] & erased[:, None, None]
    return torch.where(
        mask[:, None].to(images.device, non_blocking=True),
        images.new_tensor(step.mean)[:, None, None],
        images,
    )


def _windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut a window of one size out of each image, at a place of its own."""
    device = images.device
    rows = (top[:, None] + torch.arange(height)).to(device, non_blocking=True)
    columns = (left[:, None] + torch.arange(width)).to(device, non_blocking=True)
    batch = torch.arange(len(images), device=device)[:, None, None]
    found = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)


def _where(chosen: Tensor, images: Tensor, others: Tensor) -> Tensor:
    chosen = chosen.to(images.device, non_blocking=True)
    return torch.where(chosen[:, None, None, None], images, others)


# By the class of torchreid's step, or torchvision's where torchreid takes that.
_STEPS: Mapping[str, Callable[[Tensor, Any], Tensor]] = MappingProxyType(
    {
        "RandomHorizontalFlip": _flip,
        "RandomCrop": _pad_crop,
        "Random2DTranslation": _enlarge_crop,
        "ColorJitter": _jitter,
        "ToTensor": _to_unit,
        "Normalize": _normalize,
        "RandomErasing": _erase,
    }
)
