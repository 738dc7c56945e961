"""Tests of torchreid_spectral.functional.similarity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from tests.references import similarity as reference
from torchreid_spectral.functional.similarity import (
    cosine_similarity,
    scaled_dot_product,
    unit_rows,
)


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def people(images: int = 8, noise: float = 0.2) -> torch.Tensor:
    """Tight clusters, as images of the same person are: rows of near-equal similarity."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(16, 64, generator=g).abs().repeat_interleave(images, 0)
    return centers + noise * torch.randn(centers.shape, generator=g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(dtype: torch.dtype) -> None:
    x, y = features(0, 7, 6, dtype=dtype), features(1, 5, 6, dtype=dtype)
    for actual, other in [(cosine_similarity(x, y), y), (cosine_similarity(x), x)]:
        assert actual.dtype == dtype
        expected = torch.from_numpy(reference.cosine(x.numpy(), other.numpy()))
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-7)


def test_one_argument_compares_the_rows_with_each_other() -> None:
    x = features(2, 6, 4)
    torch.testing.assert_close(cosine_similarity(x), cosine_similarity(x, x))
    torch.testing.assert_close(cosine_similarity(x).diagonal(), torch.ones(6).double())


def test_leading_dimensions_are_a_loop() -> None:
    x, y = features(3, 2, 3, 5, 4), features(4, 2, 3, 6, 4)
    pairs = zip(x.flatten(0, 1), y.flatten(0, 1))
    expected = torch.stack([cosine_similarity(a, b) for a, b in pairs]).unflatten(0, (2, 3))
    torch.testing.assert_close(cosine_similarity(x, y), expected)
    assert cosine_similarity(x).shape == (2, 3, 5, 5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
def test_bounded_symmetric_and_blind_to_length(seed: int, n: int, scale: float) -> None:
    x = features(seed, n, 4)
    lengths = scale * (1 + torch.arange(n, dtype=x.dtype))
    s = cosine_similarity(x)
    assert s.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(s, s.mT)
    torch.testing.assert_close(cosine_similarity(x * lengths[:, None]), s)
    torch.testing.assert_close(cosine_similarity(x, -x), -s)


def test_zero_vector_is_similar_to_nothing() -> None:
    x = features(5, 4, 3)
    x[1] = 0
    s = cosine_similarity(x)
    assert torch.count_nonzero(s[1]) == 0
    assert torch.count_nonzero(s[:, 1]) == 0
    x.requires_grad_()
    cosine_similarity(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_gradcheck() -> None:
    x, y = features(6, 4, 3).requires_grad_(), features(7, 2, 3).requires_grad_()
    assert gradcheck(cosine_similarity, (x, y))
    assert gradcheck(cosine_similarity, x)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 4e-4), (torch.bfloat16, 4e-3)])
def test_half_precision_costs_one_rounding(dtype: torch.dtype, atol: float) -> None:
    x = people().to(dtype)
    s = cosine_similarity(x)
    assert s.dtype == dtype
    expected = cosine_similarity(x.double())
    torch.testing.assert_close(s.double(), expected, rtol=0, atol=atol)
    # half of the spacing of the type just below one: nothing but the last rounding was lost
    assert (s.double() - expected).abs().max() <= torch.finfo(dtype).eps / 4 + 1e-6


def test_half_precision_does_not_overflow() -> None:
    x = torch.full((2, 64), 6e4, dtype=torch.float16)
    torch.testing.assert_close(cosine_similarity(x), torch.ones(2, 2, dtype=x.dtype))


def test_scaled_products_are_scaled_before_they_are_rounded() -> None:
    x = torch.full((2, 1024), 10.0)
    expected = torch.full((2, 2), 3200.0)  # the products, 102400, are beyond float16
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(scaled_dot_product(x.to(dtype)), expected.to(dtype))
        assert torch.equal(scaled_dot_product(x.to(dtype), x.to(dtype)), expected.to(dtype))


def test_autocast_does_not_cost_precision() -> None:
    x = people()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = cosine_similarity(x, x)
    torch.testing.assert_close(actual, cosine_similarity(x, x))


def test_inputs_are_left_alone() -> None:
    x, y = features(8, 3, 4), features(9, 2, 4)
    before = x.clone(), y.clone()
    cosine_similarity(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((4,), (2, 4)), ((2, 3, 4), (3, 3, 4))])
def test_wrong_shapes_are_caught(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(TypeCheckError):
        cosine_similarity(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_zero_row_has_no_gradient(dtype: torch.dtype) -> None:
    """Not one of 1e12, which half precision cannot hold."""
    x = features(8, 5, 4).to(dtype)
    x[2] = 0
    x.requires_grad_()
    (unit_rows(x) * features(9, 5, 4)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[2].abs().max() == 0 < x.grad[1].abs().max()


def test_short_rows_become_unit_rows() -> None:
    length = unit_rows(torch.full((1, 4), 1e-13)).norm()
    torch.testing.assert_close(length, torch.ones(()))


def test_whole_numbers_are_features_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored as uint8, say; what is computed of them is no whole number."""
    from jaxtyping import config

    from torchreid_spectral import functional
    from torchreid_spectral.functional import similarity

    monkeypatch.setattr(config, "jaxtyping_disable", True)
    whole = torch.tensor([[1, 2], [3, 1], [0, 4]], dtype=torch.uint8)
    for function in (functional.cosine_similarity,
                     similarity.dot_product, similarity.scaled_dot_product,
                     functional.transition_matrix, functional.affinity_matrix,
                     lambda x: functional.cosine_distance(x, x),
                     lambda x: functional.euclidean_distance(x, x),
                     lambda x: functional.random_walk(torch.full((3, 3), 1 / 3), x)):  # fmt: skip
        found = function(whole)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, function(whole.float()))
