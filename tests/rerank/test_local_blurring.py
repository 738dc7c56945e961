"""Tests of the local-blurring re-ranker against its twin."""

import numpy as np
import pytest
import torch

from tests.references import local_blurring as reference
from torchreid_spectral.rerank import build_reranker


def features(seed: int, *shape: int) -> np.ndarray:
    """Draw positive features, as those behind a ReLU: no cosine below zero."""
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def blur(query: np.ndarray, gallery: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    reranker = build_reranker("local_blurring", **options)
    reranker.fit(gallery)
    return reranker.rank(query, top_k=len(gallery))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("k", [1, 2, 9, 30, 99])
def test_matches_reference(k: int, temperature: float, steps: int) -> None:
    query, gallery = features(0, 4, 6), features(1, 30, 6)
    indices, distances = blur(query, gallery, k=k, temperature=temperature, steps=steps)
    expected_indices, expected = reference.rank(query, gallery, k, temperature, steps)
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=2e-6)
    apart = np.diff(expected, axis=1).min() > 1e-5  # many warm steps leave nothing to order by
    if apart:
        np.testing.assert_array_equal(indices, expected_indices)


def test_the_comparison_above_sees_an_order() -> None:
    query, gallery = features(0, 4, 6), features(1, 30, 6)
    order = reference.rank(query, gallery, 9, 0.1)[0]
    plain = reference.rank(query, gallery, 1, 0.1)[0]
    more = reference.rank(query, gallery, 9, 0.1, steps=5)[0]
    assert (order != plain).any()
    assert (order != more).any()
    indices, _ = blur(query, gallery, k=9, temperature=0.1)
    np.testing.assert_array_equal(indices, order)
    indices, _ = blur(query, gallery, k=9, temperature=0.1, steps=5)
    np.testing.assert_array_equal(indices, more)


def test_default_settings() -> None:
    query, gallery = features(2, 3, 8), features(3, 70, 8)
    expected = blur(query, gallery, k=50, temperature=0.1, steps=1)
    for actual, wanted in zip(blur(query, gallery), expected):
        np.testing.assert_array_equal(actual, wanted)


def test_only_the_head_moves() -> None:
    query, gallery = features(4, 5, 6), features(5, 40, 6)
    plain = build_reranker("none")
    plain.fit(gallery)
    indices, distances = plain.rank(query, top_k=40)
    blurred, blurred_distances = blur(query, gallery, k=10)
    np.testing.assert_array_equal(np.sort(blurred[:, :10]), np.sort(indices[:, :10]))
    np.testing.assert_array_equal(blurred[:, 10:], indices[:, 10:])
    np.testing.assert_allclose(blurred_distances[:, 9:], distances[:, 9:], rtol=1e-6, atol=1e-6)


def test_cold_graph_and_lonely_neighbor_change_nothing() -> None:
    query, gallery = features(6, 5, 6), features(7, 40, 6)
    expected = np.argsort(-(unit(query) @ unit(gallery).T), axis=1, kind="stable")
    for options in ({"k": 20, "temperature": 1e-4}, {"k": 1}):
        np.testing.assert_array_equal(blur(query, gallery, **options)[0], expected)


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_scores_are_those_of_the_blurred_features() -> None:
    """The blurred g' = W g is not normalised, so g' q is one step of the walk on the scores."""
    query, gallery = unit(features(8, 1, 6)), unit(features(9, 12, 6))
    w = np.exp(gallery @ gallery.T / 0.1)
    scores = ((w / w.sum(1, keepdims=True)) @ gallery) @ query[0]
    indices, distances = blur(query.astype(np.float32), gallery.astype(np.float32), k=12)
    np.testing.assert_array_equal(indices[0], np.argsort(-scores))
    gaps = np.diff(-np.sort(-scores))
    np.testing.assert_allclose(np.diff(distances[0]), -gaps, rtol=0, atol=2e-6)


def test_length_of_the_features_does_not_matter() -> None:
    query, gallery = features(10, 4, 6), features(11, 30, 6)
    lengths = np.linspace(0.1, 50, 30, dtype=np.float32)[:, None]
    expected = blur(query, gallery, k=9)
    actual = blur(query * 7, gallery * lengths, k=9)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5, atol=2e-6)


def test_other_queries_do_not_matter() -> None:
    query, gallery = features(12, 6, 6), features(13, 30, 6)
    together = blur(query, gallery, k=9)
    for q in range(6):
        np.testing.assert_array_equal(blur(query[q : q + 1], gallery, k=9)[0][0], together[0][q])


def test_probe_is_no_node_of_the_graph() -> None:
    """A gallery copy of the probe changes the graph; the probe itself must not."""
    gallery = features(14, 10, 6)
    probe = gallery[:1].copy()
    indices, _ = blur(probe, gallery, k=10)
    np.testing.assert_array_equal(indices, reference.rank(probe, gallery, 10, 0.1)[0])


def test_float64_and_half_tensors() -> None:
    query, gallery = features(15, 3, 6), features(16, 20, 6)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        q, g = torch.from_numpy(query).to(dtype), torch.from_numpy(gallery).to(dtype)
        reranker = build_reranker("local_blurring", k=8)
        reranker.fit(g)
        _, distances = reranker.rank(q, top_k=20)
        _, expected = reference.rank(q.double().numpy(), g.double().numpy(), 8, 0.1)
        np.testing.assert_allclose(distances.double().numpy(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_rejects_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        blur(features(17, 1, 4), features(18, 5, 4), temperature=temperature)


@pytest.mark.parametrize(("option", "value"), [("k", 0), ("steps", -1)])
def test_rejects_counts(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be >= .*, got {value}"):
        blur(features(19, 1, 4), features(20, 5, 4), **{option: value})
