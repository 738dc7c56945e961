"""The embedded datasets as torchreid knows them, and the tables of all that are registered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchreid_spectral import _compat
from torchreid_spectral._active import Active
from torchreid_spectral.data.folder_datasets import FolderDataset, FolderVideoDataset
from torchreid_spectral.data.synthetic import SyntheticSpec, generate, list_images
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec, generate_video

__all__ = [
    "IMAGE_DATASETS",
    "VIDEO_DATASETS",
    "SyntheticPedestrians",
    "SyntheticPedestriansVideo",
    "synthetic_defaults",
]

_specs = Active((SyntheticSpec(), SyntheticVideoSpec()))


@contextmanager
def synthetic_defaults(
    spec: SyntheticSpec, video: SyntheticVideoSpec | None = None
) -> Iterator[None]:
    """Set the sizes that the embedded datasets are generated with inside the block.

    torchreid's data managers hand a dataset fixed arguments only; the config's sizes come this
    way.

    Args:
        spec: Sizes and seed of ``synthetic_pedestrians``.
        video: Sizes and seed of ``synthetic_pedestrians_video``; its defaults if not given.

    Yields:
        Nothing.
    """
    with _specs.held((spec, video or SyntheticVideoSpec())):
        yield


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
    generated = True

    def __init__(self, root: str = "", **kwargs: Any) -> None:  # noqa: ANN401
        folder = generate(Path(root).expanduser().resolve(), _specs.value[0])
        train = list_images(folder / "bounding_box_train")
        labels = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in train}))}
        super().__init__(
            [(path, labels[pid], camid) for path, pid, camid in train],
            list_images(folder / "query"),
            list_images(folder / "bounding_box_test"),
            **kwargs,
        )


class SyntheticPedestriansVideo(_compat.dataset_tables()["video"]["mars"]):  # type: ignore[misc]
    """Short tracklets of the same drawn pedestrians, in MARS's layout and read as MARS is.

    Written once under ``<root>/synthetic_pedestrians_video``.

    Args:
        root: Folder of datasets, torchreid's ``data.root``.
        **kwargs: What torchreid hands to every video dataset.
    """

    name = "synthetic_pedestrians_video"
    dataset_dir = name
    generated = True

    def __init__(self, root: str = "", **kwargs: Any) -> None:  # noqa: ANN401
        place = Path(root).expanduser().resolve()
        self.dataset_dir = str(generate_video(place, _specs.value[1]).relative_to(place))
        super().__init__(root=str(place), **kwargs)


IMAGE_DATASETS = {
    SyntheticPedestrians.name: SyntheticPedestrians,
    FolderDataset.name: FolderDataset,
}
VIDEO_DATASETS = {
    SyntheticPedestriansVideo.name: SyntheticPedestriansVideo,
    FolderVideoDataset.name: FolderVideoDataset,
}
