"""Results of each query, and their means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError

__all__ = ["QueryResults", "RankingMetrics"]


@dataclass(frozen=True)
class RankingMetrics:
    """Mean results over the queries that have a valid positive.

    Args:
        cmc: ``(max_rank,)`` share of queries with a positive at that rank or before.
        mAP: Mean average precision, in [0, 1].
        num_queries: Queries given.
        num_valid: Queries that count: those with a positive from another camera.
        mINP: Mean inverse negative penalty, in [0, 1]: how early the last positive comes.
        mAP_trapezoidal: Mean of the trapezoidal average precision, in [0, 1].
    """

    cmc: NDArray[np.float32]
    mAP: float
    num_queries: int
    num_valid: int
    mINP: float = float("nan")
    mAP_trapezoidal: float = float("nan")

    def rank(self, k: int) -> float:
        """Give the CMC at rank ``k``; past the gallery's end it is the last value.

        Args:
            k: Rank, from 1.

        Returns:
            Share in [0, 1].

        Raises:
            InputError: If ``k`` is not positive.
        """
        if k < 1:
            raise InputError(f"rank must be >= 1, got {k}.")
        return float(self.cmc[min(k, len(self.cmc)) - 1])


@dataclass(frozen=True)
class QueryResults:
    """Results of each query, to be joined over chunks of queries.

    Args:
        average_precision: ``(Q,)``; NaN where a query has no valid positive.
        cmc: ``(Q, max_rank)``.
        inverse_penalty: ``(Q,)``, likewise.
        trapezoidal: ``(Q,)`` trapezoidal average precision, likewise.
    """

    average_precision: NDArray[np.float64]
    cmc: NDArray[np.float32]
    inverse_penalty: NDArray[np.float64]
    trapezoidal: NDArray[np.float64]

    @staticmethod
    def empty(num_queries: int, max_rank: int) -> QueryResults:
        """Give the results of queries without a valid positive, to be filled.

        Args:
            num_queries: Q.
            max_rank: Length of the CMC.

        Returns:
            NaN and zeros.
        """
        nothing = [np.full(num_queries, np.nan) for _ in range(3)]
        cmc = np.zeros((num_queries, max_rank), dtype=np.float32)
        return QueryResults(nothing[0], cmc, nothing[1], nothing[2])

    def fill(self, row: int, ranks: NDArray[np.int64], num_positives: int) -> None:
        """Set the results of one query; positives that were not found count as never found.

        Args:
            row: The query.
            ranks: 1-based ranks of the positives found, ascending.
            num_positives: R, how many there are.
        """
        places = np.arange(1, len(ranks) + 1)
        precision = places / ranks
        before = (places - 1) / np.maximum(ranks - 1, 1)
        before[ranks == 1] = 1
        self.average_precision[row] = precision.sum() / num_positives
        self.trapezoidal[row] = (before + precision).sum() / (2 * num_positives)
        complete = len(ranks) == num_positives
        self.inverse_penalty[row] = num_positives / ranks[-1] if complete else 0.0
        self.cmc[row, ranks[0] - 1 if len(ranks) else self.cmc.shape[1] :] = 1

    @staticmethod
    def mean(parts: Iterable[QueryResults]) -> RankingMetrics:
        """Average over all queries of all parts.

        Args:
            parts: Results of chunks of queries.

        Returns:
            The means.

        Raises:
            InputError: If there is no query, or none has a positive from another camera.
        """
        parts = list(parts)
        if not parts:
            raise InputError("There are no queries to average over.")
        precision = np.concatenate([part.average_precision for part in parts])
        cmc = np.concatenate([part.cmc for part in parts])
        valid = ~np.isnan(precision)
        if not valid.any():
            raise InputError(
                f"None of the {len(valid)} queries has a gallery image of its identity from "
                "another camera, so there is nothing to measure. Mostly all images carry one "
                "camera id: give each camera its own, or the identities of query and gallery "
                "differ. torchreid_spectral.evaluation.diagnose(...) says which it is."
            )
        total = cmc[valid].sum(0, dtype=np.float32) / float(valid.sum())
        penalty = np.concatenate([part.inverse_penalty for part in parts])
        trapezoidal = np.concatenate([part.trapezoidal for part in parts])
        return RankingMetrics(
            total.astype(np.float32),
            float(precision[valid].mean()),
            len(valid),
            int(valid.sum()),
            float(penalty[valid].mean()),
            float(trapezoidal[valid].mean()),
        )
