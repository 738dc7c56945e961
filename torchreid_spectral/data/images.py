"""Reading an image, or saying what is wrong with it.

torchreid's ``read_image`` tries a broken file again and again, for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from torchreid_spectral._active import Active

__all__ = [
    "BROKEN_IMAGE",
    "PICTURE_SUFFIXES",
    "UNREADABLE",
    "BrokenImage",
    "ImageReader",
    "as_rgb",
    "decode",
    "read_image",
    "reading_with",
]

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
"""Ends of the names of pictures in folders, in lower case."""

UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What says that a file is the cause, also where a dataset opens its images itself."""

BROKEN_IMAGE = (*UNREADABLE, ValueError)
"""What Pillow raises for a file that is missing, empty, truncated, foreign or absurdly large."""


class BrokenImage(OSError):
    """An image that cannot be read; what a transform raises afterwards is something else."""


ImageReader = Callable[[str], Image.Image]
"""Gives an image for a path, from a cache for instance."""

_reader: Active[ImageReader | None] = Active(None)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image as RGB; takes the place of torchreid's function of that name.

    Args:
        path: The file.

    Returns:
        The image, wholly decoded.

    Raises:
        BrokenImage: If it is missing, empty, truncated or no image.
    """
    try:
        return (_reader.value or decode)(os.fspath(path))
    except BROKEN_IMAGE as error:
        raise BrokenImage(str(error) or type(error).__name__) from error


def decode(path: str) -> Image.Image:
    """Read an image from its file.

    Args:
        path: The file.

    Returns:
        RGB.
    """
    with Image.open(path) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8 bits a channel; 16 bits are scaled, where Pillow would cut off.

    Integers of 32 bits count as 8 bits where none is above 255.

    Args:
        image: Of any mode but floats. Its EXIF orientation is not looked at, as in torchreid.

    Returns:
        RGB.

    Raises:
        OSError: If its pixels are floats, or integers beyond 16 bits: nothing says their range.
    """
    if image.mode == "F":
        raise OSError("its pixels are floats of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise OSError("its pixels are not within 16 bits; save it with 8 or 16 bits")
        eight = image.mode == "I" and pixels.max(initial=0) <= 255
        return Image.fromarray((pixels // (1 if eight else 257)).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


@contextmanager
def reading_with(reader: ImageReader | None) -> Iterator[None]:
    """Let :func:`read_image` ask ``reader`` inside the block.

    Args:
        reader: For instance a cache; ``None`` reads the files.

    Yields:
        Nothing.
    """
    with _reader.held(reader):
        yield
