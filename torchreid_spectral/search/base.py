"""The interface of all searches, and how good an approximate one is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import embedding

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional.distance import METRICS, prepared_rows
from torchreid_spectral.functional.ranking import collected, rank_prepared

__all__ = ["Search"]


class Search(ABC):
    """Finds the nearest of the features that it was given.

    Args:
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        chunk_size: Queries handled at once.

    Raises:
        UnknownNameError: If there is no such ``metric``.
        InputError: If ``chunk_size`` is not positive.
    """

    exact = True
    """Whether the answer is the exact one."""

    copies = False
    """Whether the index holds the features once more."""

    sampled_recall: float | None = None
    """Of an approximate search: its recall as measured when it was fitted, and anew when what was
    added since makes a tenth."""

    def __init__(self, *, metric: str = "cosine", chunk_size: int = 512) -> None:
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS)
        if chunk_size < 1:
            raise InputError(f"chunk_size must be >= 1, got {chunk_size}.")
        self.metric, self.chunk_size = metric, chunk_size
        self.features = torch.empty(0, 0)

    def fit(self, features: Tensor) -> Search:
        """Take in features; those of an earlier call are forgotten.

        Args:
            features: ``(N, D)``; float32 ones may be held without a copy.

        Returns:
            The search itself.
        """
        self.features = prepared_rows(features, self.metric)
        self._build()
        return self

    def index_memory(self, count: int, width: int) -> int:
        """Estimate the bytes of the index beside the features.

        Args:
            count: Features.
            width: Of each.

        Returns:
            Bytes.
        """
        return 4 * count * width if self.copies else 0

    def add(self, features: Tensor) -> Search:
        """Take in more features behind those there are.

        An approximate index keeps its structure until there are twice as many as it was built of.

        Args:
            features: ``(M, D)``.

        Returns:
            The search itself.

        Raises:
            InputError: If nothing was fitted, or the widths differ.
        """
        more = self._like_fitted(features)
        self.features = torch.cat([self.features, more])
        self._extend(more)
        return self

    def _like_fitted(self, rows: Tensor) -> Tensor:
        """Prepare rows, in the precision of those that were fitted."""
        if not self.features.shape[1]:
            raise InputError(f"{type(self).__name__} has nothing to search in: call fit first.")
        if rows.dim() != 2 or rows.shape[1] != self.features.shape[1]:
            raise InputError(
                f"Features must be (N, {self.features.shape[1]}), as those that were fitted, got "
                f"{tuple(rows.shape)}."
            )
        return prepared_rows(rows, self.metric).to(self.features.dtype)

    def copied(self) -> Search:
        """Give a search of the same features: what is added to one is not in the other.

        Returns:
            The copy, with an index of its own.
        """
        return copy.copy(self)

    def nearest(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the nearest features of each query.

        Args:
            query: ``(Q, D)``.
            k: How many; more than there are means all.

        Returns:
            Indices and distances ``(Q, k)``, nearest first. An approximate search that finds
            fewer fills up with the exact answer for that query.

        Raises:
            InputError: If nothing was fitted, ``k`` is not positive, or the widths differ.
        """
        if k < 1:
            raise InputError(f"k must be >= 1, got {k}.")
        rows = self._like_fitted(query)
        parts = (self._nearest(chunk, k) for chunk in rows.split(self.chunk_size))
        indices, distances = collected(parts, len(rows))
        return indices, distances

    def rows(self, indices: Tensor) -> Tensor:
        """Give the prepared features at some indices.

        Args:
            indices: ``(...)``.

        Returns:
            ``(..., D)``.
        """
        return embedding(indices, self.features)  # faster than indexing with many indices

    def recall(self, k: int = 10, *, sample: int = 256, seed: int = 0) -> float:
        """Compare with the exact answer on some of the features themselves.

        Args:
            k: Neighbours asked for, the feature itself not counted.
            sample: How many features ask.
            seed: Of the draw.

        Returns:
            Share of the exact ``k`` nearest that the search finds, in [0, 1].
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.features), generator=generator)[:sample]
        rows = self.features[chosen.to(self.features.device)]
        found, _ = self._nearest(rows, k + 1)
        exact, _, _ = rank_prepared(rows, self.features, k + 1, metric=self.metric)
        hits = (exact[:, 1:, None] == found[:, None, :]).any(dim=-1)
        return float(hits.double().mean()) if hits.numel() else 1.0

    @abstractmethod
    def _build(self) -> None:
        """Build an index of ``self.features``."""

    @abstractmethod
    def _extend(self, more: Tensor) -> None:
        """Add rows to the index; ``self.features`` has them already."""

    @abstractmethod
    def _nearest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Search for one chunk of prepared rows."""
