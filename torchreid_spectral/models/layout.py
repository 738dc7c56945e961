"""Memory formats: which networks take maps whose channels lie last."""

from __future__ import annotations

from torch import nn

__all__ = ["flattening", "takes_channels_last"]

_FLATTENING = {"PCB", "MuDeep"}  # their forward flattens maps of more than a cell by view
_KNOWN = {"torch", "torchreid", "torchreid_spectral", "builtins"}  # packages that were tried


def flattening(network: nn.Module) -> str | None:
    """Name the kind of torchreid's network that takes no ``channels_last`` maps.

    Args:
        network: Of torchreid or one of its spectral twins.

    Returns:
        The name of torchreid's class, or ``None`` where ``channels_last`` works.
    """
    kinds = {kind.__name__ for kind in type(network).__mro__} & _FLATTENING
    return min(kinds, default=None)


def takes_channels_last(network: nn.Module) -> bool:
    """Say whether a network is known to work with ``channels_last`` maps.

    Args:
        network: Any.

    Returns:
        False also for one's own, which nobody has tried.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(network).__mro__}
    return packages <= _KNOWN and flattening(network) is None
