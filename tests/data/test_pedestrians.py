"""Drawn pedestrians: deterministic, theirs wherever they are seen, but not trivially so."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from torchreid_spectral.data import appearance, pedestrians
from torchreid_spectral.data.pedestrians import (
    Camera,
    Identity,
    draw_pedestrian,
    sample_camera,
    sample_identity,
)


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _clear(camera: Camera) -> Camera:
    """Return the camera without light, cast, blur, noise and occlusion, facing its people."""
    return replace(
        camera,
        light=0.0,
        brightness=1.0,
        gamma=1.0,
        cast=(1.0, 1.0, 1.0),
        views=(1.0, 0.0, 0.0),
        resolution=1.0,
        blur=0.2,
        noise=0.0,
        occlusion=0.0,
    )


def _difference(first: Identity, second: Identity, camera: Camera) -> float:
    """Return the mean absolute difference of two people, all else being equal."""
    pictures = [draw_pedestrian(who, camera, _rng(5)).astype(float) for who in (first, second)]
    return float(np.abs(pictures[0] - pictures[1]).mean())


@pytest.mark.parametrize(("height", "width"), [(128, 64), (256, 128), (16, 16), (64, 90)])
def test_picture_has_the_size_asked_for(height: int, width: int) -> None:
    picture = draw_pedestrian(
        sample_identity(_rng(0)), sample_camera(_rng(1)), _rng(2), height=height, width=width
    )
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5


@pytest.mark.parametrize(("height", "width"), [(15, 64), (128, 0)])
def test_too_small_a_picture_is_refused(height: int, width: int) -> None:
    who, camera = sample_identity(_rng(0)), sample_camera(_rng(1))
    with pytest.raises(ValueError, match=f"16 x 16 pixels, got height={height}, width={width}"):
        draw_pedestrian(who, camera, _rng(2), height=height, width=width)


def test_same_seeds_draw_the_same_picture() -> None:
    first, second = (
        draw_pedestrian(sample_identity(_rng(3)), sample_camera(_rng(4)), _rng(5))
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_every_seed_draws_another_person_camera_and_picture() -> None:
    assert len({sample_identity(_rng(seed)) for seed in range(50)}) == 50
    assert len({sample_camera(_rng(seed)) for seed in range(50)}) == 50
    who, camera = sample_identity(_rng(0)), sample_camera(_rng(1))
    assert len({draw_pedestrian(who, camera, _rng(seed)).tobytes() for seed in range(10)}) == 10


def test_identity_and_camera_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        sample_identity(_rng(0)).hat = "cap"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        sample_camera(_rng(0)).noise = 0.0  # type: ignore[misc]


def test_sampled_values_are_in_range() -> None:
    for seed in range(100):
        who, camera = sample_identity(_rng(seed)), sample_camera(_rng(seed))
        colours = (who.skin, who.hair, who.upper, who.upper_second, who.lower, who.shoes)
        for colour in (*colours, who.bag_colour, who.hat_colour, camera.wall, camera.ground):
            assert all(0 <= channel <= 255 for channel in colour)
        assert sum(camera.views) == pytest.approx(1.0)
        assert 0.0 <= camera.occlusion <= 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"upper": (200, 30, 30)},
        {"lower": (200, 30, 30)},
        {"pattern": "stripes"},
        {"pattern": "checks"},
        {"pattern": "two-tone"},
        {"pattern": "logo"},
        {"garment": "coat"},
        {"garment": "jumper"},
        {"lower_garment": "shorts"},
        {"lower_garment": "skirt"},
        {"hair_style": "long"},
        {"bag": "handbag"},
        {"bag": "messenger"},
        {"bag": "backpack"},
        {"hat": "cap"},
        {"hat": "beanie"},
        {"hat": "sunhat"},
        {"shoes": (228, 228, 226)},
        {"build": 1.2},
    ],
    ids=lambda change: "-".join(map(str, change.items())),
)
def test_every_attribute_is_seen(change: dict) -> None:
    plain = Identity(
        height=1.0,
        build=0.9,
        skin=(214, 168, 138),
        hair=(26, 22, 22),
        hair_style="short",
        garment="t-shirt",
        upper=(62, 96, 156),
        upper_second=(224, 224, 220),
        pattern="plain",
        lower_garment="trousers",
        lower=(32, 32, 36),
        shoes=(26, 26, 28),
        bag="none",
        bag_colour=(164, 44, 46),
        bag_side=1.0,
        hat="none",
        hat_colour=(214, 180, 76),
    )
    assert _difference(plain, replace(plain, **change), _clear(sample_camera(_rng(1)))) > 0.05


def test_views_show_what_they_should() -> None:
    """A logo is seen from the front, a backpack's red cloth mostly from the back."""
    camera = _clear(sample_camera(_rng(1)))
    back = replace(camera, views=(0.0, 0.0, 1.0))
    plain = replace(sample_identity(_rng(2)), bag="none", pattern="plain", garment="jumper")
    logo = replace(plain, pattern="logo", upper=(30, 30, 34), upper_second=(224, 224, 220))
    logoless = replace(logo, pattern="plain")
    bag = replace(plain, bag="backpack", bag_colour=(220, 20, 20), upper=(130, 132, 136))
    assert _difference(logo, logoless, camera) > 0.2
    assert _difference(logo, logoless, back) == 0.0
    bagless = replace(bag, bag="none")
    assert _difference(bag, bagless, back) > 2 * _difference(bag, bagless, camera)


@pytest.mark.parametrize("kind", ["bar", "car", "person"])
def test_occlusion_hides_a_part(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = appearance.choose
    monkeypatch.setattr(
        pedestrians, "choose", lambda rng, **odds: kind if "bar" in odds else choose(rng, **odds)
    )
    camera = _clear(sample_camera(_rng(1)))
    pictures = [
        draw_pedestrian(sample_identity(_rng(2)), replace(camera, occlusion=odds), _rng(3))
        for odds in (0.0, 1.0)
    ]
    # the exposure is drawn after the occluder, hence the tolerance of a global factor
    changed = np.abs(pictures[0].astype(float) - pictures[1]).max(axis=2) > 60
    assert 0.0 < changed.mean() < 0.9


def test_cameras_change_the_picture_of_a_person() -> None:
    who = sample_identity(_rng(0))
    means = [
        draw_pedestrian(who, sample_camera(_rng(seed)), _rng(9)).mean(axis=(0, 1))
        for seed in range(8)
    ]
    assert np.ptp(np.stack(means), axis=0).min() > 20


def _torso_colours(picture: np.ndarray) -> np.ndarray:
    """Return the mean colours of chest and thighs, shape (6,)."""
    chest, thighs = picture[34:58, 22:42], picture[68:92, 22:42]
    return np.concatenate([chest.mean(axis=(0, 1)), thighs.mean(axis=(0, 1))])


def test_clothes_identify_a_person_across_cameras_but_imperfectly() -> None:
    """Nearest clothing colours in another camera: better than chance, far from perfect."""
    people = [sample_identity(_rng(1, person)) for person in range(60)]
    features = []
    for index in range(2):
        camera = sample_camera(_rng(2, index))
        drawn = [
            _torso_colours(draw_pedestrian(who, camera, _rng(3, index, person)))
            for person, who in enumerate(people)
        ]
        centred = np.stack(drawn) - np.mean(drawn, axis=0)
        features.append(centred / centred.std(axis=0))
    distance = np.linalg.norm(features[0][:, None] - features[1][None], axis=2)
    other = distance[~np.eye(len(people), dtype=bool)]
    assert np.diag(distance).mean() < 0.85 * other.mean()
    hits = (distance.argmin(axis=1) == np.arange(len(people))).mean()
    assert 3 / len(people) < hits < 0.7
