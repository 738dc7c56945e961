"""Which weights of a model make its test feature: those of the loss alone may be missing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral.models.spectral_net import SpectralNet
from torchreid_spectral.models.whitened import PREFIX

__all__ = ["feature_digest", "makes_the_feature", "missing_weights", "update_digest"]


def makes_the_feature(model: nn.Module, name: str) -> bool:
    """Say whether a weight takes part in what a model gives in eval mode.

    Args:
        model: Of torchreid or of this package.
        name: Of the weight in its ``state_dict``.

    Returns:
        Whether it does: no counter does, and of the classifier only the bottleneck that is asked
        for as feature.
    """
    if name.endswith("num_batches_tracked"):
        return False
    if not name.startswith("classifier"):
        return True
    bottleneck = isinstance(model, SpectralNet) and model.test_feature == "bottleneck"
    return bottleneck and ".prototypes" not in f".{name}" and ".walk." not in f".{name}"


def missing_weights(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Name the weights of a model's test feature that a checkpoint lacks.

    Args:
        model: Of torchreid or of this package.
        given: The checkpoint's weights by name.

    Returns:
        Names of those that are not there, or of another shape.
    """
    return [name for name, own in model.state_dict().items() if makes_the_feature(model, name)
            and (name not in given or given[name].shape != own.shape)]  # fmt: skip


def feature_digest(model: nn.Module) -> str:
    """Name the weights of a model's test feature, so that a test says which it was of.

    Args:
        model: Of torchreid or of this package.

    Returns:
        64 hexadecimal digits, the SHA-256 of names and values; the same on every device, and with
        a whitening as without.
    """
    digest = hashlib.sha256()
    update_digest(digest, {name: value for name, value in model.state_dict().items()
                           if makes_the_feature(model, name)
                           and not name.startswith(PREFIX)})  # fmt: skip
    return digest.hexdigest()


def update_digest(digest: Any, weights: Mapping[str, Tensor]) -> None:  # noqa: ANN401 (hashlib's)
    """Let weights go into a digest, by name.

    Args:
        digest: Of :mod:`hashlib`.
        weights: Name to tensor, on any device.
    """
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
