"""What metric losses have in common: features of a batch in, one number out."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from torchreid_spectral.functional import unit_rows
from torchreid_spectral.functional._precision import at_least_float32, full_precision
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.targets import checked_targets

__all__ = ["MetricLoss", "check_margin"]


class MetricLoss(nn.Module):
    """Loss on the features of a batch, in float32 at least: a subclass has `compare`.

    A batch without a pair (triplet, quadruplet) to compare gives zero, with a gradient of zero;
    the losses of a graph (escape, normalised cut) have their own values there.

    Args:
        normalize: Scale features to length one first.
    """

    needs_scores = False

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize

    def compare(self, features: Float[Tensor, "B D"], targets: Int[Tensor, " B"]) -> Tensor:
        """Compute the loss.

        Args:
            features: In float32 at least, of length one where ``normalize`` is set.
            targets: Identity of each image.

        Returns:
            The loss.

        Raises:
            NotImplementedError: Where a subclass has none.
        """
        raise NotImplementedError

    def forward(
        self,
        features: Float[Tensor, "B D"],
        targets: Int[Tensor, " B"],
        scores: ClassScores | Float[Tensor, "B I"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch, autocast or not.

        Args:
            features: X or X'.
            targets: Identity of each image.
            scores: What the classifier says of them; only losses with ``needs_scores`` use it.

        Returns:
            The loss.

        Raises:
            InputError: If there is not one whole number an image.
        """  # noqa: DOC502
        targets = checked_targets(targets, len(features))
        if not len(features):
            return features.sum() * 0
        with full_precision(features):
            wide = unit_rows(features) if self.normalize else at_least_float32(features)
            return self.compare(wide, targets)


def check_margin(margin: float) -> float:
    """Check a margin of distance.

    Args:
        margin: The value.

    Returns:
        It.

    Raises:
        ValueError: If it is negative.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0, got {margin}.")
    return margin
