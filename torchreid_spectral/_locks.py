"""A folder for one process at a time."""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from torchreid_spectral.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

__all__ = ["NAME", "alone_in", "alone_in_run"]

logger = logging.getLogger(__name__)

NAME = ".in_use"
"""Of the file that is locked; it is removed with the lock."""
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_HERE: set[str] = set()  # a process does not meet its own locks


@contextmanager
def alone_in(folder: Path, remedy: str, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder as long as the block runs.

    The operating system gives the lock back however the process ends. A block within one of the
    same process and folder has nothing to do. File systems without locks go on without.

    Args:
        folder: Made if missing.
        remedy: What to do where another process is in it.
        wait: Wait for that instead.

    Yields:
        Nothing.

    Raises:
        InputError: If another process is in it.
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = os.path.realpath(folder)
    if place in _HERE:
        yield
        return
    file = _locked(Path(place) / NAME, remedy, wait)
    _HERE.add(place)
    try:
        yield
    finally:
        _HERE.discard(place)
        if os.name == "nt":  # which removes no file that is open, here or elsewhere
            file.close()
        with suppress(OSError):
            (Path(place) / NAME).unlink()
        file.close()


def alone_in_run(save_dir: str | Path) -> AbstractContextManager[None]:
    """Keep other trainings out of a run's folder, see :func:`alone_in`.

    Args:
        save_dir: Of the run.

    Returns:
        A context for the training.
    """
    remedy = "One run a folder: wait for it, or choose another data.save_dir."
    return alone_in(Path(save_dir), remedy)


def _locked(path: Path, remedy: str, wait: bool) -> IO[str]:
    told = False
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except PermissionError:
            if os.name != "nt" or not path.exists():  # there a file that is being removed
                raise
            time.sleep(0.05)
            continue
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _TAKEN:
                other = _owner(file)
                file.close()
                if not wait:
                    raise InputError(f"{path.parent} is in use by {other}. {remedy}") from error
                if not told:
                    logger.info("Waiting for %s, which is in %s", other, path.parent)
                told = True
                time.sleep(0.05)
                continue
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        if same:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            return file
        file.close()  # removed by who had it before us


def _owner(file: IO[str]) -> str:
    try:
        file.seek(0)
        return file.read().strip() or "another process"
    except OSError:  # on Windows, where what is locked cannot be read
        return "another process"


def _lock(file: IO[str]) -> None:
    if fcntl is None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:  # of the process: loading workers, which may outlive it for seconds, do not inherit it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
