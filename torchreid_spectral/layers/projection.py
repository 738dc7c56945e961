"""The linear maps around a walk: into it (query, key, value) and out of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "OUTPUTS",
    "PROJECTIONS",
    "ScalarGate",
    "ZeroNormed",
    "build_output",
    "build_projection",
]

PROJECTIONS = ("identity", "linear")
"""What may stand before the walk; ``linear`` acts on channels, as a 1x1 convolution of a map."""

OUTPUTS = ("identity", "linear", "norm", "gate")
"""What may stand after it: a linear map; one with a BatchNorm that starts at zero, as in the
non-local block; a scalar that starts at zero, as in DANet."""


def build_projection(name: str, kind: str, dim: int | None, inner_dim: int | None) -> nn.Module:
    """Build what makes query, key or value of the features.

    Args:
        name: Which of them, for the message.
        kind: A name of :data:`PROJECTIONS`.
        dim: Width before.
        inner_dim: Width after.

    Returns:
        A module on channels-last tensors.

    Raises:
        ValueError: If the kind is unknown, or a width is missing.
    """
    if kind not in PROJECTIONS:
        raise ValueError(f"{name} must be one of {list(PROJECTIONS)}, got {kind!r}.")
    if kind == "identity":
        return nn.Identity()
    if dim is None or inner_dim is None:
        raise ValueError(f"dim must be given for {name}='linear', got None.")
    return nn.Linear(dim, inner_dim, bias=False)


def build_output(kind: str, dim: int | None, inner_dim: int | None) -> nn.Module:
    """Build what follows the walk.

    Args:
        kind: A name of :data:`OUTPUTS`.
        dim: Width after.
        inner_dim: Width before.

    Returns:
        A module on channels-last tensors.

    Raises:
        ValueError: If the kind is unknown, or a width is missing.
    """
    if kind not in OUTPUTS:
        raise ValueError(f"output must be one of {list(OUTPUTS)}, got {kind!r}.")
    if kind == "identity":
        return nn.Identity()
    if kind == "gate":
        return ScalarGate()
    if dim is None or inner_dim is None:
        raise ValueError(f"dim must be given for output={kind!r}, got None.")
    linear = nn.Linear(inner_dim, dim, bias=False)
    return linear if kind == "linear" else ZeroNormed(linear, nn.BatchNorm1d(dim))


class ZeroNormed(nn.Sequential):
    """A linear map and a BatchNorm whose weight starts at zero, so that it puts out zeros.

    The BatchNorm is one of PyTorch's, which ``SyncBatchNorm`` can take the place of.

    Args:
        linear: To the channels of the norm.
        norm: Over each channel.
    """

    def __init__(self, linear: nn.Linear, norm: nn.BatchNorm1d) -> None:
        super().__init__(linear, norm)
        nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map, then normalise each channel over all other axes.

        Args:
            x: Channels last.

        Returns:
            The same shape but for the channels.
        """
        linear, norm = self
        mapped: Tensor = linear(x)
        return norm(mapped.flatten(0, -2)).view(mapped.shape)  # type: ignore[no-any-return]


class ScalarGate(nn.Module):
    """Multiply by a learned number that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply.

        Args:
            x: Any tensor.

        Returns:
            The same shape.
        """
        return self.weight.to(x.dtype) * x
