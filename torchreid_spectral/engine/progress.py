"""How far a run has come: everything that is needed to go on with identical numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from torchreid_spectral import _random
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.checkpoints import Checkpoint
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.errors import InputError, reason

if TYPE_CHECKING:  # they import this module
    from torchreid_spectral.engine.loop import LoopMixin

__all__ = ["Progress", "apply", "apply_weights", "figure_name", "snapshot"]

_RATES = ("lr", "lr_scheduler", "weight_decay", "stepsize", "gamma", "max_epoch", "warmup_epochs",
          "warmup_factor", "base_lr_mult")  # fmt: skip
_RATE_GROUPS = ("sgd", "rmsprop", "adam")


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: Zero-based epoch that is trained, or comes next.
        test_due: Whether the epoch before it still has to be tested.
        finished: Whether early stopping has ended the training.
        best: Best figure of the tests so far.
        best_epoch: One-based epoch of it.
        worse_tests: Tests since then.
        last_test: One-based epoch of the last test.
        figure: What ``best`` is the best of.
    """

    epoch: int = 0
    test_due: bool = False
    finished: bool = False
    best: float = -1.0
    best_epoch: int = 0
    worse_tests: int = 0
    last_test: int = 0
    figure: str = ""

    def note_test(self, figure: float, patience: int) -> bool:
        """Take in a test's result; that of an epoch which was tested before changes nothing.

        Args:
            figure: Larger is better.
            patience: Worse tests in a row that end the training; 0 for never.

        Returns:
            Whether it is the best so far.
        """
        if self.epoch and self.epoch == self.last_test:
            return False
        self.last_test = self.epoch
        better = figure > self.best
        if better:
            self.best, self.best_epoch, self.worse_tests = figure, self.epoch, 0
        else:
            self.worse_tests += 1
        self.finished = bool(patience) and self.worse_tests >= patience
        return better


def snapshot(engine: LoopMixin, meters: Mapping[str, list[float]]) -> Checkpoint:
    """Collect the state of a run, of all processes.

    Args:
        engine: Whose.
        meters: Running averages of the epoch.

    Returns:
        What :func:`apply` takes.
    """
    names = list(engine._models)
    averaged = {} if engine.average is None else dict(engine.average.module.state_dict())
    state = {
        "progress": asdict(engine.progress),
        "models": {name: _parts(engine, name) for name in names},
        "losses": {name: module.state_dict() for name, module in _losses(engine)},
        "scaler": engine.scaler.state_dict(),
        "averages": 0 if engine.average is None else int(engine.average.n_averaged),
        "loader": distributed.all_objects(engine.train_loader.state()),
        "rng": distributed.all_objects(_random.capture()),
        "meters": {name: list(values) for name, values in meters.items()},
        "skipped": {
            "steps": engine.guard.skipped,
            "images": _union(distributed.all_objects(dict(engine.train_loader.skipped))),
        },
        **engine.provenance,
    }
    weights = {
        f"{name}:{key}" if len(names) > 1 else key: value
        for name in names
        for key, value in unwrapped(engine._models[name]).state_dict().items()
    }
    return Checkpoint(weights, averaged, state)


def apply(engine: LoopMixin, checkpoint: Checkpoint) -> str:
    """Put a run where a checkpoint was taken; the random generators are left to the caller.

    Args:
        engine: With the model and data that the checkpoint is of.
        checkpoint: Of :func:`snapshot`.

    Returns:
        The states of the random generators for this process.

    Raises:
        InputError: If the checkpoint is of another model, optimiser, data or number of processes.
    """
    try:
        for name in engine._models:
            _apply_model(engine, name, checkpoint)
        return _apply_rest(engine, checkpoint)
    except InputError:
        raise
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            "The checkpoint does not fit this model, optimiser or schedule "
            f"({reason(error)}). Resume with the config it was trained with, or take its weights "
            "alone with model.load_weights."
        ) from error


def apply_weights(engine: LoopMixin, checkpoint: Checkpoint) -> None:
    """Load the weights of a checkpoint for a test: their average, where one was trained.

    Args:
        engine: With the model that the checkpoint is of; of any optimiser, data or number of
            processes.
        checkpoint: Of :func:`snapshot`.

    Raises:
        InputError: If it is of another model.
    """
    try:
        for name in engine._models:
            _load_weights(engine, name, checkpoint)
        if engine.average is None and checkpoint.averaged:  # as the run's own tests
            unwrapped(next(iter(engine._models.values()))).load_state_dict(checkpoint.averaged)
        _take_average(engine, checkpoint)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"The checkpoint does not fit this model ({reason(error)}). Test it with the "
            "model.name and the spectral options it was trained with."
        ) from error


def _load_weights(engine: LoopMixin, name: str, checkpoint: Checkpoint) -> None:
    prefix = f"{name}:" if len(engine._models) > 1 else ""
    weights = {key.removeprefix(prefix): value for key, value in checkpoint.weights.items()
               if key.startswith(prefix)}  # fmt: skip
    unwrapped(engine._models[name]).load_state_dict(weights)


def _take_average(engine: LoopMixin, checkpoint: Checkpoint) -> None:
    if engine.average is not None and checkpoint.averaged:
        engine.average.module.load_state_dict(checkpoint.averaged)
        engine.average.n_averaged.fill_(checkpoint.state["averages"])
    elif engine.average is not None:  # asked for only now: it begins with these weights
        trained = unwrapped(next(iter(engine._models.values())))
        engine.average.module.load_state_dict(trained.state_dict())


def _apply_model(engine: LoopMixin, name: str, checkpoint: Checkpoint) -> None:
    """Load a model, its optimiser and its schedule."""
    _load_weights(engine, name, checkpoint)
    parts = checkpoint.state["models"][name]
    saved = [*parts["kinds"], *_amsgrad(parts["optimizer"]["param_groups"])]
    own = [*_kinds(engine, name), *_amsgrad(engine._optims[name].param_groups)]
    if saved != own:
        raise InputError(
            f"The checkpoint does not fit: it is of {saved}, this run has {own}. Resume with the "
            "config it was trained with."
        )
    optimizer, scheduler = engine._optims[name], engine._scheds[name]
    if _rates(engine.record) != _rates(checkpoint.state):
        _keep_rates(optimizer, scheduler, parts)
        return
    optimizer.load_state_dict(parts["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(parts["scheduler"])


def _rates(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give what a config says of the optimiser and its schedule."""
    config = record.get("config")
    if not config or "train" not in config:
        return None
    options = {name: config["train"].get(name) for name in _RATES}
    return options | {group: config.get(group) for group in _RATE_GROUPS}


def _keep_rates(optimizer: Any, scheduler: Any, parts: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Take over what the optimiser has learned, not its rates: they follow the changed config."""
    if scheduler is not None:
        with warnings.catch_warnings():  # no step of the optimiser comes before these
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(parts["scheduler"]["last_epoch"]):
                scheduler.step()
    saved = parts["optimizer"]
    both = zip(optimizer.param_groups, saved["param_groups"], strict=True)
    groups = [{**own, "params": old["params"]} for own, old in both]
    optimizer.load_state_dict({**saved, "param_groups": groups})


def _apply_rest(engine: LoopMixin, checkpoint: Checkpoint) -> str:
    """Load losses, scaler, average and position; give the states of the random generators."""
    state = checkpoint.state
    for name, module in _losses(engine):
        module.load_state_dict(state["losses"][name])
    if engine.scaler.is_enabled() and state["scaler"]:
        engine.scaler.load_state_dict(state["scaler"])
    _take_average(engine, checkpoint)
    rank, known = distributed.rank(), len(state["rng"])
    if known != distributed.world_size():
        raise InputError(
            f"{known} processes wrote the checkpoint, {distributed.world_size()} want to go "
            "on. Start as many."
        )
    engine.train_loader.resume(state["loader"][rank])
    engine.train_loader.skipped = dict(state["skipped"]["images"])
    engine.guard.skipped = int(state["skipped"]["steps"])
    engine.progress = Progress(**state["progress"])
    _follow_figure(engine)
    patience = engine.options.patience  # which may be another than before
    engine.progress.finished &= bool(patience) and engine.progress.worse_tests >= patience
    rng: str = state["rng"][rank]
    return rng


def _follow_figure(engine: LoopMixin) -> None:
    """Forget the best test where it is of another figure, or of other data, than the next."""
    progress, asked = engine.progress, figure_name(engine)
    if progress.figure not in ("", asked):
        progress.best, progress.best_epoch, progress.worse_tests = -1.0, 0, 0
        progress.last_test = 0
    progress.figure = asked


def figure_name(engine: LoopMixin) -> str:
    """Say what the tests of a run are compared by.

    Args:
        engine: Whose.

    Returns:
        Such as ``mAP of market1501``.
    """
    return f"{engine.options.keep} of {', '.join(sorted(engine.test_loader))}"


def _union(parts: list[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: max(part.get(name, 0) for part in parts) for name in names}


def _parts(engine: LoopMixin, name: str) -> dict[str, Any]:
    scheduler = engine._scheds[name]
    return {
        "kinds": _kinds(engine, name),
        "optimizer": engine._optims[name].state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
    }


def _kinds(engine: LoopMixin, name: str) -> list[str]:
    return [type(part).__name__ for part in (engine._optims[name], engine._scheds[name])]


def _amsgrad(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Tell torchreid's ``amsgrad`` from its ``adam``: they are of one class."""
    return ["amsgrad"] if any(group.get("amsgrad", False) for group in groups) else []


def _losses(engine: LoopMixin) -> Iterator[tuple[str, nn.Module]]:
    """Find the losses of an engine: some have weights or centres of their own."""
    models = {id(unwrapped(model)) for model in engine._models.values()}
    for name, value in vars(engine).items():
        if isinstance(value, nn.Module) and not name.startswith("_") and name != "average":
            if id(unwrapped(value)) not in models:
                yield name, value
