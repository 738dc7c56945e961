r"""Pooling of a map to a vector, or to one vector a stripe; average or generalised mean.

Sources: F. Radenović, G. Tolias, O. Chum, *Fine-tuning CNN Image Retrieval with No Human
Annotation*, TPAMI 2019 (generalised mean); Y. Sun et al., *Beyond Part Models: Person Retrieval
with Refined Part Pooling*, ECCV 2018 (stripes).

=====================================================  ==================  ================
Paper                                                  Here                Shape
=====================================================  ==================  ================
:math:`f = (\frac{1}{|X|} \sum_x x^p)^{1/p}`           ``PartPool.p``      ``(B, C, S, 1)``
stripes                                                ``rows``            S = their sum
=====================================================  ==================  ================
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from torchreid_spectral.functional._precision import at_least_float32, full_precision

__all__ = ["PartPool"]

_SMALLEST = 1e-6
_LEAST_POWER = 1e-2  # of the generalised mean; below zero it would seek the minimum


class PartPool(nn.Module):
    """Pool a map into stripes, top to bottom; one stripe is the whole map.

    Powers are taken in float32 at least, autocast or not, and as logarithms: the cube of a half
    overflows at 41, the eighth power of 1e-6 is zero.

    Args:
        rows: For each partition its number of stripes: ``(1,)`` for the whole map, ``(1, 4)`` for
            the whole and four stripes.
        power: First value of the learned p of the generalised mean; None for the average. One
            is the average of what is positive; the larger, the nearer to the maximum.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, rows: Sequence[int] = (1,), power: float | None = None) -> None:
        super().__init__()
        if not rows or min(rows) < 1:
            raise ValueError(f"stripes must be >= 1, got {tuple(rows)}.")
        if power is not None and not 0 < power < math.inf:
            raise ValueError(f"power must be positive and finite, got {power}.")
        self.rows = tuple(rows)
        self.p = None if power is None else nn.Parameter(torch.tensor(float(power)))

    @property
    def parts(self) -> int:
        """S, how many vectors it gives."""
        return sum(self.rows)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C S 1"]:
        """Pool.

        Args:
            x: Maps; values below 1e-6 count as that for the generalised mean.

        Returns:
            The parts of all partitions, one after the other; contiguous, because torchreid's
            backbones flatten them with ``view``, which channels_last maps would not allow.
        """
        if self.p is None:
            return self._pool(x).contiguous()
        with full_precision(x):
            logs = at_least_float32(x).clamp(min=_SMALLEST).log()
            power = self.p.to(logs.dtype).clamp_min(_LEAST_POWER)
            means = [_log_mean_exp(logs[:, :, rows] * power) for rows in self._cells(x.shape[2])]
            pooled = (torch.stack(means, dim=2) / power).exp()[..., None]
        return pooled.to(x.dtype).contiguous()

    def _pool(self, x: Tensor) -> Tensor:
        return torch.cat([adaptive_avg_pool2d(x, (rows, 1)) for rows in self.rows], dim=2)

    def _cells(self, height: int) -> list[slice]:
        """Give the rows of the map that make each stripe, as PyTorch's adaptive pooling does."""
        return [slice(part * height // rows, -(-(part + 1) * height // rows))
                for rows in self.rows for part in range(rows)]  # fmt: skip

    def extra_repr(self) -> str:
        """Show the settings.

        Returns:
            One line for ``repr``.
        """
        return f"rows={self.rows}, {'average' if self.p is None else 'generalised mean'}"


def _log_mean_exp(x: Tensor) -> Tensor:
    """Give the logarithm of the mean exponential of each map."""
    cells = x.flatten(2)
    return cells.logsumexp(dim=2) - math.log(cells.shape[2])
