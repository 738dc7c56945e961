"""Draw pedestrians as a surveillance camera sees them: scene, figure, occlusion, exposure.

Pose, crop and occlusion are drawn anew for every picture; see
:mod:`~torchreid_spectral.data.appearance` for what stays.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from torchreid_spectral.data.appearance import (
    UPPER,
    UPPER_ODDS,
    Camera,
    Identity,
    Image,
    choose,
    pick,
    sample_camera,
    sample_identity,
    shade,
)
from torchreid_spectral.data.figure import Pen, draw_figure

__all__ = [
    "Camera",
    "Identity",
    "draw_frame",
    "draw_pedestrian",
    "sample_camera",
    "sample_identity",
]

_OVERSAMPLING = 2


def _draw_background(
    camera: Camera, rng: np.random.Generator, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Draw wall and ground of the camera, shifted as if the person stood elsewhere."""
    height, width = size
    image: Image = np.empty((height, width, 3), dtype=np.uint8)
    horizon = int(height * np.clip(camera.horizon + rng.normal(0.0, 0.04), 0.1, 0.9))
    image[:horizon], image[horizon:] = camera.wall, camera.ground
    _draw_wall(camera, rng, image[:horizon])
    joint, pitch = shade(camera.ground, 0.85), height // 12
    vanish = int(rng.uniform(-0.5, 1.5) * width)
    for x in range(-6 * width, 7 * width, int(0.7 * width)):
        cv2.line(image[horizon:], (vanish, -height // 3), (x, height - horizon), joint, 1)
    for step in range(1, 8):
        y = horizon + int(pitch * (step**1.5) / 2.5)
        cv2.line(image, (0, y), (width, y), joint, 1)
    blotches = rng.normal(0.0, 1.0, (9, 5, 1)).astype(np.float32)
    relief = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    grain = rng.normal(0.0, 5.0, (height, width, 1)).astype(np.float32)
    return np.asarray(image * (1.0 + 0.07 * relief) + grain, dtype=np.float32)


def _draw_wall(camera: Camera, rng: np.random.Generator, wall: Image) -> None:
    """Draw bricks, windows, leaves or panels in place."""
    height, width = wall.shape[:2]
    dark, unit = shade(camera.wall, 0.72), max(4, width // 8)
    left, top = int(rng.integers(0, 4 * unit)), int(rng.integers(0, unit))
    if camera.texture == "bricks":
        for row, y in enumerate(range(-top, height, unit // 2)):
            cv2.line(wall, (0, y), (width, y), dark, 1)
            for x in range(-left + (row % 2) * unit // 2, width, unit):
                cv2.line(wall, (x, y), (x, y + unit // 2), dark, 1)
    elif camera.texture == "hedge":
        for x, y in zip(rng.integers(0, width, 90), rng.integers(0, height + 1, 90)):
            leaf = shade(camera.wall, float(rng.uniform(0.6, 1.25)))
            cv2.circle(wall, (int(x), int(y)), unit // 4, leaf, -1)
    else:
        pitch = 4 * unit if camera.texture == "windows" else 2 * unit
        for x in range(-left, width, pitch):
            cv2.line(wall, (x, 0), (x, height), dark, 2)
            if camera.texture == "windows":
                box = (x + unit // 2, -top), (x + 3 * unit, height * 2 // 3)
                cv2.rectangle(wall, *box, (92, 108, 120), -1)
                cv2.rectangle(wall, *box, (214, 214, 210), 2)


def _blend(
    image: npt.NDArray[np.float32], pen: Pen, camera: Camera, rng: np.random.Generator
) -> None:
    """Lay the lit figure and its shadow on the ground over the image, in place."""
    height, width = pen.mask.shape
    feet = (int(pen.origin[0] - camera.light * 6), int(pen.origin[1] + 0.985 * pen.scale))
    shadow = np.zeros_like(pen.mask)
    axes = (int(0.2 * pen.scale), int(0.03 * pen.scale))
    cv2.ellipse(shadow, feet, axes, 0, 0, 360, 110, -1)
    image *= 1.0 - cv2.GaussianBlur(shadow, (0, 0), 3.0)[..., None] / 255.0
    across = (np.arange(width) - pen.origin[0]) / (0.3 * pen.scale)
    light = 1.0 + 0.22 * camera.light * np.clip(across, -1.0, 1.0)
    folds = rng.normal(0.0, 0.09, (16, 8)).astype(np.float32)
    relief = cv2.resize(folds, (width, height), interpolation=cv2.INTER_CUBIC)
    lit = pen.layer * (light[None, :] + relief)[..., None]
    inside = pen.mask > 0
    image[inside] = lit[inside]


def _sample_yaw(camera: Camera, rng: np.random.Generator) -> float:
    """Draw a viewing angle in radians from the camera's front, side and back views."""
    centre = float(rng.choice((0.0, 0.5, 1.0), p=camera.views)) * np.pi
    return float((centre + rng.normal(0.0, 0.3)) * rng.choice((-1.0, 1.0)))


def _place(
    camera: Camera, who: Identity, rng: np.random.Generator, size: tuple[int, int], shift: float
) -> Pen:
    """Return a pen for the person with the detector's errors of size and position."""
    height, width = size
    scale = camera.scale * who.height * float(rng.normal(1.0, 0.05)) * height
    x = (0.5 + shift + float(rng.normal(0.0, 0.05))) * width
    y = 0.5 * height - 0.5 * scale + float(rng.normal(0.0, 0.025)) * height
    return Pen(size, scale, (x, y), _sample_yaw(camera, rng))


def _occlude(image: npt.NDArray[np.float32], camera: Camera, rng: np.random.Generator) -> None:
    """Hide a part of the picture behind a bar, a car or a passer-by, in place."""
    height, width = image.shape[:2]
    kind = choose(rng, bar=2, car=2, person=3)
    paint = shade(pick(rng, UPPER, UPPER_ODDS, 20), 1.0)
    if kind == "bar":
        x, half = int(rng.uniform(0.2, 0.8) * width), int(rng.uniform(0.03, 0.08) * width)
        cv2.rectangle(image, (x - half, 0), (x + half, height), paint, -1)
    elif kind == "car":
        top, left = int(rng.uniform(0.6, 0.8) * height), int(rng.uniform(-0.6, 0.4) * width)
        roof = np.array([[0, 9], [0.1, 2], [0.35, 0], [1.1, 0], [1.4, 2], [2, 2.5], [2, 9]])
        outline = (roof * (width, height * 0.05) + (left, top)).astype(np.int32)
        cv2.fillPoly(image, [outline], paint)
        glass = np.array([[0.2, 2], [0.4, 0.6], [1.05, 0.6], [1.3, 2]]) * (width, height * 0.05)
        cv2.fillPoly(image, [(glass + (left, top)).astype(np.int32)], (70, 84, 96))
    else:
        who = sample_identity(rng)
        shift = float(rng.choice((-1.0, 1.0)) * rng.uniform(0.32, 0.55))
        pen = _place(camera, who, rng, (height, width), shift)
        draw_figure(pen, who, rng)
        _blend(image, pen, camera, rng)


def _expose(
    image: npt.NDArray[np.float32], camera: Camera, rng: np.random.Generator, size: tuple[int, int]
) -> Image:
    """Scale to ``size`` and apply the camera's sharpness, colours and noise."""
    height, width = size
    small = (max(1, int(width * camera.resolution)), max(1, int(height * camera.resolution)))
    image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    image = cv2.GaussianBlur(image, (0, 0), camera.blur * height / 128)
    gain = np.asarray(camera.cast) * camera.brightness * rng.normal(1.0, 0.06)
    exposed = 255.0 * (np.clip(image, 0.0, 255.0) / 255.0) ** camera.gamma * gain
    exposed = exposed + rng.normal(0.0, camera.noise, image.shape)
    return np.clip(exposed, 0.0, 255.0).astype(np.uint8)


def draw_pedestrian(
    identity: Identity,
    camera: Camera,
    rng: np.random.Generator,
    *,
    height: int = 128,
    width: int = 64,
) -> Image:
    """Draw one detection of a person in a camera.

    Args:
        identity: Who is seen.
        camera: Where and how they are seen.
        rng: Source of pose, viewpoint, crop error, occlusion and noise.
        height: Height of the picture in pixels, at least 16.
        width: Width of the picture in pixels, at least 16.

    Returns:
        The RGB picture, shape ``(height, width, 3)``.

    Raises:
        ValueError: If the picture is smaller than 16 pixels in either direction.
    """  # noqa: DOC502
    image = _draw_person(identity, camera, rng, rng, (height, width), 0.0)
    if rng.random() < camera.occlusion:
        _occlude(image, camera, rng)
    return _expose(image, camera, rng, (height, width))


def draw_frame(
    identity: Identity,
    camera: Camera,
    *,
    scene: np.random.Generator,
    pose: np.random.Generator,
    occluder: np.random.Generator | None = None,
    shift: float = 0.0,
    height: int = 128,
    width: int = 64,
) -> Image:
    """Draw one frame of a tracklet: what stays and what changes have generators of their own.

    Args:
        identity: Who is seen.
        camera: Where and how they are seen.
        scene: Source of background, viewpoint and crop; in the same state for all frames.
        pose: Source of the frame's phase of walking, folds, exposure and noise.
        occluder: Source of what hides a part of the picture; nothing does if not given.
        shift: How far the person is beside the crop's middle, in widths.
        height: Height of the picture in pixels, at least 16.
        width: Width of the picture in pixels, at least 16.

    Returns:
        The RGB picture, shape ``(height, width, 3)``.

    Raises:
        ValueError: If the picture is smaller than 16 pixels in either direction.
    """  # noqa: DOC502
    image = _draw_person(identity, camera, scene, pose, (height, width), shift)
    if occluder is not None:
        _occlude(image, camera, occluder)
    return _expose(image, camera, pose, (height, width))


def _draw_person(
    identity: Identity,
    camera: Camera,
    scene: np.random.Generator,
    pose: np.random.Generator,
    size: tuple[int, int],
    shift: float,
) -> npt.NDArray[np.float32]:
    """Draw the person before the background, larger than ``size`` and not yet exposed."""
    height, width = size
    if min(height, width) < 16:
        raise ValueError(
            f"a pedestrian needs at least 16 x 16 pixels, got height={height}, width={width}; "
            "use 128 x 64 or larger"
        )
    drawn = (height * _OVERSAMPLING, width * _OVERSAMPLING)
    image = _draw_background(camera, scene, drawn)
    pen = _place(camera, identity, scene, drawn, shift)
    draw_figure(pen, identity, pose)
    _blend(image, pen, camera, pose)
    return image
