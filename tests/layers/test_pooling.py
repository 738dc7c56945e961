"""Tests of torchreid_spectral.layers.pooling."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from torchreid_spectral.layers.pooling import PartPool


def maps(*shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(*shape, dtype=torch.float64, generator=g) + 0.1


def twin(x: np.ndarray, rows: tuple[int, ...], power: float) -> np.ndarray:
    """(mean of x^p)^(1/p) over the pixels of each stripe; heights that rows divide."""
    out = []
    for count in rows:
        size = x.shape[2] // count
        for s in range(count):
            stripe = x[:, :, s * size : (s + 1) * size].reshape(*x.shape[:2], -1)
            values = [
                [(math.fsum(v**power for v in c) / len(c)) ** (1 / power) for c in b]
                for b in stripe
            ]
            out.append(values)
    return np.array(out).transpose(1, 2, 0)[..., None]


@pytest.mark.parametrize("rows", [(1,), (4,), (1, 2), (1, 2, 4)])
@pytest.mark.parametrize("power", [None, 1.0, 3.0, 6.5])
def test_matches_reference(rows, power):
    x, pool = maps(2, 3, 4, 2), PartPool(rows, power).double()
    expected = twin(x.numpy(), rows, power or 1.0)
    assert pool.parts == sum(rows)
    torch.testing.assert_close(pool(x), torch.from_numpy(expected))


def test_limits():
    x = maps(2, 3, 4, 2)
    torch.testing.assert_close(PartPool((1,), 1.0)(x), PartPool()(x))
    largest = PartPool((1,), 200.0).double()(x)
    torch.testing.assert_close(largest, x.amax((2, 3), keepdim=True), rtol=0.02, atol=0)


def test_power_is_learned():
    pool, x = PartPool((2,), 3.0).double(), maps(2, 3, 4, 2).requires_grad_()
    assert [name for name, _ in pool.named_parameters()] == ["p"]
    assert gradcheck(lambda x, p: torch.func.functional_call(pool, {"p": p}, x), (x, pool.p))
    assert list(PartPool((2,)).parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_in_half_precision(dtype):
    x = (100 * maps(2, 3, 4, 2)).to(dtype)  # the cube of a half overflows at 41
    pool = PartPool((1,), 3.0)
    expected = PartPool((1,), 3.0).double()(x.double())
    assert pool(x).dtype == dtype
    torch.testing.assert_close(pool(x).double(), expected, rtol=0.01, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pool(x.float()).double(), expected, rtol=1e-5, atol=0)


def test_zeros_have_a_gradient():
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    PartPool((1,), 3.0)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("rows", "power", "message"),
    [
        ((), None, "stripes must be >= 1"),
        ((1, 0), None, "got"),
        ((1,), 0.0, "power must be pos"),
        ((1,), float("inf"), "finite, got inf"),
    ],
)
def test_rejects(rows, power, message):
    with pytest.raises(ValueError, match=message):
        PartPool(rows, power)


@pytest.mark.parametrize("power", [8.0, 20.0, 60.0])
def test_large_powers_neither_vanish_nor_overflow(power):
    x = maps(2, 3, 6, 2).float()
    x[:, 1], x[:, 2] = 0.0, 100.0
    pool = PartPool((2,), power)
    found = pool(x.requires_grad_())
    torch.testing.assert_close(found[:, 1], torch.full((2, 2, 1), 1e-6), rtol=1e-3, atol=0)
    torch.testing.assert_close(found[:, 2], torch.full((2, 2, 1), 100.0), rtol=1e-5, atol=0)
    found.sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(pool.p.grad)


@pytest.mark.parametrize(("height", "rows"), [(7, 2), (8, 3), (5, 4), (2, 3)])
def test_stripes_are_those_of_adaptive_pooling(height, rows):
    x = maps(2, 3, height, 2)
    found = PartPool((rows,), 1.0).double()(x)
    torch.testing.assert_close(found, torch.nn.functional.adaptive_avg_pool2d(x, (rows, 1)))


def test_a_power_that_is_learned_away_stays_positive():
    pool, x = PartPool((1,), power=3.0), torch.rand(2, 3, 4, 2)
    for power in (0.0, -5.0):
        pool.p.data.fill_(power)
        found = pool(x)
        assert found.isfinite().all() and (found > x.amin((2, 3))[..., None, None]).all()
