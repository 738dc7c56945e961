r"""Random-walk deep supervision: one classifier judged on the features before and after the walk.

Source: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019: the sum of the identity loss on X and on X' = T X.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchreid_spectral.losses.class_scores import ClassScores

__all__ = ["DeepSupervisionLoss"]


class DeepSupervisionLoss(nn.Module):
    r"""Weighted sum of an identity loss over both branches.

    .. math:: L = w_0 \, \ell(X) + w_1 \, \ell(X')

    With several walked features (stripes, global and local) each branch is the mean over them, so
    that the weights keep their meaning.

    Args:
        criterion: Identity loss, called with the outputs of a branch and ``(B,)`` targets.
        weight: :math:`w_0`, of the features before the walk.
        weight_walked: :math:`w_1`, of the features after it.

    Raises:
        ValueError: If a weight is negative or both are zero.
    """

    def __init__(
        self, criterion: nn.Module, weight: float = 1.0, weight_walked: float = 1.0
    ) -> None:
        super().__init__()
        if not (weight >= 0 and weight_walked >= 0 and weight + weight_walked > 0):
            raise ValueError(
                f"weights must be >= 0 and not both zero, got {weight} and {weight_walked}."
            )
        self.criterion = criterion
        self.weight, self.weight_walked = weight, weight_walked

    def forward(
        self,
        outputs: Sequence[Float[Tensor, "B I"] | ClassScores],
        walked: Sequence[Float[Tensor, "B I"] | ClassScores],
        targets: Int[Tensor, " B"],
    ) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            outputs: Classifier outputs before the walk, one a feature; may be empty.
            walked: The same after the walk; may be empty.
            targets: Identity of each image.

        Returns:
            The loss.

        Raises:
            ValueError: If the branch that has the weight is not there.
        """
        total: Tensor | None = None
        for weight, branch in ((self.weight, outputs), (self.weight_walked, walked)):
            if weight == 0 or not branch:
                continue
            losses = torch.stack([self.criterion(output, targets) for output in branch])
            total = weight * losses.mean() + (0 if total is None else total)
        if total is None:
            raise ValueError(
                "no branch with a weight: the model gives "
                f"{len(outputs)} plain and {len(walked)} walked outputs, the weights are "
                f"{self.weight} and {self.weight_walked}."
            )
        return total
