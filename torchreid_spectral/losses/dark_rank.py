r"""DarkRank: a student learns how its teacher ranks a batch.

Paper: Y. Chen, N. Wang, Z. Zhang, *DarkRank: Accelerating Deep Metric Learning via Cross Sample
Similarities Transfer*, AAAI 2018.

======================================  ==================================  ============
Paper                                   Here                                Shape
======================================  ==================================  ============
:math:`S(x) = -\alpha \|q - x\|^\beta`  :math:`-scale \cdot d^{power}`      ``(B, B)``
:math:`\pi`, a permutation              rows of the list's permutations     ``(n!, n)``
:math:`P(\pi | X)`                      ``log_likelihood``                  ``(...,)``
======================================  ==================================  ============
"""

from __future__ import annotations

from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchreid_spectral.functional import squared_euclidean_distance, top_k, unit_rows
from torchreid_spectral.functional._precision import full_precision

__all__ = ["DarkRankLoss", "log_likelihood"]

KINDS = ("soft", "hard")


def log_likelihood(scores: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Compute the log-probability that things with these scores are drawn in this order.

    .. math:: \log P = \sum_{i=1}^n \Bigl[s_i - \log \sum_{j \ge i} e^{s_j}\Bigr]

    Args:
        scores: Scores in the order of drawing.

    Returns:
        Log-probabilities.

    Example:
        >>> log_likelihood(torch.zeros(3)).exp()  # one of 3! equal orders
        tensor(0.1667)
    """
    rest = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (scores - rest).sum(-1)


class DarkRankLoss(nn.Module):
    r"""Make the student's ranking of a batch like the teacher's, for each image as the query.

    ``soft`` is the cross-entropy of the two distributions over all orders of the teacher's
    nearest images, :math:`-\sum_\pi P_t(\pi) \log P_s(\pi)`; ``hard`` is minus the student's
    log-likelihood of the teacher's order of all images, :math:`-\log P_s(\pi_t)`.

    Note:
        The paper's divergence differs from the cross-entropy by the teacher's entropy, which has
        no gradient. Features are of length one. The authors' code takes :math:`(3 d^2)^3`, which
        is ``scale=27, power=6``: two images of unlike directions then score -200 and the loss
        leads all others, measured in ``docs/results.md``. There half of the batch are queries,
        here all (tested in ``tests/losses/test_dark_rank.py``).

    Args:
        kind: ``soft`` or ``hard``.
        scale: Paper's alpha, > 0.
        power: Paper's beta, >= 2: below, equal images have no gradient.
        list_length: Nearest images whose orders ``soft`` compares, 2 to 6: n! orders.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self, kind: str = "soft", scale: float = 3.0, power: float = 3.0, list_length: int = 4
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}.")
        if not scale > 0 or not power >= 2:
            raise ValueError(f"scale must be > 0 and power >= 2, got {scale} and {power}.")
        if not 2 <= list_length <= 6:
            raise ValueError(f"list_length must be 2 to 6, got {list_length}.")
        self.kind, self.scale, self.power = kind, scale, power
        self.list_length = list_length

    def forward(
        self, student: Float[Tensor, "B D"], teacher: Float[Tensor, "B E"]
    ) -> Float[Tensor, ""]:
        """Compute the loss, in float32 at least; a batch of one or two images gives zero.

        Args:
            student: The student's features.
            teacher: The teacher's features of the same images; no gradient flows to them.

        Returns:
            The loss.
        """
        size = len(student)
        length = size - 1 if self.kind == "hard" else min(self.list_length, size - 1)
        if length < 1:
            return 0 * student.sum()
        with full_precision(student):
            away = _squared(teacher.detach()).fill_diagonal_(float("inf"))
            order, nearest = top_k(away, length)
            ranked = self._scores(_squared(student).gather(1, order))
            if self.kind == "hard":
                return -log_likelihood(ranked).mean()
            orders = torch.tensor(list(permutations(range(length))), device=student.device)
            known = log_likelihood(self._scores(nearest)[:, orders]).exp()
            return -(known.to(ranked.dtype) * log_likelihood(ranked[:, orders])).sum(1).mean()

    def _scores(self, squared: Tensor) -> Tensor:
        return -self.scale * squared ** (self.power / 2)


def _squared(features: Tensor) -> Tensor:
    unit = unit_rows(features)
    return squared_euclidean_distance(unit, unit)
