"""Evaluation of rankings: CMC and mAP as the field computes them."""

from torchreid_spectral.evaluation.ranking import (
    QueryResults,
    RankingMetrics,
    evaluate_queries,
    evaluate_rank,
)

__all__ = ["QueryResults", "RankingMetrics", "evaluate_queries", "evaluate_rank"]
