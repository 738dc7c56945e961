"""Ranking by distance: the nearest of a gallery for each query, chunked and with decided ties."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.functional._precision import at_least_float32
from torchreid_spectral.functional.distance import METRICS

__all__ = ["rank_top_k", "top_k"]


def top_k(
    distances: Float[Tensor, "*batch M"], k: int
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    """Find the ``k`` smallest distances of each row, nearest first.

    Equal distances are ordered by the lower column, at the ``k``-th place too, so that the
    result does not depend on the backend. A full sort is done only for rows with a tie there.

    Args:
        distances: Smaller is closer.
        k: How many; more than there are columns means all.

    Returns:
        Columns and distances, both with ``min(k, M)`` entries a row.

    Raises:
        ValueError: If ``k`` is not positive.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}.")
    k = min(k, distances.shape[-1])
    if k == distances.shape[-1]:
        values, columns = distances.sort(dim=-1, stable=True)
        return columns, values
    values, columns = distances.topk(k + 1, dim=-1, largest=False, sorted=True)
    tied = values[..., k - 1] == values[..., k]
    values, columns = values[..., :k], columns[..., :k]
    if tied.any():
        ordered = distances[tied].sort(dim=-1, stable=True)
        values[tied], columns[tied] = ordered.values[..., :k], ordered.indices[..., :k]
    columns, by_column = columns.sort(dim=-1)
    values, by_value = values.gather(-1, by_column).sort(dim=-1, stable=True)
    return columns.gather(-1, by_value), values


def rank_top_k(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    k: int,
    *,
    metric: str = "cosine",
    chunk_size: int = 1024,
) -> tuple[Int[Tensor, "Q k"], Float[Tensor, "Q k"]]:
    """Find the ``k`` nearest gallery features of each query.

    Memory is ``chunk_size * G`` distances, never ``Q * G``.

    Args:
        query: Features to search for.
        gallery: Features to search in.
        k: How many; more than there are gallery features means all.
        metric: One of ``cosine``, ``euclidean``, ``squared_euclidean``.
        chunk_size: Queries handled at once.

    Returns:
        Gallery indices, and distances in float32 at least; nearest first, equal distances by the
        lower index.

    Raises:
        ValueError: If ``metric`` is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
    gallery = at_least_float32(gallery)
    parts = [
        top_k(METRICS[metric](at_least_float32(chunk), gallery), k)
        for chunk in query.split(chunk_size)
    ]
    indices, distances = zip(*parts)
    return torch.cat(indices), torch.cat(distances)
