r"""Quadruplet loss with margin-based online hard negative mining.

Paper: W. Chen, X. Chen, J. Zhang, K. Huang, *Beyond Triplet Loss: A Deep Quadruplet Network for
Person Re-identification*, CVPR 2017.

====================================  ==================================  ================
Paper                                 Here                                Shape
====================================  ==================================  ================
:math:`g(x_i, x_j)^2`                 squared Euclidean distance          ``(B, B)``
:math:`\alpha_1, \alpha_2`            ``margins``                         scalars
:math:`w` of both                     ``margin``, ``margin_pairs``        scalars >= 0
====================================  ==================================  ================
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_spectral.functional import squared_euclidean_distance
from torchreid_spectral.losses.metric import MetricLoss, check_margin

__all__ = ["QuadrupletLoss"]


class QuadrupletLoss(MetricLoss):
    r"""Make positives nearer than one's own negatives, and than negatives among others.

    .. math:: \operatorname{mean} [d_{ij}^2 - d_{ik}^2 + \alpha_1]_+ +
              \operatorname{mean} [d_{ij}^2 - d_{lk}^2 + \alpha_2]_+

    i, j are of one identity, k of another, l of a third. Every pair of a batch plays every role
    it can, and the means run over those quadruplets that violate the margin: the hard ones, which
    is what the margin is for. It adapts to the batch:

    .. math:: \alpha = w \, (\operatorname{mean} d_{neg}^2 - \operatorname{mean} d_{pos}^2)

    without gradient. The terms held in memory are (positive pairs) x (negative pairs): 14 MB in
    float32 for 16 identities x 8 images.

    Note:
        The paper learns g, a network on pairs that ends in a softmax; here it is the Euclidean
        distance of the features, so that the same distance ranks the gallery.

    Args:
        margin: w of the first term, or :math:`\alpha_1` itself where the margin is fixed.
        margin_pairs: The same of the second term.
        adaptive: Whether margins follow the batch.
        normalize: Scale features to length one first.

    Raises:
        ValueError: If a margin is negative.
    """  # noqa: DOC502

    def __init__(
        self,
        margin: float = 1.0,
        margin_pairs: float = 0.5,
        adaptive: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__(normalize)
        self.margin, self.margin_pairs = check_margin(margin), check_margin(margin_pairs)
        self.adaptive = adaptive

    def compare(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: X or X'.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        features = features - features.detach().mean(dim=0)  # else close ones cancel
        squared = squared_euclidean_distance(features, features)
        same = targets[:, None] == targets[None, :]
        size = len(targets)
        first, second = torch.triu_indices(size, size, offset=1, device=same.device)
        positive = same[first, second]
        i, j = first[positive], second[positive]
        k, third = first[~positive], second[~positive]
        pulled, pushed = squared[i, j], squared[k, third]
        margin, margin_pairs = self.margins(pulled, pushed)
        # Both ends of a positive pair are anchors in turn.
        anchors = torch.cat([i, j])
        own = pulled.repeat(2)[:, None] - squared[anchors] + margin
        others = pulled[:, None] - pushed[None, :] + margin_pairs
        apart = (targets[k] != targets[i][:, None]) & (targets[third] != targets[i][:, None])
        return _mean_of_positive(own, ~same[anchors]) + _mean_of_positive(others, apart)

    @torch.no_grad()
    def margins(self, positive: Tensor, negative: Tensor) -> tuple[Tensor | float, Tensor | float]:
        r"""Give :math:`\alpha_1` and :math:`\alpha_2` for a batch.

        Args:
            positive: Squared distances of pairs of one identity.
            negative: Squared distances of pairs of two.

        Returns:
            Both margins.
        """
        if not self.adaptive or not len(positive) or not len(negative):
            return self.margin, self.margin_pairs
        gap = negative.mean() - positive.mean()
        return self.margin * gap, self.margin_pairs * gap


def _mean_of_positive(terms: Tensor, valid: Tensor) -> Tensor:
    """Average what is above zero; zero, with a gradient of zero, where nothing is."""
    hard = valid & (terms.detach() > 0)
    return (terms * hard).sum() / hard.sum().clamp_min(1)
