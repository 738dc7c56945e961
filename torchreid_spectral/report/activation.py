r"""Where a network looks: the energy of its last feature map, for every backbone.

.. math:: a_{hw} = \sum_c F_{chw}^2, \qquad \text{scaled to } [0, 1] \text{ in each image}

Source: S. Zagoruyko, N. Komodakis, *Paying More Attention to Attention*, ICLR 2017 (the map);
torchreid draws the same for OSNet, whose ``forward`` gives its maps. Here a hook finds the last
four-dimensional output with more than one row and one column, so that no backbone need help.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from torchreid_spectral.errors import InputError

__all__ = ["activation_maps", "attention_rows", "overlay"]

# HACNN: attention, which is no feature, and the branch that sees regions cut out of the image
NOT_OF_THE_IMAGE = ("ha1", "ha2", "ha3", "local_conv")


@torch.no_grad()
def activation_maps(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the maps of a batch; the model's mode is kept.

    Args:
        model: Any backbone.
        images: ``(B, 3, H, W)`` as the model takes them.

    Returns:
        ``(B, h, w)`` in [0, 1].

    Raises:
        InputError: If no layer gives a feature map.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Any) -> None:  # noqa: ANN401
        pooling = isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d))
        if isinstance(output, Tensor) and output.dim() == 4 and not pooling:
            if min(output.shape[2:]) > 1 and len(output) == len(images):
                found[:] = [output]

    with _hooked(model, keep):
        model(images)
    if not found:
        raise InputError(f"{type(model).__name__} has no layer that gives a feature map.")
    energy = found[0].double().square().sum(1)
    low, high = energy.amin((1, 2), keepdim=True), energy.amax((1, 2), keepdim=True)
    spread = (high - low).masked_fill(high == low, 1)
    return ((energy - low) / spread).float().cpu()


@torch.no_grad()
def attention_rows(model: nn.Module, images: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """Compute where the centre pixel of each image attends to, in ``pixels`` attention.

    Args:
        model: Any model.
        images: ``(B, 3, H, W)``.

    Returns:
        ``(B, h, w)`` rows of the transition, and the centre's place; ``None`` where the model has
        no such layer.
    """
    from torchreid_spectral.layers import SpectralAttention

    found: list[tuple[SpectralAttention, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, _: Any) -> None:  # noqa: ANN401
        if isinstance(module, SpectralAttention) and getattr(module, "over", "") == "pixels":
            found[:] = [(module, inputs[0])]

    with _hooked(model, keep):
        model(images)
    if not found:
        return None
    layer, x = found[0]
    transition = layer.transition(x)
    height, width = x.shape[-2:]
    centre = (height // 2, width // 2)
    rows = transition.reshape(len(x), -1, height * width, height * width).mean(1)
    row = rows[:, centre[0] * width + centre[1]].reshape(len(x), height, width).float()
    return (row / row.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu(), centre


def overlay(
    picture: Image.Image, heat: NDArray[Any], mark: tuple[int, int] | None = None
) -> Image.Image:
    """Lay a map over a picture.

    Args:
        picture: The picture.
        heat: ``(h, w)`` in [0, 1].
        mark: Row and column of the map that a ring is drawn around.

    Returns:
        The mixture, as large as the picture.
    """
    coloured = matplotlib.colormaps["viridis"](heat)[..., :3]
    layer = Image.fromarray((255 * coloured).astype(np.uint8))
    layer = layer.resize(picture.size, Image.Resampling.BICUBIC)
    mixed = Image.blend(picture.convert("RGB"), layer, 0.55)
    if mark is not None:
        pen = ImageDraw.Draw(mixed)
        x, y = (
            (place + 0.5) * whole / cells
            for place, whole, cells in zip(mark[::-1], picture.size, heat.shape[::-1])
        )
        radius = picture.size[0] / 16
        for ring, colour in ((radius + 1, "black"), (radius, "white")):
            pen.ellipse((x - ring, y - ring, x + ring, y + ring), outline=colour)
    return mixed


@contextmanager
def _hooked(model: nn.Module, hook: Any) -> Iterator[None]:  # noqa: ANN401
    training = model.training
    handles = [
        module.register_forward_hook(hook)
        for name, module in model.named_modules()
        if not name.startswith(NOT_OF_THE_IMAGE)
    ]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
