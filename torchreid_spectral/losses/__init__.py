"""Losses on plain tensors, one a file."""

from torchreid_spectral.losses.a_softmax import ASoftmaxLoss
from torchreid_spectral.losses.am_softmax import AMSoftmaxLoss
from torchreid_spectral.losses.arcface import ArcFaceLoss
from torchreid_spectral.losses.circle import CircleLoss
from torchreid_spectral.losses.circle_pairs import CirclePairLoss
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.combined import CombinedLoss
from torchreid_spectral.losses.contrastive import ContrastiveLoss
from torchreid_spectral.losses.cross_entropy import ScaledSoftmaxLoss
from torchreid_spectral.losses.dark_rank import DarkRankLoss
from torchreid_spectral.losses.deep_supervision import DeepSupervisionLoss
from torchreid_spectral.losses.escape import EscapeLoss
from torchreid_spectral.losses.l_softmax import LSoftmaxLoss
from torchreid_spectral.losses.nca import NCALoss
from torchreid_spectral.losses.normalized_cut import NormalizedCutLoss
from torchreid_spectral.losses.quadruplet import QuadrupletLoss
from torchreid_spectral.losses.triplet import BatchHardTripletLoss

__all__ = [
    "AMSoftmaxLoss",
    "ASoftmaxLoss",
    "ArcFaceLoss",
    "BatchHardTripletLoss",
    "CircleLoss",
    "CirclePairLoss",
    "ClassScores",
    "CombinedLoss",
    "ContrastiveLoss",
    "DarkRankLoss",
    "DeepSupervisionLoss",
    "EscapeLoss",
    "LSoftmaxLoss",
    "NCALoss",
    "NormalizedCutLoss",
    "QuadrupletLoss",
    "ScaledSoftmaxLoss",
]
