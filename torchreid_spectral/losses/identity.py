"""What identity losses have in common: margins change the logits, cross-entropy judges them."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_spectral.functional._precision import at_least_float32, full_precision
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.targets import checked_targets

__all__ = ["IdentityLoss", "check_scale"]

NOBODY = -(2**62)
"""A label that is none: PyTorch leaves images of -100 out, which would be an error unseen."""


class IdentityLoss(nn.Module):
    """Cross-entropy over logits that a subclass makes from cosines: its one method is `logits`.

    It owns no weight, so that one classifier serves X and X'.
    """

    label_smoothing = 0.0

    def logits(self, scores: ClassScores, targets: Int[Tensor, " B"]) -> Float[Tensor, "B I"]:
        """Turn cosines into logits, with the margin at the right class.

        Args:
            scores: Cosines, and norms where there are any, in float32 at least.
            targets: Identity of each image.

        Returns:
            What the cross-entropy takes.

        Raises:
            NotImplementedError: Where a subclass has none.
        """
        raise NotImplementedError

    def forward(
        self, scores: ClassScores | Float[Tensor, "B I"], targets: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Compute the mean loss of a batch, in float32 at least, autocast or not.

        Args:
            scores: Cosines of each image's embedding with each identity's weight.
            targets: Identity of each image.

        Returns:
            The loss; zero, with a gradient of zero, of a batch without images.

        Raises:
            InputError: If there is not one whole number an image.
        """  # noqa: DOC502
        scores = _wide(scores)
        targets = checked_targets(targets, len(scores.cosine))
        if not len(targets):
            return scores.cosine.sum() * 0
        with full_precision(scores.cosine):
            return F.cross_entropy(
                self.logits(scores, targets),
                targets,
                label_smoothing=self.label_smoothing,
                ignore_index=NOBODY,
            )


def check_scale(scale: float) -> float:
    """Check what cosines are multiplied with.

    Args:
        scale: The value.

    Returns:
        It.

    Raises:
        ValueError: If it is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}.")
    return scale


def _wide(scores: ClassScores | Tensor) -> ClassScores:
    if isinstance(scores, Tensor):
        return ClassScores(at_least_float32(scores))
    return scores._replace(cosine=at_least_float32(scores.cosine))
