r"""Attention after a named stage of a torchreid backbone.

Sources: X. Wang et al., *Non-local Neural Networks*, CVPR 2018 (pixels); J. Fu et al., *Dual
Attention Network for Scene Segmentation*, CVPR 2019 (channels); H. Hu et al., *Relation Networks
for Object Detection*, CVPR 2018 (appearance and position); Z. Zhang's talk, 2018 (all four axes).

A stage is a part of the backbone that gives one map ``(B, C, H, W)``: ``layer1`` to ``layer4`` of
ResNet and SE-ResNet, ``conv2`` to ``conv5`` of OSNet, ``parts_avgpool`` of PCB (its map are the
stripes). Which parts these are is found by running the backbone once on a blank image. The block
is a child of the backbone's ``attention`` and is called by a hook of the stage, so that all other
weights keep their names.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.layers import SpectralAttention

__all__ = ["AXIS_DEFAULTS", "build_block", "check_blocks", "find_stages", "insert_attention"]

AXIS_DEFAULTS: dict[str, dict[str, Any]] = {
    # One walk among the images of the batch, as in the head; alone in eval mode.
    "samples": {"output": "gate", "alone_in_eval": True},
    # The non-local block: embedded Gaussian, inner width C/2, output starts at zero.
    "pixels": {
        "query": "linear",
        "key": "linear",
        "value": "linear",
        "similarity": "dot",
        "temperature": 1.0,
        "output": "norm",
    },
    # DANet's channel attention: softmax of X Xᵀ, no projections, output starts at zero.
    "channels": {"similarity": "dot", "temperature": 1.0, "output": "gate"},
    # Transformer attention between the frames of a tracklet.
    "frames": {
        "query": "linear",
        "key": "linear",
        "value": "linear",
        "similarity": "scaled_dot",
        "temperature": 1.0,
        "output": "norm",
    },
}
"""What a block is made of where the config says no more than the axis."""

_PROBES = ((256, 128), (160, 64))  # HACNN takes nothing but the second


def build_block(channels: int, *, over: str, **options: Any) -> SpectralAttention:  # noqa: ANN401
    """Build a residual attention block that starts as the identity.

    Args:
        channels: C.
        over: ``samples``, ``pixels``, ``channels`` or ``frames``.
        **options: Of :class:`~torchreid_spectral.layers.SpectralAttention`, above those of
            :data:`AXIS_DEFAULTS`.

    Returns:
        The block.

    Raises:
        UnknownNameError: If the axis or an option is not known.
        InputError: If an option is out of range.
    """
    if over not in AXIS_DEFAULTS:
        raise UnknownNameError("attention axis", over, AXIS_DEFAULTS)
    merged = {"residual": True, **AXIS_DEFAULTS[over], **options}
    if over == "samples" and merged.get("memory"):
        raise InputError(
            f"model.attention takes no memory, got {merged['memory']}: earlier features are "
            "vectors, as the heads walk on (spectral.memory), not maps."
        )
    if merged.get("similarity") == "appearance_and_position":
        merged = {"temperature": 1.0, **merged}
    if "linear" in (merged.get("query"), merged.get("key"), merged.get("value")):
        merged.setdefault("inner_dim", max(channels // 2, 1))
    known = set(inspect.signature(SpectralAttention).parameters) - {"dim"}
    for name in merged:
        if name not in known:
            raise UnknownNameError("option of attention", name, known | {"after"})
    try:
        return SpectralAttention(channels, over=over, **merged)
    except (TypeError, ValueError) as error:
        raise InputError(f"model.attention over {over}: {error}") from error


def insert_attention(backbone: nn.Module, blocks: Sequence[Any]) -> None:
    """Put attention blocks into a backbone, in place.

    Args:
        backbone: A model of torchreid.
        blocks: For each block a mapping of ``after``, ``over`` and options of
            :func:`build_block`.

    Raises:
        InputError: If a block lacks ``after`` or ``over``.
        UnknownNameError: If the backbone has no such stage.
    """
    if not blocks:
        return
    stages = find_stages(backbone)
    built = nn.ModuleList()
    check_blocks(blocks)
    for block in blocks:
        options = dict(block)
        after = options.pop("after")
        if after not in stages:
            raise UnknownNameError(
                f"stage of {type(backbone).__name__} (it has {', '.join(stages)})", after, stages
            )
        built.append(build_block(stages[after], **options))
        backbone.get_submodule(after).register_forward_hook(_Call(built[-1]))
    backbone.attention = built


def check_blocks(blocks: Sequence[Any]) -> None:
    """Check that blocks say where they stand and over what they go.

    Args:
        blocks: As :func:`insert_attention` takes them.

    Raises:
        InputError: If a block lacks ``after`` or ``over``.
    """
    for block in blocks:
        known = isinstance(block, Mapping) and {"after", "over"} <= block.keys()
        if not known or not all(isinstance(block[key], str) for key in ("after", "over")):
            raise InputError(
                "model.attention takes entries such as {after: layer3, over: pixels, heads: 4}, "
                f"got {block!r}."
            )


class _Call:
    """A forward hook that passes on what the block makes of the output.

    An object, not a closure: copies and pickles of the model then refer to their own block.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ANN401
        result: Tensor = self.block(output)
        # torchreid's backbones may flatten what follows by view
        return result.contiguous() if output.is_contiguous() else result


def find_stages(backbone: nn.Module) -> dict[str, int]:
    """Find the parts of a backbone after which attention can stand.

    Args:
        backbone: A model of torchreid; it is run once, in eval mode, on a blank image.

    Returns:
        Name to number of channels, in the order of the run: the children that are called once
        and give a map of more than one cell.
    """
    device = next(backbone.parameters()).device
    for size in _PROBES:
        outputs: dict[str, list[Any]] = {}
        try:
            with _recording(backbone, outputs), torch.no_grad():
                backbone(torch.zeros(1, 3, *size, device=device))
            break
        except (AssertionError, RuntimeError):  # a size it does not take: what came before counts
            continue
    return {
        name: given[0].shape[1]
        for name, given in outputs.items()
        if len(given) == 1 and _is_map(given[0])
    }


@contextmanager
def _recording(backbone: nn.Module, outputs: dict[str, list[Any]]) -> Iterator[None]:
    """Note what the children give, in eval mode; both are undone after the block."""

    def recorder(name: str) -> Any:  # noqa: ANN401
        return lambda module, args, output: outputs.setdefault(name, []).append(output)

    modes = {module: module.training for module in backbone.modules()}
    hooks = [
        child.register_forward_hook(recorder(name)) for name, child in backbone.named_children()
    ]
    backbone.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


def _is_map(output: Any) -> bool:  # noqa: ANN401
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1
