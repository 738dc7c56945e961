"""The loop over epochs and steps: torchreid's, with a state after every step.

It draws random numbers and prints losses as torchreid's ``Engine.run`` and ``Engine.train`` do.
"""

from __future__ import annotations

import datetime
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from torchreid_spectral import _compat, _random
from torchreid_spectral._run_files import CHECKPOINTS, WEIGHTS
from torchreid_spectral.data.images import ImageReader
from torchreid_spectral.data.loading import EpochLoader
from torchreid_spectral.engine import distributed, scalars
from torchreid_spectral.engine.bar import Bar
from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder
from torchreid_spectral.engine.faults import Interrupted, StopSignals
from torchreid_spectral.engine.progress import (
    Progress,
    apply,
    apply_weights,
    figure_name,
    snapshot,
)
from torchreid_spectral.engine.step import StepMixin, unwrapped
from torchreid_spectral.errors import InputError
from torchreid_spectral.models.spectral_net import check_open_layers

__all__ = ["LoopMixin", "say"]

logger = logging.getLogger(__name__)

# Several processes look at each other's signals, for which a GPU is waited for, after as many
# steps at most, and as many seconds.
_LOOK_STEPS, _LOOK_SECONDS = 8, 2.0


class LoopMixin(StepMixin):
    """Trains, saves and goes on; see :class:`~torchreid_spectral.engine.base.ReportingMixin`."""

    progress_bars = True
    stop: StopSignals | None = None
    after_epoch: Callable[[int], None] | None = None  # called with the number of epochs done
    record: Mapping[str, Any] = {}
    provenance: Mapping[str, Any] = {}
    last_features: tuple[Any, Tensor] | None = None  # of the last step, and their identities
    _reader: ImageReader | None = None
    _rng: str | None = None
    _resumed_meters: dict[str, list[float]] | None = None
    _look = 0  # at the signals of other processes, from this position on

    def resume(self, checkpoint: Checkpoint) -> None:
        """Let the next ``run`` go on from a checkpoint.

        Args:
            checkpoint: Of :class:`~torchreid_spectral.engine.checkpoints.CheckpointFolder`.
        """
        self.prepare_step()
        self._rng = apply(self, checkpoint)
        self.guard.checkpoint = checkpoint.path or self.guard.checkpoint
        self._resumed_meters = dict(checkpoint.state["meters"])

    def take_weights(self, checkpoint: Checkpoint) -> None:
        """Let the next test be of a checkpoint's weights; how they were trained does not matter.

        Args:
            checkpoint: Of :class:`~torchreid_spectral.engine.checkpoints.CheckpointFolder`.
        """
        self.prepare_step()
        apply_weights(self, checkpoint)
        if not self.train_loader.is_of(checkpoint.state["loader"][0]):
            logger.warning(
                "The training images, or whose they are, are others than those that these weights "
                "were trained on: people of theirs may be among the queries and the gallery."
            )

    def get_current_lr(self, names: Any = None) -> float:  # noqa: ANN401 (torchreid's)
        """Give the learning rate that is logged: the largest of the parameter groups.

        Args:
            names: Of a model, or several; the first of all if not given.

        Returns:
            That of new layers, where others learn more slowly.
        """
        first = self.get_model_names(names)[0]
        return max(float(group["lr"]) for group in self._optims[first].param_groups)

    def _take_loaders(self) -> None:
        self.train_loader = self._loader(self.train_loader)
        self.test_loader = {
            name: {part: self._loader(loader) for part, loader in parts.items()}
            for name, parts in self.test_loader.items()
        }

    def _loader(self, loader: Any) -> EpochLoader:  # noqa: ANN401
        if isinstance(loader, EpochLoader):
            return loader
        return EpochLoader(
            loader,
            on_error=self.options.on_error,
            reader=self._reader,
            persistent=self.options.persistent_workers,
            timeout=self.options.timeout,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            first=distributed.first_object,
        )

    def _fit(self, save_dir: str, start_epoch: int, tests: dict[str, Any], **how: Any) -> None:  # noqa: ANN401
        """Train from where the run stands to the last epoch, with the tests in between."""
        self.folder = CheckpointFolder(Path(save_dir) / CHECKPOINTS)
        self.prepare_step()
        if self._rng is None:
            distributed.first_result(self.folder.set_aside)
            self.progress = Progress(epoch=start_epoch, figure=figure_name(self))
        else:
            _random.restore(self._rng)
            self._rng = None
        if self.writer is None and distributed.rank() == 0:
            steps = self.progress.epoch * len(self.train_loader) + self.train_loader.position
            self.writer = SummaryWriter(log_dir=save_dir, purge_step=steps or None)
        if self.progress.epoch < self.max_epoch and not len(self.train_loader):
            raise InputError(
                f"An epoch has no batch: {len(self.train_loader.sampler)} images an epoch make "
                f"none of train.batch_size {self.train_loader.batch_size}. Lower it."
            )
        if how["fixbase_epoch"] and how["open_layers"] is not None:
            chosen = how["open_layers"]
            names = [chosen] if isinstance(chosen, str) else chosen
            for network in self._models.values():
                check_open_layers(unwrapped(network), names)
        start_eval, eval_freq = how.pop("start_eval"), how.pop("eval_freq")
        say("=> Start training")
        if self.progress.test_due:
            self._test_epoch(save_dir, tests)
        while self.progress.epoch < self.max_epoch and not self.progress.finished:
            self.epoch = self.progress.epoch
            self.train(**how)
            done = self.epoch + 1
            self.progress.epoch = done
            self.train_loader.finish()
            self.progress.test_due = (
                done >= start_eval and eval_freq > 0 and done % eval_freq == 0
                and done != self.max_epoch
            )  # fmt: skip
            self._save()
            if self.after_epoch is not None:
                self.after_epoch(done)
            if self.progress.test_due:
                self._test_epoch(save_dir, tests)
        self.epoch = max(self.progress.epoch - 1, 0)  # also where nothing was left to train

    def _test_epoch(self, save_dir: str, tests: dict[str, Any]) -> None:
        self.epoch = self.progress.epoch - 1
        result = self.test(save_dir=save_dir, **tests)
        self.save_model(self.epoch, result, save_dir)
        self.progress.test_due = False
        self._note_test(result)

    def _note_test(self, result: Any) -> None:  # noqa: ANN401
        figure = result.figure(self.options.keep)
        best = self.progress.note_test(figure, self.options.patience)
        self._save(best=best)
        if self.progress.finished:
            logger.info(
                "Stopped early after epoch %d: the best %s, %.1f%%, was that of epoch %d.",
                self.progress.epoch,
                self.options.keep,
                100 * self.progress.best,
                self.progress.best_epoch,
            )

    def train(
        self,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: Any = None,  # noqa: ANN401
    ) -> None:
        """Train one epoch, or the rest of one.

        Args:
            print_freq: Steps between lines of the log.
            fixbase_epoch: Epochs in which only ``open_layers`` are trained.
            open_layers: Their names.
        """
        self.prepare_step()
        self.set_model_mode("train")
        self.two_stepped_transfer_learning(self.epoch, fixbase_epoch, open_layers)
        utils, loader = _compat.load().utils, self.train_loader
        self.num_batches = len(loader)
        losses, seconds, waiting = utils.MetricMeter(), utils.AverageMeter(), utils.AverageMeter()
        for name, values in (self._resumed_meters or {}).items():
            meter = losses.meters[name]
            meter.val, meter.sum, meter.count = values
            meter.avg = meter.sum / meter.count
        self._resumed_meters, self._look = None, 0
        title = f"epoch {self.epoch + 1}/{self.max_epoch}"
        end = time.time()
        for data in Bar(loader, title, shown=self.progress_bars):
            self.batch_idx = loader.position - 1
            waiting.update(time.time() - end)
            found = self.forward_backward(data)
            # a step that was passed over must not turn the mean of the epoch into nan
            losses.update({name: each for name, each in found.items() if math.isfinite(each)})
            seconds.update(time.time() - end)
            if loader.position % print_freq == 0:
                say(_line(self, losses, seconds, waiting))
            if self.writer is not None:
                scalars.write_step(self.writer, self, losses, seconds, waiting)
            self._after_step(losses, seconds.avg)
            end = time.time()
        self._note_epoch(losses)
        self.update_lr()

    def _note_epoch(self, losses: Any) -> None:  # noqa: ANN401
        """Look at the means of an epoch; an engine says what for."""

    def _after_step(self, losses: Any, took: float) -> None:  # noqa: ANN401
        """Save where it is time to, and stop where it is asked for."""
        signum = 0 if self.stop is None else self.stop.received
        every, position = self.options.checkpoint_every, self.train_loader.position
        due, asked = bool(every and position % every == 0), 0.0
        ends = position == len(self.train_loader)
        if due or ends or position >= self._look or distributed.world_size() == 1:
            asked, slowest = distributed.agree(signum, took)
            steps = int(_LOOK_SECONDS / max(slowest, 1e-9))
            self._look = position + min(max(steps, 1), _LOOK_STEPS)
        if due or asked:
            self._save(losses)
        if asked:
            self._interrupted(int(asked))

    def _interrupted(self, signum: int) -> None:
        where = "while testing; there was nothing to save."
        if hasattr(self, "folder"):
            where = (
                f"{self._place()}; everything is saved in "
                f"{self.folder.folder}. Go on with model.resume auto."
            )
        raise Interrupted(f"Stopped by signal {signum} {where}", signum)

    def _place(self) -> str:
        done = self.progress.epoch
        over = done >= self.max_epoch or self.progress.finished
        return "in the final test" if over else f"in epoch {done + 1}"

    def _save(self, losses: Any = None, *, best: bool = False) -> None:  # noqa: ANN401
        if not hasattr(self, "folder"):  # a single epoch outside run()
            return
        meters = {} if losses is None else {
            name: [float(meter.val), float(meter.sum), meter.count]
            for name, meter in losses.meters.items()
        }  # fmt: skip
        checkpoint = snapshot(self, meters)
        # nobody goes on, or ends, before it is written
        distributed.first_result(lambda: self.folder.save(checkpoint, best=best))
        self.guard.checkpoint = str(self.folder.folder / f"last{WEIGHTS}")


def _line(engine: LoopMixin, losses: Any, seconds: Any, waiting: Any) -> str:  # noqa: ANN401
    """Write torchreid's line of a step, and images a second."""
    done = engine.batch_idx + 1
    left = engine.num_batches - done
    epochs = max(engine.max_epoch, engine.epoch + 1)  # in a loop of the user's own none is given
    left += (epochs - (engine.epoch + 1)) * engine.num_batches
    eta = datetime.timedelta(seconds=int(seconds.avg * left))
    return (
        f"epoch: [{engine.epoch + 1}/{epochs}][{done}/{engine.num_batches}]\t"
        f"time {seconds.val:.3f} ({seconds.avg:.3f})\t"
        f"data {waiting.val:.3f} ({waiting.avg:.3f})\t"
        f"eta {eta}\t{losses}\tlr {engine.get_current_lr():.6f}\t"
        f"images/s {engine.train_loader.batch_size / max(seconds.avg, 1e-9):.0f}"
    )


def say(line: str) -> None:
    """Write a line where torchreid prints its own; the first process does.

    Args:
        line: What.
    """
    if distributed.rank() == 0:
        sys.stdout.write(line + "\n")
