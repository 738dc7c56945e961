"""The embedded dataset as torchreid knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchreid_spectral import _compat
from torchreid_spectral.data.synthetic import SyntheticSpec, generate, list_images

__all__ = ["SyntheticPedestrians", "synthetic_defaults"]

_active_spec = SyntheticSpec()


@contextmanager
def synthetic_defaults(spec: SyntheticSpec) -> Iterator[None]:
    """Set the sizes that ``synthetic_pedestrians`` is generated with inside the block.

    torchreid's data managers hand a dataset fixed arguments only; the config's sizes come this
    way.

    Args:
        spec: Sizes and seed.

    Yields:
        Nothing.
    """
    global _active_spec
    before, _active_spec = _active_spec, spec
    try:
        yield
    finally:
        _active_spec = before


class SyntheticPedestrians(_compat.load().data.ImageDataset):  # type: ignore[misc]
    """Drawn pedestrians seen by several cameras, in Market-1501's layout; no real person.

    Written once under ``<root>/synthetic_pedestrians``, then read like any dataset.

    Args:
        root: Folder of datasets, torchreid's ``data.root``.
        **kwargs: What torchreid hands to every dataset.
    """

    name = "synthetic_pedestrians"
    dataset_dir = name
    dataset_url = None

    def __init__(self, root: str = "", **kwargs: Any) -> None:  # noqa: ANN401
        folder = generate(Path(root).expanduser().resolve(), _active_spec)
        train = list_images(folder / "bounding_box_train")
        labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in train}))}
        super().__init__(
            [(path, labels[pid], camid) for path, pid, camid in train],
            list_images(folder / "query"),
            list_images(folder / "bounding_box_test"),
            **kwargs,
        )
