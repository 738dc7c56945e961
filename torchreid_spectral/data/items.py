"""Items of a torchreid dataset, a batch at a time, with broken images named or replaced."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from torchreid_spectral import _random
from torchreid_spectral.data.images import UNREADABLE, ImageReader, reading_with
from torchreid_spectral.errors import first_line

__all__ = ["ON_ERROR", "NamedItems", "Ticket"]

ON_ERROR = ("raise", "skip")


class Ticket(NamedTuple):
    """A batch to load, and from where its worker's generators go on."""

    indices: list[int]
    seed: tuple[int, int] | None = None
    state: str | None = None


class NamedItems(Dataset[Any]):
    """A torchreid dataset that names an image it cannot read, or passes over it.

    A broken training image is replaced by the next readable one of its identity, so that a batch
    stays P x K; where there is none, and in tests, it is left out.

    Args:
        dataset: Of torchreid; its ``data`` lists tuples that begin with path(s) and identity.
        on_error: ``raise`` or ``skip``.
        reader: Gives images, from a cache for instance.
    """

    def __init__(
        self,
        dataset: Any,  # noqa: ANN401
        on_error: str = "raise",
        reader: ImageReader | None = None,
    ) -> None:
        self.dataset, self.on_error, self.reader = dataset, on_error, reader
        self._digests: list[str] | None = None
        self._siblings: dict[int, list[int]] = defaultdict(list)
        if getattr(dataset, "mode", "") == "train":
            for index, item in enumerate(dataset.data):
                self._siblings[item[1]].append(index)

    def digests(self) -> list[str]:
        """Name the images and whose they are; in which folder they lie does not matter.

        Returns:
            64 hexadecimal digits in any order of the images, and in theirs, which is that of a
            folder's listing; two empty texts for a dataset that does not list what it has.
        """
        if self._digests is None:
            lines = []
            for paths, pid, *_ in getattr(self.dataset, "data", ()):
                several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
                names = "/".join(os.path.basename(os.fspath(path)) for path in several)
                lines.append(f"{names} {pid}\n".encode(errors="surrogateescape"))
            self._digests = [hashlib.sha256(b"".join(each)).hexdigest() if lines else ""
                             for each in (sorted(lines), lines)]  # fmt: skip
        return self._digests

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Give what the dataset has, such as its lists; not while it is being unpickled."""
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401
        with reading_with(self.reader):
            return self.dataset[index]

    def __getitems__(self, ticket: Ticket) -> dict[str, Any]:
        """Load a batch.

        Args:
            ticket: Which.

        Returns:
            ``items``, or ``error``; and ``skipped``, what was passed over.
        """
        worker = torch.utils.data.get_worker_info() is not None
        if worker and ticket.state is not None:
            _random.restore(ticket.state)
        elif worker and ticket.seed is not None:
            _random.seed_worker(*ticket.seed)
        skipped: list[str] = []
        items = []
        for index in ticket.indices:
            try:
                item = self._load(index, skipped)
            except UNREADABLE as error:
                # Raised in a worker it would come out buried in a traceback.
                return {"error": f"{self._name(index, error)}, or set data.on_error skip."}
            if item is not None:
                items.append({**item, "index": index})
        return {"items": items, "skipped": skipped, "rng": _random.capture() if worker else None}

    def _load(self, index: int, skipped: list[str]) -> Any:  # noqa: ANN401
        try:
            return self[index]
        except UNREADABLE as error:
            if self.on_error == "raise":
                raise
            skipped.append(self._name(index, error))
        for sibling in _others(self._siblings.get(self.dataset.data[index][1], []), index):
            try:
                return self[sibling]
            except UNREADABLE:
                continue
        return None

    def _name(self, index: int, error: BaseException) -> str:
        path = self.dataset.data[index][0]
        where = path if isinstance(path, str) else f"One of {path[0]} and the next {len(path) - 1}"
        reason = first_line(error)
        return (
            f"{where} cannot be read ({reason}): image {index} of the "
            f"{getattr(self.dataset, 'mode', '')} set of {type(self.dataset).__name__}. Mend the "
            "file, remove it"
        )


def _others(siblings: Sequence[int], index: int) -> list[int]:
    place = siblings.index(index) if index in siblings else 0
    return [*siblings[place + 1 :], *siblings[:place]]
