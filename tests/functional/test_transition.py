"""Tests of torchreid_spectral.functional.transition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from tests.references import walk as reference
from torchreid_spectral.functional import transition_matrix as exported
from torchreid_spectral.functional.similarity import cosine_similarity
from torchreid_spectral.functional.transition import softmax_transition, transition_matrix


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def people(images: int = 8, noise: float = 0.2) -> torch.Tensor:
    """Tight clusters, as images of the same person are: rows of near-equal affinity."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(16, 64, generator=g).abs().repeat_interleave(images, 0)
    return centers + noise * torch.randn(centers.shape, generator=g)


def test_is_exported() -> None:
    assert exported is transition_matrix


@pytest.mark.parametrize("top_k", [None, 1, 3, 7, 50])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_matches_reference(temperature: float, self_loops: bool, top_k: int | None) -> None:
    x = features(0, 7, 4)
    actual = transition_matrix(x, temperature=temperature, self_loops=self_loops, top_k=top_k)
    expected = reference.transition(x.numpy(), temperature, self_loops, top_k)
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_matches_reference_in_float32(temperature: float, self_loops: bool) -> None:
    x = people(images=2)[:12]
    actual = transition_matrix(x, temperature=temperature, self_loops=self_loops)
    assert actual.dtype == torch.float32
    expected = reference.transition(x.numpy(), temperature, self_loops)
    # float32 rounds the cosine by 1e-7, which the division by the temperature enlarges
    rtol = 1e-6 * max(1.0, 0.2 / temperature)
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=rtol, atol=1e-7)


def test_default_settings() -> None:
    x = features(1, 5, 4)
    torch.testing.assert_close(transition_matrix(x), transition_matrix(x, temperature=0.1))
    torch.testing.assert_close(
        transition_matrix(x, 0.3, False, 2),
        transition_matrix(x, temperature=0.3, self_loops=False, top_k=2),
    )


@pytest.mark.parametrize("top_k", [None, 2])
def test_similarity_may_be_anything(top_k: int | None) -> None:
    s = 5 * features(2, 4, 6)  # queries by gallery, unbounded, not symmetric
    actual = softmax_transition(s, temperature=0.7, top_k=top_k)
    expected = reference.softmax_transition(s.numpy(), 0.7, True, top_k)
    torch.testing.assert_close(actual, torch.from_numpy(expected))
    torch.testing.assert_close(softmax_transition(s + 1e3, temperature=0.7, top_k=top_k), actual)


@pytest.mark.parametrize("self_loops", [True, False])
def test_logits_of_any_size_do_not_overflow(self_loops: bool) -> None:
    s = 1e4 * features(3, 5, 5, dtype=torch.float32)
    t = softmax_transition(s, temperature=0.1, self_loops=self_loops)
    torch.testing.assert_close(t.sum(1), torch.ones(5))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 12),
    tau=st.floats(0.02, 10.0),
    self_loops=st.booleans(),
    top_k=st.none() | st.integers(1, 14),
)
def test_laws(seed: int, n: int, tau: float, self_loops: bool, top_k: int | None) -> None:
    x = features(seed, n, 4)
    graph = {"temperature": tau, "self_loops": self_loops, "top_k": top_k}
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    t = transition_matrix(x, **graph)
    assert (t >= 0).all()
    torch.testing.assert_close(t.sum(1), torch.ones(n, dtype=t.dtype))
    torch.testing.assert_close(transition_matrix(x[perm], **graph), t[perm][:, perm])
    kept = n if top_k is None else top_k
    assert (t.count_nonzero(1) <= min(kept, n if self_loops else n - 1)).all()
    assert self_loops or torch.count_nonzero(t.diagonal()) == 0


def test_row_of_a_walker_favors_what_is_similar_to_it() -> None:
    """Rows, not columns, are normalised: row i holds where a walker in i goes."""
    s = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    t = softmax_transition(s, temperature=0.5)
    torch.testing.assert_close(t.sum(1), torch.ones(3))
    assert (t.sum(0) - 1).abs().max() > 0.05
    torch.testing.assert_close(t, torch.exp(s / 0.5) / torch.exp(s / 0.5).sum(1, keepdim=True))


def test_without_self_loops_the_rest_is_renormalised() -> None:
    s = cosine_similarity(features(4, 6, 3))
    t = softmax_transition(s, temperature=0.4)
    moves = t - torch.diag(t.diagonal())
    expected = moves / moves.sum(1, keepdim=True)
    torch.testing.assert_close(softmax_transition(s, temperature=0.4, self_loops=False), expected)


def test_limits() -> None:
    x = features(5, 5, 4)
    hot = transition_matrix(x, temperature=1e9)
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 5))
    hot = transition_matrix(x, temperature=1e9, self_loops=False)
    torch.testing.assert_close(hot, (1 - torch.eye(5).double()) / 4)
    cold = transition_matrix(x, temperature=1e-4)
    torch.testing.assert_close(cold, torch.eye(5).double())
    torch.testing.assert_close(transition_matrix(x, top_k=1), torch.eye(5).double())
    cold = transition_matrix(x, temperature=1e-4, self_loops=False)
    best = (cosine_similarity(x) - 3 * torch.eye(5)).argmax(1)
    assert torch.equal(cold.argmax(1), best)
    torch.testing.assert_close(cold.amax(1), torch.ones(5).double())


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("top_k", [None, 2])
def test_leading_dimensions_are_a_loop(self_loops: bool, top_k: int | None) -> None:
    x = features(6, 2, 3, 5, 4)
    graph = {"temperature": 0.2, "self_loops": self_loops, "top_k": top_k}
    expected = torch.stack([transition_matrix(a, **graph) for a in x.flatten(0, 1)])
    actual = transition_matrix(x, **graph)
    torch.testing.assert_close(actual, expected.unflatten(0, (2, 3)))
    torch.testing.assert_close(softmax_transition(cosine_similarity(x), **graph), actual)


def test_top_k_is_the_softmax_of_the_kept() -> None:
    s = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.9, 0.1, 0.2, 0.5]]).double()
    t = softmax_transition(s, temperature=0.1, top_k=2)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    expected[0, [1, 2]] = torch.softmax(torch.tensor([4.0, 3.0]).double(), 0)
    expected[1, [0, 3]] = torch.softmax(torch.tensor([9.0, 5.0]).double(), 0)
    torch.testing.assert_close(t, expected)
    assert torch.equal(t == 0, expected == 0)  # exactly


@pytest.mark.parametrize("n", [4, 70, 600])
def test_top_k_ties_go_to_the_lower_index(n: int) -> None:
    same = torch.full((n, n), 0.5)
    t = softmax_transition(same, temperature=0.1, top_k=3)
    torch.testing.assert_close(t[:, :3], torch.full((n, 3), 1 / 3))
    assert torch.count_nonzero(t[:, 3:]) == 0
    t = softmax_transition(same, temperature=0.1, self_loops=False, top_k=2)
    assert t[0].nonzero().flatten().tolist() == [1, 2]
    assert t[1].nonzero().flatten().tolist() == [0, 2]
    assert t[3].nonzero().flatten().tolist() == [0, 1]


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=6, max_size=6),
    self_loops=st.booleans(),
    top_k=st.integers(1, 7),
)
def test_top_k_ties_match_reference(rows: list[list[int]], self_loops: bool, top_k: int) -> None:
    s = torch.tensor(rows, dtype=torch.float64)
    actual = softmax_transition(s, temperature=0.5, self_loops=self_loops, top_k=top_k)
    expected = torch.from_numpy(reference.softmax_transition(s.numpy(), 0.5, self_loops, top_k))
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual == 0, expected == 0)


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("top_k", [4, 5, 100])
def test_top_k_of_everything_changes_nothing(self_loops: bool, top_k: int) -> None:
    x = features(7, 4, 3)
    torch.testing.assert_close(
        transition_matrix(x, 0.2, self_loops, top_k=top_k), transition_matrix(x, 0.2, self_loops)
    )


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("top_k", [None, 2])
def test_gradcheck(self_loops: bool, top_k: int | None) -> None:
    x = features(8, 4, 4).requires_grad_()
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    graph = {"self_loops": self_loops, "top_k": top_k}
    assert gradcheck(lambda x, t: transition_matrix(x, t, **graph), (x, tau), fast_mode=True)


def test_learned_temperature_equals_the_number() -> None:
    x = features(9, 5, 4, dtype=torch.float32)
    tau = torch.nn.Parameter(torch.tensor(0.25))
    actual = transition_matrix(x, tau)
    torch.testing.assert_close(actual, transition_matrix(x, 0.25))
    actual.square().sum().backward()
    assert tau.grad is not None
    assert tau.grad < 0  # a warmer walk is flatter
    assert transition_matrix(x.bfloat16(), tau).dtype == torch.bfloat16


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("self_loops", [True, False])
def test_half_precision_features(dtype: torch.dtype, atol: float, self_loops: bool) -> None:
    """The similarity in between must not be rounded to half: at 0.02 that costs 0.1."""
    x = people().to(dtype)
    t = transition_matrix(x, temperature=0.02, self_loops=self_loops)
    assert t.dtype == dtype
    expected = transition_matrix(x.double(), temperature=0.02, self_loops=self_loops)
    torch.testing.assert_close(t.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 3e-4), (torch.bfloat16, 2e-3)])
def test_half_precision_similarity(dtype: torch.dtype, atol: float) -> None:
    s = cosine_similarity(people()).to(dtype)
    t = softmax_transition(s, temperature=0.02)
    assert t.dtype == dtype
    expected = softmax_transition(s.double(), temperature=0.02)
    torch.testing.assert_close(t.double(), expected, rtol=0, atol=atol)


def test_half_precision_logits_do_not_overflow() -> None:
    s = torch.tensor([[6e4, 0.0], [0.0, 6e4]], dtype=torch.float16)
    torch.testing.assert_close(softmax_transition(s, temperature=0.1), torch.eye(2).half())


@pytest.mark.parametrize("top_k", [None, 8])
@pytest.mark.parametrize("self_loops", [True, False])
def test_autocast_does_not_cost_precision(self_loops: bool, top_k: int | None) -> None:
    x = people()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = transition_matrix(x, 0.02, self_loops, top_k)
    torch.testing.assert_close(actual, transition_matrix(x, 0.02, self_loops, top_k))


def test_one_node_stays() -> None:
    for top_k in (None, 1, 3):
        t = transition_matrix(features(10, 1, 4), top_k=top_k)
        torch.testing.assert_close(t, torch.ones(1, 1).double())


def test_duplicates_share_a_row() -> None:
    x = torch.eye(3)[[0, 1, 0]]
    t = transition_matrix(x, temperature=1e-3)
    torch.testing.assert_close(t, torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]))


@pytest.mark.parametrize("self_loops", [True, False])
def test_zero_vector_goes_anywhere(self_loops: bool) -> None:
    x = torch.eye(4)
    x[2] = 0
    x.requires_grad_()
    t = transition_matrix(x, temperature=0.1, self_loops=self_loops)
    if self_loops:
        expected = torch.full((4,), 0.25)
    else:
        expected = torch.tensor([1, 1, 0, 1]) / 3
    torch.testing.assert_close(t[2].detach(), expected)
    t.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_inputs_are_left_alone() -> None:
    x, s = features(11, 4, 3), features(12, 4, 4)
    before = x.clone(), s.clone()
    transition_matrix(x, self_loops=False, top_k=2)
    softmax_transition(s, temperature=0.1, self_loops=False, top_k=2)
    assert torch.equal(x, before[0])
    assert torch.equal(s, before[1])


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.tensor(0.0), torch.tensor(-2.0)])
def test_rejects_temperature(temperature: float | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        transition_matrix(features(13, 3, 4), temperature)
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        softmax_transition(features(13, 3, 3), temperature=temperature)


@pytest.mark.parametrize("top_k", [0, -2])
def test_rejects_top_k(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"top_k must be >= 1, got {top_k}"):
        transition_matrix(features(14, 3, 4), top_k=top_k)
    with pytest.raises(ValueError, match=f"top_k must be >= 1, got {top_k}"):
        softmax_transition(features(14, 3, 3), temperature=0.1, top_k=top_k)


def test_rejects_lonely_node() -> None:
    with pytest.raises(ValueError, match="needs self_loops=True"):
        transition_matrix(features(15, 1, 4), self_loops=False)
    with pytest.raises(ValueError, match="needs self_loops=True"):
        softmax_transition(torch.ones(2, 1, 1), temperature=0.1, self_loops=False)


def test_rejects_a_diagonal_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="square|self_loops"):
        softmax_transition(torch.ones(2, 3), temperature=0.1, self_loops=False)


def test_wrong_shapes_are_caught() -> None:
    with pytest.raises(TypeCheckError):
        transition_matrix(torch.ones(4))
    with pytest.raises(TypeCheckError):
        softmax_transition(torch.ones(4), temperature=0.1)


@pytest.mark.parametrize("normalization", ["rows", "symmetric"])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4, 50])
def test_mutual_matches_reference(top_k: int, self_loops: bool, normalization: str) -> None:
    x = features(30, 9, 3)
    graph = {"self_loops": self_loops, "top_k": top_k, "mutual": True}
    actual = transition_matrix(x, 0.3, **graph, normalization=normalization)
    expected = reference.transition(x.numpy(), 0.3, **graph, normalization=normalization)
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_symmetric_matches_reference(temperature: float, self_loops: bool) -> None:
    x = features(31, 7, 4)
    actual = transition_matrix(x, temperature, self_loops, normalization="symmetric")
    expected = reference.transition(x.numpy(), temperature, self_loops, normalization="symmetric")
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-10, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 10), top_k=st.integers(1, 11))
def test_laws_of_mutual_and_symmetric_graphs(seed: int, n: int, top_k: int) -> None:
    x = features(seed, n, 4)
    rows = transition_matrix(x, 0.3, top_k=top_k, mutual=True)
    both = transition_matrix(x, 0.3, top_k=top_k, mutual=True, normalization="symmetric")
    torch.testing.assert_close(rows.sum(1), torch.ones(n).double())
    assert torch.equal(rows > 0, rows.mT > 0)
    torch.testing.assert_close(both, both.mT)
    # similar matrices: the same spectrum, the largest eigenvalue one
    values = torch.linalg.eigvalsh(both)
    torch.testing.assert_close(torch.linalg.eigvals(rows).real.sort().values, values)
    assert values[-1].item() == pytest.approx(1.0)


def test_a_node_nobody_chooses_back_stays() -> None:
    s = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.8], [0.1, 0.8, 1.0]])
    graph = {"temperature": 0.1, "self_loops": False, "top_k": 1, "mutual": True}
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for normalization in ("rows", "symmetric"):
        actual = softmax_transition(s, **graph, normalization=normalization)
        torch.testing.assert_close(actual, expected)


def test_symmetric_does_not_overflow() -> None:
    s = cosine_similarity(people())
    actual = softmax_transition(s, temperature=1e-3, normalization="symmetric")
    assert torch.isfinite(actual).all()
    expected = softmax_transition(s.double(), temperature=1e-3, normalization="symmetric")
    torch.testing.assert_close(actual.double(), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("top_k", [None, 3])
def test_gradcheck_of_symmetric_graphs(top_k: int | None) -> None:
    x = features(32, 5, 4).requires_grad_()
    graph = {"top_k": top_k, "mutual": top_k is not None, "normalization": "symmetric"}
    assert gradcheck(lambda x: transition_matrix(x, 0.5, **graph), x, fast_mode=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "columns"}, "normalization must be one of .*got 'columns'"),
        ({"mutual": True, "top_k": 2}, "mutual=True needs a square .* got 4 x 6"),
        ({"normalization": "symmetric"}, "symmetric' needs a square .* got 4 x 6"),
    ],
)
def test_rejects_graphs(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softmax_transition(features(33, 4, 6), temperature=0.1, **options)


def test_symmetric_top_k_must_be_mutual() -> None:
    with pytest.raises(ValueError, match="with top_k needs mutual=True"):
        transition_matrix(features(34, 4, 6), top_k=2, normalization="symmetric")
