"""From pixels to the feature that a run was tested with: what searches and exported files run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["FeatureNetwork"]


class FeatureNetwork(nn.Module):
    """A model with what a test does around it.

    Args:
        model: Gives ``(B, D)`` in eval mode.
        mean: Of the pixels; with it and ``std`` the input is RGB in [0, 1], else it must be
            normalised already.
        std: Of the pixels.
        flip: Whether the feature is the mean of the image's and its mirror image's, as under
            ``test.flip``.
        unit: Whether features are scaled to unit length.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        flip: bool = False,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.flip, self.unit = model.eval(), flip, unit
        self.centre: Tensor
        self.spread: Tensor
        centre, spread = (mean, std) if mean and std else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("centre", torch.tensor(centre)[None, :, None, None])
        self.register_buffer("spread", torch.tensor(spread)[None, :, None, None])

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Extract features.

        Args:
            images: float32.

        Returns:
            float32.
        """
        pixels = (images - self.centre) / self.spread
        features: Tensor = self.model(pixels).float()
        if self.flip:
            features = (features + self.model(pixels.flip(3)).float()) / 2
        return normalize(features, dim=1) if self.unit else features
