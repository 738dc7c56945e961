r"""Contrastive loss.

Paper: R. Hadsell, S. Chopra, Y. LeCun, *Dimensionality Reduction by Learning an Invariant
Mapping*, CVPR 2006. The loss is pytorch-metric-learning's, its terms squared.

===================  ======================  ==========
Paper                Here                    Shape
===================  ======================  ==========
:math:`D_W`          Euclidean distance      ``(B, B)``
:math:`m`            ``margin``              scalar > 0
===================  ======================  ==========
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.losses.metric import MetricLoss

__all__ = ["ContrastiveLoss"]


class ContrastiveLoss(MetricLoss):
    r"""Pull images of one identity together, push others a margin apart.

    .. math:: \operatorname{mean}_{y_i = y_j} d_{ij}^2 +
              \operatorname{mean}_{y_i \ne y_j} [m - d_{ij}]_+^2

    Both means run over the pairs whose term is not zero, so that the many pairs that are far
    enough already do not drown the others. Identical images of one identity count: their distance
    is kept above zero, for a finite gradient.

    Note:
        The paper has a factor 1/2 at both terms and a sum over all pairs, which a weight replaces.

    Args:
        margin: m > 0; features of length one are at most 2 apart.
        normalize: Scale features to length one first.

    Raises:
        ValueError: If the margin is not positive.
        InputError: If pytorch-metric-learning is not installed.
    """  # noqa: DOC502

    def __init__(self, margin: float = 1.0, normalize: bool = True) -> None:
        super().__init__(normalize)
        if not margin > 0:
            raise ValueError(f"margin must be positive, got {margin}.")
        require_extra("pytorch_metric_learning", "losses", "The contrastive loss")
        from torchreid_spectral.losses import _pml

        self.margin = margin
        self.loss = _pml.SquaredContrastive(neg_margin=margin, distance=_pml.Distance())

    def compare(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: X or X'.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        loss: Tensor = self.loss(features, targets)
        return loss
