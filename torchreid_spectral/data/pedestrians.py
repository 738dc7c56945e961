"""Draw pedestrians: a body of clothed limbs in 3-D, seen and degraded by a surveillance camera.

No real person is shown. An :class:`Identity` keeps its clothes wherever it is seen; a
:class:`Camera` has its own background, light, colour cast, viewpoints and sharpness; pose, crop
and occlusion are drawn anew for every picture.

Body coordinates are ``(lateral, down, forward)`` in body heights: the top of the head is at
``down = 0``, the soles at ``down = 1``. A yaw of 0 faces the camera, a quarter turn shows the
side, a half turn the back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Point = tuple[float, float, float]
Image = npt.NDArray[np.uint8]

_SKIN = ((236, 200, 176), (214, 168, 138), (170, 120, 88), (112, 76, 56))
_HAIR = ((26, 22, 22), (62, 42, 32), (112, 76, 46), (188, 152, 96), (140, 138, 136))
_UPPER = (
    (30, 30, 34), (64, 66, 72), (130, 132, 136), (224, 224, 220), (32, 42, 80), (62, 96, 156),
    (152, 184, 212), (164, 44, 46), (60, 96, 68), (116, 118, 74), (104, 76, 54), (204, 92, 138),
    (214, 180, 76),
)  # fmt: skip
_UPPER_ODDS = (16, 11, 10, 13, 10, 8, 6, 7, 5, 5, 4, 3, 3)
_LOWER = ((32, 32, 36), (40, 48, 78), (68, 88, 124), (128, 150, 180), (188, 170, 140),
          (112, 112, 116), (90, 70, 54))  # fmt: skip
_LOWER_ODDS = (28, 18, 22, 10, 9, 9, 4)
_SHOES = ((26, 26, 28), (228, 228, 226), (96, 66, 44))
_WALLS = ((172, 160, 142), (142, 96, 80), (122, 134, 142), (198, 194, 184))
_HEDGE = (68, 116, 54)
_GROUNDS = ((150, 146, 140), (98, 98, 100), (178, 164, 142), (108, 126, 82), (196, 192, 186))
_OVERSAMPLING = 2
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Identity:
    """What a person keeps in every picture; colours are RGB, 0 to 255.

    Attributes:
        height: Body height relative to the mean.
        build: Body width relative to the mean.
        skin: Colour of face, hands and bare legs.
        hair: Colour of the hair.
        hair_style: ``bald``, ``short``, ``long`` or ``ponytail``.
        garment: ``t-shirt``, ``jumper`` or ``coat``.
        upper: Main colour of the upper garment.
        upper_second: Colour of its pattern.
        pattern: ``plain``, ``stripes``, ``checks``, ``two-tone`` or ``logo`` (on the chest).
        lower_garment: ``trousers``, ``shorts`` or ``skirt``.
        lower: Colour of the lower garment.
        shoes: Colour of the shoes.
        bag: ``none``, ``backpack``, ``handbag`` or ``messenger``.
        bag_colour: Colour of the bag.
        bag_side: Side on which a bag hangs: -1.0 or 1.0.
        hat: ``none``, ``cap``, ``beanie`` or ``sunhat``.
        hat_colour: Colour of the hat.
    """

    height: float
    build: float
    skin: Colour
    hair: Colour
    hair_style: str
    garment: str
    upper: Colour
    upper_second: Colour
    pattern: str
    lower_garment: str
    lower: Colour
    shoes: Colour
    bag: str
    bag_colour: Colour
    bag_side: float
    hat: str
    hat_colour: Colour


@dataclass(frozen=True)
class Camera:
    """What all pictures of one camera share.

    Attributes:
        wall: Colour above the horizon.
        texture: ``bricks``, ``windows``, ``hedge`` or ``panels``.
        ground: Colour below the horizon.
        horizon: Height of the horizon in the picture, 0 (top) to 1.
        light: Side from which light falls, -1.0 (left) to 1.0.
        brightness: Factor of all channels.
        gamma: Exponent of intensities; above 1 darkens.
        cast: Factors of red, green and blue.
        views: Probabilities of a front, side and back view.
        scale: Body height of a mean person in picture heights.
        resolution: Sharpness kept, as a fraction of the picture's size.
        blur: Standard deviation of the blur, in pixels at a height of 128.
        noise: Standard deviation of the sensor noise, in grey levels.
        occlusion: Probability that something hides a part of the person.
    """

    wall: Colour
    texture: str
    ground: Colour
    horizon: float
    light: float
    brightness: float
    gamma: float
    cast: tuple[float, float, float]
    views: tuple[float, float, float]
    scale: float
    resolution: float
    blur: float
    noise: float
    occlusion: float


def _pick(
    rng: np.random.Generator, choices: Sequence[Colour], odds: Sequence[int], jitter: int
) -> Colour:
    """Return a palette colour, each channel moved by at most ``jitter``."""
    weights = np.asarray(odds, dtype=np.float64)
    base = np.asarray(choices[int(rng.choice(len(choices), p=weights / weights.sum()))])
    red, green, blue = np.clip(base + rng.integers(-jitter, jitter + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def _choose(rng: np.random.Generator, **odds: int) -> str:
    """Return one of the names with the given odds; an underscore reads as a hyphen."""
    weights = np.asarray(list(odds.values()), dtype=np.float64)
    return list(odds)[int(rng.choice(len(odds), p=weights / weights.sum()))].replace("_", "-")


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw a person's looks; dark and plain clothes are common, as in a street.

    Args:
        rng: Source of randomness.

    Returns:
        The identity.
    """
    return Identity(
        height=float(rng.uniform(0.90, 1.08)),
        build=float(rng.uniform(0.86, 1.22)),
        skin=_pick(rng, _SKIN, (4, 4, 2, 1), 6),
        hair=_pick(rng, _HAIR, (6, 4, 3, 2, 1), 6),
        hair_style=_choose(rng, bald=1, short=8, long=5, ponytail=3),
        garment=_choose(rng, t_shirt=8, jumper=8, coat=3),
        upper=_pick(rng, _UPPER, _UPPER_ODDS, 10),
        upper_second=_pick(rng, _UPPER, _UPPER_ODDS, 10),
        pattern=_choose(rng, plain=7, stripes=2, checks=2, two_tone=2, logo=4),
        lower_garment=_choose(rng, trousers=11, shorts=5, skirt=3),
        lower=_pick(rng, _LOWER, _LOWER_ODDS, 10),
        shoes=_pick(rng, _SHOES, (3, 2, 1), 6),
        bag=_choose(rng, none=5, backpack=4, handbag=2, messenger=2),
        bag_colour=_pick(rng, _UPPER, _UPPER_ODDS, 10),
        bag_side=float(rng.choice((-1.0, 1.0))),
        hat=_choose(rng, none=12, cap=2, beanie=1, sunhat=1),
        hat_colour=_pick(rng, _UPPER, _UPPER_ODDS, 10),
    )


def sample_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera's place and optics.

    Args:
        rng: Source of randomness.

    Returns:
        The camera.
    """
    front, side, back = (float(p) for p in rng.dirichlet((2.0, 2.0, 2.0)))
    red, green, blue = (float(factor) for factor in rng.uniform(0.88, 1.12, 3))
    texture = _choose(rng, bricks=1, windows=1, hedge=1, panels=1)
    walls = (_HEDGE,) if texture == "hedge" else _WALLS
    return Camera(
        wall=_pick(rng, walls, (1,) * len(walls), 14),
        texture=texture,
        ground=_pick(rng, _GROUNDS, (1, 1, 1, 1, 1), 14),
        horizon=float(rng.uniform(0.30, 0.62)),
        light=float(rng.uniform(-1.0, 1.0)),
        brightness=float(rng.uniform(0.78, 1.18)),
        gamma=float(rng.uniform(0.82, 1.25)),
        cast=(red, green, blue),
        views=(front, side, back),
        scale=float(rng.uniform(0.80, 0.92)),
        resolution=float(rng.uniform(0.50, 1.0)),
        blur=float(rng.uniform(0.2, 0.9)),
        noise=float(rng.uniform(2.0, 8.0)),
        occlusion=float(rng.uniform(0.10, 0.30)),
    )


def _shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, each channel multiplied and clipped to 0..255."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


class _Pen:
    """Draws shapes given in body coordinates on an RGB layer and on its coverage mask."""

    def __init__(
        self, size: tuple[int, int], scale: float, origin: tuple[float, float], yaw: float
    ) -> None:
        self.layer: Image = np.zeros((*size, 3), dtype=np.uint8)
        self.mask: Image = np.zeros(size, dtype=np.uint8)
        self.scale, self.origin = scale, origin
        self.cos, self.sin = float(np.cos(yaw)), float(np.sin(yaw))

    def nearness(self, lateral: float, forward: float) -> float:
        """Say how far a point is in front of the body's axis, as the camera sees it."""
        return forward * self.cos - lateral * self.sin

    def girth(self, half_width: float, half_depth: float) -> float:
        """Return the apparent half width of an elliptic cross-section."""
        return float(np.hypot(half_width * self.cos, half_depth * self.sin))

    def pixels(self, points: Sequence[Point]) -> npt.NDArray[np.int32]:
        """Project points to fixed-point pixels, shape ``(N, 2)``."""
        lateral, down, forward = np.asarray(points, dtype=np.float64).T
        x = self.origin[0] + self.scale * (lateral * self.cos + forward * self.sin)
        y = self.origin[1] + self.scale * down
        return np.round(np.stack([x, y], axis=1) * 2**_SHIFT).astype(np.int32)

    def limb(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a thick line with a darker rim, which tells an arm from the chest behind it."""
        line = [self.pixels(points)]
        full = max(1, round(width * self.scale))
        for canvas, paint, thickness in (
            (self.mask, 255, full),
            (self.layer, _shade(colour, 0.72), full),
            (self.layer, colour, max(1, full - 2)),
        ):
            cv2.polylines(canvas, line, False, paint, thickness, cv2.LINE_8, _SHIFT)

    def ball(
        self, centre: Point, half_width: float, half_height: float, colour: Colour, *, dome: bool
    ) -> None:
        """Fill an upright ellipse, or with ``dome`` its upper half."""
        x, y = (int(value) for value in self.pixels([centre])[0])
        axes = tuple(round(h * self.scale * 2**_SHIFT) for h in (half_width, half_height))
        for canvas, paint in ((self.mask, 255), (self.layer, colour)):
            start = 180 if dome else 0
            cv2.ellipse(canvas, (x, y), axes, 0, start, 360, paint, -1, cv2.LINE_8, _SHIFT)

    def solid(
        self, rows: Sequence[Point], colour: Colour, centre: tuple[float, float] = (0.0, 0.0)
    ) -> Image:
        """Fill a body of elliptic cross-sections ``(down, half width, half depth)``.

        Returns:
            The mask of the body, shape ``(height, width)``.
        """
        middle = self.pixels([(centre[0], down, centre[1]) for down, _, _ in rows])
        reach = [self.girth(width, depth) * self.scale * 2**_SHIFT for _, width, depth in rows]
        offset = np.stack([np.round(reach), np.zeros(len(rows))], axis=1).astype(np.int32)
        outline = [np.concatenate([middle - offset, (middle + offset)[::-1]])]
        part: Image = np.zeros_like(self.mask)
        for canvas, paint in ((part, 255), (self.mask, 255), (self.layer, colour)):
            cv2.fillPoly(canvas, outline, paint, cv2.LINE_8, _SHIFT)
        cv2.polylines(self.layer, outline, True, _shade(colour, 0.72), 1, cv2.LINE_8, _SHIFT)
        return part


def _draw_legs(pen: _Pen, who: Identity, swing: float) -> None:
    """Draw both legs, the farther first, then the seat or the skirt."""
    bare = who.lower_garment != "trousers"
    for side in sorted((-1.0, 1.0), key=lambda value: pen.nearness(value, 0.0)):
        angle, far = side * swing, pen.nearness(side, 0.0) < -0.3
        bend = 0.15 + 1.1 * max(0.0, -angle)
        hip = (0.052 * side * who.build, 0.50, 0.0)
        knee = (hip[0], 0.50 + 0.235 * float(np.cos(angle)), 0.235 * float(np.sin(angle)))
        shin = (float(np.cos(angle - bend)), float(np.sin(angle - bend)))
        ankle = (hip[0], knee[1] + 0.225 * shin[0], knee[2] + 0.225 * shin[1])
        cloth = _shade(who.lower, 0.82 if far else 1.0)
        skin = _shade(who.skin, 0.85 if far else 1.0)
        pen.limb([knee, ankle], 0.062 * who.build, skin if bare else cloth)
        pen.limb([hip, knee], 0.092 * who.build, cloth)
        toe = (ankle[0], ankle[1] + 0.025, ankle[2] + 0.065)
        pen.limb([(ankle[0], ankle[1] + 0.02, ankle[2]), toe], 0.05, who.shoes)
    hem = (0.70, 0.13, 0.12) if who.lower_garment == "skirt" else (0.53, 0.095, 0.07)
    rows = [(0.42, 0.085, 0.06), (0.50, 0.098, 0.07), hem]
    pen.solid([(d, w * who.build, t * who.build) for d, w, t in rows], who.lower)


def _draw_pattern(pen: _Pen, who: Identity, part: Image) -> None:
    """Recolour the upper garment's pixels with its pattern."""
    rows, columns = np.nonzero(part)
    down = (rows - pen.origin[1]) / pen.scale
    across = (columns - pen.origin[0]) / pen.scale
    horizontal, vertical = (down * 18.0) % 1.0 < 0.45, (across * 18.0 + 0.25) % 1.0 < 0.45
    front = (np.abs(down - 0.30) < 0.04) & (np.abs(across - 0.075 * pen.sin) < 0.055 * pen.cos)
    chosen = {
        "stripes": horizontal,
        "checks": horizontal ^ vertical,
        "two-tone": down > 0.34,
        "logo": front,
        "plain": np.zeros_like(horizontal),
    }[who.pattern]
    pen.layer[rows[chosen], columns[chosen]] = who.upper_second


def _draw_torso(pen: _Pen, who: Identity) -> None:
    """Draw neck and upper garment with its pattern, and the straps that cross it."""
    pen.limb([(0.0, 0.10, 0.0), (0.0, 0.18, 0.0)], 0.06, who.skin)
    rows = [(0.165, 0.045, 0.045), (0.19, 0.115, 0.055), (0.29, 0.108, 0.075),
            (0.40, 0.092, 0.068), (0.50, 0.102, 0.074)]  # fmt: skip
    if who.garment == "coat":
        rows.append((0.66, 0.125, 0.095))
    part = pen.solid([(d, w * who.build, t * who.build) for d, w, t in rows], who.upper)
    _draw_pattern(pen, who, part)
    chest = 0.07 * who.build
    if who.bag == "backpack" and pen.cos > 0.15:
        for side in (-0.065, 0.065):
            pen.limb([(side, 0.18, chest), (side, 0.36, chest)], 0.022, who.bag_colour)
    if who.bag == "messenger":
        depth = chest if pen.cos > 0.0 else -chest
        strap = [(-0.08 * who.bag_side, 0.18, depth), (0.10 * who.bag_side, 0.48, depth)]
        pen.limb(strap, 0.02, who.bag_colour)


def _draw_arm(pen: _Pen, who: Identity, side: float, angle: float) -> None:
    """Draw an arm with sleeve and hand."""
    reach = (0.145 * float(np.sin(angle)), 0.145 * float(np.cos(angle)))
    shoulder = (0.112 * side * who.build, 0.205, 0.0)
    elbow = (0.138 * side * who.build, 0.205 + reach[1], reach[0])
    wrist = (elbow[0], elbow[1] + 0.13, elbow[2] + 0.04 + reach[0])
    sleeve = _shade(who.upper, 0.84 if pen.nearness(side, 0.0) < -0.3 else 0.94)
    pen.limb([elbow, wrist], 0.042, who.skin)
    if who.garment != "t-shirt":
        stop = (wrist[0], wrist[1] - 0.025, wrist[2])
        pen.limb([shoulder, elbow, stop], 0.056 * who.build, sleeve)
    else:
        pen.limb([shoulder, elbow], 0.046, who.skin)
        middle = (0.125 * side * who.build, 0.205 + 0.6 * reach[1], 0.6 * reach[0])
        pen.limb([shoulder, middle], 0.062 * who.build, sleeve)


def _draw_head(pen: _Pen, who: Identity) -> None:
    """Draw hair, face and hat."""
    hair = who.skin if who.hair_style == "bald" else who.hair
    pen.ball((0.0, 0.072, -0.008), 0.056, 0.07, hair, dome=False)
    if pen.cos > -0.35:
        narrow = 0.036 + 0.012 * abs(pen.cos)
        pen.ball((0.0, 0.088, 0.024), narrow, 0.056, who.skin, dome=False)
    if who.hat == "none":
        return
    rise = 0.082 if who.hat == "beanie" else 0.07
    pen.ball((0.0, 0.066, 0.0), 0.062, rise, who.hat_colour, dome=True)
    if who.hat == "cap" and pen.cos > -0.35:
        pen.limb([(0.0, 0.062, 0.03), (0.0, 0.07, 0.10)], 0.02, _shade(who.hat_colour, 0.8))
    if who.hat == "sunhat":
        pen.solid([(0.052, 0.09, 0.09), (0.07, 0.11, 0.11)], who.hat_colour)


def _draw_hair(pen: _Pen, who: Identity) -> None:
    """Draw the hair that falls down the back."""
    if who.hair_style == "long":
        rows = [(0.07, 0.058, 0.03), (0.15, 0.07, 0.035), (0.235, 0.055, 0.025)]
        pen.solid(rows, who.hair, (0.0, -0.035))
    elif who.hair_style == "ponytail":
        pen.limb([(0.0, 0.07, -0.055), (0.0, 0.21, -0.075)], 0.032, who.hair)


def _draw_bag(pen: _Pen, who: Identity) -> None:
    """Draw the bag's body and a handbag's strap."""
    if who.bag == "backpack":
        rows = [(0.185, 0.06, 0.03), (0.21, 0.088, 0.05), (0.40, 0.092, 0.06), (0.43, 0.07, 0.05)]
        pen.solid(rows, who.bag_colour, (0.0, -0.115))
        pocket = [(0.32, 0.06, 0.03), (0.40, 0.06, 0.03)]
        if pen.cos < -0.3:
            pen.solid(pocket, _shade(who.bag_colour, 0.85), (0.0, -0.13))
    elif who.bag != "none":
        side, top = who.bag_side * 0.145, 0.49 if who.bag == "handbag" else 0.46
        if who.bag == "handbag":
            pen.limb([(side * 0.8, 0.19, 0.0), (side, top, 0.0)], 0.016, who.bag_colour)
        rows = [(top, 0.035, 0.06), (top + 0.09, 0.045, 0.075), (top + 0.105, 0.03, 0.06)]
        pen.solid(rows, who.bag_colour, (side, 0.0))


def _draw_figure(pen: _Pen, who: Identity, rng: np.random.Generator) -> None:
    """Draw the whole person in a random phase of walking, the far parts first."""
    swing = float(rng.uniform(0.1, 0.42) * rng.choice((-1.0, 1.0)))
    _draw_legs(pen, who, swing)
    bag = (0.0, -0.115) if who.bag == "backpack" else (who.bag_side * 0.145, 0.02)
    parts: list[tuple[float, Callable[[], None]]] = [
        (0.0, partial(_draw_torso, pen, who)),
        (0.001, partial(_draw_head, pen, who)),
        (pen.nearness(0.0, -0.05), partial(_draw_hair, pen, who)),
        (pen.nearness(*bag), partial(_draw_bag, pen, who)),
    ]
    for side in (-1.0, 1.0):
        depth = pen.nearness(0.11 * side, 0.0)
        parts.append((depth, partial(_draw_arm, pen, who, side, -side * swing)))
    for _, draw in sorted(parts, key=lambda part: part[0]):
        draw()


def _draw_background(
    camera: Camera, rng: np.random.Generator, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Draw wall and ground of the camera, shifted as if the person stood elsewhere."""
    height, width = size
    image: Image = np.empty((height, width, 3), dtype=np.uint8)
    horizon = int(height * np.clip(camera.horizon + rng.normal(0.0, 0.04), 0.1, 0.9))
    image[:horizon], image[horizon:] = camera.wall, camera.ground
    _draw_wall(camera, rng, image[:horizon])
    joint, pitch = _shade(camera.ground, 0.85), height // 12
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
    dark, unit = _shade(camera.wall, 0.72), max(4, width // 8)
    left, top = int(rng.integers(0, 4 * unit)), int(rng.integers(0, unit))
    if camera.texture == "bricks":
        for row, y in enumerate(range(-top, height, unit // 2)):
            cv2.line(wall, (0, y), (width, y), dark, 1)
            for x in range(-left + (row % 2) * unit // 2, width, unit):
                cv2.line(wall, (x, y), (x, y + unit // 2), dark, 1)
    elif camera.texture == "hedge":
        for x, y in zip(rng.integers(0, width, 90), rng.integers(0, height + 1, 90)):
            leaf = _shade(camera.wall, float(rng.uniform(0.6, 1.25)))
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
    image: npt.NDArray[np.float32], pen: _Pen, camera: Camera, rng: np.random.Generator
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
) -> _Pen:
    """Return a pen for the person with the detector's errors of size and position."""
    height, width = size
    scale = camera.scale * who.height * float(rng.normal(1.0, 0.05)) * height
    x = (0.5 + shift + float(rng.normal(0.0, 0.05))) * width
    y = 0.5 * height - 0.5 * scale + float(rng.normal(0.0, 0.025)) * height
    return _Pen(size, scale, (x, y), _sample_yaw(camera, rng))


def _occlude(image: npt.NDArray[np.float32], camera: Camera, rng: np.random.Generator) -> None:
    """Hide a part of the picture behind a bar, a car or a passer-by, in place."""
    height, width = image.shape[:2]
    kind = _choose(rng, bar=2, car=2, person=3)
    paint = _shade(_pick(rng, _UPPER, _UPPER_ODDS, 20), 1.0)
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
        _draw_figure(pen, who, rng)
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
    """
    if min(height, width) < 16:
        raise ValueError(
            f"a pedestrian needs at least 16 x 16 pixels, got height={height}, width={width}; "
            "use 128 x 64 or larger"
        )
    size = (height * _OVERSAMPLING, width * _OVERSAMPLING)
    image = _draw_background(camera, rng, size)
    pen = _place(camera, identity, rng, size, 0.0)
    _draw_figure(pen, identity, rng)
    _blend(image, pen, camera, rng)
    if rng.random() < camera.occlusion:
        _occlude(image, camera, rng)
    return _expose(image, camera, rng, (height, width))
