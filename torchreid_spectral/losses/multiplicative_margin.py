r"""What L-Softmax and A-Softmax share: an angle multiplied by m, and the way into it.

Papers: W. Liu, Y. Wen, Z. Yu, M. Yang, *Large-Margin Softmax Loss for Convolutional Neural
Networks*, ICML 2016; W. Liu et al., *SphereFace: Deep Hypersphere Embedding for Face Recognition*,
CVPR 2017.

=============================  ================================  ==========
Papers                         Here                              Shape
=============================  ================================  ==========
:math:`\psi(\theta)`           ``monotone_multiple``             any
:math:`m`                      ``margin``                        whole, >= 1
:math:`\lambda`                ``annealing``                     scalar
=============================  ================================  ==========

pytorch-metric-learning has both losses, but without the annealing of :math:`\lambda`, which the
papers need to converge, and with a weight of their own; their values for :math:`\lambda = 0` are
the same (tested in ``tests/losses/test_identity.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import IdentityLoss

__all__ = ["MultiplicativeMarginLoss", "monotone_multiple"]


def monotone_multiple(cosine: Tensor, margin: int) -> Tensor:
    r"""Compute :math:`\psi(\theta) = (-1)^k \cos(m\theta) - 2k` for
    :math:`\theta \in [k\pi/m, (k+1)\pi/m]`.

    It falls all the way from :math:`\theta = 0` to :math:`\pi`. The cosine of the multiple is a
    Chebyshev polynomial of the cosine: no arccosine, whose gradient is infinite at both ends.

    Args:
        cosine: :math:`\cos\theta`.
        margin: m, a whole number >= 1.

    Returns:
        Values in [1 - 2m, 1].

    Example:
        >>> monotone_multiple(torch.tensor([1.0, 0.0, -1.0]), margin=2)
        tensor([ 1., -1., -3.])
    """  # noqa: D205
    previous, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        previous, multiple = multiple, 2 * cosine * multiple - previous
    turns = torch.zeros_like(cosine)
    for j in range(1, margin):
        turns = turns + (cosine <= math.cos(j * math.pi / margin)).to(cosine.dtype)
    return (1 - 2 * (turns % 2)) * multiple - 2 * turns


class MultiplicativeMarginLoss(IdentityLoss):
    r"""Cross-entropy in which the right class's angle counts m times, phased in by λ.

    .. math:: \lambda = \max(\lambda_{min}, \lambda_0 (1 + \gamma \cdot it)^{-p}), \quad
              f_y = \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda} \cdot length

    The iteration is part of the ``state_dict``. :meth:`advance` counts it: call it once a
    training step, as the engine does; computing the loss, on X and on X', does not.

    Args:
        margin: m, a whole number >= 1; 1 is no margin.
        base: :math:`\lambda_0` >= 0, where λ starts.
        gamma: :math:`\gamma` >= 0, how fast it falls.
        power: p >= 0.
        minimum: :math:`\lambda_{min}` >= 0, where it ends.

    Raises:
        ValueError: If an option is out of range.
    """

    iterations: Tensor

    def __init__(
        self,
        margin: float = 4,
        base: float = 1000.0,
        gamma: float = 0.12,
        power: float = 1.0,
        minimum: float = 5.0,
    ) -> None:
        super().__init__()
        if not (margin >= 1 and float(margin).is_integer()):
            raise ValueError(f"margin must be a whole number >= 1, got {margin}.")
        for name, value in (
            ("base", base), ("gamma", gamma), ("power", power), ("minimum", minimum)
        ):  # fmt: skip
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}.")
        self.margin, self.base, self.gamma = int(margin), base, gamma
        self.power, self.minimum = power, minimum
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    @property
    def annealing(self) -> float:
        r""":math:`\lambda` of the current iteration: the share of the plain softmax."""
        decayed = self.base * (1 + self.gamma * int(self.iterations)) ** -self.power
        return max(self.minimum, decayed)

    def advance(self) -> None:
        """Count one training step."""
        self.iterations += 1

    def blended(self, scores: ClassScores, targets: Tensor) -> Tensor:
        """Put the margin, as far as it is phased in, at the right class's cosine.

        Args:
            scores: Cosines.
            targets: Identity of each image.

        Returns:
            Cosines ``(B, I)``, in [1 - 2m, 1] at the right class.
        """
        index = targets[:, None]
        right = scores.cosine.gather(1, index)
        share = self.annealing
        moved = (share * right + monotone_multiple(right, self.margin)) / (1 + share)
        return torch.scatter(scores.cosine, 1, index, moved)
