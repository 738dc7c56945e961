"""No re-ranking: the gallery in the order of plain distance."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from torchreid_spectral.functional.distance import PREPARED_METRICS, prepared_rows
from torchreid_spectral.rerank.base import Reranker
from torchreid_spectral.search import Search

__all__ = ["NoReranking"]


class NoReranking(Reranker):
    """Keeps the order of the plain distance: what every other method is compared with.

    Args:
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        search: See :class:`Reranker`.
        chunk_size: Queries handled at once.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.
    """

    def __init__(
        self,
        *,
        metric: str = "cosine",
        search: str | Search = "exact",
        chunk_size: int = 512,
        progress: bool = True,
        camera_normalization: str = "none",
    ) -> None:
        super().__init__(
            metric=metric,
            search=search,
            chunk_size=chunk_size,
            progress=progress,
            camera_normalization=camera_normalization,
        )

    def _ranked(
        self, query: Tensor, camids: Tensor | None, top_k: int, inductive: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self._slices(len(query)):
            yield self._search.nearest(query[rows], top_k)

    def _blocks(
        self, query: Tensor, camids: Tensor | None, inductive: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        for rows in self._slices(len(query)):
            some = prepared_rows(query[rows], self.metric)
            yield rows, PREPARED_METRICS[self.metric](some, self._search.features)
