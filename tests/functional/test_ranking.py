"""Tests of torchreid_spectral.functional.ranking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from tests.references import similarity as reference
from torchreid_spectral.functional.ranking import rank_top_k, top_k

METRICS = ["cosine", "euclidean", "squared_euclidean"]


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1024])
@pytest.mark.parametrize("metric", METRICS)
def test_matches_reference(metric: str, chunk_size: int) -> None:
    query, gallery = features(0, 7, 5), features(1, 11, 5)
    indices, distances = rank_top_k(query, gallery, 4, metric=metric, chunk_size=chunk_size)
    assert indices.dtype == torch.int64
    assert distances.dtype == torch.float32
    matrix = reference.distance(query.numpy(), gallery.numpy(), metric)
    expected_indices, expected = reference.nearest(matrix, 4)
    assert torch.equal(indices, torch.from_numpy(expected_indices))
    expected = torch.from_numpy(expected)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-6, atol=2e-7)


def test_default_is_cosine() -> None:
    query, gallery = features(2, 3, 5), features(3, 8, 5) * torch.arange(1, 9)[:, None]
    for actual, expected in zip(
        rank_top_k(query, gallery, 5), rank_top_k(query, gallery, 5, metric="cosine")
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_the_indices_and_ascend(metric: str) -> None:
    query, gallery = features(4, 5, 6), features(5, 30, 6)
    indices, distances = rank_top_k(query, gallery, 9, metric=metric, chunk_size=2)
    assert (distances.diff(dim=1) >= 0).all()
    matrix = reference.distance(query.numpy(), gallery.numpy(), metric)
    picked = np.take_along_axis(matrix, indices.numpy(), 1)
    torch.testing.assert_close(distances.double(), torch.from_numpy(picked), rtol=1e-6, atol=2e-7)


@settings(deadline=None, max_examples=30)
@given(
    query=st.lists(st.tuples(*[st.integers(-1, 1)] * 2), min_size=1, max_size=5),
    gallery=st.lists(st.tuples(*[st.integers(-1, 1)] * 2), min_size=1, max_size=12),
    k=st.integers(1, 14),
    chunk_size=st.integers(1, 6),
)
@pytest.mark.parametrize("metric", ["euclidean", "squared_euclidean"])
def test_ties_go_to_the_lower_index(
    query: list, gallery: list, k: int, chunk_size: int, metric: str
) -> None:
    """Points of a small grid: their distances are exact and full of ties."""
    q, g = torch.tensor(query).float(), torch.tensor(gallery).float()
    indices, _ = rank_top_k(q, g, k, metric=metric, chunk_size=chunk_size)
    matrix = reference.squared_euclidean(q.numpy(), g.numpy())
    expected, _ = reference.nearest(matrix, k)
    assert torch.equal(indices, torch.from_numpy(expected))


def test_cosine_ties_go_to_the_lower_index() -> None:
    gallery = torch.eye(4)[torch.arange(400) % 4]
    indices, distances = rank_top_k(torch.eye(4), gallery, 103, chunk_size=3)
    for q in range(4):
        others = [j for j in range(400) if j % 4 != q]
        assert indices[q].tolist() == [*range(q, 400, 4), *others[:3]]
    torch.testing.assert_close(distances[:, :100], torch.zeros(4, 100))
    torch.testing.assert_close(distances[:, 100:], torch.ones(4, 3))


@pytest.mark.parametrize("k", [6, 7, 1000])
def test_k_is_clipped_to_the_gallery(k: int) -> None:
    indices, distances = rank_top_k(features(6, 2, 3), features(7, 6, 3), k)
    assert indices.shape == distances.shape == (2, 6)
    assert indices.sort(1).values.tolist() == [list(range(6))] * 2


def test_one_query_one_gallery_image() -> None:
    indices, distances = rank_top_k(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 1)
    assert indices.tolist() == [[0]]
    torch.testing.assert_close(distances, torch.ones(1, 1))


def test_zero_vectors_are_as_far_as_a_right_angle() -> None:
    gallery = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    indices, distances = rank_top_k(torch.tensor([[3.0, 0.0]]), gallery, 4)
    assert indices.tolist() == [[2, 1, 3, 0]]
    torch.testing.assert_close(distances, torch.tensor([[0.0, 1.0, 1.0, 2.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_other_precisions_lose_nothing(metric: str, dtype: torch.dtype) -> None:
    query, gallery = features(8, 3, 16).to(dtype), features(9, 50, 16).to(dtype)
    indices, distances = rank_top_k(query, gallery, 20, metric=metric)
    assert indices.dtype == torch.int64
    assert distances.dtype == torch.promote_types(dtype, torch.float32)
    matrix = reference.distance(query.double().numpy(), gallery.double().numpy(), metric)
    expected_indices, expected = reference.nearest(matrix, 20)
    assert torch.equal(indices, torch.from_numpy(expected_indices))
    expected = torch.from_numpy(expected)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-6, atol=5e-7)


def test_autocast_does_not_cost_precision() -> None:
    query, gallery = features(10, 4, 32), features(11, 60, 32)
    expected = rank_top_k(query, gallery, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = rank_top_k(query, gallery, 30)
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1])


def test_inputs_are_left_alone() -> None:
    query, gallery = features(12, 4, 3), features(13, 6, 3)
    before = query.clone(), gallery.clone()
    for metric in METRICS:
        rank_top_k(query, gallery, 3, metric=metric)
    assert torch.equal(query, before[0])
    assert torch.equal(gallery, before[1])


def test_rejects_metric() -> None:
    with pytest.raises(ValueError, match="metric must be one of"):
        rank_top_k(features(14, 2, 3), features(15, 4, 3), 2, metric="manhattan")


def test_wrong_shapes_are_caught() -> None:
    with pytest.raises(TypeCheckError):
        rank_top_k(torch.ones(2, 3), torch.ones(4, 5), 2)


# --- top_k of a given matrix ----------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda m: st.lists(
            st.lists(st.integers(-2, 2), min_size=m, max_size=m), min_size=1, max_size=4
        )
    ),
    k=st.integers(1, 7),
)
def test_top_k_matches_reference(rows: list[list[int]], k: int) -> None:
    matrix = torch.tensor(rows).float()
    indices, distances = top_k(matrix, k)
    expected_indices, expected = reference.nearest(matrix.numpy(), k)
    assert torch.equal(indices, torch.from_numpy(expected_indices))
    assert torch.equal(distances, torch.from_numpy(expected))


@pytest.mark.parametrize("k", [1, 10, 1500, 4999, 5000])
def test_top_k_of_long_rows_full_of_ties(k: int) -> None:
    values = torch.randint(4, (2, 5000), generator=torch.Generator().manual_seed(16)).float()
    indices, distances = top_k(values, k)
    expected = np.argsort(values.numpy(), axis=1, kind="stable")[:, :k]
    assert torch.equal(indices, torch.from_numpy(expected))
    assert torch.equal(distances, values.gather(1, indices))


def test_top_k_of_ties_before_the_last_place() -> None:
    values = torch.zeros(1, 3000)
    values[0, ::3] = torch.arange(1.0, 1001.0)  # no tie at the k-th place itself
    indices, _ = top_k(values, 2001)
    expected = np.argsort(values.numpy(), axis=1, kind="stable")[:, :2001]
    assert torch.equal(indices, torch.from_numpy(expected))


def test_top_k_takes_leading_dimensions() -> None:
    matrix = features(17, 2, 3, 6)
    indices, distances = top_k(matrix, 4)
    assert indices.shape == distances.shape == (2, 3, 4)
    for a in range(2):
        expected = top_k(matrix[a], 4)
        assert torch.equal(indices[a], expected[0])
        assert torch.equal(distances[a], expected[1])
    assert top_k(matrix[0, 0], 2)[0].tolist() == indices[0, 0, :2].tolist()


def test_top_k_of_infinite_and_signed_zero_distances() -> None:
    inf = float("inf")
    indices, _ = top_k(torch.tensor([[inf, 0.0, inf, -0.0, -inf, 0.0]]), 6)
    assert indices.tolist() == [[4, 1, 3, 5, 0, 2]]


def test_top_k_leaves_its_input_alone() -> None:
    matrix = features(18, 3, 5)
    before = matrix.clone()
    top_k(matrix, 3)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("levels", [3, 40, 10**7])
@pytest.mark.parametrize("columns", [500, 1023, 5003])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_top_k_among_many_columns(k: int, columns: int, levels: int) -> None:
    """Groups of columns are looked at first, the last columns being in none."""
    values = torch.randint(levels, (9, columns), generator=torch.Generator().manual_seed(k))
    values = values.double()
    values[0, -k:] = -1  # all in the rest
    values[1, :: max(1, columns // k)] = -1  # spread over the groups
    values[2, 5] = values[2, 7] = float("inf")
    indices, distances = top_k(values, k)
    order = values.argsort(dim=1, stable=True)[:, :k]
    assert torch.equal(indices, order)
    assert torch.equal(distances, values.gather(1, order))


def test_top_k_of_many_columns_with_a_nan() -> None:
    values = torch.rand(3, 2000, generator=torch.Generator().manual_seed(0))
    values[1, 1000:] = float("nan")  # one in every group
    order = values.argsort(dim=1, stable=True)[:, :5]  # NaN is last
    assert torch.equal(top_k(values, 5)[0], order)


@pytest.mark.parametrize("metric", METRICS)
def test_tiles_are_joined_without_a_loss(metric: str) -> None:
    """More tiles than are held before they are joined, and duplicates across them."""
    query, gallery = features(7, 5, 6), features(8, 501, 6)
    gallery[250:260] = gallery[:10]
    expected = rank_top_k(query, gallery, 20, metric=metric)
    found = rank_top_k(query, gallery, 20, metric=metric, tile_size=4)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_top_k_with_ties_has_a_gradient() -> None:
    distances = torch.tensor([[1.0, 1.0, 1.0, 0.0, 2.0], [3.0, 0.0, 1.0, 2.0, 4.0]])
    distances.requires_grad_()
    columns, values = top_k(distances, 2)
    (values * torch.tensor([1.0, 10.0])).sum().backward()
    assert columns.tolist() == [[3, 0], [1, 2]]
    assert distances.grad is not None
    assert distances.grad.tolist() == [[10, 0, 0, 1, 0], [0, 1, 10, 0, 0]]
