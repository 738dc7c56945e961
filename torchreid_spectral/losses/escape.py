r"""The escape probability of the batch graph as a training term.

Source: Z. Zhang's talk, 2018: clusters are where a random walker stays, so the probability that
a step leaves the class is what training should lower; M. Meila and J. Shi, *A Random Walks View
of Spectral Segmentation*, AISTATS 2001.
"""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.functional import escape_probability, transition_matrix
from torchreid_spectral.losses.metric import MetricLoss

__all__ = ["EscapeLoss"]


class EscapeLoss(MetricLoss):
    r"""Lower the probability that one step of the walk ends at another identity.

    .. math:: \operatorname{mean}_i \frac{\sum_{j: y_j \ne y_i} T_{ij}}{\sum_{j \ne i} T_{ij}},
              \quad T = \operatorname{softmax}(\cos / \sigma)

    Args:
        temperature: :math:`\sigma` > 0.

    Raises:
        ValueError: If the temperature is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def compare(self, features: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            features: X or X'.
            targets: Identity of each image.

        Returns:
            The loss, in [0, 1].
        """
        # without self loops from the start: beside them all else underflows at a low temperature
        alone = len(features) == 1
        graph = transition_matrix(features, self.temperature, self_loops=alone)
        return escape_probability(graph, targets)
