"""Tests of torchreid_spectral.losses.dark_rank."""

import math
from itertools import permutations

import pytest
import torch
from torch.autograd import gradcheck

from tests.losses.cases import DISTILLATION_CASES
from tests.references import losses as twin
from torchreid_spectral.losses import DarkRankLoss
from torchreid_spectral.losses.dark_rank import log_likelihood


def batch(seed=0, size=7, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(size, 4, generator=g, dtype=dtype)
    return student, torch.randn(size, 6, generator=g, dtype=dtype)


@pytest.mark.parametrize("options", DISTILLATION_CASES["dark_rank"], ids=["soft", "hard"])
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_twin(options, seed):
    student, teacher = batch(seed)
    expected = twin.dark_rank(
        student.numpy(), teacher.numpy(), options["kind"], options["scale"], options["power"],
        options["list_length"],
    )  # fmt: skip
    actual = DarkRankLoss(**options)(student, teacher)
    assert actual.shape == ()
    assert actual.item() == pytest.approx(expected, rel=1e-8)


def test_probabilities_of_all_orders_sum_to_one():
    scores = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    orders = torch.tensor(list(permutations(range(4))))
    torch.testing.assert_close(log_likelihood(scores[orders]).exp().sum().item(), 1.0)
    likeliest = log_likelihood(scores[orders]).argmax()
    assert orders[likeliest].tolist() == scores.argsort(descending=True).tolist()


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_equal_distances_know_nothing(kind):
    """All images the same distance apart: every order has probability 1/n!."""
    corners = torch.eye(5, dtype=torch.float64)
    _, teacher = batch(4, 5)
    value = DarkRankLoss(kind, list_length=3)(corners, teacher)
    length = {"soft": 3, "hard": 4}[kind]
    assert value.item() == pytest.approx(math.log(math.factorial(length)))


def test_a_copy_of_the_teacher_is_the_minimum_of_soft():
    _, teacher = batch(5)
    copy = teacher.clone().requires_grad_()
    loss = DarkRankLoss("soft", scale=0.8, power=2.0)
    value = loss(copy, teacher)
    value.backward()
    torch.testing.assert_close(copy.grad, torch.zeros_like(copy), atol=1e-8, rtol=0)
    for seed in range(5):
        noise = batch(seed)[1] * 0.1
        assert loss(teacher + noise, teacher) > value


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_student_learns_the_ranking(kind):
    _, teacher = batch(6, 10)
    student = batch(7, 10)[1].repeat(1, 2).requires_grad_()  # wide enough for any ranking
    optimizer = torch.optim.Adam([student], lr=0.05)
    loss = DarkRankLoss(kind, scale=1.0, power=2.0)
    first = loss(student, teacher).item()
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
    assert value.item() < first
    unit = [torch.nn.functional.normalize(x.detach(), dim=1) for x in (student, teacher)]
    known, learned = [(x @ x.T).fill_diagonal_(-2) for x in unit[::-1]]
    order = known.argsort(1, descending=True)[:, :4]  # soft says nothing of the others
    assert (learned.gather(1, order).argmax(1) == 0).float().mean() >= 0.8


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_gradients_flow_to_the_student_alone(kind):
    student, teacher = batch(7, 6)
    loss = DarkRankLoss(kind, scale=0.8, power=2.0)
    assert gradcheck(lambda x: loss(x, teacher), student.requires_grad_())
    teacher.requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_batches_and_duplicates(kind, size):
    for scale in (1.0, 0.0):
        student, teacher = batch(8, size, dtype=torch.float32)
        student = (student * scale).detach().requires_grad_()
        value = DarkRankLoss(kind)(student, teacher[:1].expand(size, -1))
        assert torch.isfinite(value) and value.requires_grad
        value.backward()
        assert torch.isfinite(student.grad).all()
        assert size > 2 or value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_half_precision_and_autocast(kind):
    student, teacher = batch(9, dtype=torch.float32)
    loss = DarkRankLoss(kind)
    expected = loss(student.bfloat16().float(), teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(student.bfloat16(), teacher)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


def test_lengths_of_features_do_not_matter():
    student, teacher = batch(10)
    loss = DarkRankLoss()
    torch.testing.assert_close(loss(3 * student, 7 * teacher), loss(student, teacher))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "medium"}, "kind must be one of .*'medium'"),
        ({"scale": 0.0}, "scale must be > 0 and power >= 2, got 0.0"),
        ({"power": 0.5}, "got 3.0 and 0.5"),
        ({"list_length": 7}, "list_length must be 2 to 6, got 7"),
    ],
)
def test_rejects_settings(options, message):
    with pytest.raises(ValueError, match=message):
        DarkRankLoss(**options)
