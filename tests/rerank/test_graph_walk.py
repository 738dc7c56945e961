"""The graph walk equals its twin, queries together and each alone, and keeps its laws."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from tests.references.graph_walk import graph_walk
from torchreid_spectral.functional import random_walk, random_walk_limit
from torchreid_spectral.rerank import GraphWalk, _graph, _sparse, build_reranker
from torchreid_spectral.rerank._graph import Walk

WALKS = [(0, 0.0), (1, 0.0), (2, 0.35), (3, 0.0), (math.inf, 0.3)]
KINDS = list(
    itertools.product(
        ("distributions", "features", "scores"),
        ("mutual", "knn"),
        ("rows", "symmetric"),
        ("cosine", "jaccard"),
    )
)
NAMES = ("walked", "graph", "normalization", "weights")
every_kind = pytest.mark.parametrize("kind", KINDS, ids="-".join)
both_ways = pytest.mark.parametrize("inductive", [False, True], ids=["together", "alone"])


def clusters(
    seed: int, num_query: int = 3, num_gallery: int = 22, width: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images around a few identities, of any length."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(5, size=num_query + num_gallery)
    x = rng.normal(size=(5, width))[pids] + 0.6 * rng.normal(size=(len(pids), width))
    x = (x * rng.uniform(0.5, 3, size=(len(x), 1))).astype(np.float32)
    return x[:num_query], x[num_query:]


def compare(
    query: np.ndarray,
    gallery: np.ndarray,
    camids: tuple[np.ndarray, np.ndarray] | None = None,
    inductive: bool = False,
    **options: Any,
) -> None:
    mine, theirs = (None, None) if camids is None else camids
    reranker = GraphWalk(**options).fit(gallery, camids=theirs)
    actual = reranker.distance_matrix(query, camids=mine, inductive=inductive)
    expected = graph_walk(query, gallery, camids, inductive, **options)
    np.testing.assert_allclose(actual, expected, atol=5e-6, rtol=0)


def allowed(kind: tuple[str, ...], steps: float) -> bool:
    return not (math.isinf(steps) and kind[0] == "distributions")


@every_kind
@both_ways
def test_matches_reference(kind: tuple[str, ...], inductive: bool) -> None:
    query, gallery = clusters(KINDS.index(kind))
    for steps, restart in WALKS:
        if allowed(kind, steps):
            walk = {"steps": steps, "restart": restart, "temperature": 0.3, "num_averaged": 3}
            options = dict(zip(NAMES, kind)) | walk
            compare(query, gallery, inductive=inductive, k=5, lambda_value=0.2, **options)


@every_kind
@both_ways
def test_matches_reference_with_cameras(kind: tuple[str, ...], inductive: bool) -> None:
    query, gallery = clusters(100 + KINDS.index(kind))
    camids = np.arange(3) % 2, np.arange(22) % 3
    for factor, (steps, restart) in ((0.25, (1, 0.0)), (3.0, (2, 0.4))):
        walk = {"steps": steps, "restart": restart, "cross_camera": factor}
        options = dict(zip(NAMES, kind)) | walk
        compare(query, gallery, camids, inductive, k=6, lambda_value=0.0, **options)


@both_ways
@pytest.mark.parametrize("k", [1, 2, 21, 24, 99])
@pytest.mark.parametrize("num_averaged", [1, 2, 99])
@pytest.mark.parametrize("walked", ["distributions", "features", "scores"])
def test_any_number_of_neighbours(k: int, num_averaged: int, walked: str, inductive: bool) -> None:
    query, gallery = clusters(200 + k)
    options = {"k": k, "num_averaged": num_averaged, "walked": walked, "steps": 2}
    compare(query, gallery, inductive=inductive, **options)


@both_ways
@pytest.mark.parametrize(("num_query", "num_gallery"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_tiny_graphs(num_query: int, num_gallery: int, inductive: bool) -> None:
    query, gallery = clusters(300, num_query, num_gallery)
    for kind, k, (steps, restart) in itertools.product(KINDS[::5], (1, 2), WALKS[2::2]):
        if allowed(kind, steps):
            walk = {"steps": steps, "restart": restart, "num_averaged": 2}
            compare(query, gallery, inductive=inductive, k=k, **dict(zip(NAMES, kind)), **walk)


@every_kind
@both_ways
def test_duplicates(kind: tuple[str, ...], inductive: bool) -> None:
    """Copies of axes: all cosines are exactly 0 or 1, so that ties decide the lists."""
    rng = np.random.default_rng(4)
    query, gallery = (np.eye(4, dtype=np.float32)[rng.integers(4, size=n)] for n in (3, 18))
    options = dict(zip(NAMES, kind)) | {"steps": 2, "num_averaged": 3}
    for k in (2, 6):
        compare(query, gallery, inductive=inductive, k=k, **options)


@both_ways
@pytest.mark.parametrize("weights", ["cosine", "jaccard"])
@pytest.mark.parametrize("walked", ["distributions", "features", "scores"])
def test_zero_vectors(walked: str, weights: str, inductive: bool) -> None:
    query, gallery = clusters(6)
    query[1] = gallery[4] = gallery[9] = 0
    options = {"walked": walked, "weights": weights, "temperature": 0.5}
    compare(query, gallery, inductive=inductive, k=5, **options)
    compare(query, gallery, inductive=inductive, k=5, graph="knn", **options)


@pytest.mark.parametrize("walked", ["distributions", "features", "scores"])
@pytest.mark.parametrize("lambda_value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("walk", [{"steps": 0}, {"steps": 3, "restart": 1.0}])
def test_a_walk_that_stays_at_home(walked: str, lambda_value: float, walk: dict) -> None:
    query, gallery = clusters(7)
    options = {"k": 4, "num_averaged": 1, "lambda_value": lambda_value}
    reranker = GraphWalk(walked=walked, **options, **walk).fit(gallery)
    plain, distances = build_reranker("none").fit(gallery).rank(query)
    if walked != "distributions":
        indices, same = reranker.rank(query)
        np.testing.assert_array_equal(indices, plain)
        np.testing.assert_allclose(same, distances, atol=2e-6, rtol=0)
    elif lambda_value > 0:  # nobody is where another is: the original distance alone orders
        np.testing.assert_array_equal(reranker.rank(query)[0], plain)


@both_ways
@pytest.mark.parametrize("walked", ["features", "scores"])
@pytest.mark.parametrize("normalization", ["rows", "symmetric"])
def test_endless_walk_is_that_of_many_steps(
    walked: str, normalization: str, inductive: bool
) -> None:
    query, gallery = clusters(8, 4, 40)
    matrices = [
        GraphWalk(k=6, walked=walked, normalization=normalization, steps=steps, restart=0.2)
        .fit(gallery)
        .distance_matrix(query, inductive=inductive)
        for steps in (math.inf, 90)
    ]
    np.testing.assert_allclose(*matrices, atol=5e-6, rtol=0)


@both_ways
def test_hot_graph_weighs_all_edges_alike(inductive: bool) -> None:
    query, gallery = clusters(9)
    hot = GraphWalk(k=99, temperature=1e6, walked="features", num_averaged=1, lambda_value=0)
    distances = hot.fit(gallery).distance_matrix(query, inductive=inductive)
    if not inductive:  # everybody is everybody's average
        np.testing.assert_allclose(distances, np.zeros((3, 22)), atol=2e-6)
    cold = GraphWalk(k=99, temperature=1e-3, walked="features", num_averaged=1, lambda_value=0)
    plain = build_reranker("none").fit(gallery).distance_matrix(query)
    cold_distances = cold.fit(gallery).distance_matrix(query, inductive=inductive)
    np.testing.assert_allclose(cold_distances, plain, atol=2e-6)


def test_same_cameras_and_factor_one_change_nothing() -> None:
    query, gallery = clusters(10)
    plain = GraphWalk(k=5).fit(gallery).distance_matrix(query)
    cameras = np.zeros(22, dtype=int), np.zeros(3, dtype=int)
    for factor, mine, theirs in ((0.2, *cameras), (1.0, np.arange(22), np.arange(3))):
        reranker = GraphWalk(k=5, cross_camera=factor).fit(gallery, camids=mine)
        np.testing.assert_array_equal(reranker.distance_matrix(query, camids=theirs), plain)


def test_queries_are_nodes_too() -> None:
    query, gallery = clusters(11, 6)
    reranker = GraphWalk(k=5).fit(gallery)
    alone, together = reranker.distance_matrix(query[:1]), reranker.distance_matrix(query)[:1]
    assert np.abs(alone - together).max() > 1e-3


@pytest.mark.parametrize("walked", ["distributions", "features", "scores"])
def test_chunk_size_changes_nothing(walked: str) -> None:
    query, gallery = clusters(12, 7)
    for inductive in (False, True):
        matrices = [
            GraphWalk(k=5, walked=walked, chunk_size=size)
            .fit(gallery)
            .distance_matrix(query, inductive=inductive)
            for size in (1, 3, 512)
        ]
        np.testing.assert_allclose(matrices[0], matrices[2], atol=1e-6, rtol=0)
        np.testing.assert_allclose(matrices[1], matrices[2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalization", ["rows", "symmetric"])
@pytest.mark.parametrize(("steps", "restart"), WALKS)
def test_the_walk_on_a_sparse_graph_is_the_walk(normalization: str, steps, restart) -> None:
    rng = np.random.default_rng(5)
    weights = rng.random((12, 12)) * (rng.random((12, 12)) < 0.4)
    weights = weights + weights.T + np.eye(12)
    degrees = weights.sum(axis=1)
    transition = weights / degrees[:, None]
    if normalization == "symmetric":
        transition = weights / np.sqrt(degrees[:, None] * degrees)
    start = rng.normal(size=(12, 3))
    dense = torch.from_numpy(transition), torch.from_numpy(start)
    if math.isinf(steps):
        expected = random_walk_limit(*dense, restart=restart)
    else:
        expected = random_walk(*dense, steps=int(steps), restart=restart)
    found = Walk(sparse.csr_array(weights), normalization, steps, restart).last(start)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"weights": "jaccard"}, {"steps": 2}], ids=str)
def test_products_of_some_rows_at_a_time(options: dict[str, Any], monkeypatch: Any) -> None:
    rng = np.random.default_rng(5)
    query, gallery = (rng.normal(size=(n, 6)).astype(np.float32) for n in (5, 40))
    reranker = build_reranker("graph_walk", k=7, **options).fit(gallery)
    expected = [reranker.distance_matrix(query, inductive=alone) for alone in (False, True)]
    for module in (_graph, _sparse):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    fresh = build_reranker("graph_walk", k=7, **options).fit(gallery)
    for alone, matrix in zip((False, True), expected):
        found = fresh.distance_matrix(query, inductive=alone)
        np.testing.assert_allclose(found, matrix, atol=1e-6)
