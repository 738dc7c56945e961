"""What the embedded datasets share: persons, cameras, who is seen where, and checks of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from torchreid_spectral.data.appearance import (
    Camera,
    Identity,
    Image,
    sample_camera,
    sample_identity,
)

__all__ = [
    "check_numbers",
    "check_protocol",
    "deal",
    "keyed_rng",
    "sample_cameras",
    "sample_person",
    "write_jpeg",
]

_JPEG_QUALITY = 92
_CAMERA_KEY, _IDENTITY_KEY = 0, 1
_MAX_IDS = 1501
_MAX_CAMERAS = 6


def check_numbers(spec: Any, lowest: Mapping[str, int]) -> None:  # noqa: ANN401
    """Check that values are whole numbers and large enough.

    Args:
        spec: Has an attribute for each name.
        lowest: Name to least value.

    Raises:
        TypeError: If a value is no integer.
        ValueError: If a value is too small.
    """
    for name, least in lowest.items():
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {value!r}; pass a whole number")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}; raise it")


def check_protocol(spec: Any, per_id: str, things: str) -> None:  # noqa: ANN401
    """Check that identities and cameras fit the file names and every query has a match.

    Args:
        spec: Has ``num_cameras``, ``num_train_ids``, ``num_test_ids`` and ``per_id``.
        per_id: Attribute that counts what is dealt out to the cameras of an identity.
        things: What it counts, for the message.

    Raises:
        ValueError: If they do not fit.
    """
    count = getattr(spec, per_id)
    if spec.num_cameras > _MAX_CAMERAS:
        raise ValueError(
            f"num_cameras must be 2 to {_MAX_CAMERAS}, got {spec.num_cameras}: the layout's "
            "names carry one camera digit and torchreid accepts 1 to 6; use fewer cameras"
        )
    if count < spec.num_cameras:
        raise ValueError(
            f"{per_id} must be at least num_cameras, got {count} {things} "
            f"for {spec.num_cameras} cameras; raise {per_id} or use fewer cameras"
        )
    if spec.num_train_ids + spec.num_test_ids > _MAX_IDS:
        raise ValueError(
            f"num_train_ids + num_test_ids must be at most {_MAX_IDS}, the largest identity "
            f"torchreid accepts in this layout, got {spec.num_train_ids} + "
            f"{spec.num_test_ids}; use fewer identities"
        )


def deal(spec: Any, pid: int, count: int) -> Iterator[tuple[int, bool]]:  # noqa: ANN401
    """Deal the pictures or tracklets of an identity out to its cameras in turn.

    With ``num_cameras + 2`` or more everybody is seen by all cameras; with fewer, by
    ``count - 2`` of them, which leaves every query a match in another camera.

    Args:
        spec: Has ``num_cameras``.
        pid: Identity from 1.
        count: How many there are of it.

    Yields:
        Camera from 1, and whether it is the first of its camera: the query of a test identity.
    """
    seen_by = min(spec.num_cameras, count - 2)
    for index in range(count):
        yield (pid + index % seen_by) % spec.num_cameras + 1, index < seen_by


def keyed_rng(seed: int, *key: int) -> np.random.Generator:
    """Give a generator that depends on the seed and the key alone.

    Args:
        seed: Seed of the dataset.
        *key: What it is for.

    Returns:
        The generator, in its first state.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def sample_cameras(seed: int, count: int) -> list[Camera]:
    """Give the cameras of a dataset.

    Args:
        seed: Seed of the dataset.
        count: How many.

    Returns:
        The cameras; image and video datasets of one seed have the same.
    """
    return [sample_camera(keyed_rng(seed, _CAMERA_KEY, index)) for index in range(count)]


def sample_person(seed: int, pid: int) -> Identity:
    """Give a person of a dataset.

    Args:
        seed: Seed of the dataset.
        pid: Identity from 1.

    Returns:
        The person; image and video datasets of one seed have the same.
    """
    return sample_identity(keyed_rng(seed, _IDENTITY_KEY, pid))


def write_jpeg(path: Path, picture: Image) -> None:
    """Write an RGB picture as JPEG.

    Args:
        path: Where.
        picture: ``(height, width, 3)``.

    Raises:
        OSError: If OpenCV cannot encode it.
    """
    # imencode, not imwrite: it takes any path and its failure is not silent
    done, data = cv2.imencode(
        ".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise OSError(f"OpenCV could not encode {path} as JPEG; check its installation")
    path.write_bytes(data.tobytes())
