"""From pixels to the feature that a run was tested with: what searches and exported files run."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional._precision import AMP_DTYPES, mixed_precision
from torchreid_spectral.models.layout import takes_channels_last

__all__ = ["Extractor", "FeatureNetwork"]

_TINY = 1e-30


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


class Extractor:
    """A feature network on a device, from images to arrays.

    Images are handed over with their channels last where the model takes that: convolutions are
    then faster. On a CPU weights below 1e-30, to which weight decay brings those of no use, are
    taken as zero: their products are denormal numbers, which slow a trained network down and
    change no feature. The model itself stays as it is.

    Args:
        network: What extracts; it is moved to the device.
        device: Such as ``cpu`` or ``cuda``.
        amp: ``off``, ``bf16`` or ``fp16`` (GPUs only): precision of convolutions and products.

    Raises:
        InputError: If there is no such precision, or not on this device.
    """

    def __init__(self, network: FeatureNetwork, device: torch.device, amp: str = "off") -> None:
        if amp != "off" and amp not in AMP_DTYPES:
            raise UnknownNameError("amp", amp, ("off", *AMP_DTYPES))
        if amp == "fp16" and device.type == "cpu":
            raise InputError("amp fp16 needs a GPU; on a CPU use bf16 or off.")
        if device.type == "cpu":
            network = _without_tiny_weights(network)
        self.device, self.amp, self._network = device, amp, network.to(device)
        known = takes_channels_last(network.model)
        self._layout = torch.channels_last if known else torch.contiguous_format

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Extract features.

        Args:
            images: ``(B, 3, H, W)``, float32, normalised, on any device.

        Returns:
            ``(B, D)``.

        Raises:
            InputError: If features are not finite.
        """
        moved = images.to(self.device).contiguous(memory_format=self._layout)
        with mixed_precision(self.device.type, self.amp):
            features: NDArray[np.float32] = self._network(moved).cpu().numpy()
        if not np.isfinite(features).all():
            remedy = "Check the weights." if self.amp == "off" else "Use amp bf16 or off."
            raise InputError(
                f"The network's features hold NaN or infinity (amp {self.amp}). {remedy}"
            )
        return features


@torch.no_grad()
def _without_tiny_weights(network: FeatureNetwork) -> FeatureNetwork:
    """Give a copy whose tiny weights are zero, or the network itself where it has none."""
    # Not denormals_as_zero: PyTorch's threads may run by now, and would go on without it.
    if not any(_tiny(weight).any() for weight in network.parameters()):
        return network
    cleaned = copy.deepcopy(network)
    for weight in cleaned.parameters():
        weight[_tiny(weight)] = 0
    return cleaned


def _tiny(weight: Tensor) -> Tensor:
    return (weight.abs() < _TINY) & (weight != 0)
