"""Metrics straight from features, or from the lists that a re-ranker or an index gives.

Neither holds a Q x G matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation.inputs import as_array, as_ids
from torchreid_spectral.evaluation.ranking import evaluate_queries, positions_of
from torchreid_spectral.evaluation.results import QueryResults, RankingMetrics

__all__ = ["evaluate_blocks", "evaluate_indices"]

Ids = NDArray[Any]


def evaluate_blocks(
    blocks: Iterable[tuple[slice, Any]],
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
) -> RankingMetrics:
    """Evaluate chunks of queries as they come.

    Args:
        blocks: Positions of some queries and their ``(chunk, G)`` distances: what
            ``reranker.fit(gallery).iter_distances(query)`` gives from features.
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        max_rank: Length of the CMC; at most G.
        use_metric_cuhk03: See :func:`~torchreid_spectral.evaluation.evaluate_rank`.

    Returns:
        The means.

    Raises:
        InputError: If no query can be evaluated, or the blocks are not of all queries.

    Example:
        >>> from torchreid_spectral.rerank import build_reranker
        >>> x, pids, camids = np.eye(4, dtype=np.float32), np.arange(4), np.zeros(4)
        >>> blocks = build_reranker("none").fit(x).iter_distances(x)
        >>> evaluate_blocks(blocks, pids, pids, camids, camids + 1).mAP
        1.0
    """
    q_pids, q_camids = as_ids(q_pids), as_ids(q_camids)
    parts, count = [], 0
    for rows, block in blocks:
        ids = (q_pids[rows], g_pids, q_camids[rows], g_camids)
        parts.append(evaluate_queries(as_array(block), *ids, max_rank, use_metric_cuhk03))
        count += len(block)
    found = QueryResults.mean(parts)
    if count != len(q_pids):
        raise InputError(f"The blocks are of {count} queries, q_pids of {len(q_pids)}.")
    return found


def evaluate_indices(
    indices: NDArray[Any],
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
) -> QueryResults:
    """Evaluate ranked lists of gallery indices.

    A positive that is not in the list counts as never found: with lists shorter than the gallery
    the average precision is a lower bound, and the CMC exact up to the list's length less what
    of it is left out (the query's own identity and camera).

    Args:
        indices: ``(Q, top_k)`` gallery indices, nearest first, each once a row; negative ones are
            places that are empty.
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        max_rank: Length of the CMC; at most G.

    Returns:
        One row a query; ``QueryResults.mean([...])`` averages.

    Raises:
        InputError: If shapes do not fit or an index is beyond the gallery.

    Example:
        >>> ids = [np.array(x) for x in ([1], [1, 2, 1], [0], [1, 1, 1])]
        >>> evaluate_indices(np.array([[1, 0]]), *ids).average_precision
        array([0.25])
    """
    indices = np.asarray(indices)
    q_pids, g_pids, q_camids, g_camids = map(as_ids, (q_pids, g_pids, q_camids, g_camids))
    _check(indices, q_pids, g_pids, q_camids, g_camids)
    results = QueryResults.empty(len(indices), min(max_rank, len(g_pids)))
    of_identity = positions_of(g_pids)
    for row, found in enumerate(indices):
        mine = of_identity.get(q_pids[row])
        if mine is None or not (count := int((g_camids[mine] != q_camids[row]).sum())):
            continue
        found = found[found >= 0]
        same = g_pids[found] == q_pids[row]
        kept = same[~(same & (g_camids[found] == q_camids[row]))]
        results.fill(row, np.flatnonzero(kept) + 1, count)
    return results


def _check(indices: NDArray[Any], *ids: Ids) -> None:
    if indices.ndim != 2 or not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"indices must be integers (Q, top_k), got {indices.dtype} {indices.shape}."
        )
    names = ("q_pids", "g_pids", "q_camids", "g_camids")
    lengths = (len(indices), len(ids[1])) * 2
    for name, array, length in zip(names, ids, lengths):
        if array.shape != (length,):
            raise InputError(f"{name} must have shape ({length},), got {array.shape}.")
    if indices.size and indices.max() >= len(ids[1]):
        raise InputError(
            f"indices go up to {indices.max()}, but the gallery has {len(ids[1])} images."
        )
