"""Write a re-identification dataset of drawn pedestrians in Market-1501's layout.

The pictures are a function of the :class:`SyntheticSpec` alone: each has its own generator keyed
by seed, identity and picture, so that neither order nor interruption changes a byte. (Other
versions of OpenCV or NumPy may draw or compress differently.)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from torchreid_spectral.data.pedestrians import Camera, Identity, draw_pedestrian
from torchreid_spectral.data.protocol import (
    check_numbers,
    check_protocol,
    deal,
    keyed_rng,
    sample_cameras,
    sample_person,
    write_jpeg,
)
from torchreid_spectral.data.storage import SPEC_FILE, Store

DATASET_NAME = "synthetic_pedestrians"
TRAIN_DIR, QUERY_DIR, GALLERY_DIR = "bounding_box_train", "query", "bounding_box_test"
_SUBSETS = (TRAIN_DIR, QUERY_DIR, GALLERY_DIR)
_FILE_NAME = re.compile(r"(\d{4})_c([1-6])s\d+_\d{6}_\d{2}\.jpg")
_IMAGE_KEY = 2  # 0 and 1 are taken, see protocol
_LOWEST = {
    "num_train_ids": 2,
    "num_test_ids": 2,
    "num_cameras": 2,
    "images_per_id": 4,
    "height": 16,
    "width": 16,
    "seed": 0,
    "version": 1,
}


@dataclass(frozen=True)
class SyntheticSpec:
    """Everything the dataset depends on.

    Attributes:
        num_train_ids: Identities of the training set, at least 2.
        num_test_ids: Identities of query and gallery, at least 2, none of them trained on.
        num_cameras: Cameras, 2 to 6; Market-1501's file names carry one digit.
        images_per_id: Pictures of an identity, at least 4 and at least ``num_cameras``. With
            ``num_cameras + 2`` or more, everybody is seen by all cameras; with fewer, by
            ``images_per_id - 2`` of them, which leaves every query a match in another camera.
        height: Height of a picture in pixels, at least 16.
        width: Width of a picture in pixels, at least 16.
        seed: Seed of identities, cameras and pictures, at least 0.
        version: Version of the drawing; raised whenever the same seed draws other pictures.

    Raises:
        TypeError: If a value is no integer.
        ValueError: If a value is out of range.
    """

    num_train_ids: int = 100
    num_test_ids: int = 100
    num_cameras: int = 4
    images_per_id: int = 16
    height: int = 128
    width: int = 64
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, _LOWEST)
        check_protocol(self, "images_per_id", "pictures")

    @property
    def num_images(self) -> int:
        """Number of pictures in all three folders."""
        return (self.num_train_ids + self.num_test_ids) * self.images_per_id

    def to_json(self) -> str:
        """Return the spec and its file count as JSON with sorted keys."""
        return json.dumps({**asdict(self), "num_images": self.num_images}, sort_keys=True)


STORE = Store(DATASET_NAME, SyntheticSpec, _SUBSETS, "*.jpg")


class _Shot(NamedTuple):
    """One picture to draw: person and camera count from 1 as in file names, image from 0."""

    subset: str
    pid: int
    camera: int
    image: int

    @property
    def path(self) -> str:
        """Return the file name with its folder."""
        name = f"{self.pid:04d}_c{self.camera}s1_{self.image + 1:06d}_00.jpg"
        return os.path.join(self.subset, name)


def _shots(spec: SyntheticSpec) -> Iterator[_Shot]:
    """List the pictures by identity."""
    for pid in range(1, spec.num_train_ids + spec.num_test_ids + 1):
        for image, (camera, first) in enumerate(deal(spec, pid, spec.images_per_id)):
            subset = QUERY_DIR if first else GALLERY_DIR
            yield _Shot(TRAIN_DIR if pid <= spec.num_train_ids else subset, pid, camera, image)


def _write_image(
    path: Path, spec: SyntheticSpec, shot: _Shot, identity: Identity, camera: Camera
) -> None:
    """Draw one picture and write it as JPEG."""
    rng = keyed_rng(spec.seed, _IMAGE_KEY, shot.pid, shot.image)
    write_jpeg(path, draw_pedestrian(identity, camera, rng, height=spec.height, width=spec.width))


def _write_dataset(folder: Path, spec: SyntheticSpec, *, progress: bool) -> None:
    """Write all pictures and, last, the spec that vouches for them."""
    for subset in _SUBSETS:
        (folder / subset).mkdir(parents=True)
    cameras = sample_cameras(spec.seed, spec.num_cameras)
    shots = tqdm(
        _shots(spec),
        desc=DATASET_NAME,
        total=spec.num_images,
        unit="image",
        disable=None if progress else True,
    )
    for shot in shots:
        identity = sample_person(spec.seed, shot.pid)
        _write_image(folder / shot.path, spec, shot, identity, cameras[shot.camera - 1])
    (folder / SPEC_FILE).write_text(spec.to_json() + "\n", encoding="utf-8")


def generate(
    root: str | Path, spec: SyntheticSpec = SyntheticSpec(), *, progress: bool = True
) -> Path:
    """Write the dataset once below ``root`` and return its folder.

    The folder is ``<root>/synthetic_pedestrians``, or a subfolder of it where a dataset of
    another spec lives there; see :mod:`~torchreid_spectral.data.storage`.

    Args:
        root: Directory of datasets; made if absent.
        spec: What to draw.
        progress: Whether to show a progress bar where the error stream is a terminal.

    Returns:
        Folder with ``bounding_box_train``, ``query``, ``bounding_box_test`` and ``spec.json``.

    Raises:
        FileExistsError: If the folder exists and holds files of another origin.
    """  # noqa: DOC502
    return STORE.generate(
        Path(root), spec, lambda folder: _write_dataset(folder, spec, progress=progress)
    )


def list_images(folder: str | Path) -> list[tuple[str, int, int]]:
    """List the pictures of one folder of the dataset.

    Args:
        folder: ``bounding_box_train``, ``query`` or ``bounding_box_test`` of a dataset.

    Returns:
        Path, identity and camera (from 0) of every picture, sorted by path. Hidden files are
        passed over.

    Raises:
        ValueError: If a file's name is not of the form ``0001_c1s1_000001_00.jpg``.
    """
    images = []
    for path in sorted(Path(folder).iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if match is not None:
            images.append((str(path), int(match[1]), int(match[2]) - 1))
        elif not path.name.startswith("."):
            raise ValueError(
                f"file names must look like 0001_c1s1_000001_00.jpg (identity, camera 1 to 6, "
                f"sequence, frame, box), got {path.name!r} in {folder}; move the file away"
            )
    return images
