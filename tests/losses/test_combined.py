"""Tests of torchreid_spectral.losses.combined: all training terms in one sum."""

import pytest
import torch

from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    ASoftmaxLoss,
    ClassScores,
    CombinedLoss,
    EscapeLoss,
    NormalizedCutLoss,
    QuadrupletLoss,
)

Y = torch.arange(4).repeat_interleave(2)


def scores(seed, count=1):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(4, 3, generator=g)
    return [ClassScores.of(torch.randn(8, 3, generator=g), w) for _ in range(count)]


@pytest.mark.parametrize(
    ("metric_on", "branches"), [("plain", [0]), ("walked", [1]), ("both", [0, 1])]
)
def test_is_the_weighted_sum_over_the_chosen_branches(metric_on, branches):
    outputs = scores(0, 2), scores(1, 2)
    metrics = {"quadruplet": QuadrupletLoss(), "normalized_cut": NormalizedCutLoss()}
    loss = CombinedLoss(AMSoftmaxLoss(), 0.5, 2.0, metrics, {"quadruplet": 0.3}, metric_on)
    total, parts = loss(*outputs, Y)
    expected = sum(
        weight * torch.stack([AMSoftmaxLoss()(s, Y) for s in branch]).mean()
        for weight, branch in zip((0.5, 2.0), outputs)
    )
    torch.testing.assert_close(parts["loss_id"], expected)
    for name, metric in metrics.items():
        value = sum(
            torch.stack([metric(s.feature, Y, s) for s in outputs[b]]).mean() for b in branches
        )
        torch.testing.assert_close(parts[f"loss_{name}"], value)
        expected = expected + {"quadruplet": 0.3}.get(name, 1.0) * value
    torch.testing.assert_close(total, expected)


def test_metric_losses_alone():
    total, parts = CombinedLoss(metric_losses={"escape": EscapeLoss()})(scores(2), [], Y)
    assert set(parts) == {"loss_escape"}
    torch.testing.assert_close(total, parts["loss_escape"])


def test_one_step_is_counted_once():
    loss = CombinedLoss(ASoftmaxLoss(), metric_losses={"escape": EscapeLoss()})
    for _ in range(3):
        loss(scores(3), scores(4), Y)
        loss.advance()
    assert int(loss.id_loss.criterion.iterations) == 3
    again = CombinedLoss(ASoftmaxLoss(), metric_losses={"escape": EscapeLoss()})
    again.load_state_dict(loss.state_dict())
    assert int(again.id_loss.criterion.iterations) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no loss to train with"),
        ({"id_loss": AMSoftmaxLoss(), "metric_on": "x"}, "metric_on must be one of .*got 'x'"),
        ({"id_loss": AMSoftmaxLoss(), "metric_weights": {"nca": 1.0}}, "for names of"),
        (
            {"metric_losses": {"escape": EscapeLoss()}, "metric_weights": {"escape": -1.0}},
            "metric_weights must be >= 0",
        ),
    ],
)
def test_rejects_settings(options, message):
    with pytest.raises(InputError, match=message):
        CombinedLoss(**options)


def test_a_missing_branch_says_what_to_set():
    loss = CombinedLoss(metric_losses={"escape": EscapeLoss()}, metric_on="both")
    with pytest.raises(InputError, match="loss.metric_on both needs features"):
        loss(scores(5), [], Y)
