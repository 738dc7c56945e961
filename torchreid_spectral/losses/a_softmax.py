r"""A-Softmax, the loss of SphereFace: L-Softmax with weights of length one.

Paper: W. Liu, Y. Wen, Z. Yu, M. Li, B. Raj, L. Song, *SphereFace: Deep Hypersphere Embedding for
Face Recognition*, CVPR 2017.

=================================  ==========================  ==========
Paper                              Here                        Shape
=================================  ==========================  ==========
:math:`\|x\|`                      ``scores.feature_norm``     ``(B,)``
:math:`\psi(\theta)`               ``monotone_multiple``       ``(B, 1)``
:math:`\lambda`                    ``annealing``               scalar
=================================  ==========================  ==========
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.multiplicative_margin import MultiplicativeMarginLoss

__all__ = ["ASoftmaxLoss"]


class ASoftmaxLoss(MultiplicativeMarginLoss):
    r"""Cross-entropy of projections in which the right class's angle counts m times.

    .. math:: f_j = \|x\| \cos\theta_j, \quad
              f_y = \|x\| \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}

    Arguments and errors are those of :class:`MultiplicativeMarginLoss`; called with
    :class:`~torchreid_spectral.losses.ClassScores`, as it needs the length of the embeddings.
    """

    def logits(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Give projections on the weights' directions, with the margin at the right class.

        Args:
            scores: Cosines and lengths.
            targets: Identity of each image.

        Returns:
            Logits ``(B, I)``.
        """
        feature_norm = scores.known("feature_norm", "A-Softmax")
        return feature_norm[:, None] * self.blended(scores, targets)
