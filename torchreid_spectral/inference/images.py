"""From whatever holds a picture to the tensors that a model takes, as torchreid's tests do."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from torchreid_spectral._files import walk
from torchreid_spectral.data.images import PICTURE_SUFFIXES, as_rgb
from torchreid_spectral.errors import InputError

__all__ = [
    "batches",
    "is_path",
    "is_single",
    "items_of",
    "list_folder",
    "read_ahead",
    "to_tensor",
]

logger = logging.getLogger(__name__)

Read = TypeVar("Read")


def list_folder(folder: str | Path) -> list[str]:
    """List the images of a folder and all below it; hidden ones are left out.

    Args:
        folder: Where to look.

    Returns:
        Paths, sorted.

    Raises:
        InputError: If the folder is missing or holds no image.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}.")
    paths = sorted(
        str(path)
        for path in walk(root, _tell_unlisted)
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise InputError(f"{root} holds no image ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    return paths


def _tell_unlisted(error: OSError) -> None:
    logger.warning("The folder %s cannot be listed: its images are left out (%s).",
                   error.filename, error.strerror)  # fmt: skip


def is_path(item: Any) -> bool:  # noqa: ANN401
    """Tell the path of an image from an image.

    Args:
        item: Either.

    Returns:
        Whether it is a path.
    """
    return isinstance(item, (str, os.PathLike))


def is_single(images: Any) -> bool:  # noqa: ANN401 (see items_of)
    """Say whether this is one image rather than a batch; a folder is a batch.

    Args:
        images: What the user gave.

    Returns:
        Whether it is one.
    """
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim == 3
    if is_path(images):
        return not Path(images).expanduser().is_dir()
    return isinstance(images, Image.Image)


def items_of(images: Any) -> Sequence[Any]:  # noqa: ANN401
    """Give the single images of a batch.

    Args:
        images: A path of a file or a folder, a PIL image, an array ``(H, W, 3)`` or
            ``(B, H, W, 3)``, a tensor ``(3, H, W)`` or ``(B, 3, H, W)``, or a sequence of these.

    Returns:
        The images, at least one.

    Raises:
        InputError: If there is none, or it is nothing of that kind.
    """
    if is_path(images) and not os.fspath(images):
        raise InputError("The path of an image or a folder must not be empty, got ''.")
    if is_path(images) and Path(images).expanduser().is_dir():
        return list_folder(Path(images))
    if is_single(images):
        return [images]
    if isinstance(images, (list, tuple, np.ndarray, Tensor)):
        if len(images) == 0:
            raise InputError("The batch holds no image.")
        return list(images)
    raise InputError(
        f"An image is a path, a PIL image, an array (H, W, 3), a tensor (3, H, W) or a list of "
        f"these, got {type(images).__name__}."
    )


def to_tensor(
    item: Any,  # noqa: ANN401
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: str | None = None,
) -> Tensor:
    """Resize and normalise one image, as torchreid's test transform.

    Args:
        item: One image, see :func:`items_of`. Arrays are uint8. Tensors are RGB, uint8 or floats
            in [0, 1].
        height: H of the result.
        width: W of the result.
        mean: Subtracted from the pixels in [0, 1], by channel.
        std: What they are divided by then.
        channels: Order of an array's channels: ``rgb``, or ``bgr`` as OpenCV reads.

    Returns:
        ``(3, H, W)``, float32.
    """
    if isinstance(item, Tensor):
        pixels = _from_tensor(item, height, width).numpy()
    else:
        picture = _picture(item, channels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    # By NumPy: PyTorch would start threads of its own in each thread that reads a file.
    centre, spread = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return torch.from_numpy(np.ascontiguousarray((pixels - centre) / spread))


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut a sequence into parts.

    Args:
        items: The sequence.
        size: Items a part.

    Yields:
        The parts.
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]


def read_ahead(
    parts: Iterable[Sequence[Any]], read: Callable[[Any], Read], workers: int
) -> Generator[list[Read], None, None]:
    """Read the items of a part while the part before is used.

    Args:
        parts: Items by parts, such as batches.
        read: Reads an item.
        workers: Threads; 0 reads a part when it is asked for. What is read must bear that: files
            do, but not pictures that Pillow has opened and not read yet.

    Yields:
        What was read of each part, in order.
    """
    if not workers:
        for part in parts:
            yield [read(item) for item in part]
        return
    pool = ThreadPoolExecutor(workers)
    ahead: deque[list[Future[Read]]] = deque()
    try:
        for part in parts:
            ahead.append([pool.submit(read, item) for item in part])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:  # closed in between: what nobody will use is not begun
        pool.shutdown(cancel_futures=True)


def _picture(item: Any, channels: str | None) -> Image.Image:  # noqa: ANN401
    if isinstance(item, Image.Image):
        try:
            return as_rgb(item)
        except OSError as error:
            raise InputError(f"An image of mode {item.mode} is not taken: {error}.") from error
    if isinstance(item, np.ndarray):
        return _from_array(item, channels)
    if not is_path(item):
        raise InputError(f"An image cannot be of type {type(item).__name__}.")
    try:
        path = Path(item).expanduser()
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
        with Image.open(path) as image:
            return as_rgb(image)
    except FileNotFoundError as error:
        raise InputError(f"There is no image {str(item)!r}.") from error
    except Exception as error:  # Pillow raises many kinds for a bad file
        raise InputError(f"{item} is not an image that can be read: {error}") from error


def _from_array(array: NDArray[Any], channels: str | None) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise InputError(
            f"An array must be (H, W, 3) of uint8, got {array.shape} of {array.dtype}."
        )
    if channels not in ("rgb", "bgr"):
        raise InputError(
            "Say in which order the channels of an array are: channels='bgr' for what OpenCV "
            f"reads, else channels='rgb'; got {channels!r}."
        )
    return Image.fromarray(np.ascontiguousarray(array[..., ::-1] if channels == "bgr" else array))


def _from_tensor(item: Tensor, height: int, width: int) -> Tensor:
    if item.dim() != 3 or item.shape[0] != 3 or 0 in item.shape:
        raise InputError(f"A tensor must be (3, H, W), RGB, got {tuple(item.shape)}.")
    pixels = item.detach().cpu().float() / (255 if item.dtype == torch.uint8 else 1)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            "A tensor must be uint8, or floats in [0, 1]; this one has values in "
            f"[{float(pixels.min()):.3g}, {float(pixels.max()):.3g}]. Normalising is done here."
        )
    if pixels.shape[1:] == (height, width):
        return pixels
    return interpolate(
        pixels[None], (height, width), mode="bilinear", align_corners=False, antialias=True
    )[0].clamp(0, 1)
