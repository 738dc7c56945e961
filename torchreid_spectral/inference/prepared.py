"""The re-ranker of the last search, fitted to its gallery and kept for the next."""

from __future__ import annotations

import inspect
import logging
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.inference.extraction import numbered
from torchreid_spectral.inference.gallery import Gallery
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

__all__ = ["PreparedReranker"]

logger = logging.getLogger(__name__)


class PreparedReranker:
    """Gives a re-ranker that is fitted to a gallery: the last one, if nothing has changed.

    Threads that ask at once wait for one fit: two need not fit into the memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[Any, NDArray[np.float32], Reranker] | None = None

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
        wanted = (name, options, gallery.metric, gallery.camids)
        with self._lock:
            if self._last is not None:
                known, features, method = self._last
                if known == wanted and features is gallery.features:
                    return method
            method = _built(gallery.metric, name, options)
            self._last = None
            features = gallery.features
            camids = None if gallery.camids is None else gallery.camids[: len(features)]
            method.fit(features, None if camids is None else numbered(camids, camids))
            self._last = wanted, features, method
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
