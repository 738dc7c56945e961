"""Tests of torchreid_spectral.functional.cut."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, config
from torch.autograd import gradcheck
from torch.nn.functional import one_hot

from tests.references import cut as reference
from torchreid_spectral.functional import escape_probability as exported_escape
from torchreid_spectral.functional import normalized_cut as exported_cut
from torchreid_spectral.functional.cut import affinity_matrix, escape_probability, normalized_cut
from torchreid_spectral.functional.transition import transition_matrix


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def graph(seed: int, n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw affinities that are not symmetric, to tell W from its transpose."""
    return features(seed, n, n, dtype=dtype).exp()


def classes(seed: int, n: int, count: int = 3) -> torch.Tensor:
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


def people(images: int = 8, noise: float = 0.2) -> torch.Tensor:
    """Tight clusters, as images of the same person are: rows of near-equal affinity."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(16, 64, generator=g).abs().repeat_interleave(images, 0)
    return centers + noise * torch.randn(centers.shape, generator=g)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the annotations off, as they are outside of tests."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def test_is_exported() -> None:
    assert exported_cut is normalized_cut
    assert exported_escape is escape_probability


# --- affinity -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_affinity_matches_reference(temperature: float) -> None:
    x = features(0, 6, 4)
    actual = affinity_matrix(x, temperature=temperature)
    expected = torch.from_numpy(reference.affinity(x.numpy(), temperature))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)
    single = affinity_matrix(x.float(), temperature=temperature)
    assert single.dtype == torch.float32
    expected = torch.from_numpy(reference.affinity(x.float().numpy(), temperature))
    rtol = 1e-6 * max(1.0, 0.2 / temperature)
    torch.testing.assert_close(single.double(), expected, rtol=rtol, atol=1e-7)


def test_affinity_gives_the_same_walk() -> None:
    x = features(1, 6, 4)
    w = affinity_matrix(x)
    torch.testing.assert_close(w / w.sum(1, keepdim=True), transition_matrix(x))
    torch.testing.assert_close(affinity_matrix(x, 0.1), w)


def test_affinity_never_overflows() -> None:
    w = affinity_matrix(people(), temperature=1e-3)
    assert torch.isfinite(w).all()
    assert (w >= 0).all()
    assert w.max() <= 1 + 1e-3  # a float32 cosine may pass one by 1e-7
    torch.testing.assert_close(w.diagonal(), torch.ones(len(w)), rtol=0, atol=1e-3)


def test_affinity_of_a_zero_vector() -> None:
    x = torch.eye(3)
    x[1] = 0
    torch.testing.assert_close(affinity_matrix(x, 0.5)[1], torch.full((3,), math.exp(-2)))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
def test_affinity_in_half_precision(dtype: torch.dtype, atol: float) -> None:
    x = people().to(dtype)
    w = affinity_matrix(x, temperature=0.02)
    assert w.dtype == dtype
    expected = affinity_matrix(x.double(), temperature=0.02)
    torch.testing.assert_close(w.double(), expected, rtol=0, atol=atol)


def test_affinity_under_autocast() -> None:
    x = people()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = affinity_matrix(x, temperature=0.02)
    torch.testing.assert_close(actual, affinity_matrix(x, temperature=0.02))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_affinity_rejects_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        affinity_matrix(features(2, 3, 4), temperature)


# --- normalised cut -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cut_matches_reference(dtype: torch.dtype) -> None:
    w, labels = graph(3, 8, dtype=dtype), classes(4, 8)
    soft = features(5, 8, 3, dtype=dtype).softmax(1)
    for assignment in (labels, soft):
        actual = normalized_cut(w, assignment)
        assert actual.shape == ()
        assert actual.dtype == dtype
        expected = reference.normalized_cut(w.double().numpy(), assignment.numpy())
        assert actual.item() == pytest.approx(expected, rel=1e-6)


def test_cut_of_two_classes_is_the_textbook_one() -> None:
    w = graph(6, 6)
    w = w + w.mT
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    a, b = labels == 0, labels == 1
    expected = w[a][:, b].sum() / w[a].sum() + w[b][:, a].sum() / w[b].sum()
    torch.testing.assert_close(normalized_cut(w, labels), expected)
    # ... and the walk's: P(leave A | in A) + P(leave B | in B) with visits as in the long run
    t, visits = w / w.sum(1, keepdim=True), w.sum(1)
    flow = visits[:, None] * t
    escapes = flow[a][:, b].sum() / visits[a].sum() + flow[b][:, a].sum() / visits[b].sum()
    torch.testing.assert_close(normalized_cut(w, labels), escapes)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
def test_cut_laws(seed: int, n: int, scale: float) -> None:
    w, labels = graph(seed, n), classes(seed, n)
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    value = normalized_cut(w, labels)
    assert -1e-12 <= value <= len(labels.unique())
    torch.testing.assert_close(normalized_cut(w * scale, labels), value)
    torch.testing.assert_close(normalized_cut(w[perm][:, perm], labels[perm]), value)
    torch.testing.assert_close(normalized_cut(w, 7 * labels - 5), value)  # names do not matter
    torch.testing.assert_close(normalized_cut(w, labels.int()), value)
    torch.testing.assert_close(normalized_cut(w, one_hot(labels, 4).to(w)), value)


def test_cut_of_known_cases() -> None:
    w = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))
    separated = torch.tensor([0, 0, 1, 1, 1])
    assert normalized_cut(w, separated).item() == 0
    assert normalized_cut(w, torch.zeros(5, dtype=torch.int64)).item() == 0
    everyone_alone = normalized_cut(torch.ones(4, 4), torch.arange(4))
    torch.testing.assert_close(everyone_alone, torch.tensor(3.0))
    undecided = normalized_cut(w, torch.full((5, 4), 0.25))
    torch.testing.assert_close(undecided, torch.tensor(3.0))  # C - 1


def test_class_of_zero_volume_counts_nothing() -> None:
    w = graph(7, 5)
    soft = torch.zeros(5, 4, dtype=w.dtype)
    soft[:, :2] = features(8, 5, 2).softmax(1)  # the last two classes are empty
    w.requires_grad_()
    soft.requires_grad_()
    value = normalized_cut(w, soft)
    torch.testing.assert_close(value, normalized_cut(w, soft[:, :2]))
    value.backward()
    assert torch.isfinite(w.grad).all()
    assert torch.isfinite(soft.grad).all()


def test_node_without_edges_counts_nothing() -> None:
    w = torch.ones(3, 3)
    w[2] = w[:, 2] = 0
    labels = torch.tensor([0, 1, 2])
    torch.testing.assert_close(normalized_cut(w, labels), torch.tensor(1.0))
    w.requires_grad_()
    normalized_cut(w, labels).backward()
    assert torch.isfinite(w.grad).all()
    assert normalized_cut(torch.zeros(3, 3), labels).item() == 0


def test_cut_gradcheck() -> None:
    w = graph(9, 4).requires_grad_()
    soft = features(10, 4, 3).softmax(1).requires_grad_()
    assert gradcheck(normalized_cut, (w, soft))
    assert gradcheck(lambda w: normalized_cut(w, torch.tensor([0, 1, 0, 2])), w)


def test_cut_under_autocast() -> None:
    w, labels = affinity_matrix(people()), torch.arange(16).repeat_interleave(8)
    soft = features(11, 128, 16, dtype=torch.float32).softmax(1)
    for assignment in (labels, soft):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = normalized_cut(w, assignment)
        torch.testing.assert_close(actual, normalized_cut(w, assignment))


@pytest.mark.parametrize("labels", [torch.zeros(4).long(), torch.ones(2, 3), torch.ones(4, 2)])
def test_cut_rejects_labels(labels: torch.Tensor, unchecked: None) -> None:
    with pytest.raises(ValueError, match="labels"):
        normalized_cut(torch.ones(3, 3), labels)


# --- escape probability ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_escape_matches_reference(dtype: torch.dtype) -> None:
    w = graph(12, 8, dtype=dtype)
    t, labels = w / w.sum(1, keepdim=True), classes(13, 8)
    actual = escape_probability(t, labels)
    assert actual.shape == ()
    assert actual.dtype == dtype
    expected = reference.escape_probability(t.double().numpy(), labels.numpy())
    assert actual.item() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 9), tau=st.floats(0.1, 5.0))
def test_escape_laws(seed: int, n: int, tau: float) -> None:
    x, labels = features(seed, n, 4), classes(seed, n)
    t = transition_matrix(x, temperature=tau)
    value = escape_probability(t, labels)
    assert -1e-12 <= value <= 1 + 1e-12
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(escape_probability(t[perm][:, perm], labels[perm]), value)
    torch.testing.assert_close(escape_probability(t, 7 * labels - 5), value)
    moving = transition_matrix(x, temperature=tau, self_loops=False)
    torch.testing.assert_close(escape_probability(moving, labels), value)


def test_escape_of_known_cases() -> None:
    t = torch.full((6, 6), 1 / 6)
    pairs = torch.arange(3).repeat_interleave(2)
    torch.testing.assert_close(escape_probability(t, pairs), torch.tensor(4 / 5))  # chance
    assert escape_probability(t, torch.zeros(6, dtype=torch.int64)).item() == 0
    torch.testing.assert_close(escape_probability(t, torch.arange(6)), torch.tensor(1.0))


def test_escape_reads_rows() -> None:
    t = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.8, 0.0]])
    labels = torch.tensor([0, 0, 1])
    torch.testing.assert_close(escape_probability(t, labels), torch.tensor((0.5 + 0.0 + 1.0) / 3))


def test_escape_of_a_node_that_hardly_moves() -> None:
    """The moves are summed, not taken as one minus the self loop, which has no digits left."""
    t = torch.tensor([[1.0, 9e-9, 1e-9], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    actual = escape_probability(t, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(actual, torch.tensor(0.1 / 3))


def test_node_that_can_only_stay_counts_zero() -> None:
    t = torch.eye(3).requires_grad_()
    value = escape_probability(t, torch.arange(3))
    assert value.item() == 0
    value.backward()
    assert torch.isfinite(t.grad).all()
    assert escape_probability(torch.ones(1, 1), torch.tensor([5])).item() == 0


def test_escape_gradcheck() -> None:
    t = graph(14, 4).softmax(1).requires_grad_()
    assert gradcheck(lambda t: escape_probability(t, torch.tensor([0, 1, 0, 1])), t)


def test_inputs_are_left_alone() -> None:
    t, labels = graph(15, 4).softmax(1), torch.tensor([0, 1, 0, 1])
    before = t.clone(), labels.clone()
    escape_probability(t, labels)
    normalized_cut(t, labels)
    assert torch.equal(t, before[0])
    assert torch.equal(labels, before[1])


def test_escape_rejects_labels(unchecked: None) -> None:
    with pytest.raises(ValueError, match="labels"):
        escape_probability(torch.eye(3), torch.zeros(4, dtype=torch.int64))


def test_wrong_shapes_are_caught() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    for function in (normalized_cut, escape_probability):
        with pytest.raises(TypeCheckError):
            function(torch.ones(3, 4), labels)
        with pytest.raises(TypeCheckError, match="labels"):
            function(torch.ones(4, 4), labels)


def test_labels_of_another_shape_are_refused(unchecked: None) -> None:
    transition, labels = graph(0, 6), classes(0, 6)
    with pytest.raises(ValueError, match=r"labels must be one-dimensional, got shape \(6, 1\)"):
        escape_probability(transition, labels[:, None])
    for wrong in (labels[:, None], labels[:, None, None].double()):
        with pytest.raises(ValueError, match=r"\(N,\) classes or \(N, C\) probabilities"):
            normalized_cut(transition, wrong)
