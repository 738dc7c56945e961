"""Tests of the identity losses: margins on the cosines of one classifier."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.losses.cases import ID_CASES
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    ArcFaceLoss,
    ASoftmaxLoss,
    CircleLoss,
    ClassScores,
    LSoftmaxLoss,
    ScaledSoftmaxLoss,
)
from torchreid_spectral.losses.multiplicative_margin import monotone_multiple
from torchreid_spectral.losses.registry import ID_LOSSES, build_id_loss

pml = pytest.importorskip("pytorch_metric_learning.losses")


def batch(seed=0, size=7, classes=5, width=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, width, generator=g, dtype=dtype)
    w = torch.randn(classes, width, generator=g, dtype=dtype)
    return x, w, torch.randint(classes, (size,), generator=g)


@pytest.mark.parametrize("name", ID_CASES)
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_twin(name, seed):
    options, reference = ID_CASES[name]
    x, w, y = batch(seed)
    actual = build_id_loss(name, **options)(ClassScores.of(x, w), y)
    assert actual.shape == () and actual.dtype == torch.float64
    expected = reference(x.numpy(), w.numpy(), y.tolist())
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ID_CASES)
def test_gradients_reach_embeddings_and_the_shared_weight(name):
    options, _ = ID_CASES[name]
    x, w, y = batch(3)
    loss = build_id_loss(name, **options)
    x, w = x.requires_grad_(), w.requires_grad_()
    if name == "circle":  # its weights have no gradient: compare with the twin that holds them
        loss(ClassScores.of(x, w), y).backward()
        assert x.grad.abs().sum() > 0 and w.grad.abs().sum() > 0
        return
    assert gradcheck(lambda x, w: loss(ClassScores.of(x, w), y), (x, w))


@pytest.mark.parametrize("name", ID_CASES)
def test_order_of_the_batch_does_not_matter(name):
    options, _ = ID_CASES[name]
    x, w, y = batch(4)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    loss = build_id_loss(name, **options)
    torch.testing.assert_close(
        loss(ClassScores.of(x[order], w), y[order]), loss(ClassScores.of(x, w), y)
    )


@pytest.mark.parametrize("name", ID_CASES)
@pytest.mark.parametrize("kind", ["one identity", "one class", "duplicates", "on the weight",
                                  "against the weight", "zero", "one image"])  # fmt: skip
def test_degenerate_batches_are_finite_with_a_graph(name, kind):
    x, w, y = batch(5, dtype=torch.float32)
    if kind == "one identity":
        y = torch.zeros_like(y)
    if kind == "one class":
        w, y = w[:1], torch.zeros_like(y)
    if kind == "duplicates":
        x = x[:1].expand(7, -1).clone()
    if kind in ("on the weight", "against the weight"):
        x = w[y] * (1 if kind == "on the weight" else -1)
    if kind == "zero":
        x = torch.zeros_like(x)
    if kind == "one image":
        x, y = x[:1], y[:1]
    x, w = x.requires_grad_(), w.detach().requires_grad_()
    value = build_id_loss(name)(ClassScores.of(x, w), y)
    assert torch.isfinite(value) and value.requires_grad
    value.backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(w.grad).all()


@pytest.mark.parametrize("name", ID_CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(name, dtype):
    x, w, y = batch(6, dtype=torch.float32)
    loss = build_id_loss(name)
    expected = loss(ClassScores.of(x.to(dtype).float(), w), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(ClassScores.of(x.to(dtype), w), y)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AMSoftmaxLoss(0.35, 20.0), lambda: pml.CosFaceLoss(5, 4, margin=0.35, scale=20)),
        (ArcFaceLoss(0.5, 20.0), lambda: pml.ArcFaceLoss(5, 4, margin=math.degrees(0.5),
                                                         scale=20)),
        (LSoftmaxLoss(3, base=0, minimum=0), lambda: pml.LargeMarginSoftmaxLoss(5, 4, margin=3)),
        (ASoftmaxLoss(4, base=0, minimum=0), lambda: pml.SphereFaceLoss(5, 4, margin=4)),
    ],
    ids=["am_softmax", "arcface", "l_softmax", "a_softmax"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SciPy's binom in the library
def test_equals_pytorch_metric_learning(ours, theirs):
    x, w, y = batch(7)
    other = theirs()
    other.W.data = w.T.clone()
    torch.testing.assert_close(ours(ClassScores.of(x, w), y), other(x, y))


def test_circle_equals_the_library_on_prototypes_as_references():
    x, w, y = batch(8)
    other = pml.CircleLoss(m=0.25, gamma=8)
    expected = other(x, y, ref_emb=w, ref_labels=torch.arange(5))
    torch.testing.assert_close(CircleLoss(0.25, 8.0)(ClassScores.of(x, w), y), expected)


# --- known values ---------------------------------------------------------------------------


def test_am_softmax_of_the_papers_decision_boundary():
    """Cos - m of the right class equal to the other's cosine is a tie: log 2."""
    cosines = torch.tensor([[0.8, 0.5]], dtype=torch.float64)
    value = AMSoftmaxLoss(margin=0.3, scale=30.0)(cosines, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2))


def test_arcface_boundary_is_an_angle():
    angle = 0.4
    cosines = torch.tensor([[math.cos(angle), math.cos(angle + 0.5)]], dtype=torch.float64)
    value = ArcFaceLoss(margin=0.5, scale=30.0)(cosines, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [ASoftmaxLoss, LSoftmaxLoss])
def test_multiplicative_boundary_is_a_multiple_of_the_angle(loss):
    """For unit lengths: m times the right angle equal to the other's is a tie."""
    angle, m = 0.3, 4
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    angles = torch.tensor([angle, m * angle], dtype=torch.float64)
    w = torch.stack([angles.cos(), angles.sin()], 1)
    value = loss(m, base=0, minimum=0)(ClassScores.of(x, w), torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2))


def test_circle_at_its_optimum():
    """Where s_p = 1 + m and s_n = -m the weights vanish and log(1 + 1) is left."""
    cosines = torch.tensor([[1.25, -0.25]], dtype=torch.float64)
    value = CircleLoss(0.25, 64.0)(cosines, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2))


def test_all_cosines_equal_is_log_of_the_classes():
    cosines = torch.full((2, 6), 0.4, dtype=torch.float64)
    value = ScaledSoftmaxLoss(7.0)(cosines, torch.tensor([1, 5]))
    assert value.item() == pytest.approx(math.log(6))


# --- laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_is_continuous_and_falls_to_one_minus_2m(margin):
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    psi = monotone_multiple(angle.cos(), margin)
    steps = psi[1:] - psi[:-1]
    assert (steps <= 1e-12).all() and steps.abs().max() < 1e-3
    torch.testing.assert_close(psi[[0, -1]], torch.tensor([1.0, 1.0 - 2 * margin]).double())
    assert (psi <= angle.cos() + 1e-12).all()


@pytest.mark.parametrize("name", ["a_softmax", "l_softmax"])
def test_margin_one_is_plain_softmax(name):
    x, w, y = batch(9)
    loss = build_id_loss(name, margin=1, base=0.0, minimum=0.0)
    scores = ClassScores.of(x, w if name == "l_softmax" else w / w.norm(dim=1, keepdim=True))
    plain = ScaledSoftmaxLoss(normalized=False)(scores, y)
    torch.testing.assert_close(loss(scores, y), plain)
    linear = torch.nn.functional.cross_entropy(scores.length * scores.cosine, y)
    torch.testing.assert_close(plain, linear)


@pytest.mark.parametrize("name", ["am_softmax", "arcface"])
def test_no_margin_is_scaled_softmax(name):
    x, w, y = batch(10)
    scores = ClassScores.of(x, w)
    loss = build_id_loss(name, margin=0.0, scale=9.0)
    torch.testing.assert_close(loss(scores, y), ScaledSoftmaxLoss(9.0)(scores, y))


@pytest.mark.parametrize("name", ["am_softmax", "arcface"])
def test_a_larger_margin_is_never_a_smaller_loss(name):
    x, w, y = batch(11)
    values = [
        build_id_loss(name, margin=m, scale=9.0)(ClassScores.of(x, w), y)
        for m in (0.0, 0.2, 0.4, 0.6)
    ]
    assert values == sorted(values)


def test_lengths_matter_only_where_they_should():
    x, w, y = batch(12)
    for name in ID_LOSSES:
        loss = build_id_loss(name)
        scaled = [
            torch.allclose(loss(ClassScores.of(x * a, w * b), y), loss(ClassScores.of(x, w), y))
            for a, b in ((3.0, 1.0), (1.0, 3.0))
        ]
        expected = {"a_softmax": [False, True], "l_softmax": [False, False]}
        assert scaled == expected.get(name, [True, True]), name


# --- annealing ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ASoftmaxLoss, LSoftmaxLoss])
def test_annealing_follows_the_schedule_and_is_in_the_state(kind):
    loss = kind(4, base=1000.0, gamma=0.12, power=1.0, minimum=5.0)
    for step in range(4):
        assert loss.annealing == pytest.approx(1000 / (1 + 0.12 * step))
        loss.advance()
    again = kind(4, base=1000.0, gamma=0.12, power=1.0, minimum=5.0)
    again.load_state_dict(loss.state_dict())
    assert again.annealing == loss.annealing
    loss.iterations += 10**6
    assert loss.annealing == 5.0
    x, w, y = batch(13)
    before = again.annealing
    again(ClassScores.of(x, w), y)
    assert again.annealing == before  # computing, on X and on X', is no step


def test_the_papers_two_schedules():
    """Liu et al.'s and SphereFace's published settings after 1,000 steps."""
    first = LSoftmaxLoss(4, base=1000.0, gamma=2.5e-5, power=35.0, minimum=0.0)
    second = ASoftmaxLoss(4)
    for loss in (first, second):
        loss.iterations += 1000
    assert first.annealing == pytest.approx(1000 * 1.025**-35)
    assert second.annealing == pytest.approx(1000 / 121)


def test_a_large_share_is_plain_softmax():
    x, w, y = batch(14)
    scores = ClassScores.of(x, w)
    nearly = LSoftmaxLoss(4, base=1e9)(scores, y)
    torch.testing.assert_close(nearly, ScaledSoftmaxLoss(normalized=False)(scores, y))


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArcFaceLoss(margin=1.6), r"margin must be in \[0, pi/2\) radians, got 1.6"),
        (lambda: ArcFaceLoss(scale=0.0), "scale must be positive, got 0.0"),
        (lambda: CircleLoss(margin=-0.1), r"margin must be in \[0, 1\], got -0.1"),
        (lambda: ASoftmaxLoss(margin=0), "margin must be a whole number >= 1, got 0"),
        (lambda: LSoftmaxLoss(margin=2.5), "margin must be a whole number >= 1, got 2.5"),
        (lambda: LSoftmaxLoss(margin=float("nan")), "margin must be a whole number >= 1, got nan"),
        (lambda: AMSoftmaxLoss(margin=math.nan), "margin must be >= 0, got nan"),
        (lambda: AMSoftmaxLoss(scale=math.nan), "scale must be positive, got nan"),
        (lambda: LSoftmaxLoss(base=-1.0), "base must be >= 0, got -1.0"),
        (lambda: LSoftmaxLoss(minimum=math.nan), "minimum must be >= 0, got nan"),
    ],
)
def test_rejects_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["a_softmax", "l_softmax"])
def test_needs_lengths(name):
    with pytest.raises(InputError, match="Softmax needs .* got cosines alone"):
        build_id_loss(name)(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["arcface", "circle"])
def test_a_missing_library_names_the_command(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(InputError, match=r"pip install 'torchreid-spectral\[losses\]'"):
        build_id_loss(name)


@pytest.mark.parametrize("name", ID_CASES)
def test_state_holds_no_weight(name):
    assert set(build_id_loss(name).state_dict()) <= {"iterations"}


@pytest.mark.parametrize("wrong", [-1, 2])
def test_circle_refuses_labels_that_no_class_has(wrong):
    with pytest.raises(RuntimeError, match="out of bounds"):
        CircleLoss()(torch.zeros(2, 2), torch.tensor([0, wrong]))
