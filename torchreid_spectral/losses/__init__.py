"""Losses on plain tensors, one a file."""

from torchreid_spectral.losses.am_softmax import AMSoftmaxLoss
from torchreid_spectral.losses.cross_entropy import ScaledSoftmaxLoss
from torchreid_spectral.losses.deep_supervision import DeepSupervisionLoss

__all__ = ["AMSoftmaxLoss", "DeepSupervisionLoss", "ScaledSoftmaxLoss"]
