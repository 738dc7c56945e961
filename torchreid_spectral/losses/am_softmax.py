r"""Additive-margin softmax.

Paper: F. Wang, W. Liu, H. Liu, J. Cheng, *Additive Margin Softmax for Face Verification*, IEEE
Signal Processing Letters, 2018; the same as CosFace (H. Wang et al., CVPR 2018).

========================  ==============================  ===========
Paper                     Here                            Shape
========================  ==============================  ===========
:math:`\cos\theta_j`      ``scores.cosine``               ``(B, I)``
:math:`m`, :math:`s`      ``margin``, ``scale``           scalars
========================  ==============================  ===========
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import IdentityLoss, check_scale

__all__ = ["AMSoftmaxLoss"]


class AMSoftmaxLoss(IdentityLoss):
    r"""Cross-entropy in which the right class must win by a margin of cosine.

    .. math:: -\log \frac{e^{s (\cos\theta_y - m)}}
              {e^{s (\cos\theta_y - m)} + \sum_{j \ne y} e^{s \cos\theta_j}}

    Note:
        pytorch-metric-learning's ``CosFaceLoss`` owns its weight, so that X and X' could not
        share the head's; its values are the same (tested in ``tests/losses/test_identity.py``).

    Args:
        margin: m >= 0, in units of cosine; 0.3 in the spectral method.
        scale: s > 0; 15 in the spectral method.

    Raises:
        ValueError: If margin or scale is out of range.

    Example:
        >>> import torch
        >>> loss = AMSoftmaxLoss(margin=0.0, scale=1.0)
        >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """

    def __init__(self, margin: float = 0.3, scale: float = 15.0) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must be >= 0, got {margin}.")
        self.margin, self.scale = margin, check_scale(scale)

    def logits(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Subtract the margin from the right class's cosine.

        Args:
            scores: Cosines.
            targets: Identity of each image.

        Returns:
            Logits ``(B, I)``.
        """
        cosine = scores.cosine
        margin = F.one_hot(targets, cosine.shape[1]).to(cosine.dtype) * self.margin
        return self.scale * (cosine - margin)
