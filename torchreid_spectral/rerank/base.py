"""The interface of all re-rankers: fit a gallery, then rank queries against it.

NumPy arrays or tensors come in, and the same kind comes out, of :meth:`Reranker.iter_distances`
tensors. A re-ranker never modifies its input and holds no Q x G matrix unless
:meth:`Reranker.distance_matrix` asks for one.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional import top_k as nearest
from torchreid_spectral.functional.ranking import collected
from torchreid_spectral.rerank import _store
from torchreid_spectral.rerank._inputs import Array, as_cameras, as_features, like
from torchreid_spectral.rerank._memory import check_memory
from torchreid_spectral.rerank.camera_normalization import (
    CAMERA_NORMALIZATIONS,
    CameraNormalization,
)
from torchreid_spectral.search import Search, build_search

__all__ = ["Reranker"]

BLOCK_ENTRIES = 2**26  # of a chunk's distances to the gallery: 256 MB


class Reranker(ABC):
    """Orders a gallery for each query by the relations among the images.

    Args:
        search: How neighbours are found: ``exact``, ``faiss_flat``, ``faiss_ivf``, ``faiss_hnsw``
            or a :class:`~torchreid_spectral.search.Search` with options of its own.
        metric: Of the search.
        chunk_size: Queries handled at once; bounds the memory and does not change the result, but
            for the order of what is equal up to rounding.
        progress: Show a bar with the time left for work that takes long, on terminals only.
        camera_normalization: ``none``, ``center`` or ``standardize``: take each camera's mean (and
            deviation) over the gallery out of the features, which are scaled to unit length, see
            :class:`~torchreid_spectral.rerank.CameraNormalization`. Then cameras must be given.

    Raises:
        InputError: If ``chunk_size`` is not positive, or ``search`` has another metric.
    """

    joint = False
    """Whether the queries of one call are nodes of one graph, unless ``inductive``."""

    def __init__(
        self,
        *,
        search: str | Search = "exact",
        metric: str = "cosine",
        chunk_size: int = 256,
        progress: bool = True,
        camera_normalization: str = "none",
    ) -> None:
        if chunk_size < 1:
            raise InputError(f"chunk_size must be >= 1, got {chunk_size}.")
        # A copy: another re-ranker may be given the same object and fit it to another gallery.
        own = build_search(search, metric=metric) if isinstance(search, str) else copy.copy(search)
        self._search = own
        if self._search.metric != metric:
            raise InputError(
                f"The search has the metric {self._search.metric}, this re-ranker {metric}."
            )
        self.search = search
        self.metric, self.chunk_size, self.progress = metric, chunk_size, progress
        if camera_normalization not in CAMERA_NORMALIZATIONS:
            raise UnknownNameError(
                "camera_normalization", camera_normalization, CAMERA_NORMALIZATIONS
            )
        self.camera_normalization = camera_normalization
        self._normalization = (
            None if camera_normalization == "none" else CameraNormalization(camera_normalization)
        )
        self._gallery: Tensor | None = None
        self._camids: Tensor | None = None

    def fit(self, gallery: Array, camids: Array | None = None) -> Reranker:
        """Take in the gallery; one of an earlier call is forgotten.

        Args:
            gallery: ``(G, D)`` features, float16 to float64, array or tensor. Float32 ones are
                not copied: leave them as they are while the re-ranker is used.
            camids: ``(G,)`` camera of each image; most methods do not look at it.

        Returns:
            The re-ranker itself.

        Raises:
            InputError: If the gallery is empty, not two-dimensional or not finite, if ``camids``
                are not of its length, or if it does not fit into the memory.
        """  # noqa: DOC502
        features = as_features("gallery", gallery)
        cameras = as_cameras("camids", camids, len(features))
        needed = self._fit_memory(*features.shape) + self._search.index_memory(*features.shape)
        if self._normalization is not None:
            needed += 8 * features.numel()  # in unit length, and what a camera has of them
        self._check_memory("fit", needed, features.device)
        if self._normalization is not None:
            features = self._normalization.fit(features, cameras).transform(features, cameras)
        with self._whole_or_none():
            self._gallery, self._camids = features, cameras
            self._search.fit(features)
            self._fitted()
        return self

    def add(self, gallery: Array, camids: Array | None = None) -> Reranker:
        """Take in more gallery images; they get the indices after those there are.

        Args:
            gallery: ``(M, D)`` features.
            camids: ``(M,)`` cameras, if and only if the gallery has them.

        Returns:
            The re-ranker itself, as if fitted with all of them; but what ``camera_normalization``
            knows of each camera stays as it was fitted.

        Raises:
            InputError: If the features do not fit the gallery, cameras are missing, or the memory
                does not suffice.
        """
        more = self._check_width("gallery", as_features("gallery", gallery))
        cameras = as_cameras("camids", camids, len(more))
        if (cameras is None) != (self._camids is None):
            raise InputError("Give camids in fit and in add, or in neither.")
        if self._normalization is not None:
            more = self._normalization.transform(more, cameras)
        count, width = self.gallery.shape
        needed = self._fit_memory(count + len(more), width)
        needed += self._search.index_memory(len(more), width)
        self._check_memory("add", needed, self.gallery.device)
        with self._whole_or_none():
            self._gallery = torch.cat([self.gallery, more])
            if cameras is not None and self._camids is not None:
                self._camids = torch.cat([self._camids, cameras])
            self._search.add(more)
            self._added(count)
        return self

    @contextmanager
    def _whole_or_none(self) -> Iterator[None]:
        """Forget the gallery if the block is interrupted, which leaves parts of two."""
        try:
            yield
        except BaseException:
            self._gallery = None
            raise

    def copied(self) -> Reranker:
        """Give a re-ranker of the same gallery: what is added to one is not in the other.

        Threads may rank with this one while another adds to the copy.

        Returns:
            The copy. It shares the memory of all but an index, until either is changed.
        """
        other = copy.copy(self)
        other._search = self._search.copied()
        other._normalization = copy.copy(self._normalization)
        return other

    @property
    def gallery(self) -> Tensor:
        """The fitted features ``(G, D)``, float32, after ``camera_normalization``."""
        if self._gallery is None:
            raise InputError(f"{type(self).__name__} has no gallery yet: call fit(gallery) first.")
        return self._gallery

    def rank(
        self,
        query: Array,
        top_k: int = 100,
        *,
        camids: Array | None = None,
        inductive: bool = False,
    ) -> tuple[Array, Array]:
        """Order the gallery for each query.

        Args:
            query: ``(Q, D)`` features.
            top_k: How many gallery images to return; more than G means all.
            camids: ``(Q,)`` cameras, for methods that look at them.
            inductive: Answer each query as if it were alone, against the gallery as fitted. Only
                joint methods answer otherwise without it.

        Returns:
            Indices into the gallery and distances, both ``(Q, top_k)``, nearest first.

        Raises:
            InputError: If the features do not fit the gallery, ``top_k`` is not positive, or the
                memory does not suffice.
        """
        if top_k < 1:
            raise InputError(f"top_k must be >= 1, got {top_k}.")
        features, cameras = self._check_query(query, camids)
        top_k = min(top_k, len(self.gallery))
        needed = self.estimate_memory(len(features), top_k)
        self._check_memory("rank", needed, features.device)
        parts = self._ranked(features, cameras, top_k, inductive)
        indices, distances = collected(parts, len(features))
        return like(query, indices), like(query, distances.float())

    def distance_matrix(
        self, query: Array, *, camids: Array | None = None, inductive: bool = False
    ) -> Array:
        """Compute all distances; for torchreid's ``evaluate_rank``.

        Args:
            query: ``(Q, D)`` features.
            camids: See :meth:`rank`.
            inductive: See :meth:`rank`.

        Returns:
            ``(Q, G)`` distances, float32: ``4 * Q * G`` bytes.
        """
        size = 4 * len(query) * len(self.gallery)
        needed = size + self.estimate_memory(len(query), 1)
        self._check_memory("distance_matrix", needed, self.gallery.device)
        distances = self.gallery.new_empty(len(query), len(self.gallery))
        for rows, block in self.iter_distances(query, camids=camids, inductive=inductive):
            distances[rows] = block
        return like(query, distances)

    def iter_distances(
        self, query: Array, *, camids: Array | None = None, inductive: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Compute the distances a chunk of queries at a time, so that none but one is held.

        Args:
            query: ``(Q, D)`` features.
            camids: See :meth:`rank`.
            inductive: See :meth:`rank`.

        Yields:
            The queries' positions and their ``(chunk, G)`` distances, tensors on the gallery's
            device.
        """
        features, cameras = self._check_query(query, camids)
        needed = self.estimate_memory(len(features), 1)
        self._check_memory("iter_distances", needed, features.device)
        yield from self._blocks(features, cameras, inductive)

    def estimate_memory(self, num_queries: int, top_k: int = 100) -> int:
        """Estimate what ranking takes beside what is held already.

        Args:
            num_queries: Q.
            top_k: Images returned for each.

        Returns:
            Bytes.
        """
        count, width = self.gallery.shape
        rows = min(num_queries, self._rows_at_once())
        answer = 12 * num_queries * min(top_k, count)
        searched, length = self._list_size(num_queries, top_k)
        lists = 36 * searched * length  # as found, merged and sorted
        queries = (4 if self._normalization is None else 8) * num_queries * width
        return answer + lists + queries + self._chunk_memory(rows, count, width)

    def save(self, path: str | Path) -> None:
        """Save the fitted gallery: ``path`` and the same name ending in ``.json``.

        Its features are saved as they are compared: by cosine scaled to unit length.

        Args:
            path: Ends in ``.safetensors``.

        Raises:
            InputError: If there is no gallery, or the search or the class is one's own.
        """
        from torchreid_spectral.rerank import RERANKERS

        if type(self) not in RERANKERS.values():
            raise InputError(
                f"{type(self).__name__} is not in RERANKERS: what opens the gallery would not "
                "find it. Register it under a name."
            )
        if not isinstance(self.search, str):
            raise InputError("Only a re-ranker whose search is given by name can be saved.")
        # Prepared, so that whoever opens it maps the file and need not prepare a copy.
        count = len(self.gallery)  # there is one
        tensors = {"gallery": self._search.features[:count], **self._state()}
        if self._camids is not None:
            tensors["camids"] = self._camids
        if self._normalization is not None:
            tensors |= self._normalization.state()
        options = self.options()
        if self._normalization is None:  # earlier versions do not know it
            options.pop("camera_normalization", None)
        about = {"reranker": self.name, "options": options}
        _store.write(Path(path).expanduser(), tensors, about)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take in the tensors of a saved gallery; see :func:`load_reranker`.

        Args:
            tensors: As saved.

        Raises:
            InputError: If they are not finite, or not of one gallery.
        """
        features = as_features("gallery", tensors["gallery"])
        cameras = as_cameras("camids", tensors.get("camids"), len(features))
        needed = self._search.index_memory(*features.shape)
        self._check_memory("load", needed, features.device)
        with self._whole_or_none():
            self._gallery, self._camids = features, cameras
            if self._normalization is not None:
                self._normalization.restore(tensors)
            self._search.fit(features)
            self._restore(tensors)

    @property
    def search_recall(self) -> float | None:
        """Share of the true neighbours that an approximate search finds, on a sample."""
        return self._search.sampled_recall

    @property
    def name(self) -> str:
        """The name it is registered under, else that of its class."""
        from torchreid_spectral.rerank import RERANKERS

        kind = type(self)
        return next((name for name, each in RERANKERS.items() if each is kind), kind.__name__)

    @property
    def label(self) -> str:
        """What results call it: its name, and after a ``+`` the camera normalization if any."""
        return self.name + ("" if self._normalization is None else f"+{self.camera_normalization}")

    def options(self) -> dict[str, Any]:
        """Give the options that build a re-ranker like this one, from attributes of their names.

        Returns:
            Arguments of the constructor.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _ranked(
        self, query: Tensor, camids: Tensor | None, top_k: int, inductive: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Order the gallery, a chunk of queries at a time."""
        for _, block in self._blocks(query, camids, inductive):
            yield nearest(block, top_k)

    @abstractmethod
    def _blocks(
        self, query: Tensor, camids: Tensor | None, inductive: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        """Give the distances to the whole gallery, a chunk of queries at a time."""

    def _fitted(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Prepare what does not depend on the queries."""

    def _added(self, count: int) -> None:
        """Prepare it again: ``count`` images were there before."""
        self._fitted()

    def _state(self) -> dict[str, Tensor]:
        """Give what is worth saving beside the gallery."""
        return {}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`_state` gave."""
        self._fitted()

    def _fit_memory(self, count: int, width: int) -> int:
        """Estimate the bytes that fitting takes."""
        return 4 * count * width

    def _chunk_memory(self, rows: int, count: int, width: int) -> int:
        """Estimate the bytes that one chunk takes."""
        return 12 * rows * count

    def _list_size(self, num_queries: int, top_k: int) -> tuple[int, int]:
        """Give how many queries are searched for at once, and the neighbours of each."""
        return min(num_queries, self._rows_at_once()), min(top_k, len(self.gallery))

    def _check_memory(self, call: str, needed: int, device: torch.device) -> None:
        advice = (
            f"Take a smaller chunk_size (now {self.chunk_size}), a smaller top_k, fewer queries a "
            "call, features of less width, or the method local_blurring, which needs least."
        )
        if call == "distance_matrix":
            advice = "Call rank(query, top_k) or iter_distances(query), which never hold it. "
        check_memory(f"{type(self).__name__}.{call}", needed, device, advice)

    def _rows_at_once(self) -> int:
        return max(1, min(self.chunk_size, BLOCK_ENTRIES // len(self.gallery)))

    def _slices(self, count: int, title: str = "queries") -> Iterable[slice]:
        """Cut ``count`` queries into chunks, under a progress bar."""
        step = self._rows_at_once()
        slices = [slice(i, min(i + step, count)) for i in range(0, count, step)]
        return self._bar(slices, title)

    def _bar(self, parts: Iterable[Any], title: str) -> Iterable[Any]:
        hidden = None if self.progress else True  # None: shown on terminals only
        return tqdm(parts, desc=f"{self.name}: {title}", disable=hidden, leave=False, delay=2)

    def _check_query(self, query: Array, camids: Array | None) -> tuple[Tensor, Tensor | None]:
        features = self._check_width("query", as_features("query", query))
        cameras = as_cameras("camids", camids, len(features))
        if self._normalization is not None:
            features = self._normalization.transform(features, cameras)
        return features, None if cameras is None else cameras.to(self.gallery.device)

    def _check_width(self, name: str, features: Tensor) -> Tensor:
        if features.shape[1] != self.gallery.shape[1]:
            raise InputError(
                f"{name} and fitted gallery must have the same width, got {features.shape[1]} and "
                f"{self.gallery.shape[1]}."
            )
        return features.to(self.gallery.device)
