"""``inductive=True``: each query is attached alone to the gallery's graph as fitted."""

from typing import Any

import numpy as np
import pytest

from tests.references.k_reciprocal import k_reciprocal_alone
from torchreid_spectral.rerank import (
    RERANKERS,
    KReciprocal,
    Reranker,
    _joint,
    build_reranker,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "k_reciprocal": {"k1": 8, "k2": 3},
    "graph_walk": {"k": 6, "num_averaged": 3},
    "group_shuffling": {"k": 8},
    "local_blurring": {"k": 8},
    "supervised_manifold": {"k": 8},
}
JOINT = [
    ("k_reciprocal", {"k1": 8, "k2": 3}),
    ("graph_walk", {"k": 6, "num_averaged": 3}),
    ("graph_walk", {"k": 6, "graph": "knn", "weights": "jaccard", "steps": 2, "restart": 0.2}),
    ("graph_walk", {"k": 6, "walked": "features", "normalization": "symmetric", "steps": 2}),
    ("graph_walk", {"k": 6, "walked": "scores", "steps": float("inf"), "restart": 0.3}),
]
every_joint = pytest.mark.parametrize(("name", "options"), JOINT)


def clusters(seed: int, num_query: int = 5, num_gallery: int = 40) -> tuple[Any, Any]:
    """Draw images around a few identities, of unit length, without duplicates."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(6, size=num_query + num_gallery)
    x = rng.normal(size=(6, 8))[pids] + 0.6 * rng.normal(size=(len(pids), 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x[:num_query], x[num_query:]


def fitted(name: str, gallery: Any, **options: Any) -> Reranker:
    return build_reranker(name, **options).fit(gallery)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [(20, 6, 0.3), (7, 3, 0.85), (6, 1, 0.0), (5, 2, 0.0), (1, 4, 0.5), (13, 9, 0.2), (60, 70, 0)],
)
def test_k_reciprocal_matches_reference(
    k1: int, k2: int, lambda_value: float, metric: str, square: bool
) -> None:
    query, gallery = clusters(k1)
    options = {"metric": metric, "square_distances": square}
    reranker = KReciprocal(k1=k1, k2=k2, lambda_value=lambda_value, **options).fit(gallery)
    actual = reranker.distance_matrix(query, inductive=True)
    expected = k_reciprocal_alone(query, gallery, k1, k2, lambda_value, **options)
    np.testing.assert_allclose(actual, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 2), (2, 2), (20, 6)])
def test_k_reciprocal_on_tiny_galleries(count: int, k1: int, k2: int) -> None:
    query, gallery = clusters(count, 3, count)
    reranker = KReciprocal(k1=k1, k2=k2).fit(gallery)
    actual = reranker.distance_matrix(query, inductive=True)
    expected = k_reciprocal_alone(query, gallery, k1, k2, 0.3)
    np.testing.assert_allclose(actual, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("k1", [2, 5, 9])
def test_k_reciprocal_with_duplicates_and_zeros(k1: int) -> None:
    rng = np.random.default_rng(k1)
    axes = np.concatenate([np.eye(4), np.zeros((1, 4))]).astype(np.float32)
    query, gallery = axes[[0, 2, 4]], axes[rng.integers(5, size=20)]
    reranker = KReciprocal(k1=k1, k2=3).fit(gallery)
    actual = reranker.distance_matrix(query, inductive=True)
    expected = k_reciprocal_alone(query, gallery, k1, 3, 0.3)
    np.testing.assert_allclose(actual, expected, atol=5e-6, rtol=0)


@every_joint
def test_other_queries_do_not_matter(name: str, options: dict[str, Any]) -> None:
    query, gallery = clusters(30)
    reranker = fitted(name, gallery, **options)
    whole = reranker.distance_matrix(query, inductive=True)
    together = reranker.distance_matrix(query)
    assert options.get("walked") == "scores" or np.abs(whole - together).max() > 1e-3
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        part = reranker.distance_matrix(query[rows], inductive=True)
        np.testing.assert_allclose(part, whole[rows], atol=2e-6, rtol=0)
    again = reranker.distance_matrix(np.concatenate([query, query, gallery[:7]]), inductive=True)
    np.testing.assert_allclose(again[:5], whole, atol=2e-6, rtol=0)
    np.testing.assert_allclose(again[5:10], whole, atol=2e-6, rtol=0)


@every_joint
def test_queries_leave_the_gallery_as_fitted(name: str, options: dict[str, Any]) -> None:
    query, gallery = clusters(31)
    reranker = fitted(name, gallery, **options)
    before = reranker.distance_matrix(query, inductive=True)
    reranker.rank(query[::-1].copy())
    reranker.rank(query[:2], inductive=True)
    np.testing.assert_array_equal(reranker.distance_matrix(query, inductive=True), before)


@every_joint
def test_ranking_sorts_the_matrix(name: str, options: dict[str, Any]) -> None:
    query, gallery = clusters(32)
    reranker = fitted(name, gallery, **options)
    matrix = reranker.distance_matrix(query, inductive=True)
    indices, distances = reranker.rank(query, top_k=9, inductive=True)
    order = np.argsort(matrix, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(matrix, order, axis=1))
    blocks = list(reranker.iter_distances(query, inductive=True))
    np.testing.assert_array_equal(np.concatenate([np.asarray(b) for _, b in blocks]), matrix)


@every_joint
def test_a_new_gallery_forgets_the_old_graph(name: str, options: dict[str, Any]) -> None:
    query, gallery = clusters(33)
    reranker = fitted(name, gallery, **options)
    reranker.rank(query, inductive=True)
    expected = fitted(name, gallery[:30], **options).distance_matrix(query, inductive=True)
    actual = reranker.fit(gallery[:30]).distance_matrix(query, inductive=True)
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)
    whole = fitted(name, gallery, **options).distance_matrix(query, inductive=True)
    grown = reranker.add(gallery[30:]).distance_matrix(query, inductive=True)
    np.testing.assert_allclose(grown, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(RERANKERS))
def test_one_query_of_another_method_is_the_same_either_way(name: str) -> None:
    query, gallery = clusters(34)
    reranker = fitted(name, gallery, **OPTIONS.get(name, {}))
    if reranker.joint:
        assert name in ("k_reciprocal", "graph_walk")
        return
    plain, alone = reranker.rank(query), reranker.rank(query, inductive=True)
    np.testing.assert_array_equal(alone[0], plain[0])
    np.testing.assert_array_equal(alone[1], plain[1])


@every_joint
def test_queries_are_searched_for_a_chunk_at_a_time(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the memory would grow with the queries of a call."""
    query, gallery = clusters(3, num_query=23)
    whole = fitted(name, gallery, **options).rank(query, 9, inductive=True)
    rows, search = [], _joint.rank_prepared

    def watched(some: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(some))
        return search(some, *args, **kwargs)

    monkeypatch.setattr(_joint, "rank_prepared", watched)
    parts = fitted(name, gallery, chunk_size=7, **options).rank(query, 9, inductive=True)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-6)
    assert rows == ([] if options.get("walked") == "scores" else [7, 7, 7, 2])
