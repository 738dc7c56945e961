"""Evaluation of rankings: CMC, mAP, mINP, verification rates, dropped queries; whitening."""

from torchreid_spectral.evaluation.diagnosis import Diagnosis, diagnose
from torchreid_spectral.evaluation.features import evaluate_blocks, evaluate_indices
from torchreid_spectral.evaluation.ranking import evaluate_queries, evaluate_rank
from torchreid_spectral.evaluation.results import QueryResults, RankingMetrics
from torchreid_spectral.evaluation.verification import PairDistances, tpr_at_fpr
from torchreid_spectral.evaluation.whitening import COVARIANCES, Whitening

__all__ = [
    "COVARIANCES",
    "Diagnosis",
    "PairDistances",
    "QueryResults",
    "RankingMetrics",
    "Whitening",
    "diagnose",
    "evaluate_blocks",
    "evaluate_indices",
    "evaluate_queries",
    "evaluate_rank",
    "tpr_at_fpr",
]
