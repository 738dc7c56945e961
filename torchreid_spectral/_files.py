"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torchreid_spectral.errors import InputError

__all__ = [
    "keep_inputs",
    "show_any_name",
    "sweep",
    "walk",
    "write_bytes",
    "write_text",
    "write_whole",
]


_STREAMS = ("/dev/stdout", "/dev/stderr")  # which lead to a file at times, and are none


def show_any_name() -> None:
    """Let standard output show names that its encoding lacks, instead of stopping at them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def walk(folder: Path, unlisted: Callable[[OSError], object] | None = None) -> Iterator[Path]:
    """Find the files in a folder and below it, through links to folders but not round in circles.

    Hidden folders below it are left out: thumbnails, trash and the like; and pipes and devices.

    Args:
        folder: Where to look.
        unlisted: Told of each folder that cannot be listed; without it they are passed over.

    Yields:
        Paths, in no order.
    """
    above: dict[str, frozenset[str]] = {}  # of each folder: the real ones on the way to it
    for parent, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        real, way = os.path.realpath(parent), above.get(os.path.dirname(parent), frozenset())
        if real in way:  # a link to a folder that it lies in
            folders.clear()
            continue
        above[parent] = way | {real}
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from filter(_may_be_read, (Path(parent, name) for name in files))


def _may_be_read(path: Path) -> bool:
    """Say whether it is a file, or a link to one that is missing: whoever reads it will say so."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def keep_inputs(option: str, path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    Args:
        option: Names ``path``.
        path: Where something is to be written.
        inputs: What is read; what is missing is none of them.

    Raises:
        InputError: If it is one of them, by whatever name.
    """
    if path.is_file() and any(each.is_file() and path.samefile(each) for each in inputs):
        raise InputError(f"{option} {path} is read here and would be lost. Give another name.")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then rename it; a failure leaves what was there.

    Args:
        path: Where the file goes; its folder is made if missing. A link stays one, and what it
            leads to is written; a device or pipe is written to as it is.
        write: Writes the path that it is given.
    """
    if str(path) in _STREAMS or path.exists() and not (path.is_file() or path.is_dir()):
        write(path)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        write(temporary)
        # A power cut keeps the old file or the new one. Windows syncs writable handles only.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:  # also after a rename onto another link of the same file, which does nothing
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file of text whole or not at all, in UTF-8.

    Args:
        path: Where.
        text: What.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: Where.
        content: What.
    """
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def sweep(folder: Path) -> None:
    """Remove what killed writers have left in a folder that no other process writes to.

    Args:
        folder: May be missing.
    """
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
