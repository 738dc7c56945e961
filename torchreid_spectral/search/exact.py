"""Exact search: blocks of distances on whatever device the features are on."""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.functional.ranking import rank_prepared
from torchreid_spectral.search.base import Search

__all__ = ["ExactSearch"]


class ExactSearch(Search):
    """Compares each query with all features, a tile at a time; no index is built."""

    def _build(self) -> None:
        pass

    def _extend(self, more: Tensor) -> None:
        pass

    def _nearest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        found = rank_prepared(rows, self.features, k, metric=self.metric, farthest=False)
        return found[:2]
