"""Search by FAISS: exact (flat) and approximate (IVF, HNSW), on CPU, one GPU or several.

Source: J. Johnson, M. Douze, H. Jégou, *Billion-scale similarity search with GPUs*, IEEE
Transactions on Big Data 2019; Y. Malkov, D. Yashunin, *Efficient and robust approximate nearest
neighbor search using Hierarchical Navigable Small World graphs*, TPAMI 2018 (HNSW).

FAISS gives the neighbours; their distances are computed anew from the features, so that an
approximate search may miss a neighbour but never reports a wrong distance.
"""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchreid_spectral.errors import InputError, require_extra
from torchreid_spectral.functional.distance import PREPARED_METRICS
from torchreid_spectral.functional.ranking import merge_top_k, rank_prepared
from torchreid_spectral.search.base import Search

__all__ = ["FaissFlat", "FaissHNSW", "FaissIVF"]

logger = logging.getLogger(__name__)

LOW_RECALL = 0.95
"""Below it a search warns."""
ENTRIES_AT_ONCE = 2**24  # of neighbours' features that are gathered to be measured: 64 MB


class _FaissSearch(Search):
    """What the three indices share.

    Args:
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        chunk_size: Queries handed to FAISS at once.
        gpus: Move the index to that many GPUs, sharded over them; needs a GPU build of FAISS.
    """

    exact = False

    copies = True

    def __init__(self, *, metric: str = "cosine", chunk_size: int = 4096, gpus: int = 0) -> None:
        super().__init__(metric=metric, chunk_size=chunk_size)
        found = getattr(self._faiss, "get_num_gpus", lambda: 0)()
        if not 0 <= gpus <= found:
            raise InputError(
                f"gpus must be in [0, {found}], the GPUs this build of FAISS sees; got {gpus}."
            )
        self.gpus = gpus
        self._index: Any = None
        self._built = self._told = 0  # features when it was built, when recall was measured

    @property
    def _faiss(self) -> Any:  # noqa: ANN401 (no attribute: a module cannot be copied)
        return require_extra("faiss", "faiss", f"The search {type(self).__name__}")

    @property
    def _measure(self) -> int:
        unit = self.metric == "cosine"
        return self._faiss.METRIC_INNER_PRODUCT if unit else self._faiss.METRIC_L2

    def _build(self) -> None:
        self._index = self._new_index(self.features.shape[1], len(self.features))
        if self.gpus:
            options = self._faiss.GpuMultipleClonerOptions()
            options.shard = True
            self._index = self._faiss.index_cpu_to_all_gpus(
                self._index, co=options, ngpu=self.gpus
            )
        rows = _array(self.features)
        if not self._index.is_trained:
            self._index.train(rows)
        self._index.add(rows)
        self._built = len(rows)
        self._tell_recall()

    def copied(self) -> Search:
        """Give a search of the same features: what is added to one is not in the other.

        Returns:
            The copy, whose index is a clone, or built anew where GPUs hold it.
        """
        other = copy.copy(self)
        if self.gpus:
            other._build()
        elif self._index is not None:
            other._index = self._faiss.clone_index(self._index)
        return other

    def _tell_recall(self) -> None:
        """Measure the recall on a sample, and warn where it is low."""
        rows = self.features
        self._told = len(rows)
        if not self.exact and len(rows) > 1:
            k = min(10, len(rows) - 1)
            self.sampled_recall = self.recall(k)
            logger.log(
                logging.WARNING if self.sampled_recall < LOW_RECALL else logging.INFO,
                "%s of %d features: recall@%d %.3f against exact search on a sample",
                type(self).__name__,
                len(rows),
                k,
                self.sampled_recall,
            )

    def _extend(self, more: Tensor) -> None:
        # FAISS takes rows only once where GPUs share them; clusters are of what was there.
        if self.gpus > 1 or (not self.exact and len(self.features) >= 2 * self._built):
            self._build()
            return
        self._index.add(_array(more))
        if len(self.features) >= 1.1 * self._told:
            self._tell_recall()

    def _nearest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        k = min(k, len(self.features))
        _, found = self._index.search(_array(rows), k)
        indices = torch.from_numpy(found).to(rows.device)
        missing = (indices < 0).any(dim=1)
        indices, distances = self._measured(rows, indices.clamp_min(0))
        if missing.any():
            exact = rank_prepared(rows[missing], self.features, k, metric=self.metric)
            indices[missing], distances[missing] = exact[:2]
        return indices, distances

    def _measured(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Sort by the exact distances, equal ones by the lower index."""
        indices = indices.sort(dim=1).values
        step = max(1, ENTRIES_AT_ONCE // (indices.shape[1] * rows.shape[1]))
        distances = torch.cat(
            [
                PREPARED_METRICS[self.metric](some[:, None], self.rows(near))[:, 0]
                for some, near in zip(rows.split(step), indices.split(step))
            ]
        )
        return merge_top_k(indices, distances, indices.shape[1])

    @abstractmethod
    def _new_index(self, width: int, count: int) -> Any:  # noqa: ANN401 (FAISS's)
        """Make an empty index."""


class FaissFlat(_FaissSearch):
    """FAISS's exact index."""

    exact = True

    def _new_index(self, width: int, count: int) -> Any:  # noqa: ANN401
        flat = self._faiss.IndexFlatIP if self.metric == "cosine" else self._faiss.IndexFlatL2
        return flat(width)


class FaissIVF(_FaissSearch):
    r"""Inverted lists: features are clustered and only the nearest clusters are looked at.

    Args:
        num_lists: Clusters; :math:`4 \sqrt N` if 0.
        num_probes: Clusters looked at; more find more and take longer.
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        chunk_size: Queries handed to FAISS at once.
        gpus: GPUs to shard the index over.

    Raises:
        InputError: If ``num_lists`` is negative or ``num_probes`` not positive.
    """

    def __init__(
        self,
        *,
        num_lists: int = 0,
        num_probes: int = 32,
        metric: str = "cosine",
        chunk_size: int = 4096,
        gpus: int = 0,
    ) -> None:
        super().__init__(metric=metric, chunk_size=chunk_size, gpus=gpus)
        if num_lists < 0 or num_probes < 1:
            raise InputError(
                f"num_lists must be >= 0 and num_probes >= 1, got {num_lists} and {num_probes}."
            )
        self.num_lists, self.num_probes = num_lists, num_probes

    def _new_index(self, width: int, count: int) -> Any:  # noqa: ANN401
        lists = self.num_lists or int(4 * count**0.5)
        lists = max(1, min(lists, count // 39))  # FAISS wants 39 features a cluster to train
        flat = self._faiss.IndexFlatIP if self.metric == "cosine" else self._faiss.IndexFlatL2
        self._quantizer = flat(width)
        index = self._faiss.IndexIVFFlat(self._quantizer, width, lists, self._measure)
        index.nprobe = min(self.num_probes, lists)
        return index


class FaissHNSW(_FaissSearch):
    """A navigable graph: slow to build, fast to search.

    Args:
        num_links: Links of a node, at least 2.
        build_breadth: Candidates kept while building.
        search_breadth: Candidates kept while searching; more find more and take longer.
        metric: ``cosine``, ``euclidean`` or ``squared_euclidean``.
        chunk_size: Queries handed to FAISS at once.
        gpus: Must be 0: FAISS has no HNSW on GPUs.

    Raises:
        InputError: If one is too small, or a GPU is asked for.
    """

    def __init__(
        self,
        *,
        num_links: int = 32,
        build_breadth: int = 80,
        search_breadth: int = 128,
        metric: str = "cosine",
        chunk_size: int = 4096,
        gpus: int = 0,
    ) -> None:
        super().__init__(metric=metric, chunk_size=chunk_size, gpus=gpus)
        if num_links < 2 or min(build_breadth, search_breadth) < 1:  # FAISS crashes with 1 link
            raise InputError(
                "num_links must be >= 2, build_breadth and search_breadth >= 1, got "
                f"{num_links}, {build_breadth} and {search_breadth}."
            )
        if self.gpus:
            raise InputError("FAISS has no HNSW on GPUs: use gpus=0 or the search faiss_ivf.")
        self.num_links = num_links
        self.build_breadth, self.search_breadth = build_breadth, search_breadth

    def _new_index(self, width: int, count: int) -> Any:  # noqa: ANN401
        index = self._faiss.IndexHNSWFlat(width, self.num_links, self._measure)
        index.hnsw.efConstruction, index.hnsw.efSearch = self.build_breadth, self.search_breadth
        return index


def _array(rows: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows.cpu().numpy(), dtype=np.float32)
