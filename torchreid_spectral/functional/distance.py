"""Distances between features: smaller is closer.

torchreid calls the *squared* Euclidean distance "euclidean"; here each has its own name.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import as_given, at_least_float32, full_precision
from torchreid_spectral.functional.similarity import cosine_similarity, unit_rows

__all__ = [
    "METRICS",
    "PREPARED_METRICS",
    "cosine_distance",
    "euclidean_distance",
    "prepared_rows",
    "squared_euclidean_distance",
]


def cosine_distance(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"]
) -> Float[Tensor, "*batch N M"]:
    """Compute one minus the cosine of all pairs, in [0, 2] up to rounding.

    Args:
        x: Features.
        y: Other features.

    Returns:
        Distances in the dtype of ``x``, computed in float32 at least.
    """
    return as_given(1 - cosine_similarity(at_least_float32(x), at_least_float32(y)), x)


def squared_euclidean_distance(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"]
) -> Float[Tensor, "*batch N M"]:
    """Compute the squared Euclidean distance of all pairs, never negative.

    Args:
        x: Features.
        y: Other features.

    Returns:
        Squared distances in the dtype of ``x``, computed in float32 at least.
    """
    return as_given(_squared(x, y), x)


def euclidean_distance(
    x: Float[Tensor, "*batch N D"], y: Float[Tensor, "*batch M D"]
) -> Float[Tensor, "*batch N M"]:
    """Compute the Euclidean distance of all pairs; its gradient is finite at distance zero.

    Args:
        x: Features.
        y: Other features.

    Returns:
        Distances in the dtype of ``x``, computed in float32 at least. Zero becomes 1e-6, or what
        rounding leaves of the squares: for equal rows of length l up to about 1e-3 l.
    """
    return as_given(_squared(x, y).clamp_min(1e-12).sqrt(), x)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    with full_precision(x):
        x, y = at_least_float32(x), at_least_float32(y)
        squares = _squared_lengths(x)[..., :, None] + _squared_lengths(y)[..., None, :]
        return squares.sub(x @ y.mT, alpha=2).clamp_min(0)


def _squared_lengths(x: Tensor) -> Tensor:
    if x.requires_grad:
        return x.square().sum(-1)
    return torch.linalg.vector_norm(x, dim=-1).square()  # without a copy of a whole gallery


def prepared_rows(x: Float[Tensor, "*batch N D"], metric: str) -> Float[Tensor, "*batch N D"]:
    """Do once what a metric needs of each row, for :data:`PREPARED_METRICS`.

    Args:
        x: Features.
        metric: One of :data:`METRICS`.

    Returns:
        Rows of unit length for the cosine, else the features; float32 at least. Float32 rows that
        are what is asked for (of unit length to 1e-6) are given back without a copy.
    """
    if metric != "cosine":
        return at_least_float32(x)
    if x.dtype == torch.float32 and not x.requires_grad:
        if ((x.norm(dim=-1) - 1).abs() <= 1e-6).all():
            return x
    return unit_rows(x)


def _cosine_of_units(x: Tensor, y: Tensor) -> Tensor:
    with full_precision(x):
        if x.dim() == y.dim() == 2:
            return torch.addmm(x.new_ones(()), x, y.mT, alpha=-1)
        return (x @ y.mT).neg_().add_(1)


METRICS = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
    "squared_euclidean": squared_euclidean_distance,
}
"""Distance functions by name."""


def _root_of_squares(x: Tensor, y: Tensor) -> Tensor:
    """Give Euclidean distances to rank by: without a gradient none need be larger than it is."""
    return _squared(x, y).sqrt_()


PREPARED_METRICS = METRICS | {"cosine": _cosine_of_units, "euclidean": _root_of_squares}
"""The same distances between rows that :func:`prepared_rows` has given, float32 at least, without
a gradient."""
