"""Ranking by distance: the nearest of a gallery for each query, chunked and with decided ties."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.functional.distance import METRICS, PREPARED_METRICS, prepared_rows

TILE_SIZE = 16384
TILES_BEFORE_MERGE = 16  # bounds the candidates of a row to this many times k

__all__ = ["TILE_SIZE", "collected", "merge_top_k", "rank_prepared", "rank_top_k", "top_k"]


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
    with torch.no_grad():
        values, columns = _smallest(distances, k + 1)
        tied = values[..., k - 1] == values[..., k]
        values, columns = values[..., :k], columns[..., :k]
        if tied.any():
            ordered = distances[tied].sort(dim=-1, stable=True)
            values[tied], columns[tied] = ordered.values[..., :k], ordered.indices[..., :k]
        columns, by_column = columns.sort(dim=-1)
        values, by_value = values.gather(-1, by_column).sort(dim=-1, stable=True)
        columns = columns.gather(-1, by_value)
    return columns, distances.gather(-1, columns) if distances.requires_grad else values


def _smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Give values and columns of the k smallest; on a CPU and of many columns by candidates."""
    # The k smallest lie in the k groups of columns with the smallest minima; where minima are
    # equal, in groups with equal values, and the caller orders rows with a tie anew.
    total = distances.shape[-1]
    size = 2 ** round(math.log2(math.sqrt(total / k)))  # of a group; the cheapest
    count = total // size
    if distances.is_cuda or size < 4:
        return _topk(distances, k)
    minima = distances[..., : size * count].unflatten(-1, (size, count)).amin(dim=-2)
    if minima.isnan().any():  # amin takes a NaN for the smallest, topk for the largest
        return _topk(distances, k)
    chosen = minima.topk(k, dim=-1, largest=False, sorted=False).indices.unsqueeze(-2)
    starts = torch.arange(0, size * count, count, device=distances.device)[:, None]
    rest = torch.arange(size * count, total, device=distances.device)
    columns = torch.cat(
        [(chosen + starts).flatten(-2), rest.expand(*distances.shape[:-1], -1)], dim=-1
    )
    values, places = _topk(distances.gather(-1, columns), k)
    return values, columns.gather(-1, places)


def _topk(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, columns = distances.topk(k, dim=-1, largest=False, sorted=True)
    return values, columns


def collected(parts: Iterable[tuple[Tensor, ...]], count: int) -> tuple[Tensor, ...]:
    """Join tuples of tensors along their first dimension, as they come.

    What keeps small tensors between large temporaries keeps the allocator from using the room of
    those again: over many parts that is gigabytes. Here the joined tensors are made at once.

    Args:
        parts: At least one; tensors ``(n, ...)``, the rest of the shape the same in each.
        count: Rows of all together.

    Returns:
        Tensors ``(count, ...)``.
    """
    joined: tuple[Tensor, ...] = ()
    start = 0
    for part in parts:
        joined = joined or tuple(each.new_empty(count, *each.shape[1:]) for each in part)
        stop = start + len(part[0])
        for whole, each in zip(joined, part):
            whole[start:stop] = each
        start = stop
    return joined


def merge_top_k(
    indices: Int[Tensor, "*batch M"], distances: Float[Tensor, "*batch M"], k: int
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    """Find the ``k`` nearest among candidates that carry their indices.

    Args:
        indices: Index of each candidate; of equal distances the earlier candidate comes first.
        distances: Smaller is closer.
        k: How many; more than there are candidates means all.

    Returns:
        Indices and distances, nearest first.
    """
    columns, best = top_k(distances, k)
    return indices.gather(-1, columns), best


def rank_top_k(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    k: int,
    *,
    metric: str = "cosine",
    chunk_size: int = 512,
    tile_size: int | None = None,
) -> tuple[Int[Tensor, "Q k"], Float[Tensor, "Q k"]]:
    """Find the ``k`` nearest gallery features of each query.

    Memory is ``chunk_size * (tile_size + k)`` distances, never ``Q * G``.

    Args:
        query: Features to search for.
        gallery: Features to search in.
        k: How many; more than there are gallery features means all.
        metric: One of ``cosine``, ``euclidean``, ``squared_euclidean``.
        chunk_size: Queries handled at once.
        tile_size: Gallery features handled at once; :data:`TILE_SIZE` if not given.

    Returns:
        Gallery indices, and distances in float32 at least; nearest first, equal distances by the
        lower index.

    Raises:
        ValueError: If ``metric`` is unknown or ``chunk_size`` not positive.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1, got {chunk_size}.")
    query, gallery = prepared_rows(query, metric), prepared_rows(gallery, metric)
    wider = torch.promote_types(query.dtype, gallery.dtype)
    query, gallery = query.to(wider), gallery.to(wider)
    parts = (
        rank_prepared(chunk, gallery, k, metric=metric, tile_size=tile_size, farthest=False)[:2]
        for chunk in query.split(chunk_size)
    )
    indices, distances = collected(parts, len(query))
    return indices, distances


def rank_prepared(
    query: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    k: int,
    *,
    metric: str,
    tile_size: int | None = None,
    first: int | None = None,
    farthest: bool = True,
) -> tuple[Int[Tensor, "Q k"], Float[Tensor, "Q k"], Float[Tensor, " Q"]]:
    """Do what :func:`rank_top_k` does for one chunk of rows of ``prepared_rows``.

    Args:
        query: Features to search for.
        gallery: Features to search in.
        k: How many.
        metric: One of :data:`~torchreid_spectral.functional.distance.METRICS`.
        tile_size: Gallery features handled at once; :data:`TILE_SIZE` if not given.
        first: Where the queries are rows ``first, first + 1, ...`` of the gallery, each is its own
            nearest, at distance -1, before its duplicates.
        farthest: Whether to look for the farthest too.

    Returns:
        Gallery indices and distances of the nearest, and the distance of the farthest, or zeros.
    """
    largest = query.new_zeros(len(query))
    parts: list[tuple[Tensor, Tensor]] = []
    start = 0
    for columns in gallery.split(tile_size or TILE_SIZE):
        tile = PREPARED_METRICS[metric](query, columns)
        if farthest:
            largest = torch.maximum(largest, tile.amax(dim=1))
        if first is not None:
            tile.diagonal(first - start).fill_(-1)
        indices, distances = top_k(tile, k)
        parts.append((indices + start, distances))
        start += len(columns)
        if len(parts) == TILES_BEFORE_MERGE:
            parts = [_joined(parts, k)]
    return *_joined(parts, k), largest


def _joined(parts: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    indices, distances = (torch.cat(part, dim=-1) for part in zip(*parts))
    return merge_top_k(indices, distances, k)
