"""Tests of torchreid_spectral.functional.distance."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from tests.references import similarity as reference
from torchreid_spectral.functional.distance import (
    cosine_distance,
    euclidean_distance,
    prepared_rows,
    squared_euclidean_distance,
)

DISTANCES = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
    "squared_euclidean": squared_euclidean_distance,
}
every_distance = pytest.mark.parametrize("name", DISTANCES)


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@every_distance
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(name: str, dtype: torch.dtype) -> None:
    x, y = features(0, 7, 6, dtype=dtype), features(1, 5, 6, dtype=dtype)
    actual = DISTANCES[name](x, y)
    assert actual.dtype == dtype
    expected = torch.from_numpy(reference.distance(x.numpy(), y.numpy(), name))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_agrees_with_torchreid(metric: str, torchreid: ModuleType) -> None:
    """What torchreid calls "euclidean" is the squared distance."""
    x, y = features(2, 7, 6, dtype=torch.float32), features(3, 5, 6, dtype=torch.float32)
    ours = {"cosine": cosine_distance, "euclidean": squared_euclidean_distance}[metric]
    theirs = torchreid.metrics.compute_distance_matrix(x, y, metric)
    torch.testing.assert_close(ours(x, y), theirs)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 7), m=st.integers(1, 7))
def test_laws(seed: int, n: int, m: int) -> None:
    x, y = features(seed, n, 4), features(seed + 1, m, 4)
    for distance in DISTANCES.values():
        d = distance(x, y)
        assert d.shape == (n, m)
        assert (d >= -1e-12).all()
        torch.testing.assert_close(distance(y, x), d.mT)
    torch.testing.assert_close(euclidean_distance(x, y).square(), squared_euclidean_distance(x, y))
    torch.testing.assert_close(cosine_distance(2 * x, 3 * y), cosine_distance(x, y))
    shift = features(seed + 2, 4)
    torch.testing.assert_close(
        euclidean_distance(x + shift, y + shift), euclidean_distance(x, y), rtol=1e-6, atol=1e-6
    )


def test_on_the_unit_sphere_the_three_agree() -> None:
    x = torch.nn.functional.normalize(features(4, 6, 5))
    squared = squared_euclidean_distance(x, x.flip(0))
    torch.testing.assert_close(squared, 2 * cosine_distance(x, x.flip(0)))


def test_cosine_range() -> None:
    x = torch.tensor([[1.0, 0.0]])
    y = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-4.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(cosine_distance(x, y), torch.tensor([[0.0, 1.0, 2.0, 1.0]]))


def test_squared_distance_is_never_negative() -> None:
    x = (1000 + features(5, 40, 64, dtype=torch.float32)).repeat(2, 1)
    assert (squared_euclidean_distance(x, x) >= 0).all()
    assert torch.isfinite(euclidean_distance(x, x)).all()


@every_distance
def test_gradcheck(name: str) -> None:
    x, y = features(6, 3, 4).requires_grad_(), features(7, 2, 4).requires_grad_()
    assert gradcheck(DISTANCES[name], (x, y))


@every_distance
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_at_zero_distance(name: str, dtype: torch.dtype) -> None:
    x = features(8, 4, 3, dtype=dtype)
    x[1] = x[0]
    x[3] = 0
    x.requires_grad_()
    DISTANCES[name](x, x).sum().backward()
    assert torch.isfinite(x.grad).all()


@every_distance
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision(name: str, dtype: torch.dtype, rtol: float) -> None:
    x, y = features(9, 6, 64).to(dtype), features(10, 5, 64).to(dtype)
    actual = DISTANCES[name](x, y)
    assert actual.dtype == dtype
    expected = DISTANCES[name](x.double(), y.double())
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=0)


def test_half_precision_of_close_pairs() -> None:
    """Norms of 4096 with a spacing of 4 (float16) or 32 (bfloat16) would hide distances of 1."""
    x = torch.full((1, 64), 8.0)
    y = x.repeat(3, 1)
    y[1, 0] += 1
    y[2, :2] += 1
    for dtype in (torch.float16, torch.bfloat16):
        actual = squared_euclidean_distance(x.to(dtype), y.to(dtype))
        torch.testing.assert_close(actual, torch.tensor([[0.0, 1.0, 2.0]], dtype=dtype))


@every_distance
def test_autocast_does_not_cost_precision(name: str) -> None:
    x, y = features(11, 6, 64, dtype=torch.float32), features(12, 5, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = DISTANCES[name](x, y)
    torch.testing.assert_close(actual, DISTANCES[name](x, y))


@every_distance
def test_inputs_are_left_alone(name: str) -> None:
    x, y = features(13, 3, 4), features(14, 2, 4)
    before = x.clone(), y.clone()
    DISTANCES[name](x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_wrong_shapes_are_caught(distance: Callable) -> None:
    with pytest.raises(TypeCheckError):
        distance(torch.ones(3, 4), torch.ones(3, 5))
    with pytest.raises(TypeCheckError):
        distance(torch.ones(4), torch.ones(3, 4))


def test_unit_rows_are_not_copied():
    unit = torch.nn.functional.normalize(features(0, 50, 16, dtype=torch.float32), dim=1)
    assert prepared_rows(unit, "cosine") is unit
    assert prepared_rows(unit, "euclidean") is unit
    coarse = unit.half()
    assert prepared_rows(coarse, "cosine").dtype == torch.float32
    longer = torch.cat([unit, 1.00001 * unit[:1]])  # one row is enough
    torch.testing.assert_close(
        prepared_rows(longer, "cosine")[-1], unit[0], atol=1e-7, rtol=0, check_dtype=True
    )


def test_preparing_has_a_gradient_where_one_is_wanted():
    unit = torch.eye(3, requires_grad=True)
    prepared_rows(unit, "cosine").sum().backward()
    assert unit.grad is not None
    torch.testing.assert_close(unit.grad, 1 - torch.eye(3))  # no growth along the row itself
