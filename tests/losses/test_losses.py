"""Tests of the identity losses and of deep supervision."""

import math

import jaxtyping
import pytest
import torch
from torch.autograd import gradcheck

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    ClassScores,
    DeepSupervisionLoss,
    ScaledSoftmaxLoss,
)
from torchreid_spectral.losses.metric import MetricLoss
from torchreid_spectral.losses.registry import (
    ID_LOSSES,
    METRIC_LOSSES,
    build_id_loss,
    build_metric_loss,
)


def cosines(rows: int = 5, columns: int = 4) -> torch.Tensor:
    return torch.rand(rows, columns, dtype=torch.float64) * 2 - 1


def reference_am_softmax(cosine, targets, margin, scale):
    total = 0.0
    for row, target in zip(cosine.tolist(), targets.tolist()):
        row[target] -= margin
        powers = [math.exp(scale * c) for c in row]
        total -= math.log(powers[target] / sum(powers))
    return total / len(targets)


@pytest.mark.parametrize(("margin", "scale"), [(0.3, 15.0), (0.0, 1.0), (0.5, 30.0)])
def test_am_softmax_matches_the_formula(margin, scale):
    x, y = cosines(), torch.tensor([0, 3, 1, 1, 2])
    expected = reference_am_softmax(x, y, margin, scale)
    assert AMSoftmaxLoss(margin, scale)(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_am_softmax_without_margin_is_softmax():
    x, y = cosines(), torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(AMSoftmaxLoss(0.0, 15.0)(x, y), ScaledSoftmaxLoss(15.0)(x, y))


def test_label_smoothing_is_torchreids(torchreid):
    x, y = cosines().float(), torch.tensor([0, 3, 1, 1, 2])
    theirs = torchreid.losses.CrossEntropyLoss(4, eps=0.1, use_gpu=False)(x, y)
    torch.testing.assert_close(ScaledSoftmaxLoss(1.0, 0.1)(x, y), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = cosines().to(dtype)
    y = torch.tensor([0, 3, 1, 1, 2])
    loss = AMSoftmaxLoss()(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, AMSoftmaxLoss()(x.float(), y))


def test_gradients():
    y = torch.tensor([0, 3, 1, 1, 2])
    assert gradcheck(lambda x: AMSoftmaxLoss()(x, y), cosines().requires_grad_())


def test_deep_supervision_is_the_weighted_sum():
    x, walked, y = cosines(), cosines(), torch.tensor([0, 3, 1, 1, 2])
    one = AMSoftmaxLoss()
    both = DeepSupervisionLoss(one, 0.5, 2.0)([x], [walked], y)
    torch.testing.assert_close(both, 0.5 * one(x, y) + 2 * one(walked, y))
    parts = DeepSupervisionLoss(one)([x, walked], [], y)
    torch.testing.assert_close(parts, (one(x, y) + one(walked, y)) / 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AMSoftmaxLoss(margin=-0.1), "margin must be >= 0, got -0.1"),
        (lambda: AMSoftmaxLoss(scale=0), "scale must be positive, got 0"),
        (lambda: ScaledSoftmaxLoss(scale=-1), "scale must be positive, got -1"),
        (lambda: ScaledSoftmaxLoss(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\)"),
        (lambda: DeepSupervisionLoss(AMSoftmaxLoss(), 0, 0), "not both zero, got 0 and 0"),
        (lambda: DeepSupervisionLoss(AMSoftmaxLoss(), math.nan), "not both zero, got nan and 1"),
    ],
)
def test_rejects_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_no_branch_with_a_weight():
    loss = DeepSupervisionLoss(AMSoftmaxLoss(), weight=0.0)
    with pytest.raises(ValueError, match="gives 1 plain and 0 walked outputs"):
        loss([cosines()], [], torch.tensor([0, 3, 1, 1, 2]))


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="'am_softmx'.*am_softmax"):
        build_id_loss("am_softmx")


def every_loss():
    for name in ID_LOSSES:
        yield name, build_id_loss(name)
    for name in METRIC_LOSSES:
        yield name, build_metric_loss(name)


def applied(loss, x, w, targets):
    scores = ClassScores.of(x, w)
    if isinstance(loss, MetricLoss):
        return loss(x, targets, scores if loss.needs_scores else None)
    return loss(scores, targets)


@pytest.fixture
def unchecked(monkeypatch):
    """Switch the annotations off, as they are outside of tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("name", "loss"), [*every_loss()])
def test_labels_of_any_whole_numbers_and_no_others(unchecked, name, loss):
    g = torch.Generator().manual_seed(3)
    x, w = torch.randn(6, 4, generator=g), torch.randn(5, 4, generator=g)
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = applied(loss, x, w, y)
    for kind in (torch.int32, torch.uint8, torch.int16):
        torch.testing.assert_close(applied(loss, x, w, y.to(kind)), expected)
    for wrong in (y[:4], y[:, None], y[None], y.float(), y > 0):
        with pytest.raises(InputError, match=r"targets must be \(6,\) whole numbers"):
            applied(loss, x, w, wrong)


@pytest.mark.parametrize(("name", "loss"), [*every_loss()])
def test_a_batch_without_images_is_zero(unchecked, name, loss):
    x, w = torch.zeros(0, 4, requires_grad=True), torch.ones(5, 4)
    found = applied(loss, x, w, torch.zeros(0, dtype=torch.int64))
    found.backward()
    assert float(found.detach()) == 0 and x.grad.shape == (0, 4)


@pytest.mark.parametrize("name", [*ID_LOSSES, "normalized_cut"])
def test_nobody_is_no_class(unchecked, name):
    loss = build_id_loss(name) if name in ID_LOSSES else build_metric_loss(name)
    x, w = torch.eye(6, 4) + 0.1, torch.eye(5, 4) + 0.2
    for nobody in (-1, -100):
        with pytest.raises((InputError, IndexError, RuntimeError)):
            applied(loss, x, w, torch.tensor([0, 0, 1, 1, 2, nobody]))
