"""Several processes that train one model: gathered graphs, one writer, shared decisions.

Every process computes the features of its own rows; the graph and the losses that relate images
see the rows of all processes, with gradient through the gather. With N processes of B/N images the
gradient is that of one process with B: the loss is computed on all rows by everybody, the gather's
backward pass sums the N equal gradients, and DistributedDataParallel divides by N. BatchNorm is
apart: it sees a process's rows, and all rows under ``train.sync_bn``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchreid_spectral.errors import InputError, RunError
from torchreid_spectral.layers import SpectralAttention

__all__ = [
    "agree",
    "all_objects",
    "average_gradients",
    "first_object",
    "first_result",
    "gather",
    "number_by_torchrun",
    "process_group",
    "rank",
    "share_buffers",
    "share_parameters",
    "span_walks",
    "started_by_torchrun",
    "world_size",
]


def started_by_torchrun() -> int:
    """Count the processes that torchrun has started, before they have joined.

    Returns:
        1 without torchrun.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def number_by_torchrun() -> int:
    """Give the number of this process, before they have joined.

    Returns:
        0 without torchrun.
    """
    return int(os.environ.get("RANK", "0"))


@contextmanager
def process_group(use_gpu: bool) -> Iterator[None]:
    """Join the processes that torchrun has started; nothing where there is one.

    After an error the group is left as it is: NCCL takes it down together with the other
    processes, which may be waiting for this one elsewhere. This process ends, and torchrun ends
    the others.

    Args:
        use_gpu: Talk by NCCL, one GPU a process; else by gloo.

    Yields:
        Nothing.

    Raises:
        InputError: If there are more processes on a machine than GPUs.
    """
    if started_by_torchrun() == 1:
        yield
        return
    # The others wait while the first evaluates, for hours where it re-ranks a large gallery; of a
    # process that dies torchrun tells them at once.
    options: dict[str, Any] = {"timeout": timedelta(hours=6)}
    if use_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started process {local + 1} on a machine of "
                f"{torch.cuda.device_count()} GPUs: lower --nproc_per_node."
            )
        torch.cuda.set_device(local)
        options["device_id"] = torch.device("cuda", local)
    dist.init_process_group("nccl" if use_gpu else "gloo", **options)
    yield
    dist.destroy_process_group()


def world_size() -> int:
    """Count the processes.

    Returns:
        N, 1 without torchrun.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Give the number of this process.

    Returns:
        0 for the one that writes.
    """
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward, the sum over processes of this one's rows' gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ANN401
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override] # noqa: ANN401
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def gather(rows: Tensor) -> Tensor:
    """Put the rows of all processes together, with gradient.

    Args:
        rows: ``(B/N, ...)``, of one shape in every process.

    Returns:
        ``(B, ...)`` in the order of the processes.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows.contiguous())  # type: ignore[no-untyped-call]
    return gathered


def span_walks(network: nn.Module) -> None:
    """Let every walk among the images of a batch go over the rows of all processes.

    Args:
        network: A spectral model; others have no walk and are left alone.
    """
    for module in network.modules():
        if isinstance(module, SpectralAttention):
            module.gather = _with_own_rows


def _with_own_rows(rows: Tensor) -> tuple[Tensor, slice]:
    own = slice(rank() * len(rows), (rank() + 1) * len(rows))
    return gather(rows), own


def average_gradients(network: nn.Module) -> None:
    """Average the gradients over the processes, where DistributedDataParallel does not.

    Args:
        network: After its backward pass.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's buffers, such as the statistics of BatchNorm.

    Args:
        network: Of one kind in every process.
    """
    _share(network.buffers())


def share_parameters(network: nn.Module) -> None:
    """Give every process the first one's parameters, as DistributedDataParallel does at its start.

    Args:
        network: Of one kind in every process.
    """
    _share(parameter.data for parameter in network.parameters())


def _share(tensors: Iterable[Tensor]) -> None:
    if world_size() == 1:
        return
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    for group in groups.values():  # one broadcast a dtype: each costs a GPU more than its bytes
        together = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        dist.broadcast(together, 0)
        parts = together.split([tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts):
            tensor.detach().copy_(part.view_as(tensor))


def agree(*values: float) -> list[float]:
    """Take the largest of each value over all processes.

    Args:
        *values: Flags, for instance.

    Returns:
        The same in every process.
    """
    if world_size() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def all_objects(item: Any) -> list[Any]:  # noqa: ANN401
    """Collect something of every process.

    Args:
        item: Picklable; the processes trust each other.

    Returns:
        One a process, the same list in every process.
    """
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def first_object(item: Any) -> Any:  # noqa: ANN401
    """Give everybody what the first process has.

    Args:
        item: Of this process.

    Returns:
        Of the first.
    """
    if world_size() == 1:
        return item
    box = [item]
    dist.broadcast_object_list(box)
    return box[0]


def first_result(function: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Let the first process alone do something, such as read a file that only it has.

    Args:
        function: What.

    Returns:
        Its result, in every process.

    Raises:
        InputError: In every process, where it is raised in the first.
        RunError: Likewise.
    """
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = function(), "", False
        except (InputError, RunError) as error:
            outcome = None, str(error), isinstance(error, RunError)
    result, problem, of_run = first_object(outcome)
    if problem:
        raise RunError(problem) if of_run else InputError(problem)
    return result
