"""Evaluation of rankings: CMC and mAP as the field computes them."""

from torchreid_spectral.evaluation.ranking import (
    QueryResults,
    RankingMetrics,
    evaluate_queries,
    evaluate_rank,
)
from torchreid_spectral.evaluation.whitening import Whitening

__all__ = [
    "QueryResults",
    "RankingMetrics",
    "Whitening",
    "evaluate_queries",
    "evaluate_rank",
]
