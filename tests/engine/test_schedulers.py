"""Tests of torchreid_spectral.engine.schedulers."""

import math

import pytest
import torch

from torchreid_spectral.engine.schedulers import (
    warmup_cosine,
    warmup_defaults,
    warmup_multi_step,
)
from torchreid_spectral.errors import InputError


def rates(scheduler, optimizer, epochs):
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_recipe(optimizer):
    seen = rates(warmup_multi_step(optimizer, milestones=[80, 100]), optimizer, 140)
    assert seen[0] == pytest.approx(0.001)
    assert seen[10] == pytest.approx(0.0505)  # half of the linear rise
    assert seen[20] == seen[79] == pytest.approx(0.1)
    assert seen[80] == pytest.approx(0.01)
    assert seen[100] == seen[139] == pytest.approx(0.001)


def test_known_to_torchreid(torchreid, optimizer):
    build = torchreid.optim.build_lr_scheduler
    with warmup_defaults(warmup_epochs=2, warmup_factor=0.5):
        scheduler = build(optimizer, lr_scheduler="warmup_multi_step", stepsize=[3], gamma=0.1)
    expected = [0.05, 0.075, 0.1, 0.01]
    assert rates(scheduler, optimizer, 4) == [pytest.approx(rate) for rate in expected]
    assert build(optimizer, lr_scheduler="single_step", stepsize=3)
    with pytest.raises(ValueError, match="Unsupported scheduler"):
        build(optimizer, lr_scheduler="nothing")


def test_state_loads_without_pickled_objects(optimizer, tmp_path):
    scheduler = warmup_multi_step(optimizer, milestones=[3])
    torch.save(scheduler.state_dict(), tmp_path / "s.pth")
    scheduler.load_state_dict(torch.load(tmp_path / "s.pth", weights_only=True))


def test_rejects(optimizer):
    with pytest.raises(InputError, match="warmup_factor in"):
        warmup_multi_step(optimizer, milestones=[1], warmup_factor=0.0)
    with pytest.raises(InputError, match="warmup_epochs must be >= 0 .* got -1"):
        warmup_multi_step(optimizer, milestones=[1], warmup_epochs=-1)


def test_cosine(optimizer):
    seen = rates(
        warmup_cosine(optimizer, max_epoch=60, warmup_epochs=10, warmup_factor=0.1), optimizer, 60
    )
    assert seen[0] == pytest.approx(0.01)
    assert seen[5] == pytest.approx(0.055)
    assert seen[10] == pytest.approx(0.1)
    assert seen[35] == pytest.approx(0.05)  # half way down
    for epoch in (11, 25, 59):
        wanted = 0.05 * (1 + math.cos(math.pi * (epoch - 10) / 50))
        assert seen[epoch] == pytest.approx(wanted)


def test_cosine_is_known_to_torchreid(torchreid, optimizer):
    with warmup_defaults(warmup_epochs=2, warmup_factor=0.5):
        scheduler = torchreid.optim.build_lr_scheduler(
            optimizer, lr_scheduler="warmup_cosine", max_epoch=4
        )
    expected = [0.05, 0.075, 0.1, 0.05, 0.0, 0.0]
    assert rates(scheduler, optimizer, 6) == [pytest.approx(rate) for rate in expected]


def test_cosine_rejects(optimizer):
    with pytest.raises(InputError, match="below train.max_epoch.*got 10, 10"):
        warmup_cosine(optimizer, max_epoch=10, warmup_epochs=10)
