"""Write a video re-identification dataset of drawn pedestrians in MARS's layout.

Source of the layout: L. Zheng et al., *MARS: A Video Benchmark for Large-Scale Person
Re-identification*, ECCV 2016; read by torchreid's own ``Mars``.

A tracklet is one walk past one camera: background, viewpoint and crop stay, the phase of walking,
the place in the crop and the exposure change from frame to frame, and something may pass in front
for a run of frames. Persons and cameras are those of
:mod:`~torchreid_spectral.data.synthetic` with the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from torchreid_spectral.data.appearance import Camera, Identity, Image
from torchreid_spectral.data.pedestrians import draw_frame
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

__all__ = ["STORE", "SyntheticVideoSpec", "draw_tracklet", "generate_video"]

DATASET_NAME = "synthetic_pedestrians_video"
TRAIN_DIR, TEST_DIR, INFO_DIR = "bbox_train", "bbox_test", "info"
_TRACKLET_KEY = 3
_SCENE, _POSE, _OCCLUDER = 0, 1, 2
_LOWEST = {
    "num_train_ids": 2,
    "num_test_ids": 2,
    "num_cameras": 2,
    "tracklets_per_id": 4,
    "min_frames": 1,
    "max_frames": 1,
    "height": 16,
    "width": 16,
    "seed": 0,
    "version": 1,
}


@dataclass(frozen=True)
class SyntheticVideoSpec:
    """Everything the dataset depends on.

    Attributes:
        num_train_ids: Identities of the training set, at least 2.
        num_test_ids: Identities of query and gallery, at least 2, none of them trained on.
        num_cameras: Cameras, 2 to 6.
        tracklets_per_id: Tracklets of an identity, at least 4 and at least ``num_cameras``.
        min_frames: Frames of the shortest tracklets.
        max_frames: Frames of the longest tracklets, at most 999.
        height: Height of a frame in pixels, at least 16.
        width: Width of a frame in pixels, at least 16.
        seed: Seed of identities, cameras and frames, at least 0.
        version: Version of the drawing; raised whenever the same seed draws other frames.

    Raises:
        TypeError: If a value is no integer.
        ValueError: If a value is out of range.
    """  # noqa: DOC502

    num_train_ids: int = 60
    num_test_ids: int = 60
    num_cameras: int = 4
    tracklets_per_id: int = 8
    min_frames: int = 3
    max_frames: int = 8
    height: int = 128
    width: int = 64
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, _LOWEST)
        check_protocol(self, "tracklets_per_id", "tracklets")
        if not self.min_frames <= self.max_frames <= 999:
            raise ValueError(
                "max_frames must be min_frames to 999 (three digits in the names), got "
                f"{self.min_frames} to {self.max_frames}; change one of them"
            )

    @property
    def num_images(self) -> int:
        """Number of frames in all tracklets."""
        return sum(tracklet.length for tracklet in tracklets(self))

    def to_json(self) -> str:
        """Return the spec and its file count as JSON with sorted keys."""
        return json.dumps({**asdict(self), "num_images": self.num_images}, sort_keys=True)


STORE = Store(DATASET_NAME, SyntheticVideoSpec, (TRAIN_DIR, TEST_DIR, INFO_DIR), "*/*.jpg")


class Tracklet(NamedTuple):
    """One tracklet to draw: person and camera count from 1 as in file names."""

    pid: int
    camera: int
    number: int
    length: int
    subset: str
    is_query: bool

    @property
    def names(self) -> list[str]:
        """File names of the frames, in order."""
        head = f"{self.pid:04d}C{self.camera}T{self.number + 1:04d}"
        return [f"{head}F{frame + 1:03d}.jpg" for frame in range(self.length)]


def tracklets(spec: SyntheticVideoSpec) -> Iterator[Tracklet]:
    """List the tracklets of a dataset by identity.

    Args:
        spec: What to draw.

    Yields:
        The tracklets; of a test identity, the first of each camera is its query.
    """
    span = spec.max_frames - spec.min_frames + 1
    for pid in range(1, spec.num_train_ids + spec.num_test_ids + 1):
        subset = TRAIN_DIR if pid <= spec.num_train_ids else TEST_DIR
        for number, (camera, first) in enumerate(deal(spec, pid, spec.tracklets_per_id)):
            length = spec.min_frames + (7 * pid + 3 * number) % span
            yield Tracklet(pid, camera, number, length, subset, first and subset == TEST_DIR)


def draw_tracklet(
    spec: SyntheticVideoSpec, tracklet: Tracklet, identity: Identity, camera: Camera
) -> Iterator[Image]:
    """Draw the frames of a tracklet.

    Args:
        spec: Gives seed and size.
        tracklet: Which one.
        identity: Who is seen.
        camera: By which camera.

    Yields:
        RGB pictures ``(height, width, 3)``, in order.
    """
    key = (_TRACKLET_KEY, tracklet.pid, tracklet.number)
    walk = keyed_rng(spec.seed, *key)
    drift, jitter = walk.normal(0.0, 0.08), walk.normal(0.0, 0.02, tracklet.length)
    hidden = _hidden_frames(camera, walk, tracklet.length)
    for frame in range(tracklet.length):
        progress = (frame + 0.5) / tracklet.length - 0.5
        yield draw_frame(
            identity,
            camera,
            scene=keyed_rng(spec.seed, *key, _SCENE),
            pose=keyed_rng(spec.seed, *key, _POSE, frame),
            occluder=keyed_rng(spec.seed, *key, _OCCLUDER) if frame in hidden else None,
            shift=float(drift * progress + jitter[frame]),
            height=spec.height,
            width=spec.width,
        )


def _hidden_frames(camera: Camera, rng: np.random.Generator, length: int) -> range:
    """Choose the run of frames in which something passes before the person, at most half."""
    passes, share, start = rng.random() < 2 * camera.occlusion, rng.random(), rng.random()
    run = int(share * (length // 2 + 1)) if passes else 0
    first = int(start * (length - run + 1))
    return range(first, first + run)


def _write_index(folder: Path, spec: SyntheticVideoSpec) -> None:
    """Write MARS's lists: names of all frames, and of each tracklet first, last, pid, camera."""
    queries = []
    for subset, part in ((TRAIN_DIR, "train"), (TEST_DIR, "test")):
        names: list[str] = []
        rows = []
        for tracklet in tracklets(spec):
            if tracklet.subset != subset:
                continue
            names += tracklet.names
            last = len(names)
            rows.append((last - tracklet.length + 1, last, tracklet.pid, tracklet.camera))
            if tracklet.is_query:
                queries.append(len(rows))
        (folder / f"{part}_name.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        table = {f"track_{part}_info": np.array(rows, dtype=np.int32)}
        savemat(folder / f"tracks_{part}_info.mat", table)
    savemat(folder / "query_IDX.mat", {"query_IDX": np.array([queries], dtype=np.int32)})


def _write_dataset(folder: Path, spec: SyntheticVideoSpec, *, progress: bool) -> None:
    """Write all frames, the lists and, last, the spec that vouches for them."""
    cameras = sample_cameras(spec.seed, spec.num_cameras)
    (folder / INFO_DIR).mkdir(parents=True)
    _write_index(folder / INFO_DIR, spec)
    hidden = None if progress else True
    for tracklet in tqdm(list(tracklets(spec)), DATASET_NAME, unit="tracklet", disable=hidden):
        place = folder / tracklet.subset / f"{tracklet.pid:04d}"
        place.mkdir(parents=True, exist_ok=True)
        person = sample_person(spec.seed, tracklet.pid)
        frames = draw_tracklet(spec, tracklet, person, cameras[tracklet.camera - 1])
        for name, picture in zip(tracklet.names, frames):
            write_jpeg(place / name, picture)
    (folder / SPEC_FILE).write_text(spec.to_json() + "\n", encoding="utf-8")


def generate_video(
    root: str | Path, spec: SyntheticVideoSpec = SyntheticVideoSpec(), *, progress: bool = True
) -> Path:
    """Write the dataset once below ``root`` and return its folder.

    Args:
        root: Directory of datasets; made if absent.
        spec: What to draw.
        progress: Whether to show a progress bar where the error stream is a terminal.

    Returns:
        Folder with ``bbox_train``, ``bbox_test``, ``info`` and ``spec.json``; see
        :mod:`~torchreid_spectral.data.storage`.

    Raises:
        FileExistsError: If the folder exists and holds files of another origin.
    """  # noqa: DOC502
    return STORE.generate(
        Path(root), spec, lambda folder: _write_dataset(folder, spec, progress=progress)
    )
