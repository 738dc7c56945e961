r"""Which entries of a tensor are the nodes of a graph: samples, pixels, channels or frames.

Whatever the axis, the tensor becomes ``(G, A, N, F)``: G graphs, A heads, N nodes, and the rest
flattened into the feature of a node.

==============  ====================================  =============  =======  ==================
``over``        Input, channels first                 G              N        F
==============  ====================================  =============  =======  ==================
``samples``     ``(B, D)`` or ``(B, C, H, W)``        1              B        D/A or C·H·W/A
``pixels``      ``(B, C, H, W)``                      B              H·W      C/A
``channels``    ``(B, C, H, W)``                      B              C        H·W/A
``frames``      ``(B, L, D)`` or ``(B·L, C, H, W)``   B              L        D/A or C·H·W/A
==============  ====================================  =============  =======  ==================

Heads cut the feature of a node: channels into A slices, and where the channels are the nodes
themselves, the map into A bands.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["AXES", "channels_first", "channels_last", "from_nodes", "to_nodes"]

AXES = ("samples", "pixels", "channels", "frames")
"""Names of the axes."""


def channels_last(x: Tensor, over: str) -> Tensor:
    """Move the channels of a map to the end, where linear maps act; vectors stay.

    Args:
        x: Input of the layer.
        over: A name of :data:`AXES`.

    Returns:
        ``(B, D)``, ``(B, L, D)`` or ``(B, H, W, C)``.

    Raises:
        ValueError: If ``x`` has not one of the shapes of that axis.
    """
    vectors = {"samples": 2, "frames": 3}.get(over)
    if x.dim() == 4:
        return x.movedim(1, -1)
    if x.dim() == vectors:
        return x
    shapes = {2: "(B, D) or ", 3: "(B, L, D) or "}.get(vectors or 0, "")
    raise ValueError(
        f"over={over!r} takes {shapes}(B, C, H, W), got a tensor of shape {tuple(x.shape)}."
    )


def channels_first(x: Tensor) -> Tensor:
    """Undo :func:`channels_last`.

    Args:
        x: ``(B, D)``, ``(B, L, D)`` or ``(B, H, W, C)``.

    Returns:
        Maps as ``(B, C, H, W)``, vectors as they are.
    """
    return x.movedim(-1, 1) if x.dim() == 4 else x


def to_nodes(x: Tensor, over: str, heads: int, frames: int | None = None) -> Tensor:
    """Arrange a tensor as graphs of nodes.

    Args:
        x: Channels last.
        over: A name of :data:`AXES`.
        heads: A.
        frames: L, where maps come with their frames on the batch axis; fewer maps than that are
            one shorter tracklet.

    Returns:
        ``(G, A, N, F)``.

    Raises:
        ValueError: If ``heads`` or ``frames`` do not divide what they cut.
    """
    x = _graphs(x, over, frames)
    if x.shape[-1] % heads:
        raise ValueError(
            f"The feature width must be divisible by heads={heads}, got {x.shape[-1]}."
        )
    return x.unflatten(-1, (heads, -1)).movedim(-2, 1).flatten(3)


def from_nodes(nodes: Tensor, like: Tensor, over: str, frames: int | None = None) -> Tensor:
    """Undo :func:`to_nodes`.

    Args:
        nodes: ``(G, A, N, F)``.
        like: A tensor of the result's shape, channels last.
        over: A name of :data:`AXES`.
        frames: L.

    Returns:
        The tensor in the shape of ``like``.
    """
    shape = _graphs(like, over, frames).shape
    inner = (*shape[2:-1], shape[-1] // nodes.shape[1])
    x = nodes.unflatten(3, inner).movedim(1, -2).flatten(-2)
    if over == "channels":
        x = x.mT
    return x.reshape(like.shape)


def _graphs(x: Tensor, over: str, frames: int | None) -> Tensor:
    """Give ``(G, N, ..., width)``: one row of graphs, one of nodes, the width that heads cut."""
    if over == "samples":
        return x[None]
    if over == "pixels":
        return x.flatten(1, -2)
    if over == "channels":
        return x.flatten(1, -2).mT
    if x.dim() == 3:
        return x
    if frames is not None and x.shape[0] < frames:
        frames = x.shape[0]
    if frames is None or x.shape[0] % frames:
        raise ValueError(
            "over='frames' takes maps with the frames of a tracklet one after the other on the "
            f"batch axis: frames must be given and divide {x.shape[0]}, got {frames}."
        )
    return x.unflatten(0, (-1, frames))
