"""Names that configs use for losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from torchreid_spectral.errors import UnknownNameError
from torchreid_spectral.losses.am_softmax import AMSoftmaxLoss
from torchreid_spectral.losses.cross_entropy import ScaledSoftmaxLoss

__all__ = ["ID_LOSSES", "METRIC_LOSSES", "build_id_loss"]

ID_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "am_softmax": AMSoftmaxLoss,
    "softmax": ScaledSoftmaxLoss,
}
"""Identity losses: called with ``(B, I)`` cosines and ``(B,)`` targets."""

METRIC_LOSSES = ("triplet",)
"""Metric losses: called with ``(B, D)`` features and ``(B,)`` targets; ``triplet`` is
torchreid's own."""


def build_id_loss(name: str, **options: Any) -> nn.Module:  # noqa: ANN401 (each has its own)
    """Build an identity loss by name.

    Args:
        name: A key of :data:`ID_LOSSES`.
        **options: Of that loss.

    Returns:
        The loss.

    Raises:
        UnknownNameError: If there is no such loss.
    """
    if name not in ID_LOSSES:
        raise UnknownNameError("identity loss", name, ID_LOSSES)
    return ID_LOSSES[name](**options)
