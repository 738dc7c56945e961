"""What the re-rankers share whose queries and gallery are nodes of one sparse graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional.distance import prepared_rows
from torchreid_spectral.functional.ranking import TILE_SIZE, rank_prepared
from torchreid_spectral.rerank._neighbours import ROWS_AT_ONCE, Neighbours
from torchreid_spectral.rerank.base import Reranker

__all__ = ["JointReranker"]


class JointReranker(Reranker):
    """Holds the gallery's neighbour lists; queries join them in each call.

    With ``inductive=True`` the gallery's lists stay as they were fitted and each query is attached
    alone: it is a mutual neighbour of those of its neighbours that would take it into their own
    list. Its answer then depends on no other query.
    """

    joint = True
    _needs_farthest = False

    @property
    @abstractmethod
    def _depth(self) -> int:
        """Neighbours of a node that the method looks at, itself counted."""

    @abstractmethod
    def _together(self, query: Tensor, camids: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """Give the distances when all queries are nodes of one graph; prepared rows."""

    @abstractmethod
    def _alone(self, query: Tensor, camids: Tensor | None) -> Tensor:
        """Give the distances of a chunk, each query attached alone to the gallery's graph."""

    def _blocks(
        self, query: Tensor, camids: Tensor | None, inductive: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        nodes = prepared_rows(query, self.metric)
        if not inductive:
            yield from self._together(nodes, camids)
            return
        for rows in self._slices(len(nodes)):
            yield rows, self._alone(nodes[rows], None if camids is None else camids[rows])

    def _found(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Search the gallery for each query: indices and distances, and that of the farthest."""
        return rank_prepared(query, self._search.features, self._depth, metric=self.metric)

    @property
    def _near(self) -> Neighbours:
        if self._lists is None:
            raise InputError(f"{type(self).__name__} has no gallery yet: call fit(gallery) first.")
        return self._lists

    _lists: Neighbours | None = None

    def _fitted(self) -> None:
        self._lists = Neighbours.of(
            self._search, self._depth, self._bar, farthest=self._needs_farthest
        )
        self._forget()

    def _added(self, count: int) -> None:
        self._lists = self._near.extended(self._search, count, self._depth, self._bar)
        self._forget()

    def _forget(self) -> None:
        """Drop what was derived from an earlier gallery."""

    def _state(self) -> dict[str, Tensor]:
        return self._near.state()

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self._lists = Neighbours.from_state(tensors, len(self.gallery), self._depth)
        self._forget()

    def _fit_memory(self, count: int, width: int) -> int:
        tile = 24 * ROWS_AT_ONCE * min(TILE_SIZE, count)
        return 8 * count * width + 28 * count * min(self._depth, count) + tile

    def estimate_memory(self, num_queries: int, top_k: int = 100) -> int:
        """Estimate what ranking takes beside what is held already.

        Args:
            num_queries: Q.
            top_k: Images returned for each.

        Returns:
            Bytes.
        """
        nodes = num_queries + len(self.gallery)
        return super().estimate_memory(num_queries, top_k) + self._graph_memory(nodes)

    @abstractmethod
    def _graph_memory(self, nodes: int) -> int:
        """Estimate the bytes that the sparse graph takes."""
