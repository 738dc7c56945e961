"""The interface of all re-rankers: fit a gallery, then rank queries against it.

NumPy arrays or tensors come in, and the same kind comes out. A re-ranker never modifies its
input and holds no Q x G matrix unless :meth:`Reranker.distance_matrix` asks for one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_spectral.errors import InputError

__all__ = ["Reranker"]

Array = Any  # numpy.ndarray or torch.Tensor: what comes in goes out


class Reranker(ABC):
    """Orders a gallery for each query by the relations among the images.

    Args:
        chunk_size: Queries handled at once; bounds the memory and does not change the result.

    Raises:
        InputError: If ``chunk_size`` is not positive.
    """

    def __init__(self, *, chunk_size: int = 256) -> None:
        if chunk_size < 1:
            raise InputError(f"chunk_size must be >= 1, got {chunk_size}.")
        self.chunk_size = chunk_size
        self._gallery: Tensor | None = None

    def fit(self, gallery: Array, camids: Array | None = None) -> Reranker:
        """Take in the gallery.

        Args:
            gallery: ``(G, D)`` features, float16 to float64, array or tensor. Float32 ones are
                not copied: leave them as they are while the re-ranker is used.
            camids: ``(G,)`` camera of each image; most methods do not look at it.

        Returns:
            The re-ranker itself.

        Raises:
            InputError: If the gallery is empty, not two-dimensional or not finite.
        """  # noqa: DOC502
        del camids
        self._gallery = _features("gallery", gallery)
        return self

    @property
    def gallery(self) -> Tensor:
        """The fitted features ``(G, D)``, float32."""
        if self._gallery is None:
            raise InputError(f"{type(self).__name__} has no gallery yet: call fit(gallery) first.")
        return self._gallery

    def rank(self, query: Array, top_k: int = 100) -> tuple[Array, Array]:
        """Order the gallery for each query.

        Args:
            query: ``(Q, D)`` features.
            top_k: How many gallery images to return; more than G means all.

        Returns:
            Indices into the gallery and distances, both ``(Q, top_k)``, nearest first.

        Raises:
            InputError: If the features do not fit the gallery, or ``top_k`` is not positive.
        """
        if top_k < 1:
            raise InputError(f"top_k must be >= 1, got {top_k}.")
        features = self._check_query(query)
        top_k = min(top_k, len(self.gallery))
        parts = [self._rank(chunk, top_k) for chunk in features.split(self.chunk_size)]
        indices, distances = (torch.cat(part) for part in zip(*parts))
        return _like(query, indices), _like(query, distances)

    def distance_matrix(self, query: Array) -> Array:
        """Compute all distances; for torchreid's ``evaluate_rank``.

        Args:
            query: ``(Q, D)`` features.

        Returns:
            ``(Q, G)`` distances, float32: ``4 * Q * G`` bytes.
        """
        distances = self.gallery.new_empty(len(query), len(self.gallery))
        for rows, block in self.iter_distances(query):
            distances[rows] = block
        return _like(query, distances)

    def iter_distances(self, query: Array) -> Iterator[tuple[slice, Tensor]]:
        """Compute the distances a chunk of queries at a time, so that none but one is held.

        Args:
            query: ``(Q, D)`` features.

        Yields:
            The queries' positions and their ``(chunk, G)`` distances.
        """
        start = 0
        for chunk in self._check_query(query).split(self.chunk_size):
            yield slice(start, start + len(chunk)), self._distances(chunk)
            start += len(chunk)

    @abstractmethod
    def _rank(self, query: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Order the gallery for one chunk of queries."""

    @abstractmethod
    def _distances(self, query: Tensor) -> Tensor:
        """Give the distances of one chunk of queries to the whole gallery."""

    def _check_query(self, query: Array) -> Tensor:
        features = _features("query", query).to(self.gallery.device)
        if features.shape[1] != self.gallery.shape[1]:
            raise InputError(
                f"query and gallery must have the same width, got {features.shape[1]} and "
                f"{self.gallery.shape[1]}."
            )
        return features


def _features(name: str, values: Array) -> Tensor:
    if isinstance(values, np.ndarray):  # torch takes no reversed and no read-only arrays
        values = np.require(values, requirements=["C", "W"])
    features = torch.as_tensor(values).detach()
    if features.dim() != 2 or 0 in features.shape:
        raise InputError(f"{name} must be (N, D) with N, D >= 1, got {tuple(features.shape)}.")
    if not features.is_floating_point():
        raise InputError(f"{name} must be floating point, got {features.dtype}.")
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        rows = (~finite).nonzero().flatten()[:5].tolist()
        raise InputError(
            f"{name} must be finite: {int((~finite).sum())} rows hold NaN or infinity, the first "
            f"at index {rows}. Remove them or extract them anew."
        )
    return features.float()


def _like(example: Array, result: Tensor) -> Array:
    return result if isinstance(example, Tensor) else np.asarray(result.cpu())
