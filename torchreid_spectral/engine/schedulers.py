"""Learning-rate schedules that torchreid has not, and their way into its closed chain."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from torchreid_spectral import _compat
from torchreid_spectral.errors import InputError

__all__ = ["patch_schedulers", "warmup_defaults", "warmup_multi_step"]

WARMUP_MULTI_STEP = "warmup_multi_step"
_active_warmup: dict[str, float] = {"warmup_epochs": 20, "warmup_factor": 0.01}


@contextmanager
def warmup_defaults(*, warmup_epochs: int, warmup_factor: float) -> Iterator[None]:
    """Set the warm-up of ``warmup_multi_step`` inside the block; torchreid has no place for it.

    Args:
        warmup_epochs: Epochs until the full learning rate.
        warmup_factor: Share of it at the start.

    Yields:
        Nothing.
    """
    global _active_warmup
    before = _active_warmup
    _active_warmup = {"warmup_epochs": warmup_epochs, "warmup_factor": warmup_factor}
    try:
        yield
    finally:
        _active_warmup = before


def warmup_multi_step(
    optimizer: Optimizer,
    *,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_epochs: int = 20,
    warmup_factor: float = 0.01,
) -> LRScheduler:
    """Rise linearly over the first epochs, then fall by a factor at each milestone.

    Source: the recipe of C. Luo et al., *Spectral Feature Transformation for Person
    Re-identification*, ICCV 2019: 20 epochs from lr/100, x 0.1 at 80 and 100.

    Args:
        optimizer: What to schedule.
        milestones: Epochs after which the rate falls, ascending.
        gamma: Factor of each fall.
        warmup_epochs: Epochs until the full rate; 0 for none.
        warmup_factor: Share of the full rate in the first epoch, in (0, 1].

    Returns:
        The scheduler, to be stepped once an epoch.

    Raises:
        InputError: If an option is out of range.
    """
    if warmup_epochs < 0 or not 0 < warmup_factor <= 1:
        raise InputError(
            "train.warmup_epochs must be >= 0 and train.warmup_factor in (0, 1], got "
            f"{warmup_epochs} and {warmup_factor}."
        )
    ordered = sorted(milestones)

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
        return float(gamma ** bisect_right(ordered, epoch))

    return LambdaLR(optimizer, factor)


def patch_schedulers() -> None:
    """Let torchreid's ``build_lr_scheduler`` know ``warmup_multi_step``; idempotent."""
    module = _compat.submodule("optim.lr_scheduler")
    original = module.build_lr_scheduler
    if WARMUP_MULTI_STEP in module.AVAI_SCH:
        return

    @wraps(original)
    def build_lr_scheduler(
        optimizer: Optimizer,
        lr_scheduler: str = "single_step",
        stepsize: int | Sequence[int] = 1,
        gamma: float = 0.1,
        **kwargs: Any,  # noqa: ANN401 (torchreid's)
    ) -> LRScheduler:
        if lr_scheduler == WARMUP_MULTI_STEP:
            milestones = [stepsize] if isinstance(stepsize, int) else stepsize
            return warmup_multi_step(
                optimizer,
                milestones=milestones,
                gamma=gamma,
                warmup_epochs=int(_active_warmup["warmup_epochs"]),
                warmup_factor=_active_warmup["warmup_factor"],
            )
        scheduler: LRScheduler = original(
            optimizer, lr_scheduler=lr_scheduler, stepsize=stepsize, gamma=gamma, **kwargs
        )
        return scheduler

    _compat.replace_everywhere(original, build_lr_scheduler)
    module.AVAI_SCH.append(WARMUP_MULTI_STEP)
