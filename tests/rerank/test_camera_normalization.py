"""Each camera's mean and deviation are taken out of the features, by rule and in re-rankers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.references.camera_normalization import normalized
from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import (
    CAMERA_NORMALIZATIONS,
    RERANKERS,
    CameraNormalization,
    NoReranking,
    Reranker,
    build_reranker,
    camera_normalization,
    load_reranker,
)

CAMERAS = np.arange(30) % 4
QUERIES = np.array([3, 0, 9, 2, 1])  # 9: a camera that the gallery does not have
METHODS = CAMERA_NORMALIZATIONS[1:]
every_method = pytest.mark.parametrize("method", METHODS)
every_reranker = pytest.mark.parametrize("name", sorted(RERANKERS))


def features(seed: int, *shape: int) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@every_method
@pytest.mark.parametrize(("prior", "eps"), [(0.0, 0.0), (10.0, 1e-3), (3.0, 0.5)])
def test_it_is_the_rule(method: str, prior: float, eps: float) -> None:
    gallery, query = features(0, 30, 6), features(1, 5, 6)
    fitted = CameraNormalization(method, prior=prior, eps=eps).fit(gallery, CAMERAS)
    for rows, cameras in ((query, QUERIES), (gallery, CAMERAS)):
        expected = normalized(gallery, CAMERAS.tolist(), rows, cameras.tolist(),
                              divide=method == "standardize", prior=prior, eps=eps)  # fmt: skip
        np.testing.assert_allclose(fitted.transform(rows, cameras), expected, atol=2e-5, rtol=2e-5)


def test_each_camera_gets_mean_zero_and_deviation_one() -> None:
    gallery = features(0, 30, 6)
    new = CameraNormalization(prior=0, eps=0).fit(gallery, CAMERAS).transform(gallery, CAMERAS)
    for camera in range(4):
        np.testing.assert_allclose(new[camera == CAMERAS].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(new[camera == CAMERAS].std(axis=0), 1, atol=1e-5)


def test_a_camera_of_few_images_leans_on_all() -> None:
    """One image alone would be its own mean, and nothing were left of it."""
    gallery, cameras = features(0, 31, 6), np.append(CAMERAS, 7)
    alone = CameraNormalization("center", prior=0).fit(gallery, cameras)
    np.testing.assert_allclose(alone.transform(gallery, cameras)[-1], 0, atol=1e-6)
    shared = CameraNormalization("center").fit(gallery, cameras).transform(gallery, cameras)
    unseen = CameraNormalization("center").fit(gallery, cameras).transform(gallery[-1:], [99])
    np.testing.assert_allclose(shared[-1], unseen[0] * 10 / 11, atol=1e-6)


@every_method
def test_rows_at_once_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = features(0, 30, 6)
    fitted = CameraNormalization(method).fit(gallery, CAMERAS)
    whole = fitted.transform(gallery, CAMERAS)
    monkeypatch.setattr(camera_normalization, "_ROWS", 7)
    np.testing.assert_array_equal(fitted.transform(gallery, CAMERAS), whole)


@every_method
def test_a_zero_row_stays_zero(method: str) -> None:
    """It is near to nobody before, and would else be near to whoever its camera's mean is not."""
    gallery = features(0, 30, 6)
    gallery[3] = 0
    new = CameraNormalization(method).fit(gallery, CAMERAS).transform(gallery, CAMERAS)
    assert not new[3].any() and new[4].any()


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
def test_numbers_of_cameras_may_be_of_any_kind(kind: Any) -> None:
    gallery = features(0, 30, 6)
    expected = CameraNormalization().fit(gallery, CAMERAS).transform(gallery, CAMERAS)
    found = CameraNormalization().fit(gallery, CAMERAS.astype(kind)).transform(gallery, CAMERAS)
    np.testing.assert_array_equal(found, expected)
    known = CameraNormalization().fit(gallery, CAMERAS)
    unseen = known.transform(gallery, CAMERAS + 0.5)  # none of them, not the next lower one
    np.testing.assert_array_equal(unseen, known.transform(gallery, np.full(30, 99)))


@every_method
@pytest.mark.parametrize("rows", [1, 5])
def test_what_does_not_vary_becomes_zero(method: str, rows: int) -> None:
    same = np.ones((rows, 4), np.float32)
    new = CameraNormalization(method).fit(same, np.zeros(rows)).transform(same, np.zeros(rows))
    np.testing.assert_array_equal(new, 0)


def test_kinds_and_inputs_stay() -> None:
    array = features(0, 30, 6)
    tensor = torch.from_numpy(array.copy())
    fitted = CameraNormalization().fit(tensor, torch.from_numpy(CAMERAS))
    from_tensor = fitted.transform(tensor, torch.from_numpy(CAMERAS))
    from_array = fitted.transform(array, CAMERAS)
    assert isinstance(from_tensor, torch.Tensor)
    assert isinstance(from_array, np.ndarray)
    np.testing.assert_array_equal(from_tensor.numpy(), from_array)
    np.testing.assert_array_equal(tensor.numpy(), features(0, 30, 6))
    half = fitted.transform(tensor.half(), torch.from_numpy(CAMERAS))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, from_tensor, atol=0.05, rtol=0)


@every_method
@every_reranker
def test_a_reranker_ranks_normalized_features(name: str, method: str) -> None:
    gallery, query = features(0, 30, 6), features(1, 5, 6)
    known = CameraNormalization(method).fit(gallery, CAMERAS)
    plain = build_reranker(name).fit(known.transform(gallery, CAMERAS), CAMERAS)
    itself = build_reranker(name, camera_normalization=method).fit(gallery, CAMERAS)
    for inductive in (False, True):
        asked: dict[str, Any] = {"camids": QUERIES, "inductive": inductive}
        expected = plain.rank(known.transform(query, QUERIES), 30, **asked)
        found = itself.rank(query, 30, **asked)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        matrix = itself.distance_matrix(query, **asked)
        np.testing.assert_allclose(np.take_along_axis(matrix, found[0], axis=1), found[1],
                                   atol=1e-5)  # fmt: skip
    assert itself.options()["camera_normalization"] == method
    assert itself.label == f"{name}+{method}"
    assert build_reranker(name).options()["camera_normalization"] == "none"
    assert build_reranker(name).label == name


def test_a_planted_bias_is_taken_out() -> None:
    """Every camera adds more to an image than who is on it; afterwards that alone counts."""
    pids, cameras = np.tile(np.arange(8), 40), np.repeat(np.arange(4), 80)
    own, bias = np.eye(8, 12, dtype=np.float32), 3 * np.eye(4, 12, k=8, dtype=np.float32)
    gallery = own[pids] + bias[cameras] + 0.1 * features(0, 320, 12)
    for word in CAMERA_NORMALIZATIONS:
        method = build_reranker("none", camera_normalization=word).fit(gallery, cameras)
        first = method.rank(own + bias[0], 40, camids=np.zeros(8))[0]
        if word == "none":
            assert (cameras[first] == 0).all()
        else:
            assert (pids[first] == np.arange(8)[:, None]).all()


@every_reranker
def test_saved_and_opened_it_answers_alike(name: str, tmp_path: Path) -> None:
    gallery, query = features(0, 30, 6), features(1, 5, 6)
    one = build_reranker(name, camera_normalization="standardize").fit(gallery, CAMERAS)
    one.save(tmp_path / "gallery.safetensors")
    two = load_reranker(tmp_path / "gallery.safetensors")
    answers = [each.rank(query, 30, camids=QUERIES) for each in (one, two)]
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-6)


def test_without_it_a_saved_gallery_is_what_it_was(tmp_path: Path) -> None:
    """So that versions before this one open it."""
    build_reranker("none").fit(features(0, 30, 6)).save(tmp_path / "gallery.safetensors")
    assert "camera_normalization" not in (tmp_path / "gallery.json").read_text()
    assert load_reranker(tmp_path / "gallery.safetensors").camera_normalization == "none"


def test_added_images_are_normalized_as_fitted() -> None:
    gallery, more = features(0, 30, 6), features(2, 4, 6)
    cameras = np.array([0, 1, 2, 9])
    grown = build_reranker("none", camera_normalization="center").fit(gallery, CAMERAS)
    grown.add(more, cameras)
    known = CameraNormalization("center").fit(gallery, CAMERAS)
    expected = np.concatenate([known.transform(gallery, CAMERAS), known.transform(more, cameras)])
    np.testing.assert_array_equal(grown.gallery.numpy(), expected)
    indices, distances = grown.rank(more, 1, camids=cameras)
    np.testing.assert_array_equal(indices[:, 0], [30, 31, 32, 33])
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_without_cameras_it_refuses() -> None:
    gallery = features(0, 30, 6)
    method = build_reranker("none", camera_normalization="center")
    message = "camera_normalization center needs the camera of each image, of gallery and queries"
    with pytest.raises(InputError, match=message):
        method.fit(gallery)
    with pytest.raises(InputError, match="call fit"):
        method.rank(gallery, camids=CAMERAS)
    method.fit(gallery, CAMERAS)
    with pytest.raises(InputError, match=message):
        method.rank(gallery)
    with pytest.raises(InputError, match=r"camids must have shape \(30,\)"):
        method.rank(gallery, camids=CAMERAS[:3])


def test_cameras_that_are_not_known_must_have_a_number() -> None:
    gallery, cameras = features(0, 30, 6), CAMERAS.astype(float)
    cameras[5] = np.nan
    with pytest.raises(InputError, match=r"camids must be finite: 1 are NaN.*such as -1"):
        build_reranker("none", camera_normalization="center").fit(gallery, cameras)


def test_a_reranker_of_ones_own_need_not_know_it(
    torchreid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not asked for; else the error says that it has no such option."""
    from torchreid_spectral.config import build, get_default_config, merge_options

    class Mine(NoReranking):
        def __init__(self, *, search: str = "exact", chunk_size: int = 8) -> None:
            Reranker.__init__(self, search=search, chunk_size=chunk_size)

    monkeypatch.setitem(RERANKERS, "mine", Mine)
    cfg = get_default_config()
    cfg.rerank.mine = type(cfg)()
    cfg.rerank.method = "mine"
    assert isinstance(build.build_rerank(cfg), Mine)
    merge_options(cfg, ["rerank.camera_normalization", "center"])
    with pytest.raises(InputError, match="mine has no option 'camera_normalization'"):
        build.build_rerank(cfg)


def test_wrong_options_and_widths_are_named() -> None:
    with pytest.raises(InputError, match="Unknown camera_normalization 'centre'. Did you mean ce"):
        build_reranker("local_blurring", camera_normalization="centre")
    with pytest.raises(InputError, match="Unknown camera_normalization 'off'.*none"):
        build_reranker("none", camera_normalization="off")
    with pytest.raises(InputError, match="prior and eps must be >= 0, got -1 and 0.1"):
        CameraNormalization(prior=-1, eps=0.1)
    with pytest.raises(InputError, match="prior and eps must be >= 0, got nan"):
        CameraNormalization(prior=float("nan"))
    fresh = CameraNormalization()
    for call in (fresh.state, lambda: fresh.transform(features(0, 3, 6), [0, 0, 0])):
        with pytest.raises(InputError, match=r"knows no features yet: call fit\(\) first"):
            call()
    fresh.fit(features(0, 30, 6), CAMERAS)
    with pytest.raises(InputError, match="must have the fitted width 6, got 5"):
        fresh.transform(features(0, 3, 5), [0, 0, 0])


def test_a_copy_can_be_fitted_anew() -> None:
    gallery, query = features(0, 30, 6), features(2, 4, 6)
    cameras = np.array([0, 1, 2, 1])
    first = build_reranker("none", camera_normalization="standardize").fit(gallery, CAMERAS)
    expected = first.rank(query, 5, camids=cameras)[1]
    first.copied().fit(3 * gallery[::-1] + 1, CAMERAS)
    np.testing.assert_array_equal(first.rank(query, 5, camids=cameras)[1], expected)


@pytest.mark.parametrize("kind", ["u2", "u4", "u8", ">i4", ">f4"])
def test_cameras_may_be_unsigned_reversed_or_of_another_byte_order(kind: str) -> None:
    gallery = features(0, 30, 6)
    expected = CameraNormalization().fit(gallery, CAMERAS).transform(gallery, CAMERAS)
    given = CAMERAS.astype(kind)[::-1][::-1]
    given.flags.writeable = False
    found = CameraNormalization().fit(gallery, given).transform(gallery, given)
    np.testing.assert_array_equal(found, expected)
    turned = np.ascontiguousarray(CAMERAS[::-1]).astype(kind)[::-1]  # negative stride
    found = CameraNormalization().fit(gallery, turned).transform(gallery, turned)
    np.testing.assert_array_equal(found, expected)
