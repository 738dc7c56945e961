"""Draw a pedestrian's body: clothed limbs in 3-D, projected as a camera sees them.

Body coordinates are ``(lateral, down, forward)`` in body heights: the top of the head is at
``down = 0``, the soles at ``down = 1``. A yaw of 0 faces the camera, a quarter turn shows the
side, a half turn the back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from torchreid_spectral.data.appearance import Colour, Identity, Image, Point, shade

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


class Pen:
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
            (self.layer, shade(colour, 0.72), full),
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
        cv2.polylines(self.layer, outline, True, shade(colour, 0.72), 1, cv2.LINE_8, _SHIFT)
        return part


def _draw_legs(pen: Pen, who: Identity, swing: float) -> None:
    """Draw both legs, the farther first, then the seat or the skirt."""
    bare = who.lower_garment != "trousers"
    for side in sorted((-1.0, 1.0), key=lambda value: pen.nearness(value, 0.0)):
        angle, far = side * swing, pen.nearness(side, 0.0) < -0.3
        bend = 0.15 + 1.1 * max(0.0, -angle)
        hip = (0.052 * side * who.build, 0.50, 0.0)
        knee = (hip[0], 0.50 + 0.235 * float(np.cos(angle)), 0.235 * float(np.sin(angle)))
        shin = (float(np.cos(angle - bend)), float(np.sin(angle - bend)))
        ankle = (hip[0], knee[1] + 0.225 * shin[0], knee[2] + 0.225 * shin[1])
        cloth = shade(who.lower, 0.82 if far else 1.0)
        skin = shade(who.skin, 0.85 if far else 1.0)
        pen.limb([knee, ankle], 0.062 * who.build, skin if bare else cloth)
        pen.limb([hip, knee], 0.092 * who.build, cloth)
        toe = (ankle[0], ankle[1] + 0.025, ankle[2] + 0.065)
        pen.limb([(ankle[0], ankle[1] + 0.02, ankle[2]), toe], 0.05, who.shoes)
    hem = (0.70, 0.13, 0.12) if who.lower_garment == "skirt" else (0.53, 0.095, 0.07)
    rows = [(0.42, 0.085, 0.06), (0.50, 0.098, 0.07), hem]
    pen.solid([(d, w * who.build, t * who.build) for d, w, t in rows], who.lower)


def _draw_pattern(pen: Pen, who: Identity, part: Image) -> None:
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


def _draw_torso(pen: Pen, who: Identity) -> None:
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


def _draw_arm(pen: Pen, who: Identity, side: float, angle: float) -> None:
    """Draw an arm with sleeve and hand."""
    reach = (0.145 * float(np.sin(angle)), 0.145 * float(np.cos(angle)))
    shoulder = (0.112 * side * who.build, 0.205, 0.0)
    elbow = (0.138 * side * who.build, 0.205 + reach[1], reach[0])
    wrist = (elbow[0], elbow[1] + 0.13, elbow[2] + 0.04 + reach[0])
    sleeve = shade(who.upper, 0.84 if pen.nearness(side, 0.0) < -0.3 else 0.94)
    pen.limb([elbow, wrist], 0.042, who.skin)
    if who.garment != "t-shirt":
        stop = (wrist[0], wrist[1] - 0.025, wrist[2])
        pen.limb([shoulder, elbow, stop], 0.056 * who.build, sleeve)
    else:
        pen.limb([shoulder, elbow], 0.046, who.skin)
        middle = (0.125 * side * who.build, 0.205 + 0.6 * reach[1], 0.6 * reach[0])
        pen.limb([shoulder, middle], 0.062 * who.build, sleeve)


def _draw_head(pen: Pen, who: Identity) -> None:
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
        pen.limb([(0.0, 0.062, 0.03), (0.0, 0.07, 0.10)], 0.02, shade(who.hat_colour, 0.8))
    if who.hat == "sunhat":
        pen.solid([(0.052, 0.09, 0.09), (0.07, 0.11, 0.11)], who.hat_colour)


def _draw_hair(pen: Pen, who: Identity) -> None:
    """Draw the hair that falls down the back."""
    if who.hair_style == "long":
        rows = [(0.07, 0.058, 0.03), (0.15, 0.07, 0.035), (0.235, 0.055, 0.025)]
        pen.solid(rows, who.hair, (0.0, -0.035))
    elif who.hair_style == "ponytail":
        pen.limb([(0.0, 0.07, -0.055), (0.0, 0.21, -0.075)], 0.032, who.hair)


def _draw_bag(pen: Pen, who: Identity) -> None:
    """Draw the bag's body and a handbag's strap."""
    if who.bag == "backpack":
        rows = [(0.185, 0.06, 0.03), (0.21, 0.088, 0.05), (0.40, 0.092, 0.06), (0.43, 0.07, 0.05)]
        pen.solid(rows, who.bag_colour, (0.0, -0.115))
        pocket = [(0.32, 0.06, 0.03), (0.40, 0.06, 0.03)]
        if pen.cos < -0.3:
            pen.solid(pocket, shade(who.bag_colour, 0.85), (0.0, -0.13))
    elif who.bag != "none":
        side, top = who.bag_side * 0.145, 0.49 if who.bag == "handbag" else 0.46
        if who.bag == "handbag":
            pen.limb([(side * 0.8, 0.19, 0.0), (side, top, 0.0)], 0.016, who.bag_colour)
        rows = [(top, 0.035, 0.06), (top + 0.09, 0.045, 0.075), (top + 0.105, 0.03, 0.06)]
        pen.solid(rows, who.bag_colour, (side, 0.0))


def draw_figure(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
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
