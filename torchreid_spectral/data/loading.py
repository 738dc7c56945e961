"""torchreid's loaders with a position to go on from, and with broken images named.

Random numbers are drawn exactly as torch's DataLoader draws them, so that a run gives torchreid's
own losses, seed for seed. What is added is that every state is known: the order of the epoch, how
many batches of it were taken, and the generators of each worker after its last batch.

===============  =================================================================
In the state     Meaning
===============  =================================================================
``order``        indices of the whole epoch, of all processes
``position``     batches that were taken
``base_seed``    what the workers' generators started the epoch from
``slots``        worker's number to its generators after its last batch that was taken
===============  =================================================================
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from torchreid_spectral.data.images import ImageReader
from torchreid_spectral.data.items import NamedItems, Ticket
from torchreid_spectral.errors import InputError, RunError

__all__ = ["EpochLoader", "leave_with_parent"]


class EpochLoader:
    """Iterates over a torchreid loader, an epoch at a time, from any position.

    Args:
        loader: Of torchreid's data manager; its dataset, sampler and sizes are taken over.
        on_error: See :class:`NamedItems`.
        reader: See :class:`NamedItems`.
        persistent: Keep the workers between epochs.
        timeout: Seconds after which a batch that does not come is an error; 0 for never.
        rank: Number of this process.
        world_size: Number of processes; each takes its part of the rows of every batch.
        first: Gives every process what the first one has: the order of an epoch is one.

    Raises:
        InputError: If the processes cannot share a batch, or the loader has a batch_sampler.
    """

    def __init__(
        self,
        loader: Any,  # noqa: ANN401
        *,
        on_error: str = "raise",
        reader: ImageReader | None = None,
        persistent: bool = False,
        timeout: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
        first: Callable[[Any], Any] = lambda item: item,
    ) -> None:
        if loader.batch_size is None:
            raise InputError(
                "A loader with a batch_sampler, or without batches, cannot be gone on with: give "
                "a sampler and a batch_size."
            )
        if loader.drop_last and int(loader.batch_size) % world_size:
            raise InputError(
                f"A batch of {loader.batch_size} images cannot be shared by {world_size} "
                "processes alike: choose a multiple."
            )
        self.first = first
        self.sampler, self.drop_last = loader.sampler, loader.drop_last
        self.batch_size, self.workers = int(loader.batch_size), int(loader.num_workers)
        self.rank, self.world_size = rank, world_size
        self.dataset = NamedItems(loader.dataset, on_error, reader)
        self._tickets: list[Ticket] = []
        self._inner: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=_Tickets(self),  # type: ignore[arg-type]
            num_workers=self.workers,
            pin_memory=loader.pin_memory,
            collate_fn=partial(_collate, loader.collate_fn),
            persistent_workers=persistent and self.workers > 0,
            timeout=timeout if self.workers else 0,
            worker_init_fn=partial(_start_worker, loader.worker_init_fn) if self.workers else None,
            generator=torch.Generator(),  # the global one is drawn from below, once an epoch
        )
        self.skipped: dict[str, int] = {}
        self._order: list[int] = []
        self._base_seed, self._slots = 0, {}  # type: ignore[var-annotated]
        self.position = 0
        self._resumed = False

    def __len__(self) -> int:
        """Batches an epoch, as the sampler estimates them."""
        if self.drop_last:
            return len(self.sampler) // self.batch_size
        return -(-len(self.sampler) // self.batch_size)

    def state(self) -> dict[str, Any]:
        """Give the position, as plain data.

        Returns:
            See the module.
        """
        return {
            "order": torch.tensor(self._order, dtype=torch.int32),
            "position": self.position,
            "base_seed": self._base_seed,
            "slots": dict(self._slots),
            "batch": [self.batch_size, self.workers, self.world_size, len(self.dataset)],
            "data": self.dataset.digests(),
        }

    def is_of(self, state: Mapping[str, Any]) -> bool:
        """Say whether a state is of the same images of the same identities, as far as is known.

        Args:
            state: Of :meth:`state`.

        Returns:
            Whether it is.
        """
        mine = self.dataset.digests()
        theirs = list(state.get("data", mine))
        ordered = bool(len(state["order"]))  # between epochs a folder may be listed otherwise
        return "" in (*mine, *theirs) or mine[ordered] == theirs[ordered]

    def resume(self, state: dict[str, Any]) -> None:
        """Let the next epoch be the rest of an old one.

        Args:
            state: Of :meth:`state`.

        Raises:
            InputError: If it is of other batches: sizes, processes or data have changed, or within
                an epoch the workers.
        """
        here = [self.batch_size, self.workers, self.world_size, len(self.dataset)]
        before = list(state["batch"])
        if not len(state["order"]):  # between epochs no worker holds a state
            before[1] = here[1]
        if before != here:
            raise InputError(
                "An epoch goes on only with the same train.batch_size, data.workers, number of "
                f"processes and data: the checkpoint has {list(state['batch'])}, this run {here}."
            )
        if not self.is_of(state):
            raise InputError(
                "The training images, or whose they are, are others than the checkpoint's, though "
                "as many: what it has learned of each identity would go to another. Resume with "
                "the same data and split, or take its weights alone with model.load_weights."
            )
        self._order = state["order"].tolist()
        self._base_seed, self.position = int(state["base_seed"]), int(state["position"])
        self._slots = dict(state["slots"])
        self._resumed = bool(self._order)

    def finish(self) -> None:
        """Forget the epoch: the next one starts afresh."""
        self._order, self._slots, self.position = [], {}, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._resumed:
            self._start_epoch()
        self._resumed = False
        batches = self._batches()[self.position :]
        self._tickets = [self._ticket(number, batch) for number, batch in enumerate(batches)]
        first = self.position
        try:
            for number, loaded in enumerate(self._inner, first):
                self.position = number + 1
                batch = self._open(loaded, number)
                if batch is not None:
                    yield batch
        except RuntimeError as error:
            raise _loader_error(error) from error

    def _start_epoch(self) -> None:
        # The draws of torch's DataLoader, in its order.
        self._base_seed = int(torch.empty((), dtype=torch.int64).random_().item())
        self._order = self.first([int(index) for index in self.sampler])
        self.position, self._slots = 0, {}

    def _batches(self) -> list[list[int]]:
        size, order = self.batch_size, self._order
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if self.drop_last and batches and len(batches[-1]) < size:
            batches.pop()
        return batches

    def _ticket(self, number: int, batch: list[int]) -> Ticket:
        if self.drop_last:  # whole identities for each process, all of one length
            share = len(batch) // self.world_size
            rows = batch[self.rank * share : (self.rank + 1) * share]
        else:
            rows = batch[self.rank :: self.world_size]
        if number >= self.workers:
            return Ticket(rows)
        # PyTorch gives the nth batch of an iteration to worker n mod W: its first one seeds it.
        # A slot is counted from the epoch's start, so that after a resume other processes go on.
        slot = (self.position + number) % self.workers
        state = self._slots.get(str(slot))
        return Ticket(rows, None if state else (self._base_seed, slot), state)

    def _open(self, loaded: dict[str, Any], number: int) -> dict[str, Any] | None:
        if "error" in loaded:
            raise InputError(loaded["error"])
        for name in loaded["skipped"]:
            self.skipped[name] = self.skipped.get(name, 0) + 1
        if loaded["rng"] is not None:
            self._slots[str(number % self.workers)] = loaded["rng"]
        batch: dict[str, Any] | None = loaded["batch"]
        if self.drop_last and self.world_size > 1:
            share = self.batch_size // self.world_size
            if batch is None or len(batch["index"]) < share:
                raise InputError(
                    "An identity has no readable image left, and processes share batches of one "
                    f"length: mend or remove its images ({'; '.join(loaded['skipped'])})."
                )
        return batch


class _Tickets:
    """The batch sampler of torch's DataLoader: what its owner has planned."""

    def __init__(self, owner: EpochLoader) -> None:
        self.owner = owner

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self.owner._tickets)

    def __len__(self) -> int:
        return len(self.owner._tickets)


def leave_with_parent(worker: int) -> None:
    """Let a worker end with its process, and by nothing else.

    What stops a run (Ctrl-C, torchrun, a job's scheduler) signals all processes of its group: in a
    group of its own a worker goes on while the run saves. PyTorch's workers notice it when their
    process was killed, but wait before they leave until their batches are taken from a pipe that
    nobody reads any more: for ever, where the pipe is full.

    Args:
        worker: Its number, which PyTorch gives.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(also: Callable[[int], None] | None, worker: int) -> None:
    """Prepare a worker, then as the user's loader has it."""
    leave_with_parent(worker)
    if also is not None:
        also(worker)


def _collate(collate: Callable[[list[Any]], Any], loaded: dict[str, Any]) -> dict[str, Any]:
    if "error" in loaded:
        return loaded
    items = loaded.pop("items")
    return loaded | {"batch": collate(items) if items else None}


def _loader_error(error: RuntimeError) -> RuntimeError:
    text = str(error)
    if "exited unexpectedly" not in text and "killed by signal" not in text:
        if "timed out" not in text:
            return error
    return RunError(
        f"The loader's workers died or hang ({next(iter(text.splitlines()))}). Mostly memory is "
        "short (shared memory in a container: --shm-size) or a disk does not answer. Go on with "
        "model.resume auto; with other data.workers only from the end of an epoch."
    )
