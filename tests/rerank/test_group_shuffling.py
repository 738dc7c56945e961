"""The group-shuffling walk equals its twin and keeps its laws."""

import numpy as np
import pytest

from tests.references import group_shuffling as reference
from torchreid_spectral.rerank import GroupShuffling, build_reranker


def features(seed: int, *shape: int) -> np.ndarray:
    """Draw positive features, as those behind a ReLU: no cosine below zero."""
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def shuffled(query: np.ndarray, gallery: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    return GroupShuffling(**options).fit(gallery).rank(query, top_k=len(gallery))


def compare(
    query: np.ndarray, gallery: np.ndarray, k: int, groups: int, alpha: float, temperature: float
) -> None:
    options = {"k": k, "groups": groups, "alpha": alpha, "temperature": temperature}
    indices, distances = shuffled(query, gallery, **options)
    order, expected = reference.rank(query, gallery, **options)
    np.testing.assert_allclose(distances, expected, atol=3e-6, rtol=0)
    if (np.diff(expected, axis=1) > 1e-5).all():
        np.testing.assert_array_equal(indices, order)
    else:
        matrix = GroupShuffling(**options).fit(gallery).distance_matrix(query)
        picked = np.take_along_axis(matrix, order, axis=1)
        np.testing.assert_allclose(picked, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 7, 18, 99])
def test_matches_reference(k: int, groups: int, alpha: float, temperature: float) -> None:
    compare(features(k, 3, 6), features(20 + k, 18, 6), k, groups, alpha, temperature)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_tiny_galleries(count: int, groups: int) -> None:
    compare(features(1, 2, 4), features(2, count, 4), 75, groups, 0.9, 0.1)


def test_duplicates_and_zero_vectors() -> None:
    query, gallery = features(3, 4, 6), features(4, 14, 6)
    gallery[6], gallery[9, 3:], query[1] = 0, 0, 0
    for groups in (1, 2):
        compare(query, gallery, 9, groups, 0.95, 0.1)
    gallery[10] = gallery[2]
    query[2] = gallery[2]
    compare(query, gallery, 99, 2, 0.95, 0.1)


def test_the_comparison_above_sees_an_order() -> None:
    query, gallery = features(5, 4, 6), features(6, 18, 6)
    orders = [
        reference.rank(query, gallery, k, groups, alpha, 0.1)[0]
        for k, groups, alpha in ((1, 1, 0.9), (9, 1, 0.9), (9, 2, 0.9), (9, 3, 0.9), (9, 1, 0.3))
    ]
    assert len({order.tobytes() for order in orders}) == len(orders)


def test_no_walk_and_one_group_is_the_plain_order() -> None:
    query, gallery = features(7, 5, 6), features(8, 30, 6)
    plain, distances = build_reranker("none").fit(gallery).rank(query)
    indices, same = shuffled(query, gallery, alpha=0, groups=1, k=12)
    np.testing.assert_array_equal(indices, plain)
    np.testing.assert_allclose(same, distances, atol=1e-6, rtol=0)


def test_only_the_head_moves() -> None:
    query, gallery = features(9, 5, 6), features(10, 40, 6)
    plain, distances = build_reranker("none").fit(gallery).rank(query, top_k=40)
    indices, new = shuffled(query, gallery, k=10)
    assert (indices[:, :10] != plain[:, :10]).any()
    np.testing.assert_array_equal(np.sort(indices[:, :10]), np.sort(plain[:, :10]))
    np.testing.assert_array_equal(indices[:, 10:], plain[:, 10:])
    np.testing.assert_allclose(new[:, 9:], distances[:, 9:], atol=1e-6, rtol=0)


def test_order_of_the_groups_does_not_matter() -> None:
    query, gallery = features(11, 5, 6), features(12, 20, 6)
    expected = shuffled(query, gallery, groups=3)
    swapped = [2, 3, 4, 5, 0, 1]  # each group's graph walks on every other group
    actual = shuffled(query[:, swapped], gallery[:, swapped], groups=3)
    np.testing.assert_allclose(actual[1], expected[1], atol=2e-6, rtol=0)


def test_hot_graph_of_two_swaps_their_scores() -> None:
    """Each of two images can only go to the other: y = (y0 + alpha * other) / (1 + alpha)."""
    gallery = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    query, alpha = np.array([[1, 0]], dtype=np.float32), 0.5
    _, distances = shuffled(query, gallery, groups=1, alpha=alpha, temperature=100.0)
    gap = (1 - 0.6) * (1 - alpha) / (1 + alpha)
    np.testing.assert_allclose(np.diff(distances[0]), [gap], atol=1e-6)


def test_default_settings() -> None:
    query, gallery = features(13, 3, 8), features(14, 90, 8)
    expected = shuffled(query, gallery, k=75, groups=2, alpha=0.95, temperature=0.1)
    for actual, wanted in zip(shuffled(query, gallery), expected):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"groups": 0}, "groups must be >= 1, got 0"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\), got -0.1"),
        ({"alpha": float("nan")}, r"alpha must be in \[0, 1\), got nan"),
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"chunk_size": 0}, "chunk_size must be >= 1, got 0"),
    ],
)
def test_rejects_options(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_reranker("group_shuffling", **wrong)


@pytest.mark.parametrize("groups", [4, 7])
def test_rejects_a_width_that_cannot_be_cut(groups: int) -> None:
    with pytest.raises(ValueError, match=f"width 6 is not a multiple of groups={groups}"):
        GroupShuffling(groups=groups).fit(features(15, 5, 6))
