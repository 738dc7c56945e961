"""Softmax cross-entropy over cosines or inner products: the identity loss without a margin.

Label smoothing: C. Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*,
CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import IdentityLoss, check_scale

__all__ = ["ScaledSoftmaxLoss"]


class ScaledSoftmaxLoss(IdentityLoss):
    """Cross-entropy of scaled cosines, with optional label smoothing.

    Args:
        scale: What the cosines are multiplied with, > 0; 1 for plain logits.
        label_smoothing: Share of the target spread over all identities, in [0, 1).
        normalized: Whether to judge cosines; else the inner products of embeddings and weights,
            as a linear layer without bias gives them, and ``scale`` is not used.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self, scale: float = 15.0, label_smoothing: float = 0.0, normalized: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
        self.scale, self.normalized = check_scale(scale), normalized
        self.label_smoothing = label_smoothing

    def logits(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Scale the cosines.

        Args:
            scores: Cosines, or plain logits in their place.
            targets: Not used: there is no margin.

        Returns:
            Logits ``(B, I)``.
        """
        if self.normalized:
            return self.scale * scores.cosine
        return scores.known("length", "softmax with normalized=False") * scores.cosine
