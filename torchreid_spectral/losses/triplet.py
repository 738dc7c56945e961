r"""Triplet loss with the hardest positive and negative of the batch.

Paper: A. Hermans, L. Beyer, B. Leibe, *In Defense of the Triplet Loss for Person
Re-Identification*, 2017. Loss and miner are pytorch-metric-learning's.

==============================  ==================================  ==========
Paper                           Here                                Shape
==============================  ==================================  ==========
:math:`D(a, p)`, :math:`D(a,n)`  distance to the farthest positive,  ``(B,)``
..                              to the nearest negative
:math:`m`                       ``margin``                          scalar >= 0
==============================  ==================================  ==========
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import InputError, require_extra
from torchreid_spectral.functional.distance import METRICS
from torchreid_spectral.losses.metric import MetricLoss, check_margin

__all__ = ["BatchHardTripletLoss"]


class BatchHardTripletLoss(MetricLoss):
    r"""Bring the farthest image of one's identity nearer than the nearest of another.

    .. math:: \operatorname{mean}_a [\max_p d_{ap} - \min_n d_{an} + m]_+

    or, with a soft margin, :math:`\log(1 + \exp(\max_p d_{ap} - \min_n d_{an}))`. An anchor
    without a positive or a negative in the batch does not count.

    Note:
        The same as torchreid's ``TripletLoss`` on batches of P identities x K > 1 images (tested
        in ``tests/losses/test_metric.py``); that one fails on a batch of one identity.

    Args:
        margin: m; not used with a soft margin.
        soft_margin: Softplus in the place of the hinge.
        metric: ``euclidean``, ``squared_euclidean`` or ``cosine``.
        normalize: Scale features to length one first.

    Raises:
        ValueError: If the margin is negative.
        InputError: If pytorch-metric-learning is not installed, or there is no such metric.
    """  # noqa: DOC502

    def __init__(
        self,
        margin: float = 0.3,
        soft_margin: bool = False,
        metric: str = "euclidean",
        normalize: bool = False,
    ) -> None:
        super().__init__(normalize)
        if metric not in METRICS:
            raise InputError(f"metric must be one of {sorted(METRICS)}, got {metric!r}.")
        self.margin, self.soft_margin = check_margin(margin), soft_margin
        require_extra("pytorch_metric_learning", "losses", "The triplet loss")
        from torchreid_spectral.losses import _pml

        distance = _pml.Distance(metric)
        self.miner = _pml.miners.BatchHardMiner(distance=distance)
        self.loss = _pml.losses.TripletMarginLoss(
            margin=0.0 if soft_margin else margin,
            smooth_loss=soft_margin,
            distance=distance,
            reducer=_pml.reducers.MeanReducer(),
        )

    def compare(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: X or X'.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        loss: Tensor = self.loss(features, targets, self.miner(features, targets))
        return loss
