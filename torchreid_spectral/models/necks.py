"""What stands between a pooled feature and its classifier.

Sources: C. Luo et al., *Spectral Feature Transformation for Person Re-identification*, ICCV 2019
(bottleneck); H. Luo et al., *Bag of Tricks and a Strong Baseline for Deep Person
Re-identification*, CVPRW 2019 (BNNeck); the normalisations of S. Ioffe, C. Szegedy, 2015 (BN), J.
Ba et al., 2016 (LN), Y. Wu, K. He, 2018 (GN), D. Ulyanov et al., 2016 (IN).

====================  =============================================  =====================
Neck                  Layers                                         Width of the result
====================  =============================================  =====================
``bottleneck``        FC without bias, norm, activation              ``bottleneck_dim``
``bnneck``            norm alone; BatchNorm without a bias           D
====================  =============================================  =====================

The identity loss sees what the neck gives, metric losses and the walk what it takes.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "NECKS", "NORMS", "VectorInstanceNorm", "build_neck"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "none": nn.Identity,
}
"""Activations of the bottleneck by name."""

NECKS = ("bottleneck", "bnneck")
"""Names of the necks."""

_GROUPS = 32


class VectorInstanceNorm(nn.InstanceNorm1d):
    """Normalise each vector by its own mean and deviation, then scale and shift by two numbers.

    InstanceNorm of one channel whose extent are the vector's entries: what pooling leaves of a
    channel is a single number, which has no deviation of its own.
    """

    def __init__(self) -> None:
        super().__init__(1, affine=True)

    def forward(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        """Normalise.

        Args:
            x: Features.

        Returns:
            The same shape.
        """
        return super().forward(x[:, None])[:, 0]


def _group_norm(width: int) -> nn.Module:
    if width % _GROUPS:
        raise ValueError(f"head_norm='gn' has {_GROUPS} groups, which must divide {width}.")
    return nn.GroupNorm(_GROUPS, width)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm1d,
    "ln": nn.LayerNorm,
    "gn": _group_norm,
    "in": lambda width: VectorInstanceNorm(),
    "none": lambda width: nn.Identity(),
}
"""Normalisations by name, called with the width."""


def build_neck(
    dim: int, *, neck: str, bottleneck_dim: int, norm: str, activation: str
) -> tuple[nn.Module, int]:
    """Build a neck.

    Args:
        dim: D.
        neck: A name of :data:`NECKS`.
        bottleneck_dim: Width of the bottleneck; 0 for no neck at all.
        norm: A key of :data:`NORMS`.
        activation: A key of :data:`ACTIVATIONS`, of the bottleneck.

    Returns:
        The module and the width of what it gives.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value, known in (
        ("neck", neck, NECKS),
        ("head_norm", norm, NORMS),
        ("activation", activation, ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {list(known)}, got {value!r}.")
    if bottleneck_dim < 0:
        raise ValueError(f"bottleneck_dim must be >= 0, got {bottleneck_dim}.")
    if neck == "bnneck":
        layer = NORMS[norm](dim)
        if isinstance(layer, nn.BatchNorm1d):
            # None, not frozen: torchreid lets all parameters learn at the start of an epoch.
            layer.register_parameter("bias", None)
        return nn.Sequential(layer), dim
    if bottleneck_dim == 0:
        return nn.Identity(), dim
    linear = nn.Linear(dim, bottleneck_dim, bias=False)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    layers = (linear, NORMS[norm](bottleneck_dim), ACTIVATIONS[activation]())
    return nn.Sequential(*layers), bottleneck_dim
