"""Softmax cross-entropy over cosines: the identity loss without a margin.

Label smoothing: C. Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*,
CVPR 2016.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ScaledSoftmaxLoss"]


class ScaledSoftmaxLoss(nn.Module):
    """Cross-entropy of scaled cosines, with optional label smoothing.

    Args:
        scale: What the cosines are multiplied with, > 0; 1 for plain logits.
        label_smoothing: Share of the target spread over all identities, in [0, 1).

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(self, scale: float = 15.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
        self.scale, self.label_smoothing = scale, label_smoothing

    def forward(
        self, cosine: Float[Tensor, "B I"], targets: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Compute the mean loss of a batch, in float32 at least.

        Args:
            cosine: Cosine of each image's feature with each identity's weight, or plain logits.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        cosine = cosine if cosine.dtype.itemsize >= 4 else cosine.float()
        return F.cross_entropy(
            self.scale * cosine, targets, label_smoothing=self.label_smoothing
        )
