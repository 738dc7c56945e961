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
:math:`INP = R / r_R`                          ``inverse_penalty``      ``(Q,)``
=============================================  =======================  =========

Nothing is sorted but the few positives of a query: their ranks are counted.

The trapezoidal AP is that of the authors' code and of the talk (J. Philbin et al., *Object
Retrieval with Large Vocabularies and Fast Spatial Matching*, CVPR 2007), the mean of the precision
at each positive and just before it, which is 1 at :math:`r_i = 1`:

.. math:: \frac{1}{R} \sum_i \frac12 \left(\frac{i-1}{r_i-1} + \frac{i}{r_i}\right)

mINP: M. Ye et al., *Deep Learning for Person Re-identification: A Survey and Outlook*, TPAMI 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation.inputs import as_array, as_ids, check_kinds
from torchreid_spectral.evaluation.results import QueryResults

__all__ = ["evaluate_queries", "evaluate_rank", "evaluate_rank_padded", "positions_of"]

Ids = NDArray[Any]
CUHK03_DRAWS = 10


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


def evaluate_rank_padded(
    distmat: NDArray[Any],
    q_pids: Ids,
    g_pids: Ids,
    q_camids: Ids,
    g_camids: Ids,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[NDArray[np.float32], float]:
    """Evaluate as :func:`evaluate_rank`, with a CMC of ``max_rank`` for small galleries too.

    torchreid's engines print ranks up to 20, and fail where the gallery has fewer images.

    Args:
        distmat: See :func:`evaluate_rank`, as the other arguments.
        q_pids: See there.
        g_pids: See there.
        q_camids: See there.
        g_camids: See there.
        max_rank: Length of the CMC; beyond the gallery its last value counts.
        use_metric_cuhk03: See there.
        use_cython: See there.

    Returns:
        CMC ``(max_rank,)`` and mAP.
    """
    ids = q_pids, g_pids, q_camids, g_camids
    cmc, mean = evaluate_rank(distmat, *ids, max_rank, use_metric_cuhk03, use_cython)
    return np.pad(cmc, (0, max(0, max_rank - len(cmc))), mode="edge"), mean


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
        InputError: If shapes do not fit, or a positive's distance is NaN.
    """
    arrays = [as_ids(ids) for ids in (q_pids, g_pids, q_camids, g_camids)]
    distmat = as_array(distmat)
    _check_shapes(distmat, arrays)
    num_q, num_g = distmat.shape
    max_rank = min(max_rank, num_g)
    results = QueryResults.empty(num_q, max_rank)
    of_identity = positions_of(arrays[1])
    for row in range(num_q):
        pid, camid = arrays[0][row], arrays[2][row]
        same = of_identity.get(pid, _NOTHING)
        dropped = same[arrays[3][same] == camid]
        positives = same[arrays[3][same] != camid]
        if len(positives) == 0:
            continue
        if np.isnan(distmat[row, positives]).any():
            raise InputError(f"distmat row {row} holds NaN: its positives have no rank.")
        ranks = _ranks(distmat[row], positives, dropped)
        results.fill(row, ranks, len(ranks))
        if use_metric_cuhk03:
            results.cmc[row] = _single_shot(distmat[row], arrays[1], pid, dropped, max_rank)
    return results


_NOTHING = np.empty(0, dtype=np.int64)


def positions_of(pids: Ids) -> dict[Any, NDArray[np.int64]]:
    """Map each identity to its gallery indices, ascending.

    Args:
        pids: ``(G,)``.

    Returns:
        Indices by identity.
    """
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
    candidates = np.flatnonzero(distances <= near[-1])  # nobody else stands before a positive
    values = distances[candidates]
    slots = np.searchsorted(near, values)  # how many positives are strictly nearer
    tied = near[slots] == values  # the positives themselves are among them
    counts = np.bincount(slots[~tied], minlength=len(near))
    counts -= np.bincount(*_untied(near, distances[dropped]), minlength=len(near))
    ranks = np.cumsum(counts) + np.arange(1, len(near) + 1)
    others = candidates[tied]
    if len(others) > len(near):
        others = np.setdiff1d(others, np.concatenate([positives, dropped]), assume_unique=True)
        return _with_ties(ranks, near, positives, others, distances, dropped)
    return ranks


def _untied(near: NDArray[Any], distances: NDArray[Any]) -> tuple[NDArray[np.int64]]:
    """Give the slots of dropped images that were counted: as far as a positive and not tied."""
    distances = distances[distances <= near[-1]]
    slots = np.searchsorted(near, distances)
    return (slots[near[slots] != distances],)


def _with_ties(
    ranks: NDArray[np.int64],
    near: NDArray[Any],
    positives: NDArray[np.int64],
    others: NDArray[np.int64],
    distances: NDArray[Any],
    dropped: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count those that are as near as a positive: before it if nearer than the next, or lower."""
    if len(others) > 64:  # so many that a full sort is cheaper
        kept = np.ones(len(distances), dtype=bool)
        kept[dropped] = False
        full = np.argsort(distances, kind="stable")
        return np.flatnonzero(np.isin(full[kept[full]], positives)) + 1
    for other in others:
        before = (near > distances[other]) | ((near == distances[other]) & (positives > other))
        ranks[before] += 1
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
    check_kinds(*ids)
