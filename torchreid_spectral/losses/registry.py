"""Names that configs use for losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchreid_spectral.errors import UnknownNameError
from torchreid_spectral.losses.a_softmax import ASoftmaxLoss
from torchreid_spectral.losses.am_softmax import AMSoftmaxLoss
from torchreid_spectral.losses.arcface import ArcFaceLoss
from torchreid_spectral.losses.circle import CircleLoss
from torchreid_spectral.losses.circle_pairs import CirclePairLoss
from torchreid_spectral.losses.contrastive import ContrastiveLoss
from torchreid_spectral.losses.cross_entropy import ScaledSoftmaxLoss
from torchreid_spectral.losses.dark_rank import DarkRankLoss
from torchreid_spectral.losses.escape import EscapeLoss
from torchreid_spectral.losses.l_softmax import LSoftmaxLoss
from torchreid_spectral.losses.nca import NCALoss
from torchreid_spectral.losses.normalized_cut import NormalizedCutLoss
from torchreid_spectral.losses.quadruplet import QuadrupletLoss
from torchreid_spectral.losses.triplet import BatchHardTripletLoss

__all__ = [
    "DISTILLATION_LOSSES",
    "ID_LOSSES",
    "METRIC_LOSSES",
    "build_id_loss",
    "build_metric_loss",
]

Builder = Callable[..., nn.Module]

ID_LOSSES: dict[str, Builder] = {
    "a_softmax": ASoftmaxLoss,
    "am_softmax": AMSoftmaxLoss,
    "arcface": ArcFaceLoss,
    "circle": CircleLoss,
    "l_softmax": LSoftmaxLoss,
    "softmax": ScaledSoftmaxLoss,
}
"""Identity losses: called with cosines or :class:`ClassScores`, and ``(B,)`` targets."""

METRIC_LOSSES: dict[str, Builder] = {
    "circle_pairs": CirclePairLoss,
    "contrastive": ContrastiveLoss,
    "escape": EscapeLoss,
    "nca": NCALoss,
    "normalized_cut": NormalizedCutLoss,
    "quadruplet": QuadrupletLoss,
    "triplet": BatchHardTripletLoss,
}
"""Metric losses: called with ``(B, D)`` features, ``(B,)`` targets and the class scores."""

DISTILLATION_LOSSES: dict[str, Builder] = {"dark_rank": DarkRankLoss}
"""Losses between a student and its teacher: called with the features of both."""


def build_id_loss(name: str, **options: Any) -> nn.Module:  # noqa: ANN401 (each has its own)
    """Build an identity loss by name.

    Args:
        name: A key of :data:`ID_LOSSES`.
        **options: Of that loss.

    Returns:
        The loss.

    Raises:
        UnknownNameError: If there is no such loss.
    """  # noqa: DOC502
    return _build("identity loss", ID_LOSSES, name, options)


def build_metric_loss(name: str, **options: Any) -> nn.Module:  # noqa: ANN401
    """Build a metric loss by name.

    Args:
        name: A key of :data:`METRIC_LOSSES`.
        **options: Of that loss.

    Returns:
        The loss.

    Raises:
        UnknownNameError: If there is no such loss.
    """  # noqa: DOC502
    return _build("metric loss", METRIC_LOSSES, name, options)


def _build(
    kind: str, table: Mapping[str, Builder], name: str, options: Mapping[str, Any]
) -> nn.Module:
    if name not in table:
        raise UnknownNameError(kind, name, table)
    return table[name](**options)
