"""Write a re-identification dataset of drawn pedestrians in Market-1501's layout.

The pictures are a function of the :class:`SyntheticSpec` alone: each has its own generator keyed
by seed, identity and picture, so that neither order nor interruption changes a byte. (Other
versions of OpenCV or NumPy may draw or compress differently.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from torchreid_spectral.data.pedestrians import (
    Camera,
    Identity,
    draw_pedestrian,
    sample_camera,
    sample_identity,
)

DATASET_NAME = "synthetic_pedestrians"
TRAIN_DIR, QUERY_DIR, GALLERY_DIR = "bounding_box_train", "query", "bounding_box_test"
_SUBSETS = (TRAIN_DIR, QUERY_DIR, GALLERY_DIR)
_SPEC_FILE = "spec.json"
_TEMPORARY_PREFIX = f".{DATASET_NAME}-"
_STALE_SECONDS = 600.0  # a temporary directory untouched for so long has lost its writer
_JPEG_QUALITY = 92
_FILE_NAME = re.compile(r"(\d{4})_c([1-6])s\d+_\d{6}_\d{2}\.jpg")
_CAMERA_KEY, _IDENTITY_KEY, _IMAGE_KEY = 0, 1, 2
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
_MAX_IDS = 1501
_MAX_CAMERAS = 6


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
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {value!r}; pass a whole number")
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}; raise it")
        if self.num_cameras > _MAX_CAMERAS:
            raise ValueError(
                f"num_cameras must be 2 to {_MAX_CAMERAS}, got {self.num_cameras}: Market-1501's "
                "names carry one camera digit and torchreid accepts 1 to 6; use fewer cameras"
            )
        if self.images_per_id < self.num_cameras:
            raise ValueError(
                f"images_per_id must be at least num_cameras, got {self.images_per_id} pictures "
                f"for {self.num_cameras} cameras; raise images_per_id or use fewer cameras"
            )
        if self.num_train_ids + self.num_test_ids > _MAX_IDS:
            raise ValueError(
                f"num_train_ids + num_test_ids must be at most {_MAX_IDS}, the largest identity "
                f"torchreid accepts in this layout, got {self.num_train_ids} + "
                f"{self.num_test_ids}; use fewer identities"
            )

    @property
    def num_images(self) -> int:
        """Number of pictures in all three folders."""
        return (self.num_train_ids + self.num_test_ids) * self.images_per_id

    def to_json(self) -> str:
        """Return the spec and its file count as JSON with sorted keys."""
        return json.dumps({**asdict(self), "num_images": self.num_images}, sort_keys=True)


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


def _rng(spec: SyntheticSpec, *key: int) -> np.random.Generator:
    """Return a generator that depends on the seed and the key alone."""
    return np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key))


def _shots(spec: SyntheticSpec) -> Iterator[_Shot]:
    """Deal the pictures of every identity out to its cameras in turn.

    Yields:
        The pictures by identity; of a test identity, the first of each camera is its query.
    """
    seen_by = min(spec.num_cameras, spec.images_per_id - 2)
    for pid in range(1, spec.num_train_ids + spec.num_test_ids + 1):
        for image in range(spec.images_per_id):
            camera = (pid + image % seen_by) % spec.num_cameras + 1
            subset = QUERY_DIR if image < seen_by else GALLERY_DIR
            yield _Shot(TRAIN_DIR if pid <= spec.num_train_ids else subset, pid, camera, image)


def _write_image(
    path: Path, spec: SyntheticSpec, shot: _Shot, identity: Identity, camera: Camera
) -> None:
    """Draw one picture and write it as JPEG."""
    rng = _rng(spec, _IMAGE_KEY, shot.pid, shot.image)
    picture = draw_pedestrian(identity, camera, rng, height=spec.height, width=spec.width)
    # imencode, not imwrite: it takes any path and its failure is not silent
    done, data = cv2.imencode(
        ".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise OSError(f"OpenCV could not encode {path} as JPEG; check its installation")
    path.write_bytes(data.tobytes())


def _write_dataset(folder: Path, spec: SyntheticSpec, *, progress: bool) -> None:
    """Write all pictures and, last, the spec that vouches for them."""
    for subset in _SUBSETS:
        (folder / subset).mkdir(parents=True)
    cameras = [sample_camera(_rng(spec, _CAMERA_KEY, index)) for index in range(spec.num_cameras)]
    shots = tqdm(
        _shots(spec),
        desc=DATASET_NAME,
        total=spec.num_images,
        unit="image",
        disable=None if progress else True,
    )
    for shot in shots:
        identity = sample_identity(_rng(spec, _IDENTITY_KEY, shot.pid))
        _write_image(folder / shot.path, spec, shot, identity, cameras[shot.camera - 1])
    (folder / _SPEC_FILE).write_text(spec.to_json() + "\n", encoding="utf-8")


def _read_spec(folder: Path) -> SyntheticSpec | None:
    """Return the spec of a complete dataset, or None if the folder holds none."""
    try:
        stored = json.loads((folder / _SPEC_FILE).read_text(encoding="utf-8"))
        spec = SyntheticSpec(**{field.name: stored[field.name] for field in fields(SyntheticSpec)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    count = sum(1 for subset in _SUBSETS for _ in (folder / subset).glob("*.jpg"))
    return spec if count == spec.num_images else None


def _choose_folder(root: Path, spec: SyntheticSpec) -> Path:
    """Return the folder of the spec: the plain one unless another spec lives there."""
    base = root / DATASET_NAME
    variant = base / hashlib.sha256(spec.to_json().encode()).hexdigest()[:8]
    stored = _read_spec(base)
    if stored is None:
        # a broken dataset is cleared, but not under the feet of complete variants inside it
        return variant if any(base.glob(f"*/{_SPEC_FILE}")) else base
    return base if stored == spec else variant


def _discard(folder: Path, root: Path) -> None:
    """Remove an unfinished dataset, if that is what the folder holds.

    Raises:
        FileExistsError: If the folder holds anything that :func:`generate` does not write.
    """
    # existence first: a folder that appears between the two questions is complete
    if not folder.exists() or _read_spec(folder) is not None:
        return
    ours = {*_SUBSETS, _SPEC_FILE}
    foreign = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in ours and not entry.name.startswith(_TEMPORARY_PREFIX)
    )
    if foreign:
        raise FileExistsError(
            f"{folder} must be absent or a synthetic dataset, but it has no valid {_SPEC_FILE} "
            f"and holds {foreign[:3]}; move it away or choose another root"
        )
    trash = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=root))
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.rename(trash / "data")
    shutil.rmtree(trash)


def _sweep(parent: Path) -> None:
    """Remove temporary directories whose writer was killed."""
    for leftover in parent.glob(f"{_TEMPORARY_PREFIX}*"):
        try:
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.glob("*/*")))
        except OSError:  # its writer has just finished
            continue
        if time.time() - newest > _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _publish(finished: Path, root: Path, spec: SyntheticSpec) -> Path:
    """Rename a finished dataset into place, unless another process was faster."""
    while True:
        folder = _choose_folder(root, spec)
        if _read_spec(folder) == spec:
            return folder
        _discard(folder, root)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            finished.rename(folder)
        except OSError:
            if _read_spec(folder) is None:
                raise
        else:
            return folder


def generate(
    root: str | Path, spec: SyntheticSpec = SyntheticSpec(), *, progress: bool = True
) -> Path:
    """Write the dataset once below ``root`` and return its folder.

    The folder is ``<root>/synthetic_pedestrians``, or, where a dataset of another spec lives
    there, a subfolder named by the first 8 hexadecimal digits of the spec's SHA-256. It appears
    complete or not at all: pictures are written to a temporary directory, ``spec.json`` last,
    and the whole is renamed into place. An unfinished dataset is removed and redone; processes
    that generate at the same time do the work twice and keep one result.

    Args:
        root: Directory of datasets; made if absent.
        spec: What to draw.
        progress: Whether to show a progress bar where the error stream is a terminal.

    Returns:
        Folder with ``bounding_box_train``, ``query``, ``bounding_box_test`` and ``spec.json``.

    Raises:
        FileExistsError: If the folder exists and holds files of another origin.
    """
    root = Path(root)
    folder = _choose_folder(root, spec)
    if _read_spec(folder) == spec:
        return folder
    _discard(folder, root)
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=root))
    try:
        # a subfolder, because mkdtemp's own permissions shut other users out
        _write_dataset(temporary / "data", spec, progress=progress)
        return _publish(temporary / "data", root, spec)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
