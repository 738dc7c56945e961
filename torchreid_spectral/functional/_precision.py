"""The one place that decides in which precision graph quantities are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["at_least_float32", "full_precision"]


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in its own dtype where that is wider.

    Args:
        x: Any floating-point tensor.

    Returns:
        ``x`` itself where it is float32 or float64, else a float32 copy.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """Switch autocast off around the block.

    Without it autocast turns float32 products back into half precision: at a temperature of
    0.02 a transition matrix is then off by 0.03 while its rows still sum to one.

    Args:
        x: A tensor on the device that the block computes on.

    Yields:
        Nothing.
    """
    with torch.autocast(x.device.type, enabled=False):
        yield
