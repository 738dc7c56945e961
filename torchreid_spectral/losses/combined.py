r"""All training terms of a batch in one sum: identity losses, metric losses, X and X'.

Source of the sum over X and X' = T X: C. Luo et al., *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from torchreid_spectral.errors import InputError
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.deep_supervision import DeepSupervisionLoss
from torchreid_spectral.losses.multiplicative_margin import MultiplicativeMarginLoss

__all__ = ["METRIC_ON", "CombinedLoss"]

METRIC_ON = {"plain": (0,), "walked": (1,), "both": (0, 1)}
"""What metric losses compare, by name: X, X' or both; the indices of the branches."""


class CombinedLoss(nn.Module):
    r"""Sum an identity loss over both branches and weighted metric losses over one or both.

    .. math:: L = w_0 \, \ell_{id}(X) + w_1 \, \ell_{id}(X') + \sum_m w_m \, \ell_m(X \mid X')

    With several walked features (stripes, global and local) each term is the mean over them.

    Args:
        id_loss: Identity loss, or none.
        weight: :math:`w_0`.
        weight_walked: :math:`w_1`.
        metric_losses: Metric losses by name.
        metric_weights: :math:`w_m` by name; 1 for those not named.
        metric_on: A key of :data:`METRIC_ON`; for ``both`` the sum of the two.

    Raises:
        InputError: If there is no loss, or a weight or name is wrong.
    """

    def __init__(
        self,
        id_loss: nn.Module | None = None,
        weight: float = 1.0,
        weight_walked: float = 1.0,
        metric_losses: Mapping[str, nn.Module] | None = None,
        metric_weights: Mapping[str, float] | None = None,
        metric_on: str = "plain",
    ) -> None:
        super().__init__()
        metric_losses, weights = metric_losses or {}, dict(metric_weights or {})
        if id_loss is None and not metric_losses:
            raise InputError("no loss to train with: give an identity loss or a metric loss.")
        if metric_on not in METRIC_ON:
            raise InputError(f"metric_on must be one of {list(METRIC_ON)}, got {metric_on!r}.")
        wrong = {name: value for name, value in weights.items() if not value >= 0}
        if wrong or weights.keys() - metric_losses.keys():
            raise InputError(
                f"metric_weights must be >= 0 for names of {list(metric_losses)}, got {weights}."
            )
        self.id_loss = (
            None if id_loss is None else DeepSupervisionLoss(id_loss, weight, weight_walked)
        )
        self.metric_losses = nn.ModuleDict(metric_losses)
        self.metric_weights = {name: weights.get(name, 1.0) for name in metric_losses}
        self.metric_on = metric_on

    def forward(
        self,
        plain: Sequence[ClassScores],
        walked: Sequence[ClassScores],
        targets: Int[Tensor, " B"],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the sum and its parts.

        Args:
            plain: The classifier on X, one entry a feature; may be empty.
            walked: The same on X'; may be empty.
            targets: Identity of each image.

        Returns:
            The loss; and its parts before weighting, ``loss_id`` and one ``loss_<name>`` for
            each metric loss.
        """
        terms, parts = [], {}
        if self.id_loss is not None:
            parts["loss_id"] = self.id_loss(plain, walked, targets)
            terms.append(parts["loss_id"])
        for name, loss in self.metric_losses.items():
            parts[f"loss_{name}"] = self._metric(loss, (plain, walked), targets)
            terms.append(self.metric_weights[name] * parts[f"loss_{name}"])
        return torch.stack(terms).sum(), parts

    def advance(self) -> None:
        """Count one training step, for losses that are phased in."""
        for module in self.modules():
            if isinstance(module, MultiplicativeMarginLoss):
                module.advance()

    def _metric(
        self, loss: nn.Module, branches: Sequence[Sequence[ClassScores]], targets: Tensor
    ) -> Tensor:
        chosen = [branches[index] for index in METRIC_ON[self.metric_on]]
        if not all(chosen):
            raise InputError(
                f"loss.metric_on {self.metric_on} needs features that the model does not give: "
                "set loss.metric_on and spectral.supervision to the same branch, or the latter "
                "to both."
            )
        means = []
        for branch in chosen:
            values = [
                loss(scores.known("feature", "a metric loss"), targets, scores)
                for scores in branch
            ]
            means.append(torch.stack(values).mean())
        return torch.stack(means).sum()
