"""Test images on their way to the device while the batch before is computed.

A copy on the stream that computes would wait for the computation, and a feature that is fetched
from it for all that was queued behind. So images are copied on a stream of their own, one batch
ahead, and features are waited for by an event right after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["copied_ahead", "fetched_later"]


def copied_ahead(
    batches: Iterable[Any], images_of: Callable[[Any], Tensor], *, use_gpu: bool
) -> Iterator[tuple[Any, Tensor]]:
    """Give each batch with its images on the device; the copy of the next one has begun.

    Args:
        batches: Of a loader, whose memory is pinned where there is a GPU.
        images_of: Gives the images of a batch.
        use_gpu: Whether to copy them at all.

    Yields:
        A batch, and its images.
    """
    stream = torch.cuda.Stream() if use_gpu else None
    waiting: tuple[Any, Callable[[], Tensor]] | None = None
    for batch in batches:
        coming = batch, _begin_copy(images_of(batch), stream)
        if waiting is not None:
            yield waiting[0], waiting[1]()
        waiting = coming
    if waiting is not None:
        yield waiting[0], waiting[1]()


def _begin_copy(images: Tensor, stream: torch.cuda.Stream | None) -> Callable[[], Tensor]:
    """Copy on the stream; the result is called where the images are needed."""
    if stream is None:
        return lambda: images
    with torch.cuda.stream(stream):
        copied = images.cuda(non_blocking=True)
        done = stream.record_event()

    def ready() -> Tensor:
        computing = torch.cuda.current_stream()
        computing.wait_event(done)
        copied.record_stream(computing)  # its memory is not given away before it was used
        return copied

    return ready


def fetched_later(features: Tensor) -> Callable[[], Tensor]:
    """Begin to copy features to the CPU.

    Args:
        features: Perhaps still to be computed by a GPU.

    Returns:
        Waits for these features alone, and gives them.
    """
    if not features.is_cuda:
        return lambda: features
    pinned = features.to("cpu", non_blocking=True)
    done = torch.cuda.current_stream().record_event()

    def wait() -> Tensor:
        done.synchronize()
        return pinned.clone()  # pinned memory is scarce

    return wait
