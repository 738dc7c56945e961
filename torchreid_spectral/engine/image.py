"""The engine of the spectral method.

Source: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral import _compat
from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import AMSoftmaxLoss, DeepSupervisionLoss
from torchreid_spectral.models import SpectralNet

__all__ = ["ImageSpectralEngine"]

_engines: Any = _compat.load().engine


class ImageSpectralEngine(ReportingMixin, _engines.Engine):  # type: ignore[misc]
    r"""Train a spectral model by random-walk deep supervision.

    .. math:: L = w_0 \, \ell_{id}(X) + w_1 \, \ell_{id}(X') + w_m \, \ell_{metric}(X)

    Beside the losses it logs the accuracy of both branches and the escape probability of the
    graphs that the heads walk on, a mean where there are several (stripes, groups): how likely a
    random step leads to another identity, which training should lower.

    Args:
        datamanager: ``torchreid.data.ImageDataManager``.
        model: A spectral model built with ``loss="spectral"``.
        optimizer: Of ``torchreid.optim.build_optimizer``.
        scheduler: Stepped once an epoch; none if not given.
        use_gpu: Use a GPU where there is one.
        id_loss: Identity loss on cosines; AM-softmax with margin 0.3 and scale 15 by default.
        weight: :math:`w_0`, of the identity loss on X.
        weight_walked: :math:`w_1`, of the identity loss on X'.
        metric_loss: Metric loss on X, or none.
        weight_metric: :math:`w_m`.
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
        id_loss: nn.Module | None = None,
        weight: float = 1.0,
        weight_walked: float = 1.0,
        metric_loss: nn.Module | None = None,
        weight_metric: float = 1.0,
        **reporting: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(datamanager, use_gpu, **reporting)
        network = model.module if isinstance(model, nn.DataParallel) else model
        self.network = _checked(network)
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)
        criterion = AMSoftmaxLoss() if id_loss is None else id_loss
        self.criterion = DeepSupervisionLoss(criterion, weight, weight_walked)
        self.metric_loss, self.weight_metric = metric_loss, weight_metric

    def compute_losses(
        self,
        outputs: Any,  # noqa: ANN401
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, its parts, accuracies in % and the escape probability.

        Args:
            outputs: The model's pair of outputs and features.
            targets: ``(B,)`` identity of each image.

        Returns:
            The loss, and what is logged.
        """
        logits, features = outputs
        plain, walked = self._branches(logits)
        loss = id_loss = self.criterion(plain, walked, targets)
        parts = {"loss_id": id_loss}
        if self.metric_loss is not None:
            nodes = features if isinstance(features, (tuple, list)) else (features,)
            metric = torch.stack([self.metric_loss(node, targets) for node in nodes]).mean()
            loss = loss + self.weight_metric * metric
            parts["loss_metric"] = metric
        return loss, parts | {"loss": loss} | self._diagnose(plain, walked, targets)

    def _branches(self, outputs: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # noqa: ANN401
        """Split what the model gives into outputs before and after the walk."""
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        heads = self.network.heads
        if heads[0].supervision == "walked":
            return (), outputs
        return outputs[: len(heads)], outputs[len(heads) :]

    @torch.no_grad()
    def _diagnose(
        self,
        plain: tuple[Tensor, ...],
        walked: tuple[Tensor, ...],
        pids: Tensor,
    ) -> dict[str, Tensor]:
        accuracy = _compat.load().metrics.accuracy
        escapes = [head.escape(pids) for head in self.network.heads]
        found = {"escape": torch.stack(escapes).mean()}
        if plain:
            found["acc"] = accuracy(plain[0], pids)[0]
        if walked:
            found["acc_walked"] = accuracy(walked[0], pids)[0]
        return found


def _checked(network: nn.Module) -> SpectralNet:
    if not isinstance(network, SpectralNet):
        raise InputError(
            f"loss.name spectral needs a spectral model, got {type(network).__name__}: its "
            "classifier gives no cosines for a margin. Use model.name spectral_<name>, or "
            "loss.name softmax."
        )
    if network.contract != "spectral":
        raise InputError(
            f"ImageSpectralEngine needs a model built with loss='spectral', got one built with "
            f"loss={network.contract!r}."
        )
    return network
