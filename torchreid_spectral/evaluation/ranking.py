r"""CMC and mAP, with torchreid's figures.

Protocols: L. Zheng et al., *Scalable Person Re-identification: A Benchmark*, ICCV 2015 (gallery
images of the query's identity and camera are left out; all positives count); W. Li et al.,
*DeepReID*, CVPR 2014 (CUHK03: one random gallery image an identity, ten draws).

=============================================  =======================  =========
Term                                           Here                     Shape
=============================================  =======================  =========
rank of the i-th positive, :math:`r_i`         ``ranks``, 1-based       varies
:math:`AP = \frac{1}{R}\sum_i \frac{i}{r_i}`   ``average_precision``    ``(Q,)``
:math:`CMC(k)`: share with :math:`r_1 \le k`   ``cmc``                  ``(k,)``
=============================================  =======================  =========

Nothing is sorted but the few positives of a query: their ranks are counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError

__all__ = ["QueryResults", "RankingMetrics", "evaluate_queries", "evaluate_rank"]

Ids = NDArray[Any]
CUHK03_DRAWS = 10


@dataclass(frozen=True)
class RankingMetrics:
    """Mean results over the queries that have a valid positive.

    Args:
        cmc: ``(max_rank,)`` share of queries with a positive at that rank or before.
        mAP: Mean average precision, in [0, 1].
        num_queries: Queries given.
        num_valid: Queries that count: those with a positive from another camera.
    """

    cmc: NDArray[np.float32]
    mAP: float
    num_queries: int
    num_valid: int

    def rank(self, k: int) -> float:
        """Give the CMC at rank ``k``; past the gallery's end it is the last value.

        Args:
            k: Rank, from 1.

        Returns:
            Share in [0, 1].
        """
        return float(self.cmc[min(k, len(self.cmc)) - 1])


@dataclass(frozen=True)
class QueryResults:
    """Results of each query, to be joined over chunks of queries.

    Args:
        average_precision: ``(Q,)``; NaN where a query has no valid positive.
        cmc: ``(Q, max_rank)``.
    """

    average_precision: NDArray[np.float64]
    cmc: NDArray[np.float32]

    @staticmethod
    def mean(parts: Iterable[QueryResults]) -> RankingMetrics:
        """Average over all queries of all parts.

        Args:
            parts: Results of chunks of queries.

        Returns:
            The means.

        Raises:
            InputError: If no query has a positive from another camera.
        """
        parts = list(parts)
        precision = np.concatenate([part.average_precision for part in parts])
        cmc = np.concatenate([part.cmc for part in parts])
        valid = ~np.isnan(precision)
        if not valid.any():
            raise InputError(
                f"None of the {len(valid)} queries has a gallery image of its identity from "
                "another camera, so there is nothing to measure. Mostly all images carry one "
                "camera id: give each camera its own, or the identities of query and gallery "
                "differ."
            )
        total = cmc[valid].sum(0, dtype=np.float32) / float(valid.sum())
        return RankingMetrics(
            total.astype(np.float32), float(precision[valid].mean()), len(valid), int(valid.sum())
        )


def evaluate_rank(
    distmat: NDArray[Any],
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[NDArray[np.float32], float]:
    """Compute CMC and mAP: torchreid's function of that name, without its full sort.

    Equal distances are ranked by the lower gallery index.

    Args:
        distmat: ``(Q, G)`` distances; nothing is modified.
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        max_rank: Length of the CMC; at most G.
        use_metric_cuhk03: One random gallery image an identity, drawn ten times from NumPy's
            global generator in torchreid's order.
        use_cython: Taken for compatibility; there is nothing compiled.

    Returns:
        CMC ``(max_rank,)`` and mAP, both in [0, 1].

    Raises:
        InputError: If shapes do not fit, or no query has a positive from another camera.

    Example:
        >>> distances = np.array([[0.1, 0.2, 0.3]])
        >>> cmc, mAP = evaluate_rank(
        ...     distances, np.array([7]), np.array([1, 7, 7]), np.array([0]), np.array([1, 1, 2]),
        ...     max_rank=2,
        ... )
        >>> cmc.tolist(), round(mAP, 4)
        ([0.0, 1.0], 0.5833)
    """
    del use_cython
    results = evaluate_queries(
        distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03
    )
    metrics = QueryResults.mean([results])
    return metrics.cmc, metrics.mAP


def evaluate_queries(
    distmat: NDArray[Any],
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
) -> QueryResults:
    """Compute average precision and CMC of each query.

    Args:
        distmat: ``(Q, G)`` distances.
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        max_rank: Length of the CMC; at most G.
        use_metric_cuhk03: See :func:`evaluate_rank`.

    Returns:
        One row a query.

    Raises:
        InputError: If shapes do not fit.
    """
    arrays = [np.asarray(ids) for ids in (q_pids, g_pids, q_camids, g_camids)]
    distmat = np.asarray(distmat)
    _check_shapes(distmat, arrays)
    num_q, num_g = distmat.shape
    max_rank = min(max_rank, num_g)
    precision = np.full(num_q, np.nan)
    cmc = np.zeros((num_q, max_rank), dtype=np.float32)
    of_identity = _positions(arrays[1])
    for row in range(num_q):
        pid, camid = arrays[0][row], arrays[2][row]
        same = of_identity.get(pid, _NOTHING)
        dropped = same[arrays[3][same] == camid]
        positives = same[arrays[3][same] != camid]
        if len(positives) == 0:
            continue
        ranks = _ranks(distmat[row], positives, dropped)
        precision[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
        if use_metric_cuhk03:
            cmc[row] = _single_shot(distmat[row], arrays[1], pid, dropped, max_rank)
        else:
            cmc[row, ranks[0] - 1 :] = 1
    return QueryResults(precision, cmc)


_NOTHING = np.empty(0, dtype=np.int64)


def _positions(pids: Ids) -> dict[Any, NDArray[np.int64]]:
    """Map each identity to its gallery indices, ascending."""
    order = np.argsort(pids, kind="stable")
    values, starts = np.unique(pids[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:])))


def _ranks(
    distances: NDArray[Any], positives: NDArray[np.int64], dropped: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the 1-based ranks of the positives among what is not dropped, ascending."""
    order = np.lexsort((positives, distances[positives]))
    positives = positives[order]
    near = distances[positives]
    # How many are strictly nearer, and how many as near with a lower index.
    slots = np.searchsorted(near, distances, side="right")
    counts = np.bincount(slots, minlength=len(near) + 1)
    counts -= np.bincount(slots[dropped], minlength=len(near) + 1)
    counts -= np.bincount(slots[positives], minlength=len(near) + 1)
    ranks = np.cumsum(counts)[: len(near)] + np.arange(1, len(near) + 1)
    tied = np.flatnonzero(np.searchsorted(near, distances, side="left") != slots)
    tied = np.setdiff1d(tied, np.concatenate([positives, dropped]), assume_unique=True)
    if len(tied) > 64:  # so many that a full sort is cheaper
        kept = np.ones(len(distances), dtype=bool)
        kept[dropped] = False
        full = np.argsort(distances, kind="stable")
        return np.flatnonzero(np.isin(full[kept[full]], positives)) + 1
    for other in tied:
        ranks[(near == distances[other]) & (positives > other)] += 1
    return ranks


def _single_shot(
    distances: NDArray[Any],
    g_pids: Ids,
    pid: Any,  # noqa: ANN401 (whatever type the ids have)
    dropped: NDArray[np.int64],
    max_rank: int,
) -> NDArray[np.float32]:
    """Average the CMC over draws of one gallery image an identity, in torchreid's order."""
    kept = np.ones(len(distances), dtype=bool)
    kept[dropped] = False
    order = np.argsort(distances, kind="stable")
    ranked = g_pids[order[kept[order]]]
    _, first, inverse = np.unique(ranked, return_index=True, return_inverse=True)
    groups = [np.flatnonzero(inverse == group) for group in np.argsort(first)]
    total = np.zeros(max_rank, dtype=np.float32)
    for _ in range(CUHK03_DRAWS):
        drawn = np.sort([np.random.choice(group) for group in groups])
        hits = (ranked[drawn] == pid).cumsum().clip(max=1)[:max_rank]
        # torchreid needs as many identities as ranks; here the curve goes on at its last value.
        total[: len(hits)] += hits
        total[len(hits) :] += hits[-1]
    return total / np.float32(CUHK03_DRAWS)


def _check_shapes(distmat: NDArray[Any], ids: list[Ids]) -> None:
    if distmat.ndim != 2 or 0 in distmat.shape:
        raise InputError(f"distmat must be (Q, G) with Q, G >= 1, got {distmat.shape}.")
    names = ("q_pids", "g_pids", "q_camids", "g_camids")
    for name, array, length in zip(names, ids, distmat.shape * 2):
        if array.shape != (length,):
            raise InputError(
                f"{name} must have shape ({length},) to fit the {distmat.shape} distances, got "
                f"{array.shape}."
            )
