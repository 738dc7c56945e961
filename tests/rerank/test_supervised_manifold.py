"""The supervised smoothed manifold equals its twin on the graph of pairs and keeps its laws."""

from typing import Any

import numpy as np
import pytest

from tests.references import supervised_manifold as reference
from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import SupervisedManifold, build_reranker


def features(seed: int, *shape: int) -> np.ndarray:
    """Draw positive features, as those behind a ReLU: no cosine below zero."""
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def smoothed(
    query: np.ndarray, gallery: np.ndarray, identities: np.ndarray | None = None, **options
) -> tuple[np.ndarray, np.ndarray]:
    reranker = SupervisedManifold(**options).fit(gallery, identities=identities)
    return reranker.rank(query, top_k=len(gallery))


def compare(
    query: np.ndarray, gallery: np.ndarray, identities: np.ndarray | None = None, **options
) -> None:
    _, distances = smoothed(query, gallery, identities, **options)
    order, expected = reference.rank(query, gallery, identities=identities, **options)
    # a cosine's rounding, in units of the temperature, is an affinity's relative error: two steps
    atol = 3e-6 + 4e-7 / options["temperature"]
    np.testing.assert_allclose(distances, expected, atol=atol, rtol=1e-6)
    reranker = SupervisedManifold(**options).fit(gallery, identities=identities)
    picked = np.take_along_axis(reranker.distance_matrix(query), order, axis=1)
    np.testing.assert_allclose(picked, expected, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 2.0])
@pytest.mark.parametrize(("alpha", "rounds"), [(0.0, 3), (0.3, 1), (0.6, 2), (0.9, 10)])
@pytest.mark.parametrize("k", [1, 2, 6, 99])
def test_matches_reference(
    k: int, alpha: float, rounds: int, temperature: float, known: bool
) -> None:
    query, gallery = features(k, 2, 6), features(20 + k, 12, 6)
    identities = np.random.default_rng(k).integers(-2, 4, size=12) if known else None
    options = {"k": k, "alpha": alpha, "rounds": rounds, "temperature": temperature}
    compare(query, gallery, identities, **options)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_galleries(count: int) -> None:
    for identities in (None, np.zeros(count, dtype=int)):
        options = {"k": 50, "alpha": 0.9, "rounds": 4, "temperature": 0.1}
        compare(features(1, 2, 4), features(2, count, 4), identities, **options)


def test_duplicates_and_zero_vectors() -> None:
    query, gallery = features(3, 3, 6), features(4, 10, 6)
    gallery[6] = query[1] = 0
    gallery[8] = gallery[2]
    compare(query, gallery, k=99, alpha=0.9, rounds=5, temperature=0.1)


def test_the_comparison_above_sees_an_order() -> None:
    query, gallery = features(5, 4, 6), features(6, 12, 6)
    identities = np.arange(12) % 4
    orders = [
        reference.rank(query, gallery, k, 0.9, rounds, 0.1, known)[0]
        for k, rounds, known in ((1, 5, None), (8, 5, None), (8, 5, identities), (12, 1, None))
    ]
    assert len({order.tobytes() for order in orders}) == len(orders)


def test_nothing_spread_is_the_plain_order() -> None:
    """With alpha 0 A is L, whose probe row is zero for all: ties keep the plain order."""
    query, gallery = features(7, 4, 6), features(8, 30, 6)
    plain, _ = build_reranker("none").fit(gallery).rank(query)
    for identities in (None, np.arange(30) % 5):
        indices, distances = smoothed(query, gallery, identities, alpha=0.0, k=12)
        np.testing.assert_array_equal(indices, plain)
        np.testing.assert_allclose(np.ptp(distances[:, :12], axis=1), 0, atol=1e-6)


def test_an_image_comes_nearer_with_what_is_known_of_it() -> None:
    """Two images are as near as each other; one is known to be of the nearest one's identity."""
    query = np.array([[1, 0, 0]], dtype=np.float32)
    near, left, right = [0.95, 0.2, 0.2], [0.7, 0.6, 0.0], [0.7, 0.0, 0.6]
    gallery = np.array([left, near, right], dtype=np.float32)
    unknown = SupervisedManifold(temperature=0.2).fit(gallery).distance_matrix(query)[0]
    np.testing.assert_allclose(unknown[0], unknown[2], atol=1e-6)
    for identities, same, other in (([0, 0, -1], 0, 2), ([-1, 3, 3], 2, 0)):
        reranker = SupervisedManifold(temperature=0.2).fit(gallery, identities=identities)
        known = reranker.distance_matrix(query)[0]
        assert known[same] < known[other] - 0.01
        assert known[same] < unknown[same] - 0.01


def test_known_identities_help() -> None:
    """The share of wrong images among the first five falls, in five draws together."""
    shares = np.zeros(2)
    for seed in range(5):
        rng, pids = np.random.default_rng(seed), np.repeat(np.arange(12), 6)
        x = (rng.normal(size=(12, 12))[pids] + 0.8 * rng.normal(size=(72, 12))).astype(np.float32)
        is_query = np.arange(72) % 6 == 0
        known = pids[~is_query]
        for i, identities in enumerate((known, None)):
            indices, _ = smoothed(x[is_query], x[~is_query], identities)
            shares[i] += (known[indices[:, :5]] != pids[is_query][:, None]).mean() / 5
    assert shares[0] < shares[1] - 0.05


def test_unknown_identities_are_none() -> None:
    query, gallery = features(10, 3, 6), features(11, 12, 6)
    expected = smoothed(query, gallery)
    for identities in (np.full(12, -1), np.arange(12), np.array([-5] * 11 + [2])):
        actual = smoothed(query, gallery, identities)
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[1], expected[1])


def test_fitting_again_forgets_identities() -> None:
    query, gallery = features(12, 3, 6), features(13, 12, 6)
    reranker = SupervisedManifold().fit(gallery, identities=np.arange(12) % 2)
    expected = smoothed(query, gallery)
    np.testing.assert_array_equal(reranker.fit(gallery).rank(query)[1], expected[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1"),
        ({"alpha": float("nan")}, r"alpha must be in \[0, 1\), got nan"),
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"chunk_size": 0}, "chunk_size must be >= 1, got 0"),
    ],
)
def test_rejects_options(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_reranker("supervised_manifold", **wrong)


def test_rejects_identities_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"identities must have shape \(12,\), got \(11,\)"):
        SupervisedManifold().fit(features(14, 12, 6), identities=np.arange(11))


def test_what_is_refused_leaves_no_trace() -> None:
    query, gallery = features(15, 3, 6), features(16, 12, 6)
    reranker = SupervisedManifold().fit(gallery, identities=np.arange(12) % 2)
    expected = reranker.rank(query)
    with pytest.raises(ValueError, match="must be finite"):
        reranker.fit(np.full_like(gallery, np.nan), identities=np.zeros(12))
    np.testing.assert_array_equal(reranker.rank(query)[1], expected[1])


@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.1])
def test_distances_hold_the_order_of_the_smallest_affinities(temperature: float) -> None:
    """What is evaluated are distances: 1e-20 and 1e-22 must not both be added away."""
    rng, pids = np.random.default_rng(9), np.repeat(np.arange(20), 10)
    x = (rng.normal(size=(20, 64))[pids] + 1.2 * rng.normal(size=(200, 64))).astype(np.float32)
    reranker = SupervisedManifold(temperature=temperature).fit(x[20:])
    indices, _ = reranker.rank(x[:20], top_k=50)
    distances = reranker.distance_matrix(x[:20])
    assert np.mean(np.argsort(distances, axis=1, kind="stable")[:, :50] == indices) > 0.99


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.float64, ">i4"])
def test_identities_of_any_kind(kind: Any) -> None:
    gallery = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    names = np.arange(12) % 3
    expected = SupervisedManifold(k=6).fit(gallery, identities=names).rank(gallery[:3])[0]
    for given in (names.astype(kind), names.astype(kind)[::-1][::-1], names.tolist()):
        found = SupervisedManifold(k=6).fit(gallery, identities=given).rank(gallery[:3])[0]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("identities", "message"),
    [([0.5] * 12, "identities must be whole numbers"), (["a"] * 12, "must be numbers")],
)
def test_identities_that_are_no_numbers(identities: list[Any], message: str) -> None:
    gallery = np.ones((12, 4), dtype=np.float32)
    with pytest.raises(InputError, match=message):
        SupervisedManifold().fit(gallery, identities=identities)
