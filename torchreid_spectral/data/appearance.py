"""What drawn pedestrians and cameras look like: palettes, their odds, and how they are sampled.

No real person is shown. An :class:`Identity` keeps its clothes wherever it is seen; a
:class:`Camera` has its own background, light, colour cast, viewpoints and sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Point = tuple[float, float, float]
Image = npt.NDArray[np.uint8]

_SKIN = ((236, 200, 176), (214, 168, 138), (170, 120, 88), (112, 76, 56))
_HAIR = ((26, 22, 22), (62, 42, 32), (112, 76, 46), (188, 152, 96), (140, 138, 136))
UPPER = (
    (30, 30, 34), (64, 66, 72), (130, 132, 136), (224, 224, 220), (32, 42, 80), (62, 96, 156),
    (152, 184, 212), (164, 44, 46), (60, 96, 68), (116, 118, 74), (104, 76, 54), (204, 92, 138),
    (214, 180, 76),
)  # fmt: skip
UPPER_ODDS = (16, 11, 10, 13, 10, 8, 6, 7, 5, 5, 4, 3, 3)
_LOWER = ((32, 32, 36), (40, 48, 78), (68, 88, 124), (128, 150, 180), (188, 170, 140),
          (112, 112, 116), (90, 70, 54))  # fmt: skip
_LOWER_ODDS = (28, 18, 22, 10, 9, 9, 4)
_SHOES = ((26, 26, 28), (228, 228, 226), (96, 66, 44))
_WALLS = ((172, 160, 142), (142, 96, 80), (122, 134, 142), (198, 194, 184))
HEDGE = (68, 116, 54)
_GROUNDS = ((150, 146, 140), (98, 98, 100), (178, 164, 142), (108, 126, 82), (196, 192, 186))


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


def pick(
    rng: np.random.Generator, choices: Sequence[Colour], odds: Sequence[int], jitter: int
) -> Colour:
    """Return a palette colour, each channel moved by at most ``jitter``."""
    weights = np.asarray(odds, dtype=np.float64)
    base = np.asarray(choices[int(rng.choice(len(choices), p=weights / weights.sum()))])
    red, green, blue = np.clip(base + rng.integers(-jitter, jitter + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def choose(rng: np.random.Generator, **odds: int) -> str:
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
        skin=pick(rng, _SKIN, (4, 4, 2, 1), 6),
        hair=pick(rng, _HAIR, (6, 4, 3, 2, 1), 6),
        hair_style=choose(rng, bald=1, short=8, long=5, ponytail=3),
        garment=choose(rng, t_shirt=8, jumper=8, coat=3),
        upper=pick(rng, UPPER, UPPER_ODDS, 10),
        upper_second=pick(rng, UPPER, UPPER_ODDS, 10),
        pattern=choose(rng, plain=7, stripes=2, checks=2, two_tone=2, logo=4),
        lower_garment=choose(rng, trousers=11, shorts=5, skirt=3),
        lower=pick(rng, _LOWER, _LOWER_ODDS, 10),
        shoes=pick(rng, _SHOES, (3, 2, 1), 6),
        bag=choose(rng, none=5, backpack=4, handbag=2, messenger=2),
        bag_colour=pick(rng, UPPER, UPPER_ODDS, 10),
        bag_side=float(rng.choice((-1.0, 1.0))),
        hat=choose(rng, none=12, cap=2, beanie=1, sunhat=1),
        hat_colour=pick(rng, UPPER, UPPER_ODDS, 10),
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
    texture = choose(rng, bricks=1, windows=1, hedge=1, panels=1)
    walls = (HEDGE,) if texture == "hedge" else _WALLS
    return Camera(
        wall=pick(rng, walls, (1,) * len(walls), 14),
        texture=texture,
        ground=pick(rng, _GROUNDS, (1, 1, 1, 1, 1), 14),
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


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, each channel multiplied and clipped to 0..255."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue
