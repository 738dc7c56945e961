r"""Neighbourhood component analysis as a loss.

Paper: J. Goldberger, S. Roweis, G. Hinton, R. Salakhutdinov, *Neighbourhood Components Analysis*,
NIPS 2004. The loss is pytorch-metric-learning's, on cosines.

===================  ==============================================  ==========
Paper                Here                                            Shape
===================  ==============================================  ==========
:math:`p_{ij}`       softmax of cosines, an image itself left out    ``(B, B)``
..                   ``scale``, one over the temperature             scalar > 0
===================  ==============================================  ==========
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.losses.identity import check_scale
from torchreid_spectral.losses.metric import MetricLoss

__all__ = ["NCALoss"]


class NCALoss(MetricLoss):
    r"""Raise the probability that a step to a random neighbour stays with the identity.

    .. math:: -\operatorname{mean}_i \log \sum_{j \ne i,\, y_j = y_i}
              \operatorname{softmax}_j(scale \cdot \cos(x_i, x_j))

    It is the escape probability of a walk without self loops, under a logarithm. An image alone
    with its identity does not count.

    Args:
        scale: In (0, 40]; 20 is a temperature of 0.05. Beyond, probabilities of cosines that are
            far apart underflow in float32.

    Raises:
        ValueError: If the scale is out of range.
        InputError: If pytorch-metric-learning is not installed.
    """  # noqa: DOC502

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__(normalize=False)
        self.scale = check_scale(scale)
        if scale > 40:
            raise ValueError(f"scale of NCA must be at most 40 (it underflows), got {scale}.")
        require_extra("pytorch_metric_learning", "losses", "NCA")
        from torchreid_spectral.losses import _pml

        self.loss = _pml.losses.NCALoss(
            softmax_scale=scale, distance=_pml.distances.CosineSimilarity()
        )

    def compare(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: X or X'.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        same = (targets[:, None] == targets[None, :]).sum(dim=1) > 1
        if not bool(same.any()):
            return 0 * features.sum()
        loss: Tensor = self.loss(features, targets)
        return loss
