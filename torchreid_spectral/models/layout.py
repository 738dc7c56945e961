"""Memory formats: which of torchreid's networks take maps whose channels lie last."""

from __future__ import annotations

from torch import nn

__all__ = ["flattening"]

_FLATTENING = {"PCB", "MuDeep"}  # their forward flattens maps of more than a cell by view


def flattening(network: nn.Module) -> str | None:
    """Name the kind of a network that takes no ``channels_last`` maps.

    Args:
        network: Of torchreid or one of its spectral twins.

    Returns:
        The name of torchreid's class, or ``None`` where ``channels_last`` works.
    """
    kinds = {kind.__name__ for kind in type(network).__mro__} & _FLATTENING
    return min(kinds, default=None)
