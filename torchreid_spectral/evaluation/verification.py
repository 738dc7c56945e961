r"""Verification: how many pairs of one identity are accepted at a given rate of false matches.

Source: NIST's terms: TPR (genuine pairs accepted) at FPR (impostor pairs accepted). A pair is a
query and a gallery image, those of one identity and camera left out as in the ranking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation.inputs import as_array, as_ids, check_ids

__all__ = ["PairDistances", "tpr_at_fpr"]

Blocks = Iterable[tuple[slice, NDArray[Any]]]


class PairDistances:
    """Collects the genuine pairs and the nearest impostor pairs of chunks of queries.

    Memory is the genuine pairs and ``max_fpr`` of the impostor pairs.

    Args:
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        max_fpr: Largest false-positive rate that will be asked for.

    Raises:
        InputError: If ``max_fpr`` is not in (0, 1], or there is not one camera for each identity.
    """

    def __init__(
        self,
        q_pids: NDArray[Any],
        g_pids: NDArray[Any],
        q_camids: NDArray[Any],
        g_camids: NDArray[Any],
        *,
        max_fpr: float = 0.01,
    ) -> None:
        if not 0 < max_fpr <= 1:
            raise InputError(f"max_fpr must be in (0, 1], got {max_fpr}.")
        self._ids = [as_ids(ids) for ids in (q_pids, g_pids, q_camids, g_camids)]
        check_ids(*self._ids)
        values, counts = np.unique(self._ids[1], return_counts=True)
        of_identity = dict(zip(values.tolist(), counts.tolist()))
        same = sum(of_identity.get(pid, 0) for pid in self._ids[0].tolist())
        self.num_impostors = len(self._ids[0]) * len(self._ids[1]) - same
        self._kept = int(np.ceil(max_fpr * self.num_impostors)) + 1
        self._max_fpr = max_fpr
        self._genuine: list[NDArray[Any]] = []
        self._impostors = np.empty(0, dtype=np.float32)

    def add(self, rows: slice, distances: NDArray[Any]) -> None:
        """Take in the distances of some queries.

        Args:
            rows: The queries.
            distances: ``(chunk, G)``.

        Raises:
            InputError: If the distances are not of these queries to the whole gallery.
        """
        q_pids, g_pids, q_camids, g_camids = self._ids
        expected = (len(q_pids[rows]), len(g_pids))
        if distances.shape != expected:
            raise InputError(f"distances must have shape {expected}, got {distances.shape}.")
        same = q_pids[rows, None] == g_pids[None]
        other_camera = q_camids[rows, None] != g_camids[None]
        self._genuine.append(distances[same & other_camera])
        found = distances[~same]
        if len(self._impostors) >= self._kept:
            found = found[found < self._impostors.max()]
        found = np.concatenate([self._impostors, found])
        if len(found) > self._kept:
            found = np.partition(found, self._kept - 1)[: self._kept]
        self._impostors = found

    def tpr_at(self, fpr: float) -> tuple[float, float]:
        """Give the share of genuine pairs accepted where impostors are at most at a rate.

        Args:
            fpr: Rate, up to ``max_fpr``.

        Returns:
            The rate of genuine pairs, and the threshold: pairs nearer than it are accepted.

        Raises:
            InputError: If the rate is larger, or there are no genuine or no impostor pairs.
        """
        if not 0 <= fpr <= self._max_fpr:
            raise InputError(f"fpr must be in [0, {self._max_fpr}], got {fpr}.")
        genuine = np.concatenate(self._genuine) if self._genuine else np.empty(0)
        if not len(genuine) or not len(self._impostors):
            raise InputError("There are no genuine or no impostor pairs to verify.")
        impostors = np.sort(self._impostors)
        allowed = int(np.floor(fpr * self.num_impostors + 1e-9))
        threshold = impostors[allowed] if allowed < len(impostors) else np.inf
        return float((genuine < threshold).mean()), float(threshold)


def tpr_at_fpr(
    blocks: Blocks,
    q_pids: NDArray[Any],
    g_pids: NDArray[Any],
    q_camids: NDArray[Any],
    g_camids: NDArray[Any],
    *,
    fprs: Sequence[float] = (1e-4, 1e-3, 1e-2),
) -> dict[float, float]:
    """Compute the true-positive rate at some false-positive rates, over all pairs.

    Args:
        blocks: Chunks of queries and their ``(chunk, G)`` distances, as ``iter_distances`` gives.
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.
        fprs: False-positive rates.

    Returns:
        Rate of genuine pairs by rate of impostor pairs.

    Raises:
        InputError: If the blocks are not of all queries, or hold NaN.

    Example:
        >>> distances = np.array([[0.1, 0.4, 0.2]])
        >>> ids = [np.array(x) for x in ([1], [1, 1, 2], [0], [1, 1, 1])]
        >>> tpr_at_fpr([(slice(0, 1), distances)], *ids, fprs=[0.0])
        {0.0: 0.5}
    """
    pairs = PairDistances(q_pids, g_pids, q_camids, g_camids, max_fpr=max([1e-9, *fprs]))
    count = 0
    for rows, block in blocks:
        distances = as_array(block)
        if np.isnan(distances).any():
            raise InputError(f"The distances of queries {rows.start} to {rows.stop} hold NaN.")
        pairs.add(rows, distances)
        count += len(distances)
    if count != len(q_pids):
        raise InputError(f"There are distances of {count} queries, but {len(q_pids)} identities.")
    return {fpr: pairs.tpr_at(fpr)[0] for fpr in fprs}
