"""An image model on tracklets: every frame through the backbone, then pooled before the heads.

The backbone calls its heads itself, on one feature a frame. While a batch of tracklets runs, each
head pools what it is given first, so that its graph has a node a tracklet, whatever the backbone
and however many heads it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["frames_of", "pool_frames", "pooled_inputs"]


def pool_frames(features: Any, pooling: nn.Module, length: int) -> Any:  # noqa: ANN401
    """Pool features of frames to features of tracklets.

    Args:
        features: ``(B * F, D)``, or a tuple or list of such.
        pooling: ``(B, F, D)`` to ``(B, D)``.
        length: F, frames of each tracklet.

    Returns:
        ``(B, D)``, or a tuple or list of such; whatever is no feature, as it came.
    """
    if isinstance(features, (tuple, list)):
        return type(features)(pool_frames(part, pooling, length) for part in features)
    if not isinstance(features, Tensor) or features.dim() != 2:  # feature maps were asked for
        return features
    return pooling(features.unflatten(0, (-1, length)))


@contextmanager
def frames_of(blocks: Iterable[Any], length: int) -> Iterator[None]:
    """Let attention among frames know a tracklet's length inside the block.

    Args:
        blocks: Of a backbone; those over other axes are passed over.
        length: F, frames of each tracklet.

    Yields:
        Nothing. What was configured holds again at the end.
    """
    changed = [(block, block.frames) for block in blocks if block.over == "frames"]
    for block, _ in changed:
        block.frames = length
    try:
        yield
    finally:
        for block, configured in changed:
            block.frames = configured


@contextmanager
def pooled_inputs(heads: Iterable[nn.Module], pooling: nn.Module, length: int) -> Iterator[None]:
    """Let heads pool the frames that they are given inside the block.

    Args:
        heads: Called with ``(B * F, D)``.
        pooling: ``(B, F, D)`` to ``(B, D)``.
        length: F, frames of each tracklet.

    Yields:
        Nothing.
    """

    def pool(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (pool_frames(inputs[0], pooling, length), *inputs[1:])

    handles = [head.register_forward_pre_hook(pool) for head in heads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
