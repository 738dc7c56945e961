"""What the re-rankers share that re-order the nearest k of each query and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import top_k
from torchreid_spectral.functional._precision import full_precision
from torchreid_spectral.functional.distance import PREPARED_METRICS, prepared_rows
from torchreid_spectral.rerank.base import Reranker

__all__ = ["HeadReranker"]

LIST_ENTRIES = 2**23  # of a search's answers: 96 MB, three times that while they are sorted


class HeadReranker(Reranker):
    """Re-orders the nearest k of each query by cosine; the rest keeps its order.

    The new distances of the k are shifted by a constant, one a query, so that the farthest of
    them has the k-th original distance, or the next smaller number: it stays before the rest,
    duplicates of the k-th too.

    Args:
        k: Gallery images that take part, the nearest of each query.
        **shared: Options of :class:`Reranker`.

    Raises:
        InputError: If ``k`` is not positive.
    """

    def __init__(self, *, k: int, **shared: Any) -> None:  # noqa: ANN401
        super().__init__(**shared)
        if k < 1:
            raise InputError(f"k must be >= 1, got {k}.")
        self.k = k

    @abstractmethod
    def _new_distances(self, query: Tensor, near: Tensor, distances: Tensor) -> Tensor:
        """Give new distances (Q, k) from unit rows (Q, D), indices and distances (Q, k)."""

    def _ranked(
        self, query: Tensor, camids: Tensor | None, depth: int, inductive: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        step, length = self._list_size(len(query), depth)
        for some in query.split(step):
            units = prepared_rows(some, self.metric)
            found = self._search.nearest(units, length)
            for rows in self._slices(len(units)):
                indices, distances = found[0][rows], found[1][rows]
                head = self._head(units[rows], indices[:, : self.k], distances[:, : self.k])
                indices = torch.cat([head[0], indices[:, self.k :]], dim=1)
                distances = torch.cat([head[1], distances[:, self.k :]], dim=1)
                yield indices[:, :depth], distances[:, :depth]

    def _blocks(
        self, query: Tensor, camids: Tensor | None, inductive: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        for rows in self._slices(len(query)):
            units = prepared_rows(query[rows], self.metric)
            block = PREPARED_METRICS[self.metric](units, self._search.features)
            yield rows, block.scatter_(1, *self._head(units, *top_k(block, self.k)))

    def _head(self, query: Tensor, near: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(query):
            new = self._new_distances(query, near, distances)
        order, new = top_k(new, near.shape[1])
        last = distances[:, -1:]
        if near.shape[1] < len(self.gallery):
            last = last.nextafter(last.new_tensor(-torch.inf))
        return near.gather(1, order), (new - new[:, -1:]) + last  # the k-th exactly

    def _list_size(self, num_queries: int, top_k: int) -> tuple[int, int]:
        length = min(max(top_k, self.k), len(self.gallery))
        rows = min(self._search.chunk_size, LIST_ENTRIES // length)  # a search likes many rows
        return max(1, min(num_queries, rows)), length

    def _chunk_memory(self, rows: int, count: int, width: int) -> int:
        k = min(self.k, count)
        return 12 * rows * count + 4 * rows * k * (3 * width + 6 * k)
