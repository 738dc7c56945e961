"""Pooling and stripes of any backbone that pools one map: one walk and classifier a part.

Source of the stripes: Y. Sun et al., *Beyond Part Models: Person Retrieval with Refined Part
Pooling*, ECCV 2018.

torchreid's backbones pool to ``(B, C, 1, 1)``, flatten, apply their ``fc`` if they have one, and
classify. A pool of S parts ``(B, C, S, 1)`` in its place flattens to C rows of S; ``fc`` then acts
on each part, under its old weight names, and the head cuts the parts apart again.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchreid_spectral.errors import InputError
from torchreid_spectral.layers.pooling import PartPool
from torchreid_spectral.models.heads import SpectralHead

__all__ = ["POOLINGS", "PartwiseSequential", "StripedHead", "set_pooling"]

POOLINGS = {"avg": None, "gem": 3.0}
"""Poolings by name, with the first power of the generalised mean."""

_POOLS = ("global_avgpool", "avgpool", "parts_avgpool")
_PROBE = (2, 3, 256, 128)


def set_pooling(
    backbone: Any,  # noqa: ANN401
    *,
    pooling: str,
    stripes: int,
    global_part: bool,
) -> int:
    """Put another pooling into a backbone, in place; ``avg`` without stripes leaves it alone.

    Args:
        backbone: A model of torchreid.
        pooling: A key of :data:`POOLINGS`.
        stripes: Horizontal stripes; 0 for none.
        global_part: Whether the whole map is a part beside them.

    Returns:
        S, the parts that its flattened feature then holds.

    Raises:
        InputError: If the backbone has no such pooling, or ``stripes`` is negative.
    """
    if pooling not in POOLINGS:
        raise InputError(f"pooling must be one of {list(POOLINGS)}, got {pooling!r}.")
    if stripes < 0:
        raise InputError(f"stripes must be >= 0, got {stripes}.")
    if pooling == "avg" and not stripes:
        return 1
    name, kind = _pool_of(backbone), type(backbone).__name__
    if name is None or (stripes and name == "parts_avgpool"):
        have = "has stripes of its own" if name else "pools no single map"
        raise InputError(
            f"spectral.pooling {pooling} with spectral.stripes {stripes} does not fit {kind}, "
            f"which {have}. Use pooling avg and stripes 0, or a ResNet, OSNet or SE-ResNet."
        )
    own_stripes = backbone.parts if name == "parts_avgpool" else 1
    rows = ((1, stripes) if global_part else (stripes,)) if stripes else (own_stripes,)
    pool = PartPool(rows, POOLINGS[pooling])
    setattr(backbone, name, pool)
    if stripes:
        if getattr(backbone, "fc", None) is not None:
            backbone.fc = PartwiseSequential(pool.parts, backbone.fc)
        _check_width(backbone, pool.parts)
    return pool.parts if stripes else 1


def _pool_of(backbone: nn.Module) -> str | None:
    for name in _POOLS:
        if isinstance(getattr(backbone, name, None), nn.AdaptiveAvgPool2d):
            return name
    return None


def _check_width(backbone: Any, parts: int) -> None:  # noqa: ANN401
    """Run the backbone once: what it flattens must be the parts of its classifier's input."""
    width = getattr(backbone.classifier, "in_features", None)
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            device = next(backbone.parameters()).device
            shape = tuple(backbone(torch.zeros(_PROBE, device=device)).shape)
    except RuntimeError as error:
        shape = (str(error).splitlines()[0],)
    finally:
        backbone.train(training)
    if width is None or shape != (_PROBE[0], width * parts):
        raise InputError(
            f"spectral.stripes does not fit {type(backbone).__name__}: its feature of {parts} "
            f"parts has shape {shape}, not {parts} times {width}. Use a ResNet, OSNet or "
            "SE-ResNet."
        )


class PartwiseSequential(nn.Sequential):
    """Apply layers to each part of a flattened feature; weights keep their names.

    Args:
        parts: S.
        layers: What to apply to ``(N, C)``.
    """

    def __init__(self, parts: int, layers: nn.Sequential) -> None:
        super().__init__(*layers)
        self.parts = parts

    def forward(self, x: Float[Tensor, "B C_S"]) -> Float[Tensor, "B E_S"]:
        """Apply.

        Args:
            x: C rows of S, flattened.

        Returns:
            E rows of S, flattened.
        """
        parts = x.unflatten(1, (-1, self.parts)).mT
        y = parts.flatten(0, 1)
        for layer in self:
            y = layer(y)
        return y.unflatten(0, parts.shape[:2]).mT.flatten(1)


class StripedHead(nn.ModuleList):
    """One spectral head a part: its own graph, walk, neck and classifier.

    Args:
        heads: S heads.
    """

    def __init__(self, heads: list[SpectralHead]) -> None:
        super().__init__(heads)

    def parts_of(self, features: Float[Tensor, "B D_S"]) -> tuple[Tensor, ...]:
        """Cut a feature into its parts.

        Args:
            features: D rows of S, flattened.

        Returns:
            S features ``(B, D)``, no views: compiled models that give views of one feature beside
            it fail (torch.compile, inductor, of PyTorch 2.13).
        """
        return tuple(
            part.contiguous() for part in features.unflatten(1, (-1, len(self))).unbind(2)
        )

    def forward(self, features: Float[Tensor, "B D_S"]) -> list[Any]:
        """Classify each part.

        Args:
            features: X of all parts.

        Returns:
            For each part what its head gives.
        """
        return [head(part) for head, part in zip(self, self.parts_of(features))]

    def embed(self, features: Float[Tensor, "B D_S"]) -> Tensor:
        """Map each part through its neck.

        Args:
            features: X of all parts.

        Returns:
            The results side by side.
        """
        pairs = zip(self, self.parts_of(features))
        return torch.cat([head.embed(part) for head, part in pairs], dim=1)  # type: ignore[operator]
