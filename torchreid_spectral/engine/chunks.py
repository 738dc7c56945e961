r"""A batch larger than memory, with the graph and the losses over the whole of it.

Source: L. Gao, Y. Zhang, J. Han, J. Callan, *Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup*, RepL4NLP 2021 (gradient caching).

A step has three passes. (1) The images go through the backbone a chunk at a time without gradient;
what comes out is kept. (2) The rest, from the walk to the losses, is computed on the whole batch
and differentiated down to what was kept. (3) Each chunk goes through the backbone again, with the
same random numbers, and the kept gradients are pushed back through it.

The cut of a spectral model is at its heads, whose walk relates the images; of any other model at
its outputs. BatchNorm sees a chunk at a time, as on several GPUs, and counts it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral import _random
from torchreid_spectral.engine.trees import leaves, map_tensors
from torchreid_spectral.errors import InputError
from torchreid_spectral.models import SpectralHead, SpectralNet

__all__ = ["chunked_backward"]


def chunked_backward(
    network: nn.Module,
    images: Tensor,
    loss: Callable[[Any], Tensor],
    *,
    chunk_size: int,
    scale: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Add the gradients of a batch's loss to the parameters.

    Args:
        network: The model, not wrapped.
        images: ``(B, 3, H, W)``, or tracklets ``(B, T, 3, H, W)``, which are not divided.
        loss: From the model's outputs for the whole batch to the loss.
        chunk_size: Images that go through the backbone at a time, at most, but for a single
            tracklet of more.
        scale: What the loss goes through before it is differentiated.

    Returns:
        The loss.
    """
    frames = images.shape[1] if images.dim() == 5 else 1
    together = max(1, chunk_size // frames)
    chunks = images.tensor_split(-(-len(images) // together))  # of lengths that differ by one
    _check_chunks(network, chunks, chunk_size, frames)
    kept, states = [], []
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random.capture())
            kept.append(_below_the_cut(network, chunk))
    # Weights that autocast has cast here have no gradient, and PyTorch before 2.10 keeps them.
    torch.clear_autocast_cache()
    for buffer, before in buffers:
        buffer.copy_(before)  # the third pass counts
    whole = map_tensors(lambda *parts: torch.cat(parts).requires_grad_(), *kept)
    value = loss(_above_the_cut(network, whole))
    scale(value).backward()
    after = _random.capture()
    gradients = [leaf.grad for leaf in leaves(whole)]
    start = 0
    for chunk, state in zip(chunks, states):
        _random.restore(state)
        _push_back(_below_the_cut(network, chunk), gradients, start)
        start += len(chunk)
    _random.restore(after)
    return value.detach()


def _check_chunks(
    network: nn.Module, chunks: Sequence[Tensor], chunk_size: int, frames: int
) -> None:
    """Refuse a single image where BatchNorm would have one value a channel."""
    if min(map(len, chunks)) * frames > 1:
        return
    heads = {id(each) for head in getattr(network, "heads", ()) for each in head.modules()}
    flat = [name for name, module in network.named_modules()
            if isinstance(module, nn.BatchNorm1d) and module.training
            and id(module) not in heads]  # fmt: skip
    if flat:
        raise InputError(
            f"train.chunk_size {chunk_size} cuts the batch into chunks of a single image, whose "
            f"statistics BatchNorm in {flat[0]} cannot take. Raise it."
        )


def _push_back(outputs: Any, gradients: list[Tensor | None], start: int) -> None:  # noqa: ANN401
    pairs = [
        (output, gradient[start : start + len(output)])
        for output, gradient in zip(leaves(outputs), gradients)
        if gradient is not None and output.requires_grad
    ]
    torch.autograd.backward([output for output, _ in pairs], [part for _, part in pairs])


def _below_the_cut(network: nn.Module, images: Tensor) -> Any:  # noqa: ANN401
    """Compute what the heads take in, and the features; of other models, the outputs."""
    if not isinstance(network, SpectralNet):
        return network(images)
    with _recorded(network.heads) as taken:
        outputs = network(images)
    features = outputs[1] if network.contract != "softmax" else ()
    return tuple(taken), features


def _above_the_cut(network: nn.Module, kept: Any) -> Any:  # noqa: ANN401
    """Compute the model's outputs from what was kept."""
    if not isinstance(network, SpectralNet):
        return kept
    taken, features = kept
    outputs = [head(nodes) for head, nodes in zip(network.heads, taken)]
    return network.in_order(outputs[0] if len(outputs) == 1 else outputs, features)


@contextmanager
def _recorded(heads: list[SpectralHead]) -> Iterator[list[Any]]:
    """Let the heads note what they are given, and give it on unclassified."""
    taken: list[Any] = [None] * len(heads)

    def recorder(place: int) -> Callable[[Tensor], Tensor]:
        def record(nodes: Tensor) -> Tensor:
            taken[place] = nodes
            return nodes

        return record

    for place, head in enumerate(heads):
        head.forward = recorder(place)  # type: ignore[method-assign, assignment]
    try:
        yield taken
    finally:
        for head in heads:
            del head.forward
