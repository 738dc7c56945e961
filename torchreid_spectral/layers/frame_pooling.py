r"""Frame features of a tracklet to one feature, by a walk among the frames.

Source: Z. Zhang, *From spectral clustering to self-attention*, talk, 2018 (attention between
frames). The frames of a tracklet are the nodes of a graph without self loops; one step moves each
frame to those that look alike, and the tracklet's feature is their mean:

.. math:: y = \frac{1}{F} \sum_i \sum_j T_{ij} x_j = \sum_j w_j x_j, \quad
    w_j = \frac{1}{F} \sum_i T_{ij}

so that :math:`w_j` is how often a walker from any other frame comes to frame j: a frame that no
other resembles, such as an occluded one, counts less than in the plain mean. (With self loops it
would keep to itself, and weigh as much as any other where :math:`\sigma` is small.)

======================  ===============  =============
Here                    Name             Shape
======================  ===============  =============
:math:`x`               ``frames``       ``(B, F, D)``
:math:`T`               ``transition``   ``(B, F, F)``
:math:`w`               ``weights``      ``(B, F)``
======================  ===============  =============
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchreid_spectral.functional import random_walk, transition_matrix

__all__ = ["POOLINGS", "FramePooling"]

POOLINGS = ("avg", "max", "attention")
"""How frames are pooled; the first two are torchreid's."""


class FramePooling(nn.Module):
    """Pool the frame features of each tracklet.

    It has no weights: a model trained on images takes tracklets as it is.

    Args:
        method: ``avg``, ``max`` or ``attention``.
        temperature: Of the softmax of ``attention``; large is the mean.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> FramePooling("avg")(torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]))
        tensor([[2., 0.]])
    """

    def __init__(self, method: str = "attention", temperature: float = 0.1) -> None:
        super().__init__()
        if method not in POOLINGS:
            raise ValueError(f"pooling_method must be one of {list(POOLINGS)}, got {method!r}.")
        if not temperature > 0:
            raise ValueError(f"frame_temperature must be positive, got {temperature}.")
        self.method, self.temperature = method, temperature

    def weights(self, frames: Float[Tensor, "B F D"]) -> Float[Tensor, "B F"]:
        """Say how much each frame counts in ``attention``.

        Args:
            frames: Frame features.

        Returns:
            Weights that sum to one in each tracklet.
        """
        return self._transition(frames).mean(dim=1)

    def forward(self, frames: Float[Tensor, "B F D"]) -> Float[Tensor, "B D"]:
        """Pool.

        Args:
            frames: Frame features.

        Returns:
            One feature a tracklet.
        """
        if self.method == "max":
            return torch.amax(frames, dim=1)
        if self.method == "attention":
            frames = random_walk(self._transition(frames), frames)
        return frames.mean(dim=1)

    def _transition(self, frames: Tensor) -> Tensor:
        alone = frames.shape[1] == 1  # has nowhere else to go
        return transition_matrix(frames, self.temperature, self_loops=alone)

    def extra_repr(self) -> str:
        """Show the settings.

        Returns:
            One line for ``repr``.
        """
        return f"{self.method}, temperature={self.temperature}"
