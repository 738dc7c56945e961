"""Images that are decoded and resized once: re-identification images are tiny, JPEGs are slow.

torchreid's transforms begin with a resize to the training size, which leaves an image of that size
as it is: training and testing see the same pixels with a cache as without.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchreid_spectral.data.images import decode
from torchreid_spectral.errors import InputError

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
        InputError: If the folder cannot be written.
    """

    def __init__(
        self, paths: Sequence[str], height: int, width: int, folder: Path | None = None
    ) -> None:
        self.size = (width, height)
        unique = sorted(set(paths))
        self.places = {path: place for place, path in enumerate(unique)}
        shape = (len(unique), height, width, 3)
        if folder is None:
            self.pixels = torch.zeros(shape, dtype=torch.uint8).share_memory_().numpy()
            self.stamps = torch.zeros(len(unique), dtype=torch.int64).share_memory_().numpy()
            return
        digest = hashlib.sha256("\n".join([str(shape), *unique]).encode()).hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.pixels = _mapped(folder / f"{digest}.pixels", shape, np.uint8)
            self.stamps = _mapped(folder / f"{digest}.stamps", shape[:1], np.int64)
        except OSError as error:
            raise InputError(
                f"data.cache disk cannot write {folder} ({error.strerror or error}). Make room, "
                "or set data.cache none."
            ) from error

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
        stamp = os.stat(path).st_mtime_ns
        if self.stamps[place] != stamp:
            image = decode(path).resize(self.size, Image.Resampling.BILINEAR)
            self.pixels[place] = np.asarray(image)
            self.stamps[place] = stamp  # last: another worker sees whole images only
            return image
        return Image.fromarray(np.array(self.pixels[place]))


def _mapped(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.exists() or path.stat().st_size != count:
        with path.open("wb") as file:
            file.truncate(count)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
