"""k-NN voting equals its twin in exact fractions and keeps its laws."""

import numpy as np
import pytest

from tests.references import knn_voting as reference
from torchreid_spectral.rerank import KNNVoting, build_reranker


def features(seed: int, *shape: int) -> np.ndarray:
    """Draw positive features, as those behind a ReLU: no cosine below zero."""
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def voted(query: np.ndarray, gallery: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    return KNNVoting(**options).fit(gallery).rank(query, top_k=len(gallery))


def compare(query: np.ndarray, gallery: np.ndarray, k: int, depth: int) -> None:
    indices, distances = voted(query, gallery, k=k, depth=depth)
    order, expected = reference.rank(query, gallery, k, depth)
    np.testing.assert_allclose(distances, expected, rtol=3e-6, atol=0)
    matrix = KNNVoting(k=k, depth=depth).fit(gallery).distance_matrix(query)
    picked = np.take_along_axis(matrix, order, axis=1)
    np.testing.assert_allclose(picked, expected, rtol=3e-6, atol=0)
    if (np.diff(expected, axis=1) > 1e-5).all():
        np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equal_scores_keep_the_plain_order(k: int) -> None:
    """Sums of fractions are often equal; rounding must not order them."""
    query, gallery = features(k, 60, 6), features(120, 25, 6)
    indices, _ = voted(query, gallery, k=k, depth=25)
    np.testing.assert_array_equal(indices, reference.rank(query, gallery, k, 25)[0])


@pytest.mark.parametrize("depth", [1, 2, 9, 25, 100])
@pytest.mark.parametrize("k", [1, 2, 3, 10, 25, 99])
def test_matches_reference(k: int, depth: int) -> None:
    compare(features(k, 6, 6), features(20 + depth, 25, 6), k, depth)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("k", "depth"), [(1, 1), (2, 3), (10, 100)])
def test_tiny_galleries(count: int, k: int, depth: int) -> None:
    compare(features(1, 3, 4), features(2, count, 4), k, depth)


@pytest.mark.parametrize(("k", "depth"), [(1, 1), (4, 5), (30, 30)])
def test_duplicates_and_zero_vectors(k: int, depth: int) -> None:
    """Axes and their copies: all cosines are exactly 0 or 1, so that ties decide the lists."""
    rng = np.random.default_rng(3)
    axes = np.concatenate([np.eye(4), np.zeros((1, 4))]).astype(np.float32)
    query, gallery = axes[[0, 2, 4]], axes[rng.integers(5, size=20)]
    compare(query, gallery, k, depth)


def test_the_comparison_above_sees_an_order() -> None:
    query, gallery = features(5, 4, 6), features(6, 25, 6)
    settings = ((1, 1), (9, 4), (9, 25))
    orders = [reference.rank(query, gallery, k, depth)[0] for k, depth in settings]
    assert len({order.tobytes() for order in orders}) == len(orders)


def test_a_longer_list_than_the_gallery_is_the_whole_one() -> None:
    query, gallery = features(7, 4, 6), features(8, 25, 6)
    expected = voted(query, gallery, k=9, depth=25)
    for depth in (26, 1000):
        actual = voted(query, gallery, k=9, depth=depth)
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[1], expected[1])


def test_scores_by_hand() -> None:
    """Three images on a line; the query is at the first: scores 1 + 1/2, 1/2 + 1/4, 1/3 + 1/6."""
    angles = np.radians([0, 20, 50])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    indices, distances = voted(gallery[:1], gallery, k=1)
    assert indices.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(distances, [[2 / 3, 4 / 3, 2]], rtol=1e-6)
    # the second voter gives a third of its own list: 1, 0, 2
    _, distances = voted(gallery[:1], gallery, k=2)
    scores = [1 + 1 / 2 + 1 / 6, 1 / 2 + 1 / 4 + 1 / 3, 1 / 3 + 1 / 6 + 1 / 9]
    np.testing.assert_allclose(distances, [[1 / score for score in scores]], rtol=1e-6)


def test_default_settings() -> None:
    query, gallery = features(9, 3, 8), features(10, 130, 8)
    expected = voted(query, gallery, k=10, depth=100)
    for actual, wanted in zip(voted(query, gallery), expected):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("option", ["k", "depth", "chunk_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_rejects_options(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be >= 1, got {value}"):
        build_reranker("knn_voting", **{option: value})


def test_needs_a_gallery() -> None:
    with pytest.raises(ValueError, match="no gallery yet"):
        KNNVoting().rank(features(11, 2, 4))
