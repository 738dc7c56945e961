r"""The position term of a relation: how much two places may attend to each other.

Source: H. Hu, J. Gu, Z. Zhang, J. Dai, Y. Wei, *Relation Networks for Object Detection*, CVPR
2018; shown in Z. Zhang's talk, 2018.

===================================================  ======================  ====================
Paper                                                Here                    Shape
===================================================  ======================  ====================
:math:`\omega^{mn} = \frac{\omega_G^{mn}             softmax of a sum, see   ``(B, A, N, N)``
e^{\omega_A^{mn}}}{\sum_k \omega_G^{mk}              below
e^{\omega_A^{mk}}}`
:math:`\omega_A`, appearance                         scaled dot product      ``(B, A, N, N)``
:math:`\omega_G = \max(0, W_G \mathcal{E}_G)`        ``PositionTerm``        ``(A, N, N)``
:math:`\mathcal{E}_G`, sines and cosines of          ``embed_offsets``       ``(N, N, 4·waves)``
:math:`\log|\Delta x|, \log|\Delta y|`
===================================================  ======================  ====================

The quotient is a softmax over :math:`\omega_A + \log \omega_G`, so the term is a summand of the
similarity and the one softmax of :mod:`torchreid_spectral.functional` serves it too.

Note:
    The places here are cells of one grid, all of one size: the paper's two logarithms of size
    ratios are zero for every pair and left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchreid_spectral.functional._precision import at_least_float32, full_precision

__all__ = ["PositionTerm", "embed_offsets"]

WAVES = 8
_LONGEST, _AMPLIFIED = 1000.0, 100.0
_SMALLEST_OFFSET, _SMALLEST_WEIGHT = 1e-3, 1e-6


def embed_offsets(offsets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape E"]:
    r"""Embed distances in cells as sines and cosines of their logarithm.

    .. math:: \sin, \cos\left(\frac{100 \log\max(|\Delta|, 10^{-3})}{1000^{k/8}}\right),
              \quad k = 0 \dots 7

    Args:
        offsets: Differences of rows or columns.

    Returns:
        Eight sines, then eight cosines.
    """
    logarithm = offsets.abs().clamp(min=_SMALLEST_OFFSET).log() * _AMPLIFIED
    waves = torch.arange(WAVES, dtype=offsets.dtype, device=offsets.device) / WAVES
    angle = logarithm[..., None] / _LONGEST**waves
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PositionTerm(nn.Module):
    r"""Compute :math:`\log \omega_G` for the cells of a grid.

    A learned weight per head sees the embedded differences of rows and columns; weights below
    :math:`10^{-6}` count as that, so that the logarithm is finite.

    Args:
        heads: A.
    """

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Linear(4 * WAVES, heads)

    def forward(self, height: int, width: int) -> Float[Tensor, "A N N"]:
        """Compute the term for a grid of N = ``height`` x ``width`` cells, row by row.

        Args:
            height: H; for stripes their number.
            width: W; for stripes 1.

        Returns:
            What is added to the appearance term, float32 at least.
        """
        parameter = self.weight.weight
        with full_precision(parameter):
            dtype = at_least_float32(parameter).dtype
            rows = torch.arange(1 - height, height, dtype=dtype, device=parameter.device)
            columns = torch.arange(1 - width, width, dtype=dtype, device=parameter.device)
            # Few offsets, many pairs: each offset is embedded once.
            grid = torch.cartesian_prod(rows, columns)
            embedded = embed_offsets(grid).flatten(-2)
            weight = embedded @ parameter.to(dtype).T + self.weight.bias.to(dtype)
            table = weight.clamp(min=_SMALLEST_WEIGHT).log()
        return table.T[:, self._pairs(height, width, parameter.device)]

    @staticmethod
    def _pairs(height: int, width: int, device: torch.device) -> Tensor:
        """Give for every pair of cells the place of its offset in the table."""
        cells = torch.cartesian_prod(
            torch.arange(height, device=device), torch.arange(width, device=device)
        )
        offsets = cells[None, :] - cells[:, None]
        return (offsets[..., 0] + height - 1) * (2 * width - 1) + offsets[..., 1] + width - 1
