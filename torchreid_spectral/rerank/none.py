"""No re-ranking: the gallery in the order of plain distance."""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import UnknownNameError
from torchreid_spectral.functional.distance import METRICS
from torchreid_spectral.functional.ranking import rank_top_k
from torchreid_spectral.rerank.base import Reranker

__all__ = ["NoReranking"]


class NoReranking(Reranker):
    """Keeps the order of the plain distance: what every other method is compared with.

    Args:
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        chunk_size: Queries handled at once.

    Raises:
        UnknownNameError: If ``metric`` is none of these.
    """

    def __init__(self, *, metric: str = "cosine", chunk_size: int = 256) -> None:
        super().__init__(chunk_size=chunk_size)
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS)
        self.metric = metric

    def _rank(self, query: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return rank_top_k(query, self.gallery, top_k, metric=self.metric)

    def _distances(self, query: Tensor) -> Tensor:
        return METRICS[self.metric](query, self.gallery)
