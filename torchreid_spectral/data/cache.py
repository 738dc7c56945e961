"""Images that are decoded and resized once: re-identification images are tiny, JPEGs are slow.

torchreid's transforms begin with a resize to the training size, which leaves an image of that size
as it is: training and testing see the same pixels with a cache as without.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from torchreid_spectral.data.images import decode
from torchreid_spectral.errors import InputError, first_line

__all__ = ["CACHES", "ImageCache"]

CACHES = ("none", "ram", "disk")


class ImageCache:
    """Gives an image of the training size, from memory that the loader's workers share.

    Args:
        paths: The images; others are read from their files.
        height: Of the resized images.
        width: Of the resized images.
        folder: Where a cache on disk lies, or ``None`` for one in memory. It is kept between
            runs; files that have changed since are decoded anew.

    Raises:
        InputError: If the folder cannot be written, or memory or disk do not suffice for all of
            the images: room is taken at once, since a map that runs full kills its process.
    """

    def __init__(
        self, paths: Sequence[str], height: int, width: int, folder: Path | None = None
    ) -> None:
        self.size = (width, height)
        unique = sorted(set(paths))
        self.places = {path: place for place, path in enumerate(unique)}
        self._shape = (len(unique), height, width, 3)
        self._memory = _in_memory(self._bytes) if folder is None else None
        self._file: Path | None = None
        if folder is not None:
            names = "\n".join([str(self._shape), *unique])
            digest = hashlib.sha256(names.encode(errors="surrogateescape"))  # any bytes
            self._file = folder / f"{digest.hexdigest()[:16]}.cache"
            _reserve(self._file, self._bytes)
        self._attach()

    @property
    def _bytes(self) -> int:
        return int(np.prod(self._shape)) + 8 * max(self._shape[0], 1)

    def _attach(self) -> None:
        """Look at the shared bytes as pixels and, at the end, times of change."""
        if self._memory is not None:
            shared: np.ndarray = self._memory.numpy()
        else:
            shared = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(self._bytes,))  # type: ignore[call-overload]
        pixels = int(np.prod(self._shape))
        self.pixels = shared[:pixels].reshape(self._shape)
        self.stamps = shared[pixels:].view(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the views out: a worker that is spawned shares the bytes and copies none."""
        return {name: value for name, value in vars(self).items()
                if name not in ("pixels", "stamps")}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    def __call__(self, path: str) -> Image.Image:
        """Read an image from the cache, and put it there first where it is not.

        Args:
            path: Of its file.

        Returns:
            RGB, resized where the cache knows it.
        """
        place = self.places.get(path)
        if place is None:
            return decode(path)
        stamp = os.stat(path).st_mtime_ns + 1  # 0 is what has not been read
        if self.stamps[place] != stamp:
            image = decode(path).resize(self.size, Image.Resampling.BILINEAR)
            self.pixels[place] = np.asarray(image)
            self.stamps[place] = stamp  # last: another worker sees whole images only
            return image
        return Image.fromarray(np.array(self.pixels[place]))


def _in_memory(count: int) -> torch.Tensor:
    try:
        return torch.zeros(count, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise InputError(
            f"data.cache ram needs {count / 1e6:.0f} MB of shared memory "
            f"({first_line(error)}). Give more (in a container: "
            "--shm-size), or set data.cache disk or none."
        ) from error


def _fill(handle: int, count: int) -> None:
    """Take the room of a file, where the system has a way; what is in it stays."""
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        try:
            os.posix_fallocate(handle, 0, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot
                raise


def _reserve(path: Path, count: int) -> None:
    """Make a file of that size; what other processes have written to it stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # to be read too: where a file system cannot reserve, the C library reads and writes
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            try:
                if os.fstat(file.fileno()).st_size != count:
                    file.truncate(count)
                _fill(file.fileno(), count)  # a process killed here before may not have
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        raise InputError(
            f"data.cache disk cannot write {path.parent} ({error.strerror or error}; "
            f"{count / 1e6:.0f} MB are needed). Make room, or set data.cache none."
        ) from error
