"""torchreid's own engines in this package's loop: the same losses, figures returned and saved."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchreid_spectral import _compat
from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.engine.host import TorchreidEngine
from torchreid_spectral.layers import FramePooling

__all__ = [
    "ImageSoftmaxReportingEngine",
    "ImageTripletReportingEngine",
    "VideoSoftmaxReportingEngine",
    "VideoTripletReportingEngine",
]

_engines: Any = _compat.load().engine


class _SoftmaxLosses(ReportingMixin):
    """torchreid's softmax loss as the step wants it."""

    criterion: nn.Module

    def compute_losses(
        self,
        outputs: Any,  # noqa: ANN401
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute torchreid's cross-entropy and accuracy.

        Args:
            outputs: Logits ``(B, I)``, or a tuple of them.
            targets: ``(B,)`` identities.

        Returns:
            The loss, and what is logged.
        """
        loss = self.compute_loss(self.criterion, outputs, targets)
        accuracy = _compat.load().metrics.accuracy(outputs, targets)[0]
        return loss, {"loss": loss, "acc": accuracy}


class _TripletLosses(ReportingMixin):
    """torchreid's triplet and softmax losses as the step wants them."""

    weight_t: float
    weight_x: float
    criterion_t: nn.Module
    criterion_x: nn.Module

    def compute_losses(
        self,
        outputs: Any,  # noqa: ANN401
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute torchreid's weighted sum, and accuracy.

        Args:
            outputs: Pair of logits and features.
            targets: ``(B,)`` identities.

        Returns:
            The loss, and what is logged.
        """
        logits, features = outputs
        loss: Any = 0
        parts = {}
        if self.weight_t > 0:
            parts["loss_t"] = self.compute_loss(self.criterion_t, features, targets)
            loss = loss + self.weight_t * parts["loss_t"]
        if self.weight_x > 0:
            parts["loss_x"] = self.compute_loss(self.criterion_x, logits, targets)
            loss = loss + self.weight_x * parts["loss_x"]
            parts["acc"] = _compat.load().metrics.accuracy(logits, targets)[0]
        return loss, parts


class _TrackletPooling(TorchreidEngine):
    """Goes before a video engine of torchreid: frames may be pooled by attention in the test.

    Args:
        *args: Of the engine.
        pooling_method: ``avg``, ``max`` or ``attention``.
        frame_temperature: Of ``attention``.
        **kwargs: Of the engine.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        pooling_method: str = "avg",
        frame_temperature: float = 0.1,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.pooling = FramePooling(pooling_method, frame_temperature)

    def extract_features(self, input: Tensor) -> Tensor:  # noqa: A002 (torchreid's name)
        """Give the test features of tracklets.

        Args:
            input: ``(B, F, 3, H, W)``.

        Returns:
            ``(B, D)``.
        """
        frames: Tensor = self.model(input.flatten(0, 1))
        return self.pooling(frames.unflatten(0, input.shape[:2]))


class ImageSoftmaxReportingEngine(_SoftmaxLosses, _engines.ImageSoftmaxEngine):
    """torchreid's ``ImageSoftmaxEngine``; same losses, results returned and saved."""


class ImageTripletReportingEngine(_TripletLosses, _engines.ImageTripletEngine):
    """torchreid's ``ImageTripletEngine``; same losses, results returned and saved."""


class VideoSoftmaxReportingEngine(_TrackletPooling, _SoftmaxLosses, _engines.VideoSoftmaxEngine):
    """torchreid's ``VideoSoftmaxEngine``; same losses, results returned and saved."""


class VideoTripletReportingEngine(_TrackletPooling, _TripletLosses, _engines.VideoTripletEngine):
    """torchreid's ``VideoTripletEngine``; same losses, results returned and saved."""
