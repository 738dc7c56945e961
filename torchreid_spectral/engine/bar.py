"""The progress bar of training and test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from torchreid_spectral.engine import distributed

__all__ = ["Bar"]


class Bar:
    """A loader under a progress bar of images, shown on terminals only."""

    def __init__(self, loader: Any, title: str, *, shown: bool) -> None:  # noqa: ANN401
        self.loader, self.title, self.shown = loader, title, shown

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # None: shown on a terminal, silent in a log file.
        hidden = None if self.shown and distributed.rank() == 0 else True
        how = {"unit": " images", "unit_scale": getattr(self.loader, "batch_size", 1)}
        yield from tqdm(self.loader, desc=self.title, disable=hidden, leave=False, **how)
