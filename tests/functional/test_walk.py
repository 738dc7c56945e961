"""Tests of torchreid_spectral.functional.walk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from tests.references import walk as reference
from torchreid_spectral.functional import random_walk as exported
from torchreid_spectral.functional.transition import transition_matrix
from torchreid_spectral.functional.walk import random_walk, random_walk_limit


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def chain(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw a transition matrix that has no symmetry to hide a transposed T behind."""
    return features(seed, *shape, shape[-1], dtype=dtype).softmax(-1)


def test_is_exported() -> None:
    assert exported is random_walk


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("restart", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_matches_reference(steps: int, restart: float, dtype: torch.dtype) -> None:
    t, x = chain(0, 6, dtype=dtype), features(1, 6, 3, dtype=dtype)
    actual = random_walk(t, x, steps=steps, restart=restart)
    assert actual.dtype == dtype
    expected = reference.random_walk(t.double().numpy(), x.double().numpy(), steps, restart)
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("restart", [0.05, 0.3, 0.9, 1.0])
def test_limit_matches_reference(restart: float, dtype: torch.dtype) -> None:
    t, x = chain(2, 6, dtype=dtype), features(3, 6, 3, dtype=dtype)
    actual = random_walk_limit(t, x, restart=restart)
    assert actual.dtype == dtype
    expected = reference.random_walk_limit(t.double().numpy(), x.double().numpy(), restart)
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=2e-6, atol=1e-6)


def test_default_is_one_step_without_restart() -> None:
    t, x = chain(4, 5), features(5, 5, 2)
    torch.testing.assert_close(random_walk(t, x), t @ x)
    torch.testing.assert_close(
        random_walk(t, x, 2, 0.25), 0.75 * t @ (0.75 * t @ x + 0.25 * x) + 0.25 * x
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8), steps=st.integers(0, 9))
def test_walk_is_a_matrix_power(seed: int, n: int, steps: int) -> None:
    t, x = chain(seed, n), features(seed + 1, n, 3)
    expected = torch.linalg.matrix_power(t, steps) @ x
    torch.testing.assert_close(random_walk(t, x, steps=steps), expected)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 8),
    steps=st.integers(0, 6),
    restart=st.floats(0.01, 1.0),
)
def test_laws(seed: int, n: int, steps: int, restart: float) -> None:
    t, x = chain(seed, n), features(seed + 1, n, 3)
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for walk in (
        lambda t, x: random_walk(t, x, steps=steps, restart=restart),
        lambda t, x: random_walk_limit(t, x, restart=restart),
    ):
        out = walk(t, x)
        torch.testing.assert_close(walk(t[perm][:, perm], x[perm]), out[perm])
        torch.testing.assert_close(walk(t, torch.full_like(x, 3.0)), torch.full_like(x, 3.0))
        torch.testing.assert_close(walk(t, 2 * x + 1), 2 * out + 1)
        assert (out <= x.amax(0) + 1e-12).all()  # averages stay within what they average
        assert (out >= x.amin(0) - 1e-12).all()


@pytest.mark.parametrize("restart", [0.1, 0.5, 1.0])
def test_limit_is_a_long_walk_and_a_fixed_point(restart: float) -> None:
    t, x = chain(6, 6), features(7, 6, 3)
    limit = random_walk_limit(t, x, restart=restart)
    torch.testing.assert_close(limit, random_walk(t, x, steps=500, restart=restart))
    torch.testing.assert_close(limit, (1 - restart) * t @ limit + restart * x)


def test_limits() -> None:
    x = features(8, 5, 4)
    hot = random_walk(transition_matrix(x, temperature=1e9), x)
    torch.testing.assert_close(hot, x.mean(0).expand_as(x))
    cold = random_walk(transition_matrix(x, temperature=1e-4), x, steps=3)
    torch.testing.assert_close(cold, x)
    t = chain(9, 5)
    torch.testing.assert_close(random_walk(t, x, steps=0, restart=0.7), x)
    torch.testing.assert_close(random_walk(t, x, steps=4, restart=1.0), x)
    torch.testing.assert_close(random_walk_limit(t, x, restart=1.0), x)
    weak = random_walk_limit(t, x, restart=1e-9)  # forgets where it began
    torch.testing.assert_close(weak, weak[:1].expand_as(weak), rtol=1e-6, atol=1e-6)


def test_a_periodic_walk_has_a_limit_with_restart() -> None:
    swap, x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    actual = random_walk_limit(swap, x, restart=0.5)
    torch.testing.assert_close(actual, torch.tensor([[2 / 3], [1 / 3]]))


def test_leading_dimensions_are_a_loop() -> None:
    t, x = chain(10, 2, 3, 5), features(11, 2, 3, 5, 4)
    pairs = list(zip(t.flatten(0, 1), x.flatten(0, 1)))
    for walk in (
        lambda t, x: random_walk(t, x, steps=2, restart=0.2),
        lambda t, x: random_walk_limit(t, x, restart=0.2),
    ):
        expected = torch.stack([walk(a, b) for a, b in pairs]).unflatten(0, (2, 3))
        torch.testing.assert_close(walk(t, x), expected)


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_gradcheck(restart: float) -> None:
    t, x = chain(12, 4).requires_grad_(), features(13, 4, 2).requires_grad_()
    assert gradcheck(lambda t, x: random_walk(t, x, steps=3, restart=restart), (t, x))


def test_limit_gradcheck() -> None:
    t, x = chain(14, 4).requires_grad_(), features(15, 4, 2).requires_grad_()
    assert gradcheck(lambda t, x: random_walk_limit(t, x, restart=0.3), (t, x))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 6e-3), (torch.bfloat16, 5e-2)])
def test_half_precision(dtype: torch.dtype, atol: float) -> None:
    t, x = chain(16, 8).to(dtype), features(17, 8, 4).to(dtype)
    actual = random_walk(t, x, steps=3, restart=0.2)
    assert actual.dtype == dtype
    expected = random_walk(t.double(), x.double(), steps=3, restart=0.2)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
    actual = random_walk_limit(t, x, restart=0.2)
    assert actual.dtype == dtype
    expected = random_walk_limit(t.double(), x.double(), restart=0.2)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_autocast_keeps_the_dtype(steps: int) -> None:
    t, x = chain(18, 6, dtype=torch.float32), features(19, 6, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = random_walk(t, x, steps=steps, restart=0.1)
        limit = random_walk_limit(t, x, restart=0.1)
    torch.testing.assert_close(actual, random_walk(t, x, steps=steps, restart=0.1))
    torch.testing.assert_close(limit, random_walk_limit(t, x, restart=0.1))


@pytest.mark.parametrize("steps", [0, 2])
def test_inputs_are_left_alone(steps: int) -> None:
    t, x = chain(20, 4), features(21, 4, 3)
    before = t.clone(), x.clone()
    random_walk(t, x, steps=steps, restart=0.5)
    random_walk_limit(t, x, restart=0.5)
    assert torch.equal(t, before[0])
    assert torch.equal(x, before[1])


def test_one_node_stays() -> None:
    t, x = torch.ones(1, 1), torch.tensor([[2.0, -1.0]])
    torch.testing.assert_close(random_walk(t, x, steps=4, restart=0.2), x)
    torch.testing.assert_close(random_walk_limit(t, x, restart=0.2), x)


def test_rejects_negative_steps() -> None:
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        random_walk(torch.eye(2), torch.ones(2, 1), steps=-1)


@pytest.mark.parametrize("restart", [-0.1, 1.1])
def test_rejects_restart(restart: float) -> None:
    with pytest.raises(ValueError, match=r"restart must be in \[0, 1\], got"):
        random_walk(torch.eye(2), torch.ones(2, 1), restart=restart)


@pytest.mark.parametrize("restart", [-0.1, 0.0, 1.1])
def test_limit_rejects_restart(restart: float) -> None:
    with pytest.raises(ValueError, match=r"restart must be in \(0, 1\], got"):
        random_walk_limit(torch.eye(2), torch.ones(2, 1), restart=restart)


@pytest.mark.parametrize("shapes", [((3, 3), (4, 2)), ((3, 4), (4, 2)), ((3, 3), (3,))])
def test_wrong_shapes_are_caught(shapes: tuple[tuple[int, ...], ...]) -> None:
    t, x = torch.ones(shapes[0]), torch.ones(shapes[1])
    with pytest.raises(TypeCheckError):
        random_walk(t, x)
    with pytest.raises(TypeCheckError):
        random_walk_limit(t, x, restart=0.5)


def chain_to_anchors(seed: int, n: int, m: int) -> torch.Tensor:
    return features(seed, n, n + m).softmax(-1)


@pytest.mark.parametrize("restart", [0.0, 0.3])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_anchors_match_reference(steps: int, restart: float) -> None:
    t, x, anchors = chain_to_anchors(22, 5, 3), features(23, 5, 2), features(24, 3, 2)
    actual = random_walk(t, x, steps, restart, anchors=anchors)
    expected = reference.random_walk(t.numpy(), x.numpy(), steps, restart, anchors.numpy())
    torch.testing.assert_close(actual, torch.from_numpy(expected))


@pytest.mark.parametrize("restart", [0.1, 0.6, 1.0])
def test_limit_with_anchors_is_a_long_walk(restart: float) -> None:
    t, x, anchors = chain_to_anchors(25, 5, 3), features(26, 5, 2), features(27, 3, 2)
    limit = random_walk_limit(t, x, restart=restart, anchors=anchors)
    expected = reference.random_walk(t.numpy(), x.numpy(), 300, restart, anchors.numpy())
    torch.testing.assert_close(limit, torch.from_numpy(expected))


def test_anchors_are_nodes_that_stay() -> None:
    t, x, anchors = chain_to_anchors(28, 4, 3), features(29, 4, 2), features(30, 3, 2)
    whole = torch.eye(7).double()
    whole[:4] = t
    expected = random_walk(whole, torch.cat([x, anchors]), steps=3)[:4]
    torch.testing.assert_close(random_walk(t, x, steps=3, anchors=anchors), expected)


def test_anchors_gradcheck() -> None:
    t = chain_to_anchors(31, 4, 2).requires_grad_()
    x, anchors = features(32, 4, 2).requires_grad_(), features(33, 2, 2).requires_grad_()
    assert gradcheck(lambda t, x, a: random_walk(t, x, 2, 0.2, anchors=a), (t, x, anchors))
    assert gradcheck(
        lambda t, x, a: random_walk_limit(t, x, restart=0.3, anchors=a), (t, x, anchors)
    )


def test_columns_must_be_nodes_and_anchors() -> None:
    t, x = chain_to_anchors(34, 4, 2), features(35, 4, 2)
    for walk in (random_walk, lambda t, x: random_walk_limit(t, x, restart=0.5)):
        with pytest.raises(ValueError, match="one column a node and anchor, 4, got 6"):
            walk(t, x)


def test_a_transition_without_anchors_is_square(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxtyping import config

    monkeypatch.setattr(config, "jaxtyping_disable", True)
    for walk in (random_walk, random_walk_limit):
        with pytest.raises(ValueError, match=r"must be square without anchors, got \(3, 2\)"):
            walk(torch.full((3, 2), 0.5), torch.ones(2, 1), restart=0.5)
