"""Checkpoints in torchreid's format, read without running what they hold, written whole.

:mod:`torchreid_spectral._compat` puts three of these functions in the place of torchreid's own.
"""

from __future__ import annotations

import importlib
import io
import logging
import operator
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_spectral._files import write_bytes, write_whole
from torchreid_spectral.errors import InputError, reason

__all__ = [
    "load_checkpoint",
    "load_weights",
    "plain",
    "resume_from_checkpoint",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

# torchreid's checkpoints hold the rank-1 as a NumPy scalar: these and no others are let through.
_SAFE_GLOBALS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
    importlib.import_module(
        "numpy._core.multiarray"
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0"
        else "numpy.core.multiarray"
    ).scalar,
]
# Checkpoints name it by its module in the NumPy that wrote them, 1 or 2.
_SAFE_GLOBALS += [
    (_SAFE_GLOBALS[-1], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
]


def load_checkpoint(fpath: str | os.PathLike[str]) -> Any:  # noqa: ANN401 (whatever was saved)
    """Load a checkpoint without ever running code that it holds.

    Takes the place of torchreid's function of that name, which fails on its own checkpoints
    since PyTorch 2.6 (its issue #592): they hold a NumPy scalar, which is let through here.

    Args:
        fpath: Path of a checkpoint or of a ``.safetensors`` file.

    Returns:
        What was saved, on the CPU.

    Raises:
        ValueError: If no path is given.
        FileNotFoundError: If there is no such file.
        InputError: If the file is truncated, foreign, or holds more than tensors and plain data.
    """
    if fpath is None:
        raise ValueError("File path is None")
    path = Path(fpath).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f'File is not found at "{path}"')
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _load_weights_only(path)
    except Exception as error:  # torch raises many kinds for a bad file
        raise InputError(
            f"{path} is not a checkpoint that can be loaded safely (weights only): "
            f"{reason(error)} If it is truncated, copy it anew; if it holds Python objects, "
            "save its state_dict alone where you trust it."
        ) from error


def load_weights(fpath: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load the weights of a model from a checkpoint, or from a file that is nothing else.

    Args:
        fpath: As for :func:`load_checkpoint`.

    Returns:
        Name to tensor, without the prefix that DataParallel gives the names.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it cannot be loaded, or holds no weights.
    """  # noqa: DOC502
    content = load_checkpoint(fpath)
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not any(map(torch.is_tensor, weights.values())):
        raise InputError(f"{fpath} holds no weights (state_dict) of a model.")
    return {
        str(name).removeprefix("module."): value
        for name, value in weights.items()
        if torch.is_tensor(value)
    }


def _load_weights_only(path: Path) -> Any:  # noqa: ANN401
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnicodeDecodeError:  # written by Python 2
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = False,
) -> None:
    """Save a checkpoint under torchreid's file name, whole or not at all.

    Takes the place of torchreid's function of that name. NumPy scalars, and what a test returns,
    become Python numbers, so that any ``torch.load`` reads the file; it is written beside its
    place and renamed.

    Args:
        state: ``state_dict``, ``epoch`` and whatever else; not modified.
        save_dir: Folder, made if missing.
        is_best: Whether to copy it to ``model-best.pth.tar`` too.
        remove_module_from_keys: Whether to strip DataParallel's prefix from the weights' names.
    """
    content = {key: plain(value) for key, value in state.items()}
    if remove_module_from_keys:
        content["state_dict"] = {
            name.removeprefix("module."): value for name, value in content["state_dict"].items()
        }
    folder = Path(save_dir)
    path = folder / f"model.pth.tar-{content['epoch']}"
    buffer = io.BytesIO()  # a full disk is then an OSError, and none of PyTorch's writer
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
    if is_best:
        best = folder / "model-best.pth.tar"
        write_whole(best, lambda temporary: shutil.copyfile(path, temporary))
    sys.stdout.write(f'Checkpoint saved to "{path}"\n')


def resume_from_checkpoint(
    fpath: str | os.PathLike[str],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,  # noqa: ANN401
) -> int:
    """Go on from a checkpoint, whether it was saved on one GPU, several or none.

    Takes the place of torchreid's function of that name, which cannot move a checkpoint between
    GPU and CPU: DataParallel's prefix in the names is taken off here.

    Args:
        fpath: Path of a checkpoint.
        model: Gets the weights; it may be wrapped in DataParallel or in
            DistributedDataParallel.
        optimizer: Gets its state, if given.
        scheduler: Gets its state, if given.

    Returns:
        The epoch to start with.

    Raises:
        InputError: If the checkpoint is of another model or optimiser.
    """
    checkpoint = load_checkpoint(fpath)
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    network: torch.nn.Module = model.module if isinstance(model, wrappers) else model
    try:
        weights = checkpoint["state_dict"]
        network.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
        if optimizer is not None and "optimizer" in checkpoint:
            _take_optimizer(optimizer, checkpoint["optimizer"], str(fpath))
        if scheduler is not None and "scheduler" in checkpoint:
            _take_scheduler(scheduler, checkpoint["scheduler"], str(fpath))
        epoch = int(checkpoint["epoch"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{fpath} does not fit this model and optimiser ({reason(error)}). Resume with "
            "the config it was trained with, or take its weights alone with model.load_weights."
        ) from error
    sys.stdout.write(f'Resumed from "{fpath}", epoch {epoch}\n')
    return epoch


def _take_optimizer(optimizer: torch.optim.Optimizer, state: Any, path: str) -> None:  # noqa: ANN401
    """Load an optimiser's state; its rates come with it, whatever the config says now."""
    before = _rates(optimizer)
    for own, saved in zip(optimizer.param_groups, state["param_groups"]):
        marks = {"betas", "momentum", "alpha", "dampening"}  # of the kinds of optimisers
        kinds = [marks & group.keys() for group in (own, saved)]
        if kinds[0] != kinds[1] or bool(own.get("amsgrad")) != bool(saved.get("amsgrad")):
            raise ValueError(f"it is of another optimiser than this {type(optimizer).__name__}")
    optimizer.load_state_dict(state)
    for name, kept in _rates(optimizer).items():
        _tell_kept(path, name, kept, before[name])


def _take_scheduler(scheduler: Any, state: Mapping[str, Any], path: str) -> None:  # noqa: ANN401
    """Load a schedule's state; its form comes with it, whatever the config says now."""
    before, saved = _form(scheduler.state_dict()), _form(state)
    if before.keys() != saved.keys():
        raise ValueError(f"it is of another schedule than this {type(scheduler).__name__}")
    scheduler.load_state_dict(state)
    for name, kept in saved.items():
        _tell_kept(path, f"schedule's {name}", kept, before[name])


def _tell_kept(path: str, name: str, kept: Any, given: Any) -> None:  # noqa: ANN401
    if kept != given:
        logger.warning(
            "%s keeps its %s %s, not the %s given now: to change it, take the weights alone with "
            "model.load_weights.", path, name, kept, given,
        )  # fmt: skip


def _form(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a config says of a schedule: not where it stands, nor what PyTorch notes."""
    return {
        name: sorted(value) if isinstance(value, dict) else value
        for name, value in state.items()
        if not name.startswith("_") and name not in ("base_lrs", "last_epoch", "verbose")
    }


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, list[Any]]:
    """Give what a config says of the groups of an optimiser; a schedule's lr is where it began."""
    groups = optimizer.param_groups
    start = [group.get("initial_lr", group["lr"]) for group in groups]
    names = ("weight_decay", "momentum", "betas")
    rest = {name: [_plain_pair(group.get(name)) for group in groups] for name in names}
    return {"lr": start, **rest}


def _plain_pair(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value


def plain(value: Any) -> Any:  # noqa: ANN401
    """Give Python's numbers for NumPy's, at any depth, so that any ``torch.load`` reads them.

    Args:
        value: What is to be saved; its dicts and lists are copied where they hold anything else.

    Returns:
        The same, with scalars, keys too, that are Python's.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        pairs = [(plain(key), plain(each)) for key, each in value.items()]
        kept = all(a is c and b is d for (a, b), (c, d) in zip(pairs, value.items()))
        if kept:
            return value
        return Counter(dict(pairs)) if isinstance(value, Counter) else dict(pairs)
    if type(value) in (list, tuple):
        items = [plain(each) for each in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    return float(value) if isinstance(value, float) and type(value) is not float else value
