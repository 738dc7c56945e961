"""Checkpoints that are there whole or not at all, and that load without running code.

==============================  ==========================================================
File                            Holds
==============================  ==========================================================
``last.safetensors``            weights of the model(s)
``last.ema.safetensors``        their moving average, where there is one
``last.state.pt``               everything else, plain data that loads under weights_only,
                                and the SHA-256 of the files above
``best.*``                      the same of the best test so far
``previous.*``                  what ``last`` was before
==============================  ==========================================================

Each file is written beside its place, synced and renamed, the weights last. A run that is killed
between two renames leaves files that do not belong together: the hashes tell, and ``previous`` is
whole. Where there are no weights yet, the first save was not finished and there is no checkpoint.
A run that starts afresh moves what an earlier one left to ``checkpoints_earlier``, so that nobody
goes on from that after a kill before the first save.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from torchreid_spectral import _compat
from torchreid_spectral._checkpoint_files import plain
from torchreid_spectral._files import sweep, write_bytes, write_whole
from torchreid_spectral._run_files import AVERAGED, STATE, WEIGHTS
from torchreid_spectral.errors import InputError, RunError

__all__ = ["Checkpoint", "CheckpointFolder", "aside"]

logger = logging.getLogger(__name__)

_FORMAT = 1


def aside(folder: Path) -> Path:
    """Name the folder that checkpoints of an earlier run are moved to.

    Args:
        folder: Of the checkpoints.

    Returns:
        A folder beside it.
    """
    return folder.with_name(f"{folder.name}_earlier")


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        weights: Of the model.
        averaged: Their moving average, or nothing.
        state: Everything else; plain data and tensors.
        path: The file that its weights are from; empty for one that is not saved.
    """

    weights: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    state: Mapping[str, Any]
    path: str = ""


class CheckpointFolder:
    """The folder ``checkpoints`` of a run.

    Args:
        folder: Made when something is saved.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(self, checkpoint: Checkpoint, *, best: bool = False) -> None:
        """Make ``last`` the given state, and ``best`` too if asked.

        Args:
            checkpoint: What to save.
            best: Whether it is the best so far.

        Raises:
            RunError: If the folder cannot be written; what was there before is still there.
        """
        try:
            sweep(self.folder)
            self._keep("last", "previous")
            for suffix, content in _files_of(checkpoint, best).items():
                write_bytes(self.folder / f"last{suffix}", content)
            if best:
                self._keep("last", "best")
        except OSError as error:
            before = (self.folder / f"last{WEIGHTS}").is_file()
            remedy = (
                "The one before it is intact: make room or mend the permissions, and go on with "
                "model.resume auto."
                if before
                else "There is none before it: make room or mend the permissions; model.resume "
                "auto then starts afresh."
            )
            raise RunError(
                f"The checkpoint could not be written to {self.folder} "
                f"({error.strerror or error}). {remedy}"
            ) from error

    def set_aside(self) -> None:
        """Move what an earlier run has left to the folder :func:`aside`, in the place of that.

        Raises:
            RunError: If it cannot be moved.
        """
        if not any(self.folder.glob(f"*{STATE}")):
            return
        try:
            if aside(self.folder).is_dir():
                shutil.rmtree(aside(self.folder))
            self.folder.rename(aside(self.folder))
        except OSError as error:
            raise RunError(
                f"The checkpoints of an earlier run in {self.folder} cannot be moved "
                f"({error.strerror or error}): mend the permissions, or choose another "
                "data.save_dir."
            ) from error

    def latest(self) -> Checkpoint | None:
        """Load ``last``, or ``previous`` where a kill or a fault has broken it.

        Returns:
            The checkpoint, or ``None`` where there is none.

        Raises:
            InputError: If there are some and none is whole.
        """
        first: InputError | None = None
        for name in ("last", "previous"):
            if not (self.folder / f"{name}{WEIGHTS}").exists():
                continue
            try:
                found = self.load(name)
                if name != "last":
                    self._keep(name, "last")  # whole again, before it becomes the previous one
                if found.state.get("is_best"):  # perhaps it was killed before it was kept as such
                    self._keep(name, "best")
                return found
            except InputError as error:
                logger.warning("%s", error)
                first = first or error
        if first is not None:
            raise first
        return None

    def load(self, name: str) -> Checkpoint:
        """Load a checkpoint, and check that its files belong together.

        Args:
            name: ``last``, ``best`` or ``previous``.

        Returns:
            The checkpoint, on the CPU.

        Raises:
            InputError: If a file is missing, truncated, foreign, of another save, or unsafe.
        """
        state = self._read_state(self.folder / f"{name}{STATE}")
        parts: dict[str, Mapping[str, Tensor]] = {AVERAGED: {}}
        for suffix, expected in state["sha256"].items():
            path = self.folder / f"{name}{suffix}"
            try:
                content = path.read_bytes()
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}.") from error
            if hashlib.sha256(content).hexdigest() != expected:
                raise InputError(
                    f"{path} does not belong to {name}{STATE}: it is truncated, or from another "
                    "save. Copy both files anew, or take another checkpoint of the folder."
                )
            parts[suffix] = safetensors.torch.load(content)
        weights = str(self.folder / f"{name}{WEIGHTS}")
        return Checkpoint(parts[WEIGHTS], parts[AVERAGED], state, weights)

    def _read_state(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise InputError(f"{path} is missing: weights alone cannot be resumed.")
        state = _compat.load_checkpoint(path)
        if not isinstance(state, dict) or state.get("format") != _FORMAT or "sha256" not in state:
            raise InputError(
                f"{path} is not a state of this program (format {_FORMAT}). For torchreid's own "
                "checkpoints: model.resume FILE.pth.tar-N."
            )
        return state

    def _keep(self, source: str, target: str) -> None:
        """Let ``target`` be what ``source`` is; files are replaced, never changed, so links do."""
        for suffix in (WEIGHTS, AVERAGED, STATE):
            path, kept = self.folder / f"{source}{suffix}", self.folder / f"{target}{suffix}"
            if path.exists():
                write_whole(kept, lambda temporary, path=path: _link(path, temporary))  # type: ignore[misc]


def _files_of(checkpoint: Checkpoint, best: bool) -> dict[str, bytes]:
    """Give the content of each file by its suffix, in the order of writing."""
    parts = {AVERAGED: checkpoint.averaged, WEIGHTS: checkpoint.weights}
    files = {name: safetensors.torch.save(_plain(part)) for name, part in parts.items() if part}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    buffer = io.BytesIO()
    own = {"format": _FORMAT, "sha256": hashes, "is_best": best}
    torch.save(plain({**checkpoint.state, **own}), buffer)
    return {STATE: buffer.getvalue(), **files}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy, because safetensors takes no tensors that share memory."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
