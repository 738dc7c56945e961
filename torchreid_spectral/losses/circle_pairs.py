"""Circle loss on pairs of images.

Paper: Y. Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, CVPR
2020, the form for pair labels. The loss is pytorch-metric-learning's.
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.losses.identity import check_scale
from torchreid_spectral.losses.metric import MetricLoss

__all__ = ["CirclePairLoss"]


class CirclePairLoss(MetricLoss):
    r"""Weigh each pair's cosine by how far it is from where it should be.

    .. math:: \operatorname{mean}_i \log\Bigl[1 + \sum_n e^{\gamma [s_{in} + m]_+ (s_{in} - m)}
              \sum_p e^{-\gamma [1 + m - s_{ip}]_+ (s_{ip} - 1 + m)}\Bigr]

    The same formula as :class:`~torchreid_spectral.losses.CircleLoss`, with the images of the
    batch in the place of the classifier's weights; the mean is over images that have both another
    of their identity and one of another in the batch.

    Args:
        margin: m, in [0, 1]; 0.25 in the paper's person re-identification.
        scale: :math:`\gamma` > 0.

    Raises:
        ValueError: If margin or scale is out of range.
        InputError: If pytorch-metric-learning is not installed.
    """  # noqa: DOC502

    def __init__(self, margin: float = 0.25, scale: float = 64.0) -> None:
        super().__init__(normalize=False)
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be in [0, 1], got {margin}.")
        self.margin, self.scale = margin, check_scale(scale)
        library = require_extra("pytorch_metric_learning.losses", "losses", "The circle loss")
        self.loss = library.CircleLoss(m=margin, gamma=scale)

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
