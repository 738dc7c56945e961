r"""Circle loss on class labels.

Paper: Y. Sun, C. Cheng, Y. Zhang, C. Zhang, L. Zheng, Z. Wang, Y. Wei, *Circle Loss: A Unified
Perspective of Pair Similarity Optimization*, CVPR 2020. The loss is pytorch-metric-learning's.

==================================  ==============================  ===========
Paper                               Here                            Shape
==================================  ==============================  ===========
:math:`s_p`                         cosine with the right class     ``(B,)``
:math:`s_n^j`                       cosine with the other classes   ``(B, I-1)``
:math:`m`, :math:`\gamma`           ``margin``, ``scale``           scalars
==================================  ==============================  ===========
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.functional._precision import at_least_float32, full_precision
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import IdentityLoss, check_scale
from torchreid_spectral.losses.targets import checked_targets

__all__ = ["CircleLoss"]


class CircleLoss(IdentityLoss):
    r"""Weigh each cosine by how far it is from where it should be.

    .. math:: \log\Bigl[1 + \sum_j e^{\gamma [s_n^j + m]_+ (s_n^j - m)} \cdot
              e^{-\gamma [1 + m - s_p]_+ (s_p - 1 + m)}\Bigr]

    The weights :math:`[\cdot]_+` have no gradient. The library's loss is given the cosines with
    the head's weight as its similarities; with one identity the loss is zero.

    Args:
        margin: m, in [0, 1]; 0.25 in the paper's person re-identification.
        scale: :math:`\gamma` > 0; the paper takes 128, from pretrained weights.

    Raises:
        ValueError: If margin or scale is out of range.
        InputError: If pytorch-metric-learning is not installed.
    """  # noqa: DOC502

    def __init__(self, margin: float = 0.25, scale: float = 64.0) -> None:
        super().__init__()
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be in [0, 1], got {margin}.")
        library = require_extra("pytorch_metric_learning.losses", "losses", "The circle loss")
        self.margin, self.scale = margin, check_scale(scale)
        self.arithmetic = library.CircleLoss(m=margin, gamma=scale)

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
        cosine = at_least_float32(scores if isinstance(scores, Tensor) else scores.cosine)
        targets = checked_targets(targets, len(cosine))
        if not len(targets):
            return cosine.sum() * 0
        right = torch.zeros_like(cosine, dtype=torch.bool)
        right.scatter_(1, targets[:, None], True)  # raises at a label that no class has
        pairs = (*torch.where(right), *torch.where(~right))
        with full_precision(cosine):
            parts = self.arithmetic.mat_based_loss(cosine, pairs)
        losses: Tensor = parts["loss"]["losses"]
        return losses.mean()
