"""Learning-rate schedules that torchreid has not, and their way into its closed chain."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from torchreid_spectral import _compat
from torchreid_spectral._active import Active
from torchreid_spectral.errors import InputError

__all__ = ["patch_schedulers", "warmup_defaults", "warmup_cosine", "warmup_multi_step"]

WARMUP_MULTI_STEP, WARMUP_COSINE = "warmup_multi_step", "warmup_cosine"
_warmup = Active((20, 0.01))  # epochs until the full rate, share of it at the start


@contextmanager
def warmup_defaults(*, warmup_epochs: int, warmup_factor: float) -> Iterator[None]:
    """Set the warm-up of these schedules inside the block; torchreid has no place for it.

    Args:
        warmup_epochs: Epochs until the full learning rate.
        warmup_factor: Share of it at the start.

    Yields:
        Nothing.
    """
    with _warmup.held((warmup_epochs, warmup_factor)):
        yield


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


def warmup_cosine(
    optimizer: Optimizer,
    *,
    max_epoch: int,
    warmup_epochs: int = 20,
    warmup_factor: float = 0.01,
) -> LRScheduler:
    r"""Rise linearly over the first epochs, then fall along half a cosine to zero.

    .. math:: \eta_t = \tfrac12 \eta \left(1 + \cos \pi \frac{t - t_w}{t_{max} - t_w}\right)

    Sources: I. Loshchilov, F. Hutter, *SGDR*, ICLR 2017; with warm-up in the recipes of re-ID
    since H. Luo et al., *Bag of Tricks*, CVPRW 2019.

    Args:
        optimizer: What to schedule.
        max_epoch: Epochs in all.
        warmup_epochs: Epochs until the full rate; 0 for none.
        warmup_factor: Share of the full rate in the first epoch, in (0, 1].

    Returns:
        The scheduler, to be stepped once an epoch.

    Raises:
        InputError: If an option is out of range.
    """
    if not 0 <= warmup_epochs < max_epoch or not 0 < warmup_factor <= 1:
        raise InputError(
            "train.warmup_epochs must be >= 0 and below train.max_epoch, train.warmup_factor in "
            f"(0, 1], got {warmup_epochs}, {max_epoch} and {warmup_factor}."
        )

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
        done = min((epoch - warmup_epochs) / (max_epoch - warmup_epochs), 1.0)
        return (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


def patch_schedulers() -> None:
    """Let torchreid's ``build_lr_scheduler`` know the schedules of this module; idempotent."""
    module = _compat.submodule("optim.lr_scheduler")
    original = module.build_lr_scheduler
    if WARMUP_COSINE in module.AVAI_SCH:
        return

    @wraps(original)
    def build_lr_scheduler(
        optimizer: Optimizer,
        lr_scheduler: str = "single_step",
        stepsize: int | Sequence[int] = 1,
        gamma: float = 0.1,
        max_epoch: int = 1,
    ) -> LRScheduler:
        if lr_scheduler == WARMUP_MULTI_STEP:
            milestones = [stepsize] if isinstance(stepsize, int) else stepsize
            return warmup_multi_step(
                optimizer,
                milestones=milestones,
                gamma=gamma,
                warmup_epochs=_warmup.value[0],
                warmup_factor=_warmup.value[1],
            )
        if lr_scheduler == WARMUP_COSINE:
            return warmup_cosine(
                optimizer,
                max_epoch=max_epoch,
                warmup_epochs=_warmup.value[0],
                warmup_factor=_warmup.value[1],
            )
        scheduler: LRScheduler = original(optimizer, lr_scheduler, stepsize, gamma, max_epoch)
        return scheduler

    _compat.replace_everywhere(original, build_lr_scheduler)
    module.AVAI_SCH.extend([WARMUP_MULTI_STEP, WARMUP_COSINE])
