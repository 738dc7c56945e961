r"""L-Softmax: the first softmax with a margin.

Paper: W. Liu, Y. Wen, Z. Yu, M. Yang, *Large-Margin Softmax Loss for Convolutional Neural
Networks*, ICML 2016.

=================================  ==========================  ==========
Paper                              Here                        Shape
=================================  ==========================  ==========
:math:`\|W_j\| \|x\|`              ``scores.length``           ``(B, I)``
:math:`\psi(\theta)`               ``monotone_multiple``       ``(B, 1)``
:math:`\lambda`                    ``annealing``               scalar
=================================  ==========================  ==========
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.multiplicative_margin import MultiplicativeMarginLoss

__all__ = ["LSoftmaxLoss"]


class LSoftmaxLoss(MultiplicativeMarginLoss):
    r"""Cross-entropy of inner products in which the right class's angle counts m times.

    .. math:: f_j = \|W_j\| \|x\| \cos\theta_j, \quad
              f_y = \|W_y\| \|x\| \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}

    Arguments and errors are those of :class:`MultiplicativeMarginLoss`; called with
    :class:`~torchreid_spectral.losses.ClassScores`, as it needs the lengths of embeddings and
    weights.
    """

    def logits(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Give inner products, with the margin at the right class.

        Args:
            scores: Cosines and both lengths.
            targets: Identity of each image.

        Returns:
            Logits ``(B, I)``.
        """
        return scores.known("length", "L-Softmax") * self.blended(scores, targets)
