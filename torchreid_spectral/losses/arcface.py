r"""ArcFace: a margin of angle.

Paper: J. Deng, J. Guo, N. Xue, S. Zafeiriou, *ArcFace: Additive Angular Margin Loss for Deep Face
Recognition*, CVPR 2019. The arithmetic of the margin is pytorch-metric-learning's.

========================  ==============================  =====================
Paper                     Here                            Shape
========================  ==============================  =====================
:math:`\cos\theta_j`      ``scores.cosine``               ``(B, I)``
:math:`m`, :math:`s`      ``margin``, ``scale``           scalars, m in radians
========================  ==============================  =====================
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import IdentityLoss, check_scale

__all__ = ["ArcFaceLoss"]


class ArcFaceLoss(IdentityLoss):
    r"""Cross-entropy in which the right class must win by a margin of angle.

    .. math:: -\log \frac{e^{s \cos(\theta_y + m)}}
              {e^{s \cos(\theta_y + m)} + \sum_{j \ne y} e^{s \cos\theta_j}}

    Beyond :math:`\theta_y = \pi - m`, where :math:`\cos(\theta_y + m)` would rise again, the right
    class's cosine is :math:`\cos\theta_y - m \sin m`.

    Note:
        pytorch-metric-learning's ``ArcFaceLoss`` owns a weight. Only its margin is used here, on
        the cosines of the head's own weight, so that X and X' share one. Its arccosine has no
        finite gradient at a cosine of one: cosines are held 1e-6 away from it.

    Args:
        margin: m in [0, pi/2), in radians.
        scale: s > 0.

    Raises:
        ValueError: If margin or scale is out of range.
        InputError: If pytorch-metric-learning is not installed.
    """  # noqa: DOC502

    def __init__(self, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin must be in [0, pi/2) radians, got {margin}.")
        library = require_extra("pytorch_metric_learning.losses", "losses", "ArcFace")
        self.margin, self.scale = margin, check_scale(scale)
        self.arithmetic = library.ArcFaceLoss(1, 1, margin=math.degrees(margin), scale=scale)
        self.arithmetic.W = None  # the head has the weight

    def logits(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Add the margin to the right class's angle.

        Args:
            scores: Cosines.
            targets: Identity of each image.

        Returns:
            Logits ``(B, I)``.
        """
        index = targets[:, None]
        right = scores.cosine.gather(1, index).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = self.arithmetic.modify_cosine_of_target_classes(right)
        logits: Tensor = self.scale * torch.scatter(scores.cosine, 1, index, moved)
        return logits
