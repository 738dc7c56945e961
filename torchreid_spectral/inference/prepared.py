"""The re-ranker of the last search, fitted to its gallery and kept for the next."""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError
from torchreid_spectral.inference.extraction import numbered
from torchreid_spectral.inference.gallery import Gallery
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

__all__ = ["PreparedReranker"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fitted:
    """A re-ranker, and what it was fitted to."""

    wanted: tuple[str, dict[str, Any], str]
    features: NDArray[np.float32]
    camids: list[Any] | None
    cameras: NDArray[Any] | None
    method: Reranker

    def grown(
        self, features: NDArray[np.float32], cameras: NDArray[Any] | None
    ) -> Reranker | None:
        """Give a copy with more images, if the first of them are those it was fitted to."""
        count = len(self.features)
        if self.method.camera_normalization != "none":  # adding would keep the cameras' means
            return None
        if len(features) <= count or (cameras is None) != (self.cameras is None):
            return None
        more = None
        if cameras is not None and self.cameras is not None:
            if not np.array_equal(cameras[:count], self.cameras):
                return None
            more = cameras[count:]
        if not np.array_equal(features[:count], self.features):
            return None
        try:
            return self.method.copied().add(features[count:], more)
        except InputError:  # no memory for both: the new one is fitted in place of the old
            return None


class PreparedReranker:
    """Gives a re-ranker that is fitted to a gallery: the last one, if nothing has changed.

    To a gallery that has grown the new images are added, in a copy: other threads may be ranking
    with the one there was. Threads that ask at once wait for one fit: two need not fit into the
    memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: _Fitted | None = None

    def fitted(self, gallery: Gallery, name: str, options: dict[str, Any]) -> Reranker:
        """Give the re-ranker, fitted to the rows that the gallery has now.

        Args:
            gallery: What is searched.
            name: A name of ``torchreid_spectral.list_rerankers()``.
            options: Of the re-ranker, above the gallery's metric.

        Returns:
            The re-ranker. It compares by its own metric where it has only one: a warning says so.

        Raises:
            InputError: If options do not fit, or the memory does not suffice.
            UnknownNameError: If there is no such re-ranker.
        """  # noqa: DOC502
        wanted = name, options, gallery.metric
        with self._lock:
            features, camids = gallery.features, gallery.camids
            last = self._last if self._last is not None and self._last.wanted == wanted else None
            if last is not None and last.features is features:
                if last.camids is camids or last.camids == camids:
                    return last.method
            cameras = None
            if camids is not None:
                cameras = numbered(camids[: len(features)], camids[: len(features)])
            method = None if last is None else last.grown(features, cameras)
            if method is None:
                method = _built(gallery.metric, name, options)
                self._last = last = None
                method.fit(features, cameras)
            self._last = _Fitted(wanted, features, camids, cameras, method)
            return method


def _built(metric: str, name: str, options: dict[str, Any]) -> Reranker:
    if name in RERANKERS and "metric" in inspect.signature(RERANKERS[name]).parameters:
        options = {"metric": metric, **options}
    method = build_reranker(name, **options)
    if method.metric != metric:
        logger.warning(
            "%s compares by %s, the gallery by %s: the order may differ by that alone. Open "
            "the weights with metric='cosine' and index anew to have one of both.",
            name, method.metric, metric,
        )  # fmt: skip
    return method
