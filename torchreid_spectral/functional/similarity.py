r"""Similarities between the nodes of a graph: larger is closer.

Source: Z. Zhang, *From spectral clustering to self-attention*, talk, 2018 (the step "build the
similarity matrix").

==========================  ==================  =======================================
Talk                        Here                Shape
==========================  ==================  =======================================
:math:`x_i^T x_j`           ``similarity``      ``(..., N, M)``, in [-1, 1] for cosine
:math:`X`                   ``x``               ``(..., N, D)``
==========================  ==================  =======================================
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import as_given, at_least_float32, full_precision

__all__ = ["cosine_similarity", "dot_product", "scaled_dot_product", "unit_rows"]


def unit_rows(x: Float[Tensor, "*batch N D"]) -> Float[Tensor, "*batch N D"]:
    """Scale each row to length one, in float32 or wider.

    Args:
        x: Features; a zero row stays zero, with a gradient of zero.

    Returns:
        Rows of unit length, float32 at least.
    """
    wide = at_least_float32(x)
    length = wide.norm(dim=-1, keepdim=True)
    return wide / length.masked_fill(length == 0, math.inf)


def cosine_similarity(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"] | None = None
) -> Float[Tensor, "*batch N M"]:
    r"""Compute the cosine between every row of ``x`` and every row of ``y``.

    .. math:: s_{ij} = \frac{x_i^T y_j}{\|x_i\| \, \|y_j\|}

    Computed in float32 at least, autocast or not. A zero vector has similarity zero with
    everything, itself included.

    Args:
        x: Features.
        y: Other features; ``x`` itself if not given.

    Returns:
        Similarities in the dtype of ``x``.

    Example:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    with full_precision(x):
        left = unit_rows(x)
        right = left if y is None else unit_rows(y)
        dtype = torch.promote_types(left.dtype, right.dtype)
        similarity = left.to(dtype) @ right.to(dtype).mT
    return as_given(similarity, x)


def dot_product(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"] | None = None
) -> Float[Tensor, "*batch N M"]:
    r"""Compute :math:`x_i^T y_j` for all pairs, in float32 at least.

    Args:
        x: Features (queries, in attention's words).
        y: Other features (keys); ``x`` itself if not given.

    Returns:
        Products in the dtype of ``x``.
    """
    with full_precision(x):
        left = at_least_float32(x)
        product = left @ (left if y is None else at_least_float32(y)).mT
    return as_given(product, x)


def scaled_dot_product(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"] | None = None
) -> Float[Tensor, "*batch N M"]:
    r"""Compute :math:`x_i^T y_j / \sqrt{D}` for all pairs, in float32 at least.

    Source: A. Vaswani et al., *Attention Is All You Need*, NeurIPS 2017: products of random
    vectors of any width then have variance one.

    Args:
        x: Features (queries).
        y: Other features (keys); ``x`` itself if not given.

    Returns:
        Products in the dtype of ``x``.
    """
    with full_precision(x):
        wide = at_least_float32(x)
        product = dot_product(wide, None if y is None else at_least_float32(y))
        return as_given(product / x.shape[-1] ** 0.5, x)
