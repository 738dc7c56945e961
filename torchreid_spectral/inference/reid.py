"""A query in, a ranked answer out."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from torchreid_spectral import _compat
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional.distance import METRICS
from torchreid_spectral.inference.answers import Comparison, Hit
from torchreid_spectral.inference.calibration import Calibration, Labels, calibrate
from torchreid_spectral.inference.extraction import (
    NothingReadError,
    extract_gallery,
    labels_of,
    numbered,
)
from torchreid_spectral.inference.gallery import Gallery
from torchreid_spectral.inference.images import (
    batches,
    is_path,
    is_single,
    items_of,
    read_ahead,
    to_tensor,
)
from torchreid_spectral.inference.network import Extractor, FeatureNetwork
from torchreid_spectral.inference.prepared import PreparedReranker
from torchreid_spectral.inference.weights import fingerprint, open_model

__all__ = ["SpectralReID"]

logger = logging.getLogger(__name__)


class SpectralReID:
    """Trained weights that index images, search them and compare two of them.

    Images are paths, PIL images, uint8 arrays ``(H, W, 3)`` whose channel order must be stated,
    RGB tensors ``(3, H, W)``, or batches of these; a folder stands for all images in it. A file's
    EXIF orientation is not looked at, as in torchreid: turn such photographs upright. Threads
    may search, add and save at the same time: each sees whole additions or none of them.

    Args:
        weights: ``.safetensors``, torchreid's ``model.pth.tar-N``, or the folder of a run.
        device: Such as ``cpu`` or ``cuda``; the first GPU if there is one by default.
        channels: Order of the channels of arrays: ``rgb``, or ``bgr`` as OpenCV reads.
        batch_size: Images at once.
        amp: ``off``, ``bf16`` or ``fp16`` (GPUs only): precision of the network. Features differ
            by what it rounds.
        workers: Threads that read image files ahead; by default none on a CPU, which has other
            work, else up to 8.
        calibration: A :class:`Calibration` or its file; by default ``calibration.json`` beside
            the weights, if there and of these weights.
        **settings: Fields of :class:`~torchreid_spectral.inference.Settings`, above what is saved
            with the weights.

    Raises:
        InputError: If the weights cannot be opened, or options do not fit.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        device: str | None = None,
        channels: str | None = None,
        batch_size: int = 64,
        amp: str = "off",
        workers: int | None = None,
        calibration: Calibration | str | Path | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.model, self.settings = open_model(weights, **settings)
        self.fingerprint = fingerprint(self.model, self.settings)
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network = FeatureNetwork(self.model, flip=self.settings.flip, unit=self.settings.normalize)
        self._extract = Extractor(network, self.device, amp)
        _compat.place_constants(self.model, use_gpu=self.device.type == "cuda")
        self.channels, self.batch_size = channels, batch_size
        self.workers = _default_workers(self.device) if workers is None else workers
        if self.workers < 0:
            raise InputError(f"workers must be >= 0, got {workers}.")
        if batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {batch_size}.")
        self._searched: Gallery | None = None
        self._adding = threading.Lock()
        self._reranker = PreparedReranker()
        known = self.fingerprint, self.settings.metric
        if calibration is None:
            self.calibration = Calibration.beside(weights, *known)
        else:
            if not isinstance(calibration, Calibration):
                calibration = Calibration.open(calibration)
            calibration.require_model(*known)
            self.calibration = calibration
        if self.calibration is not None and self.calibration.amp:
            self._tell_precision("calibration's", self.calibration.amp)

    def features(
        self,
        images: Any,  # noqa: ANN401
        *,
        channels: str | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Extract features.

        Args:
            images: See the class.
            channels: Order of the channels of arrays, above that of the object.
            progress: Show a bar on a terminal.

        Returns:
            ``(N, D)``.

        Raises:
            InputError: If an image cannot be read.
        """  # noqa: DOC502
        items = items_of(images)
        parts = list(batches(items, self.batch_size))
        read = read_ahead(parts, lambda item: self._tensor(item, channels), self._threads(items))
        bar = tqdm(read, desc="features", total=len(parts), disable=None if progress else True,
                   leave=False)  # fmt: skip
        with closing(read):
            return np.concatenate([self._extract(torch.stack(part)) for part in bar])

    def index(
        self,
        images: Any,  # noqa: ANN401
        ids: Labels | None = None,
        camids: Labels | None = None,
        *,
        channels: str | None = None,
        progress: bool = True,
    ) -> Gallery:
        """Extract a gallery, which is then the one that is searched.

        Args:
            images: A folder, or anything of the class's kinds. Files that cannot be read are
                passed over with a warning and listed in ``skipped``.
            ids: Identity of each image, if known.
            camids: Camera of each image, if known.
            channels: Order of the channels of arrays, above that of the object.
            progress: Show a bar on a terminal.

        Returns:
            The gallery.

        Raises:
            InputError: If no image is left, or ids do not fit.
        """
        items = items_of(images)
        gallery = self._extracted(items, ids, camids, channels=channels, progress=progress)
        self.gallery = gallery
        return gallery

    def open(self, folder: str | Path) -> Gallery:
        """Open a saved gallery, which is then the one that is searched.

        Args:
            folder: Of :meth:`Gallery.save` or ``tools/extract.py``.

        Returns:
            The gallery.

        Raises:
            InputError: If it is broken or of other weights.
        """  # noqa: DOC502
        self.gallery = gallery = Gallery.open(folder)
        self._tell_precision("gallery's", gallery.amp)
        return gallery

    @property
    def gallery(self) -> Gallery | None:
        """The gallery that is searched; one of other weights is refused."""
        return self._searched

    @gallery.setter
    def gallery(self, gallery: Gallery | None) -> None:
        if gallery is not None:
            gallery.require_model(self.fingerprint)
        self._searched = gallery

    def add(
        self,
        images: Any,  # noqa: ANN401
        ids: Labels | None = None,
        camids: Labels | None = None,
        *,
        channels: str | None = None,
    ) -> int:
        """Add images to the gallery; paths that are in it already are not read again.

        Images without a path (arrays, tensors, PIL) are all added, named ``image N``.

        Args:
            images: As for :meth:`index`.
            ids: Identity of each image, where the gallery has them.
            camids: Camera of each image, where the gallery has them.
            channels: Order of the channels of arrays, above that of the object.

        Returns:
            How many were added: files that cannot be read are passed over with a warning and
            listed in the gallery's ``skipped``.

        Raises:
            InputError: If there is no gallery yet, or ids do not fit.
        """  # noqa: DOC502
        self._tell_precision("gallery's", self._gallery().amp)
        items = items_of(images)
        labels = labels_of(items, ids, camids)
        with self._adding:
            gallery = self._gallery()
            fresh = gallery.new_rows(items)
            if not fresh:
                return 0
            chosen = [[labels[name][row] for row in fresh] if name in labels else None
                      for name in ("ids", "camids")]  # fmt: skip
            images = [items[row] for row in fresh]
            first = gallery.next_number()
            try:
                more = self._extracted(images, *chosen, channels=channels, first=first)
            except NothingReadError as error:  # broken files are as they are in `index`
                logger.warning("%s", error)
                gallery.skipped |= error.skipped
                return 0
            return gallery.extend(more)

    def remove(self, images: Any) -> int:  # noqa: ANN401
        """Remove images from the gallery; to renew one, remove and add it.

        Who is searching meanwhile is answered from the gallery before. A saved gallery changes
        when it is saved again.

        Args:
            images: A path or several; names such as ``image 3`` for images without one.

        Returns:
            How many were removed.

        Raises:
            InputError: If there is no gallery yet.
        """  # noqa: DOC502
        items = [images] if is_path(images) else list(images)
        with self._adding:
            before = self._gallery()
            self.gallery = after = before.without(items)
        return len(before) - len(after)

    def search(
        self,
        query: Any,  # noqa: ANN401
        top_k: int = 20,
        rerank: str = "none",
        *,
        channels: str | None = None,
        camids: Labels | None = None,
        inductive: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> list[Any]:
        """Find the images of the gallery that are nearest to a query.

        The first search with a re-ranker prepares it for the gallery; later ones with the same
        options find it prepared.

        Args:
            query: One image, or a batch.
            top_k: How many answers.
            rerank: A name of ``torchreid_spectral.list_rerankers()``.
            channels: Order of the channels of arrays, above that of the object.
            camids: Camera of each image of the query, for re-rankers that look at them.
            inductive: Answer each image as if it were alone. Without it ``k_reciprocal`` and
                ``graph_walk`` make the images of one query part of one graph.
            **options: Of the re-ranker.

        Returns:
            :class:`Hit` by rank; for a batch a list of these lists.

        Raises:
            InputError: If there is no gallery yet, or an image cannot be read.
            UnknownNameError: If there is no such re-ranker.
        """  # noqa: DOC502
        gallery = self._gallery()
        method = self._reranker.fitted(gallery, rerank, options)
        features = self.features(query, channels=channels)
        camids = [camids] if isinstance(camids, str) else camids
        cameras = None if camids is None else numbered(camids, gallery.camids or camids)
        found, distances = method.rank(features, top_k, camids=cameras, inductive=inductive)
        answers = [
            [Hit(rank, gallery.paths[row], gallery.ids[row] if gallery.ids else None, float(d))
             for rank, (row, d) in enumerate(zip(rows, near), start=1)]
            for rows, near in zip(found.tolist(), distances)
        ]  # fmt: skip
        return answers[0] if is_single(query) and len(answers) == 1 else answers

    def same_person(
        self,
        first: Any,  # noqa: ANN401
        second: Any,  # noqa: ANN401
        *,
        channels: str | None = None,
    ) -> Comparison:
        """Compare two images.

        Args:
            first: One image.
            second: Another one.
            channels: Order of the channels of arrays, above that of the object.

        Returns:
            The distance, and what it means where the object is calibrated.

        Raises:
            InputError: If either is not one image.
        """
        if not is_single(first) or not is_single(second):
            raise InputError("same_person compares two single images.")
        pair = [torch.as_tensor(self.features(image, channels=channels))
                for image in (first, second)]  # fmt: skip
        distance = float(METRICS[self.settings.metric](*pair))
        known = self.calibration
        same = None if known is None else distance <= known.threshold
        return Comparison(distance, same, known)

    def calibrate(
        self,
        images: Any,  # noqa: ANN401
        ids: Labels | None = None,
        camids: Labels | None = None,
        *,
        channels: str | None = None,
        false_match_rate: float = 0.001,
    ) -> Calibration:
        """Measure on a labelled set which distance has the wanted false-match rate.

        Args:
            images: Images, or a :class:`Gallery` that has ids. Files that cannot be read are
                passed over with a warning.
            ids: Identity of each image.
            camids: Camera of each image; pairs of one camera are left out then, unless there is
                only one.
            channels: Order of the channels of arrays, above that of the object.
            false_match_rate: Share of pairs of different people that may pass for the same.

        Returns:
            The calibration, which :meth:`same_person` then uses.

        Raises:
            InputError: If there are no ids, or too few pairs.
        """
        if isinstance(images, Gallery):
            images.require_model(self.fingerprint)
            self._tell_precision("gallery's", images.amp)
            gallery, known = images, images.ids
        else:
            gallery, known = None, ids  # type: ignore[assignment]
        if known is None:
            raise InputError("Calibration needs the identity of each image: give ids.")
        if gallery is None:
            items = items_of(images)
            gallery = self._extracted(items, ids, camids, channels=channels, progress=True)
        self.calibration = calibrate(
            gallery.features,
            gallery.ids or known,
            gallery.camids,
            false_match_rate=false_match_rate,
            metric=self.settings.metric,
            model=self.fingerprint,
            amp=gallery.amp,
        )
        return self.calibration

    def _gallery(self) -> Gallery:
        if self.gallery is None:
            raise InputError("There is no gallery yet: call index(images) or open(folder) first.")
        return self.gallery

    def _tell_precision(self, whose: str, amp: str) -> None:
        if amp != self._extract.amp:
            logger.warning(
                "The %s features were computed with amp %s, images are now with %s: they differ "
                "by rounding.", whose, amp, self._extract.amp,
            )  # fmt: skip

    def _threads(self, items: Sequence[Any]) -> int:
        """Give how many threads read these: files only, and one alone needs none."""
        return self.workers if len(items) > 1 and all(map(is_path, items)) else 0

    def _tensor(self, item: Any, channels: str | None) -> torch.Tensor:  # noqa: ANN401
        s = self.settings
        return to_tensor(item, s.height, s.width, s.mean, s.std, channels or self.channels)

    def _extracted(
        self,
        items: Sequence[Any],
        ids: Labels | None,
        camids: Labels | None,
        *,
        channels: str | None = None,
        first: int = 0,
        progress: bool = False,
    ) -> Gallery:
        return extract_gallery(
            items,
            ids,
            camids,
            read=lambda item: self._tensor(item, channels),
            forward=self._extract,
            batch_size=self.batch_size,
            workers=self._threads(items),
            amp=self._extract.amp,
            first=first,
            progress=progress,
            model=self.fingerprint,
            metric=self.settings.metric,
        )


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name; no such device here
        raise InputError(f"The device {name} cannot be used: {error}") from error
    return device


def _default_workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
