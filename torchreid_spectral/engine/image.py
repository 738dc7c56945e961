"""The engine of the spectral method.

Source: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral import _compat
from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.engine.distillation import Distillation
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import escape_probability
from torchreid_spectral.losses import AMSoftmaxLoss, ClassScores, CombinedLoss
from torchreid_spectral.models import SpectralNet

__all__ = ["ImageMetricEngine", "ImageSpectralEngine"]

logger = logging.getLogger(__name__)
_engines: Any = _compat.load().engine
_MIXED = 0.9  # of chance: a walk that escapes as often has not found anybody


class ImageSpectralEngine(ReportingMixin, _engines.Engine):  # type: ignore[misc]
    r"""Train a spectral model by random-walk deep supervision.

    .. math:: L = w_0 \, \ell_{id}(X) + w_1 \, \ell_{id}(X') + \sum_m w_m \, \ell_m + w_d \, \ell_d

    with metric losses on X, X' or both, and what a teacher says of X. Beside the losses it logs
    the accuracy of both branches and the escape probability of the graphs that the heads walk on,
    a mean where there are several (stripes, groups): how likely a random step leads to another
    identity, which training should lower.

    Args:
        datamanager: ``torchreid.data.ImageDataManager``.
        model: A spectral model built with ``loss="spectral"``.
        optimizer: Of ``torchreid.optim.build_optimizer``.
        scheduler: Stepped once an epoch; none if not given.
        use_gpu: Use a GPU where there is one.
        criterion: The losses on X and X'; AM-softmax with margin 0.3 and scale 15 by default.
        distillation: A teacher and its loss, or none.
        **reporting: See :class:`~torchreid_spectral.engine.base.ReportingMixin`.

    Raises:
        InputError: If the model is not a spectral one built for this engine.
    """

    def __init__(
        self,
        datamanager: Any,  # noqa: ANN401
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,  # noqa: ANN401
        use_gpu: bool = True,
        *,
        criterion: CombinedLoss | None = None,
        distillation: Distillation | None = None,
        **reporting: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(datamanager, use_gpu, **reporting)
        network = unwrapped(model)
        self.criterion = CombinedLoss(AMSoftmaxLoss()) if criterion is None else criterion
        self.distillation = distillation
        self.network = self._checked(network)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401
        """Give the model's outputs, and the teacher's features where there is a teacher.

        Args:
            images: ``(B, 3, H, W)``.

        Returns:
            What :meth:`compute_losses` takes.
        """
        outputs = super().forward(images)
        if self.distillation is None:
            return outputs
        return outputs, self.distillation.features(images)

    def compute_losses(
        self,
        outputs: Any,  # noqa: ANN401
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, its parts, accuracies in % and the escape probability.

        Args:
            outputs: The model's pair of scores and features; with a teacher, the pair of that
                and the teacher's features.
            targets: ``(B,)`` identity of each image.

        Returns:
            The loss, and what is logged.
        """
        taught = None
        if self.distillation is not None:
            outputs, taught = outputs
        scores, features = outputs
        plain, walked = self._branches(scores, features)
        loss, parts = self.criterion(plain, walked, targets)
        if self.distillation is not None and taught is not None:
            parts["loss_distill"] = self.distillation.loss(features, taught)
            loss = loss + self.distillation.weight * parts["loss_distill"]
        self.last_features = features, targets  # for TensorBoard's picture of the graph
        return loss, parts | {"loss": loss} | self._diagnose(plain, walked, targets)

    def _branches(
        self,
        outputs: Any,  # noqa: ANN401
        features: Any,  # noqa: ANN401
    ) -> tuple[Sequence[ClassScores], Sequence[ClassScores]]:
        """Split what the model gives into scores before and after the walk."""
        scores = [ClassScores(*output) for output in outputs]
        heads = self.network.heads
        if heads[0].supervision == "walked":
            return [], scores
        return scores[: len(heads)], scores[len(heads) :]

    def _note_step(self) -> None:
        self.criterion.advance()

    @torch.no_grad()
    def _diagnose(
        self,
        plain: Sequence[ClassScores],
        walked: Sequence[ClassScores],
        pids: Tensor,
    ) -> dict[str, Tensor]:
        accuracy = _compat.load().metrics.accuracy
        escapes = [head.escape(pids) for head in self.network.heads]
        found = {"escape": torch.stack(escapes).mean()}
        if plain:
            found["acc"] = accuracy(plain[0].cosine, pids)[0]
        if walked:
            found["acc_walked"] = accuracy(walked[0].cosine, pids)[0]
        return found

    def _note_epoch(self, losses: Any) -> None:  # noqa: ANN401
        """Say, halfway, where the walk still mixes everybody: X' is then the batch's mean."""
        if (
            self.epoch + 1 != self.max_epoch // 2
            or self.last_features is None
            or "escape" not in losses.meters
            or self.network.heads[0].supervision not in ("both", "walked")
        ):
            return
        pids = self.last_features[1]
        alike = torch.full((len(pids), len(pids)), 1 / len(pids), device=pids.device)
        escape, chance = losses.meters["escape"].avg, float(escape_probability(alike, pids))
        if escape > _MIXED * chance:
            logger.warning(
                "A step of the walk leads to another identity with probability %.2f, by chance it "
                "would be %.2f: X' is nearly the mean of the batch and teaches little. Lower "
                "spectral.temperature, or walk on a feature that differs more between people "
                "(spectral.walked_feature bottleneck).",
                escape,
                chance,
            )

    def _checked(self, network: nn.Module) -> Any:  # noqa: ANN401
        if not isinstance(network, SpectralNet):
            raise InputError(
                f"loss.name spectral needs a spectral model, got {type(network).__name__}: its "
                "classifier gives no cosines for a margin. Use model.name spectral_<name>, or "
                "loss.name softmax."
            )
        if network.contract != "spectral":
            raise InputError(
                "ImageSpectralEngine needs a model built with loss='spectral', got one built "
                f"with loss={network.contract!r}."
            )
        return network


class ImageMetricEngine(ImageSpectralEngine):
    """Train the features of any torchreid model by metric losses alone.

    Its classifier is not trained: a linear layer gives no cosines, and ``loss.name softmax`` and
    ``triplet`` are torchreid's. The model is built with ``loss="triplet"``, so that it gives its
    features in training; other arguments as :class:`ImageSpectralEngine`.
    """

    def _checked(self, network: nn.Module) -> Any:  # noqa: ANN401
        wants_scores = any(loss.needs_scores for loss in self.criterion.metric_losses.values())
        if self.criterion.id_loss is not None or wants_scores:
            raise InputError(
                f"{type(network).__name__} has no cosine classifier: it can be trained by metric "
                "losses that compare features alone. Use model.name spectral_<name>, or "
                "criterion=CombinedLoss(metric_losses={'triplet': BatchHardTripletLoss()})."
            )
        built = getattr(network, "contract", getattr(network, "loss", "triplet"))
        if built == "softmax":
            raise InputError(
                f"Metric losses need the features of {type(network).__name__} in training: build "
                "it with loss='triplet', got loss='softmax'."
            )
        return network

    def _branches(
        self,
        outputs: Any,  # noqa: ANN401
        features: Any,  # noqa: ANN401
    ) -> tuple[Sequence[ClassScores], Sequence[ClassScores]]:
        """Put the features in the place of X; there is no X'."""
        parts = features if isinstance(features, (tuple, list)) else (features,)
        return [ClassScores(part[:, :0], part) for part in parts], []

    def _diagnose(self, *args: Any) -> dict[str, Tensor]:  # noqa: ANN401
        return {}
