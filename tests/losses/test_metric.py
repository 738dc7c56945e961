"""Tests of the metric losses and of the graph's losses: features of a batch in, one number out."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tests.losses.cases import METRIC_CASES
from tests.references import losses as twin
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import escape_probability, normalized_cut, transition_matrix
from torchreid_spectral.losses import (
    BatchHardTripletLoss,
    CirclePairLoss,
    ClassScores,
    ContrastiveLoss,
    EscapeLoss,
    NCALoss,
    NormalizedCutLoss,
    QuadrupletLoss,
)
from torchreid_spectral.losses.registry import build_metric_loss

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4])  # the last two alone


def batch(seed=0, labels=LABELS, width=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, width, generator=g, dtype=dtype)
    x = centers[labels] + torch.randn(len(labels), width, generator=g, dtype=dtype)
    return x, torch.randn(5, width, generator=g, dtype=dtype), labels


def value(name, x, w, y, **options):
    return build_metric_loss(name, **options)(x, y, ClassScores.of(x, w))


@pytest.mark.parametrize("name", METRIC_CASES)
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_twin(name, seed):
    options, reference = METRIC_CASES[name]
    x, w, y = batch(seed)
    actual = value(name, x, w, y, **options)
    assert actual.shape == () and actual.dtype == torch.float64
    expected = reference(x.numpy(), w.numpy(), y.tolist())
    assert actual.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("options", [
    {"adaptive": False, "margin": 0.7, "margin_pairs": 0.2, "normalize": False},
    {"margin": 0.5, "margin_pairs": 1.5},
])  # fmt: skip
def test_quadruplet_options_match_the_twin(options):
    x, _, y = batch(4)
    seen = x if options.get("normalize") is False else x / x.norm(dim=1, keepdim=True)
    expected = twin.quadruplet(
        seen.numpy(), y.tolist(), options["margin"], options["margin_pairs"],
        options.get("adaptive", True),
    )  # fmt: skip
    assert QuadrupletLoss(**options)(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_soft_margin_triplet_matches_the_twin():
    x, _, y = batch(5)
    expected = twin.triplet(x.numpy(), y.tolist(), 0.0, soft=True)
    assert BatchHardTripletLoss(soft_margin=True)(x, y).item() == pytest.approx(expected)


def test_triplet_is_torchreids_on_identity_batches(torchreid):
    x, _, y = batch(6, torch.arange(4).repeat_interleave(3), dtype=torch.float32)
    theirs = torchreid.losses.TripletLoss(margin=0.3)(x, y)
    torch.testing.assert_close(BatchHardTripletLoss(0.3)(x, y), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METRIC_CASES)
def test_gradients(name):
    options, _ = METRIC_CASES[name]
    x, w, y = batch(7)
    if name == "circle_pairs":  # its weights have no gradient, by definition
        x = x.requires_grad_()
        value(name, x, w, y, **options).backward()
        assert x.grad.abs().sum() > 0
        return
    if name == "normalized_cut":
        options = options | {"detach": False}
    if name == "quadruplet":  # an adaptive margin has no gradient, by definition
        options = options | {"adaptive": False, "margin": 0.4}
    assert gradcheck(lambda x, w: value(name, x, w, y, **options), (
        x.requires_grad_(), w.requires_grad_()))  # fmt: skip


@pytest.mark.parametrize("name", METRIC_CASES)
def test_names_and_order_do_not_matter(name):
    options, _ = METRIC_CASES[name]
    x, w, y = batch(8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    expected = value(name, x, w, y, **options)
    torch.testing.assert_close(value(name, x[order], w, y[order], **options), expected)
    if name != "normalized_cut":  # that one's labels are the classifier's
        torch.testing.assert_close(value(name, x, w, 10 - 2 * y, **options), expected)
    torch.testing.assert_close(value(name, x, w, y.int(), **options), expected)


DEGENERATE = {
    "one identity": lambda x, y: (x, torch.zeros_like(y)),
    "one image an identity": lambda x, y: (x[:5], torch.arange(5)),
    "duplicates": lambda x, y: (x[:1].expand(len(y), -1).clone(), y),
    "duplicates of one identity": lambda x, y: (x[:1].expand(9, -1).clone(), 0 * y),
    "two identities": lambda x, y: (x, y % 2),  # no valid quadruplet
    "one image": lambda x, y: (x[:1], y[:1]),
    "one pair": lambda x, y: (x[:2], y[:2]),
    "zero vectors": lambda x, y: (0 * x, y),
    "no image": lambda x, y: (x[:0], y[:0]),
    "identities already apart": lambda x, y: (1e3 * torch.eye(5)[y], y),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", METRIC_CASES)
def test_degenerate_batches_are_finite_with_a_graph(name, kind):
    x, w, y = batch(9, dtype=torch.float32, width=5)
    x, y = DEGENERATE[kind](x, y)
    x = x.detach().requires_grad_()
    w = w.requires_grad_()
    loss = value(name, x, w, y)
    assert torch.isfinite(loss) and loss.requires_grad, loss
    loss.backward()
    assert x.grad is None or torch.isfinite(x.grad).all()
    assert name == "normalized_cut" or x.grad is not None


@pytest.mark.parametrize("name", ["triplet", "quadruplet", "nca", "circle_pairs", "escape"])
def test_one_identity_has_nothing_to_lose(name):
    x, w, y = batch(10)
    assert value(name, x, w, 0 * y).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", METRIC_CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(name, dtype):
    x, w, y = batch(11, dtype=torch.float32)
    loss, half = build_metric_loss(name), x.to(dtype)
    expected = loss(half.float(), y, ClassScores.of(half.float(), w))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(half, y, ClassScores.of(half, w))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


def test_inputs_are_left_alone():
    x, w, y = batch(12)
    before = x.clone(), w.clone(), y.clone()
    for name in METRIC_CASES:
        value(name, x, w, y)
    assert torch.equal(x, before[0]) and torch.equal(w, before[1]) and torch.equal(y, before[2])


# --- known values ---------------------------------------------------------------------------


def line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None]


def test_contrastive_by_hand():
    """A positive pair 3 apart costs 9; a negative pair 1 apart costs (2 - 1)^2."""
    x, y = line(0.0, 3.0, 4.0), torch.tensor([0, 0, 1])
    loss = ContrastiveLoss(margin=2.0, normalize=False)
    assert loss(x, y).item() == pytest.approx(9 + 1)


def test_batch_hard_by_hand():
    """Of 0, 1, 5 against 2: the farthest positives are 5, 4, 5 away, the nearest negative 2, 1, 3.

    The image at 2 has no positive and does not count.
    """
    x, y = line(0.0, 1.0, 5.0, 2.0), torch.tensor([0, 0, 0, 1])
    loss = BatchHardTripletLoss(margin=0.5)(x, y)
    assert loss.item() == pytest.approx((3.5 + 3.5 + 2.5) / 3)
    collapsed = BatchHardTripletLoss(margin=0.3)(line(1, 1, 1, 1), torch.tensor([0, 0, 1, 1]))
    assert collapsed.item() == pytest.approx(0.3, abs=1e-5)  # Hermans: it sticks at the margin
    soft = BatchHardTripletLoss(soft_margin=True)(line(1, 1, 1, 1), torch.tensor([0, 0, 1, 1]))
    assert soft.item() == pytest.approx(math.log(2))


def test_quadruplet_by_hand():
    """0 and 1 are one identity, 3 and 4 two others: see the squares.

    First term, margin 5: 1 - 9 + 5, 1 - 16 + 5, 1 - 4 + 5 = 2 and 1 - 9 + 5: one violates.
    Second, margin 2: 1 - (4 - 3)^2 + 2 = 2.
    """
    x, y = line(0.0, 1.0, 3.0, 4.0), torch.tensor([0, 0, 1, 2])
    loss = QuadrupletLoss(5.0, 2.0, adaptive=False, normalize=False)
    assert loss(x, y).item() == pytest.approx(2 + 2)
    positive, negative = 1.0, (9 + 16 + 4 + 9 + 1) / 5
    margins = QuadrupletLoss().margins(torch.tensor([positive]), torch.tensor([9, 16, 4, 9, 1.0]))
    assert [float(m) for m in margins] == pytest.approx([negative - 1, (negative - 1) / 2])


def test_nca_of_equal_similarities_counts_neighbours():
    x, y = torch.ones(6, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 1])
    assert NCALoss()(x, y).item() == pytest.approx(-math.log(2 / 5))


def test_normalised_cut_of_an_undecided_classifier():
    """All probabilities 1/C: cut / volume is 1 - 1/C, whatever the graph."""
    x, _, y = batch(13)
    assert NormalizedCutLoss()(x, y, torch.zeros(9, 5).double()).item() == pytest.approx(4 / 5)


def test_normalised_cut_of_a_sure_classifier_is_functional_normalized_cut():
    x, _, y = batch(14)
    sure = torch.eye(5, dtype=torch.float64)[y]
    actual = NormalizedCutLoss(temperature=0.5, scale=200.0)(x, y, sure)
    from torchreid_spectral.functional import affinity_matrix

    torch.testing.assert_close(actual, normalized_cut(affinity_matrix(x, 0.5), y) / 5)


def test_normalised_cut_trains_the_assignment_alone():
    x, w, y = batch(15)
    x, w = x.requires_grad_(), w.requires_grad_()
    NormalizedCutLoss()(x, y, ClassScores.of(x.detach(), w)).backward()
    assert x.grad is None and w.grad.abs().sum() > 0
    NormalizedCutLoss(detach=False)(x, y, ClassScores.of(x.detach(), w)).backward()
    assert x.grad.abs().sum() > 0


def test_escape_is_the_figure_that_the_engine_logs():
    x, _, y = batch(16)
    expected = escape_probability(transition_matrix(x, 0.2), y)
    torch.testing.assert_close(EscapeLoss(0.2)(x, y), expected)
    alone = EscapeLoss()(x[:4], torch.arange(4))
    assert alone.item() == pytest.approx(1)


def test_a_small_step_against_the_gradient_lowers_each():
    for name, (options, _) in METRIC_CASES.items():
        x, w, y = batch(17)
        x, w = x.requires_grad_(), w.requires_grad_()
        before = value(name, x, w, y, **options)
        before.backward()
        moved = [(part - 1e-4 * part.grad).detach() for part in (x, w) if part.grad is not None]
        after = value(name, *(moved if len(moved) == 2 else [moved[0], w.detach()]), y, **options)
        assert after < before, name


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ContrastiveLoss(margin=0.0), "margin must be positive, got 0.0"),
        (lambda: BatchHardTripletLoss(margin=-0.1), "margin must be >= 0, got -0.1"),
        (lambda: BatchHardTripletLoss(metric="l2"), "metric must be one of .*got 'l2'"),
        (lambda: QuadrupletLoss(margin_pairs=-1.0), "margin must be >= 0, got -1.0"),
        (lambda: NCALoss(scale=0.0), "scale must be positive, got 0.0"),
        (lambda: NCALoss(scale=60.0), "at most 40 .*, got 60.0"),
        (lambda: CirclePairLoss(margin=1.5), r"margin must be in \[0, 1\], got 1.5"),
        (lambda: NormalizedCutLoss(temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: EscapeLoss(temperature=-1.0), "temperature must be positive, got -1.0"),
    ],
)
def test_rejects_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_normalised_cut_needs_scores():
    x, _, y = batch(18)
    with pytest.raises(InputError, match="needs the classifier's scores"):
        NormalizedCutLoss()(x, y)


@pytest.mark.parametrize("name", ["contrastive", "triplet", "nca", "circle_pairs"])
def test_a_missing_library_names_the_command(name, monkeypatch):
    modules = __import__("sys").modules
    for module in [key for key in modules if key.startswith("pytorch_metric_learning")]:
        monkeypatch.setitem(modules, module, None)
    monkeypatch.setitem(modules, "pytorch_metric_learning", None)
    with pytest.raises(InputError, match=r"pip install 'torchreid-spectral\[losses\]'"):
        build_metric_loss(name)


def test_normalised_cut_leaves_out_identities_that_are_not_in_the_batch():
    x, w, y = batch(19, torch.tensor([0, 0, 3, 3, 3]))
    expected = twin.normalized_cut(
        x.numpy(), torch.nn.functional.cosine_similarity(x[:, None], w[None], dim=-1).numpy(),
        y.tolist(), 0.1, 15.0,
    )  # fmt: skip
    assert value("normalized_cut", x, w, y).item() == pytest.approx(expected, rel=1e-9)


def test_an_adaptive_margin_has_no_gradient():
    x, _, y = batch(20)
    x = (x / x.norm(dim=1, keepdim=True)).requires_grad_()
    QuadrupletLoss(normalize=False)(x, y).backward()
    adaptive = x.grad.clone()
    squared = torch.cdist(x.detach(), x.detach()).square()
    same = y[:, None] == y[None, :]
    gap = squared[~same].mean() - squared[same & ~torch.eye(len(y), dtype=torch.bool)].mean()
    x.grad = None
    fixed = QuadrupletLoss(float(gap), float(gap) / 2, adaptive=False, normalize=False)
    fixed(x, y).backward()
    torch.testing.assert_close(x.grad, adaptive)


@pytest.mark.parametrize("temperature", [0.1, 0.005, 1e-3])
def test_escape_of_a_cold_walk(temperature):
    """Beside self loops all other steps would underflow, and the loss read 0: nobody leaves."""
    from torchreid_spectral.losses import EscapeLoss

    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    identities = torch.arange(4).repeat_interleave(4)
    units = torch.nn.functional.normalize(x.detach().double(), dim=1)
    logits = (units @ units.T).fill_diagonal_(-float("inf")) / temperature
    leaving = logits.softmax(1).masked_fill(identities[:, None] == identities, 0).sum(1).mean()
    loss = EscapeLoss(temperature)(x, identities)
    assert loss.item() == pytest.approx(leaving.item(), abs=1e-3)
    loss.backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("scale", [15.0, 48.0, 64.0, 200.0])
def test_normalised_cut_of_a_class_improbable_everywhere(scale):
    """Every image is all but surely of the other class: the ratio is still one, not none."""
    cosines = torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [-0.99, 1.0]], requires_grad=True)
    loss = NormalizedCutLoss(scale=scale)
    value = loss(torch.eye(3), torch.tensor([0, 0, 0]), cosines)
    value.backward()
    assert value.item() == pytest.approx(1, abs=1e-6)
    assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_metric_loss("triplet", metric="euclidean"),
        lambda: QuadrupletLoss(normalize=False),
    ],
)
def test_gradients_of_close_features_far_from_the_origin(build):
    """As when training begins and all features are nearly one."""
    torch.manual_seed(0)
    x = torch.ones(1, 64, dtype=torch.float64) * 8 + 1e-2 * torch.randn(16, 64).double()
    x, y = x.float().double(), torch.arange(16) // 4
    gradients = []
    for precise in (x, x.float()):
        leaf = precise.clone().requires_grad_()
        build()(leaf, y).backward()
        gradients.append(leaf.grad.double())
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()
