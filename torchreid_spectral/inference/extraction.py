"""Images in, a gallery out: what indexing and adding share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from torchreid_spectral.errors import InputError
from torchreid_spectral.inference.calibration import Labels, plain
from torchreid_spectral.inference.gallery import Gallery
from torchreid_spectral.inference.images import batches, is_path, read_ahead

__all__ = ["NothingReadError", "extract_gallery", "labels_of", "numbered"]

logger = logging.getLogger(__name__)

Read = Callable[[Any], torch.Tensor]
Forward = Callable[[torch.Tensor], NDArray[np.float32]]


class NothingReadError(InputError):
    """No image could be read.

    Args:
        message: See :class:`InputError`.
        skipped: The files, with the reason of each.
    """

    def __init__(self, message: str, skipped: dict[str, str]) -> None:
        super().__init__(message)
        self.skipped = skipped


def extract_gallery(
    items: Sequence[Any],
    ids: Labels | None,
    camids: Labels | None,
    *,
    read: Read,
    forward: Forward,
    batch_size: int,
    workers: int = 0,
    first: int = 0,
    progress: bool = False,
    model: str,
    metric: str,
    amp: str = "off",
) -> Gallery:
    """Extract the features of images; files that cannot be read are passed over and listed.

    Args:
        items: N images or their paths.
        ids: ``(N,)`` identity of each image, if known.
        camids: ``(N,)`` camera of each image, if known.
        read: Gives the tensor ``(3, H, W)`` of an image; an InputError means it cannot be read.
        forward: Gives features ``(B, D)`` of images ``(B, 3, H, W)``.
        batch_size: B.
        workers: Threads that read ahead.
        first: Images without a path are named by numbers from here.
        progress: Show a bar on a terminal.
        model: See :class:`~torchreid_spectral.inference.gallery.Gallery`.
        metric: See there.
        amp: See there.

    Returns:
        The gallery of what could be read.

    Raises:
        NothingReadError: If no image is left.
        InputError: If something that is not a file cannot be read, or labels do not fit.
    """
    labels = labels_of(items, ids, camids)
    features, kept = [], []
    skipped: dict[str, str] = {}
    with tqdm(total=len(items), desc="index", disable=None if progress else True) as bar:
        parts = [*batches(range(len(items)), batch_size)]
        images = read_ahead(parts, lambda row: _read_or_error(items[row], read), workers)
        with closing(images):
            for part, tried in zip(parts, images):
                found = {}
                for row, image in zip(part, tried):
                    if isinstance(image, InputError):
                        skipped[str(items[row])] = str(image)
                    else:
                        found[row] = image
                if found:
                    features.append(forward(torch.stack(list(found.values()))))
                    kept += list(found)
                bar.update(len(part))
    if not kept:
        raise NothingReadError(
            f"None of the {len(items)} images could be read: {next(iter(skipped.values()))}.",
            skipped,
        )
    if skipped:
        logger.warning("%d of %d images could not be read", len(skipped), len(items))
    return Gallery(
        np.concatenate(features),
        [_name(items[row], first + row) for row in kept],
        **{name: [values[row] for row in kept] for name, values in labels.items()},
        model=model,
        metric=metric,
        skipped=skipped,
        amp=amp,
    )


def labels_of(
    items: Sequence[Any], ids: Labels | None, camids: Labels | None
) -> dict[str, list[Any]]:
    """Give what is known of the images, one entry an image.

    Args:
        items: N images.
        ids: ``(N,)`` identities, if known; of one image the word alone will do.
        camids: ``(N,)`` cameras, if known, likewise.

    Returns:
        ``ids`` and ``camids``, those of them that are known.

    Raises:
        InputError: If there are not N of them.
    """
    labels: dict[str, list[Any]] = {}
    for name, values in (("ids", ids), ("camids", camids)):
        if values is not None:
            if isinstance(values, str):  # else each of its letters would be one
                values = [values]
            if len(values) != len(items):
                raise InputError(f"{name}: {len(values)} for {len(items)} images.")
            labels[name] = plain(values)
    return labels


def numbered(cameras: Labels, known: Labels) -> NDArray[Any]:
    """Give cameras as numbers, since re-rankers compare numbers.

    Args:
        cameras: ``(N,)`` numbers or words.
        known: Those of the gallery; words are numbered in its order, new ones after them.

    Returns:
        ``(N,)``; as they are, where the gallery's are numbers.
    """
    if np.asarray(known).dtype.kind in "biuf":
        return np.asarray(cameras)
    words = dict.fromkeys(map(str, [*known, *cameras]))
    order = {word: number for number, word in enumerate(words)}
    return np.array([order[str(camera)] for camera in cameras])


def _read_or_error(item: Any, read: Read) -> torch.Tensor | InputError:  # noqa: ANN401
    """Read an image; of a file that cannot be read give the error, raise any other."""
    try:
        return read(item)
    except InputError as error:
        if not is_path(item):
            raise
        return error


def _name(item: Any, number: int) -> str:  # noqa: ANN401
    return str(item) if is_path(item) else f"image {number}"
