r"""k-reciprocal re-ranking: who is near each other counts more than how near.

Source: Z. Zhong, L. Zheng, D. Cao, S. Li, *Re-ranking Person Re-identification with k-reciprocal
Encoding*, CVPR 2017.

================================  ==========================================  =============
Paper                             Here                                        Shape
================================  ==========================================  =============
probe and gallery                 ``nodes``, queries first                    ``(N, D)``
:math:`d(i, j)`                   ``distances``, divided by row ``farthest``  ``(N, k)``
:math:`N(i, k)`                   ``indices``, i itself first                 ``(N, k)``
:math:`\mathcal R(i, k_1)`        ``reciprocal``                              ``(N, N)``, CSR
:math:`\mathcal R(j, k_1 / 2)`    ``half``                                    ``(N, N)``, CSR
:math:`\mathcal R^*(i, k_1)`      ``members``                                 ``(N, N)``, CSR
:math:`\mathcal V_i`              ``encoding``, rows sum to one               ``(N, N)``, CSR
:math:`d_J(p, g)`                 ``jaccard``                                 ``(chunk, G)``
:math:`\lambda`                   ``lambda_value``                            scalar
================================  ==========================================  =============

.. math::
    \mathcal R^*(i, k_1) &= \mathcal R(i, k_1) \cup \bigcup \{ \mathcal R(j, k_1/2) :
        j \in \mathcal R(i, k_1),\;
        |\mathcal R(i, k_1) \cap \mathcal R(j, k_1/2)| > \tfrac23 |\mathcal R(j, k_1/2)| \} \\
    d_J(p, g) &= 1 - \frac{\sum_j \min(\mathcal V_{p,j}, \mathcal V_{g,j})}
        {\sum_j \max(\mathcal V_{p,j}, \mathcal V_{g,j})}, \qquad
    d^* = (1 - \lambda) d_J + \lambda d

As rows of :math:`\mathcal V` sum to one, the maxima sum to two minus the minima. Whatever is
``(N, N)`` is sparse: neighbours are searched a chunk of rows at a time.

With ``inductive=True`` a query has a row of its own and no column in the gallery's rows.

Note:
    Three things are as in the authors' code and torchreid's ``re_ranking`` rather than in the
    paper: distances are divided by the farthest of each row, :math:`\mathcal V` is scaled to sum
    one, and N(i, k) holds i and k others. tests/rerank/test_k_reciprocal.py compares with that
    function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional.distance import PREPARED_METRICS
from torchreid_spectral.rerank._encoding import PAIRS_AT_ONCE, expand, known, resized, shared
from torchreid_spectral.rerank._joint import JointReranker
from torchreid_spectral.rerank._neighbours import Neighbours
from torchreid_spectral.rerank._sparse import Csr, adjacency, mutual
from torchreid_spectral.search import Search

__all__ = ["KReciprocal"]


class KReciprocal(JointReranker):
    r"""Mix the distance with the Jaccard distance of the images' k-reciprocal neighbourhoods.

    All queries of one call and the gallery are nodes of one graph, so a query's distances depend
    on the queries it is given with, as in the paper, unless ``inductive``; ``chunk_size`` changes
    nothing. Distances are in [0, 1].

    Degenerate inputs: with ``k1 >= N`` or ``k2 >= N`` every node is a neighbour. Each image is its
    own nearest neighbour, also among duplicates; other equal distances are ordered by the lower
    node, queries first, so that of more than k1 duplicates the first are the others' neighbours.
    A row of distances that are all zero stays zero; what rounding leaves of them is ranked.

    Args:
        k1: Neighbours that must be mutual.
        k2: Neighbours, the image itself included, whose encodings are averaged; 1 averages none.
        lambda_value: Share of the original distance, in [0, 1].
        metric: ``squared_euclidean`` (torchreid's "euclidean"), ``cosine`` or ``euclidean``.
        square_distances: Square the metric's distances, as torchreid's ``re_ranking`` does though
            its engine hands it squared ones: the default has fourth powers. The paper's distance
            is ``squared_euclidean`` without, or ``euclidean`` with this.
        search: See :class:`~torchreid_spectral.rerank.Reranker`; FAISS needs ``cosine``.
        chunk_size: Queries handled at once; memory is about ``4 * chunk_size * G`` floats.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.

    Raises:
        UnknownNameError: If there is no such ``metric``.
        InputError: If an option is out of range.

    Example:
        >>> gallery = np.array([[0.0], [1.0], [5.0], [6.0]], dtype=np.float32)
        >>> reranker = KReciprocal(k1=1, k2=1).fit(gallery)
        >>> reranker.rank(gallery[1:2] + 0.1, top_k=2)[0].tolist()
        [[1, 0]]
    """

    _needs_farthest = True

    def __init__(
        self,
        *,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        metric: str = "squared_euclidean",
        square_distances: bool = True,
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
        for name, value in (("k1", k1), ("k2", k2)):
            if value < 1:
                raise InputError(f"{name} must be >= 1, got {value}.")
        if not 0 <= lambda_value <= 1:
            raise InputError(f"lambda_value must be in [0, 1], got {lambda_value}.")
        self.k1, self.k2, self.lambda_value = k1, k2, lambda_value
        self.square_distances = square_distances
        self._alone_cache: _GalleryGraph | None = None

    @property
    def _depth(self) -> int:
        return max(self.k1 + 1, self.k2)

    @property
    def _half(self) -> int:
        return round(self.k1 / 2)  # half to even, as np.around

    def _together(self, query: Tensor, camids: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        near = self._near.joined(
            self._search, query, self._depth, self._bar, farthest=self._needs_farthest
        )
        nodes = torch.cat([query, self._search.features])
        indices = near.indices.cpu().numpy()
        _, members = self._members(near, indices, nodes)
        encoding = self._averaged(indices, members)
        by_column = encoding[len(query) :].T.tocsr()
        for rows in self._slices(len(query)):
            mixed = self._mixed(query[rows], encoding[rows], by_column, near.farthest[rows])
            yield rows, mixed

    def _alone(self, query: Tensor, camids: Tensor | None) -> Tensor:
        graph = self._gallery_graph()
        count = len(self.gallery)
        found = self._found(query)
        taken = found[1] <= graph.reach[found[0]]
        indices = found[0].cpu().numpy()
        near = np.concatenate([np.full((len(query), 1), count), indices], axis=1)[:, : self._depth]
        # Column G is the query itself: no gallery row has it.
        mine = np.concatenate([np.ones((len(query), 1)), taken.cpu().numpy()], axis=1)[
            :, : self.k1 + 1
        ]
        reciprocal = adjacency(near[:, : self.k1 + 1], mine, columns=count + 1)
        reciprocal.eliminate_zeros()
        members = expand(reciprocal, graph.half)
        rows = np.repeat(np.arange(len(query)), np.diff(members.indptr))
        distances = query.new_zeros(len(rows))
        others = np.flatnonzero(members.indices < count)
        self._measure(distances, others, query, rows, self._search.features, members.indices)
        self._weigh(members, rows, distances, found[2])
        if self.k2 > 1:
            averaged = adjacency(near[:, : self.k2], columns=count + 1)
            share = averaged.sum(axis=1)
            own = sparse.diags_array(np.asarray(averaged[:, [count]].todense()).ravel()).tocsr()
            members = (averaged[:, :count] @ graph.members + own @ members).tocsr()
            members.data /= np.repeat(share, np.diff(members.indptr)).astype(np.float32)
        return self._mixed(query, members, graph.by_column, found[2])

    def _gallery_graph(self) -> _GalleryGraph:
        """Encode the gallery without queries, once."""
        if self._alone_cache is None:
            near, count = self._near, len(self.gallery)
            indices = near.indices.cpu().numpy()
            half, members = self._members(near, indices, self._search.features)
            wide = (count + 1, count + 1)
            encoding = self._averaged(indices, members)
            self._alone_cache = _GalleryGraph(
                half=resized(half, wide),
                members=resized(members, (count, count + 1)),
                by_column=resized(encoding.T.tocsr(), (count + 1, count)),
                reach=near.reach(self._search, self.k1),
            )
        return self._alone_cache

    def _forget(self) -> None:
        self._alone_cache = None

    def _members(
        self, near: Neighbours, indices: NDArray[np.int64], nodes: Tensor
    ) -> tuple[Csr, Csr]:
        """Give the half sets, and the rows of V before they are averaged."""
        half = mutual(indices[:, : self._half + 1])
        members = expand(mutual(indices[:, : self.k1 + 1]), half)
        rows = np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
        distances, missing = known(near, indices, rows, members.indices)
        self._measure(distances, missing, nodes, rows, nodes, members.indices)
        self._weigh(members, rows, distances, near.farthest)
        return half, members

    def _averaged(self, indices: NDArray[np.int64], members: Csr) -> Csr:
        """Average the rows of V over the k2 nearest."""
        if self.k2 == 1:
            return members
        expanded = adjacency(indices[:, : self.k2]) @ members
        expanded.data /= min(self.k2, indices.shape[1])
        return expanded

    def _measure(
        self,
        out: Tensor,
        places: NDArray[Any],
        left: Tensor,
        rows: NDArray[Any],
        right: Tensor,
        columns: NDArray[Any],
    ) -> None:
        """Compute the distances of some pairs of nodes into ``out[places]``."""
        step = max(1, PAIRS_AT_ONCE // left.shape[1])
        for start in range(0, len(places), step):
            part = places[start : start + step]
            pairs = PREPARED_METRICS[self.metric](
                left[torch.from_numpy(rows[part]).long()][:, None],
                right[torch.from_numpy(columns[part]).long()][:, None],
            )
            out[torch.from_numpy(part)] = pairs.flatten()

    def _weigh(
        self, members: Csr, rows: NDArray[Any], distances: Tensor, farthest: Tensor
    ) -> None:
        """Give the members their Gaussian weights, scaled to sum one a row."""
        scale = farthest[torch.from_numpy(rows).to(distances.device)]
        weights = self._normalize(distances, scale).neg_().exp_().cpu().numpy()
        members.data = weights / np.bincount(rows, weights).astype(np.float32)[rows]

    def _normalize(self, distances: Tensor, farthest: Tensor) -> Tensor:
        """Divide by each row's farthest, zero if that is zero; ratios square without overflow."""
        tiny = torch.finfo(farthest.dtype).tiny
        relative = distances.clamp_min(0).div_(farthest.clamp_min(tiny))
        return relative.square_() if self.square_distances else relative

    def _mixed(self, query: Tensor, encoding: Csr, by_column: Csr, farthest: Tensor) -> Tensor:
        """Mix the Jaccard distance of a chunk's encodings with the original one."""
        original = PREPARED_METRICS[self.metric](query, self._search.features)
        original = self._normalize(original, farthest[:, None])
        common = torch.from_numpy(shared(encoding, by_column)).to(original)
        common.clamp_max_(1)  # by rounding it may be more
        jaccard = common.div_(2 - common).neg_().add_(1)
        jaccard.mul_(1 - self.lambda_value)
        return jaccard.add_(original, alpha=self.lambda_value)

    def _chunk_memory(self, rows: int, count: int, width: int) -> int:
        return 16 * rows * count + 32 * PAIRS_AT_ONCE

    def _graph_memory(self, nodes: int) -> int:
        lists = 28 * nodes * min(self._depth, nodes)
        encodings = 24 * nodes * min(self.k1 * min(self.k2, 4), nodes)
        return lists + encodings + 4 * nodes * self.gallery.shape[1]


@dataclass(frozen=True)
class _GalleryGraph:
    """What is derived from the gallery alone; column G stands for a query itself."""

    half: Csr
    members: Csr
    by_column: Csr
    reach: Tensor
