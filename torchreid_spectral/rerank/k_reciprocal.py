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

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional import top_k as nearest
from torchreid_spectral.functional.distance import METRICS
from torchreid_spectral.rerank.base import Array, Reranker, _like

__all__ = ["KReciprocal"]

Csr = Any  # scipy.sparse.csr_array
COLUMNS_AT_ONCE = 2048  # of a chunk's distances in the search for neighbours
PAIRS_AT_ONCE = 2**21  # of two non-zeros in one column, and of features: bounds the memory


class KReciprocal(Reranker):
    r"""Mix the distance with the Jaccard distance of the images' k-reciprocal neighbourhoods.

    All queries of one call and the gallery are nodes of one graph, so a query's distances depend
    on the queries it is given with, as in the paper; ``chunk_size`` changes nothing. Distances
    are in [0, 1].

    Degenerate inputs: with ``k1 >= N`` or ``k2 >= N`` every node is a neighbour. Each image is its
    own nearest neighbour, also among duplicates; other equal distances are ordered by the lower
    node, queries first, so that of more than k1 duplicates the first are the others' neighbours.
    A row of distances that are all zero stays zero.

    Args:
        k1: Neighbours that must be mutual.
        k2: Neighbours, the image itself included, whose encodings are averaged; 1 averages none.
        lambda_value: Share of the original distance, in [0, 1].
        metric: ``squared_euclidean`` (torchreid's "euclidean"), ``cosine`` or ``euclidean``.
        square_distances: Square the metric's distances, as torchreid's ``re_ranking`` does though
            its engine hands it squared ones: the default has fourth powers. The paper's distance
            is ``squared_euclidean`` without, or ``euclidean`` with this.
        chunk_size: Nodes handled at once; memory is about ``4 * chunk_size * G`` floats.

    Raises:
        UnknownNameError: If there is no such ``metric``.
        InputError: If an option is out of range.

    Example:
        >>> gallery = np.array([[0.0], [1.0], [5.0], [6.0]], dtype=np.float32)
        >>> reranker = KReciprocal(k1=1, k2=1).fit(gallery)
        >>> reranker.rank(gallery[1:2] + 0.1, top_k=2)[0].tolist()
        [[1, 0]]
    """

    def __init__(
        self,
        *,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        metric: str = "squared_euclidean",
        square_distances: bool = True,
        chunk_size: int = 512,
    ) -> None:
        super().__init__(chunk_size=chunk_size)
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS)
        for name, value in (("k1", k1), ("k2", k2)):
            if value < 1:
                raise InputError(f"{name} must be >= 1, got {value}.")
        if not 0 <= lambda_value <= 1:
            raise InputError(f"lambda_value must be in [0, 1], got {lambda_value}.")
        self.k1, self.k2, self.lambda_value = k1, k2, lambda_value
        self.metric, self.square_distances = metric, square_distances

    def rank(self, query: Array, top_k: int = 100) -> tuple[Array, Array]:
        """Order the gallery for each query; all queries are nodes of one graph.

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
        parts = [nearest(block, top_k) for _, block in self.iter_distances(query)]
        indices, distances = (torch.cat(part) for part in zip(*parts))
        return _like(query, indices), _like(query, distances)

    def iter_distances(self, query: Array) -> Iterator[tuple[slice, Tensor]]:
        """Build the graph of all queries and the gallery, then yield a chunk at a time.

        Args:
            query: ``(Q, D)`` features.

        Yields:
            The queries' positions and their ``(chunk, G)`` distances.
        """
        features = self._check_query(query)
        near = self._search(torch.cat([features, self.gallery]))
        encoding = self._encode(near)
        by_column = encoding[len(features) :].T.tocsr()
        for start in range(0, len(features), self.chunk_size):
            rows = slice(start, min(start + self.chunk_size, len(features)))
            original = METRICS[self.metric](features[rows], self.gallery)
            original = self._normalize(original, near.farthest[rows, None])
            shared = torch.from_numpy(_shared(encoding[rows], by_column)).to(original)
            shared.clamp_max_(1)  # by rounding it may be more
            jaccard = shared.div_(2 - shared).neg_().add_(1)
            jaccard.mul_(1 - self.lambda_value)
            yield rows, jaccard.add_(original, alpha=self.lambda_value)

    def _rank(self, query: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return nearest(self._distances(query), top_k)

    def _distances(self, query: Tensor) -> Tensor:
        return torch.as_tensor(self.distance_matrix(query))

    def _search(self, nodes: Tensor) -> _Neighbours:
        """Find each node's neighbours and its farthest distance, both from one product."""
        n, k = len(nodes), min(max(self.k1 + 1, self.k2), len(nodes))
        # Filled in place: results kept between large temporaries would fragment the memory.
        indices = torch.empty((n, k), dtype=torch.long, device=nodes.device)
        distances, farthest = nodes.new_empty((n, k)), nodes.new_empty(n)
        for start in range(0, n, self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            indices[rows], distances[rows], farthest[rows] = self._search_rows(nodes, rows, k)
        return _Neighbours(nodes, indices.cpu().numpy(), distances, farthest)

    def _search_rows(self, nodes: Tensor, rows: slice, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Search by tiles of columns that fit the cache; equal distances by the lower node."""
        parts = []
        for start in range(0, len(nodes), COLUMNS_AT_ONCE):
            tile = METRICS[self.metric](nodes[rows], nodes[start : start + COLUMNS_AT_ONCE])
            farthest = tile.amax(1)
            tile.diagonal(rows.start - start).fill_(-1)  # itself first, before its duplicates
            columns, distances = nearest(tile, k)
            parts.append((columns + start, distances, farthest[:, None]))
        columns, distances, farthest = (torch.cat(part, dim=1) for part in zip(*parts))
        best, distances = nearest(distances, k)
        return columns.gather(1, best), distances, farthest.amax(1)

    def _encode(self, near: _Neighbours) -> Csr:
        """Give the sparse rows V, expanded over the k2 nearest."""
        reciprocal = _reciprocal(near.indices[:, : self.k1 + 1])
        half = _reciprocal(near.indices[:, : round(self.k1 / 2) + 1])  # half to even: np.around
        members = _expand(reciprocal, half)
        rows = np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
        distances = near.between(rows, members.indices, self.metric)
        farthest = near.farthest[torch.from_numpy(rows).to(distances.device)]
        weights = self._normalize(distances, farthest).neg_().exp_().cpu().numpy()
        members.data = weights / np.bincount(rows, weights).astype(np.float32)[rows]
        if self.k2 == 1:
            return members
        expanded = _adjacency(near.indices[:, : self.k2]) @ members
        expanded.data /= min(self.k2, members.shape[0])
        return expanded

    def _normalize(self, distances: Tensor, farthest: Tensor) -> Tensor:
        """Divide by each row's farthest, zero if that is zero; ratios square without overflow."""
        tiny = torch.finfo(farthest.dtype).tiny
        relative = distances.clamp_min(0).div_(farthest.clamp_min(tiny))
        return relative.square_() if self.square_distances else relative


@dataclass(frozen=True)
class _Neighbours:
    """The k nearest of each node, itself first with distance -1, and the farthest distance."""

    nodes: Tensor
    indices: NDArray[np.int64]
    distances: Tensor
    farthest: Tensor

    def between(self, rows: NDArray[Any], columns: NDArray[Any], metric: str) -> Tensor:
        """Give the distance of each pair of nodes: looked up, or computed if not a neighbour."""
        known, n = _adjacency(self.indices), len(self.nodes)
        known.data = np.arange(known.nnz)
        known.sort_indices()
        keys = np.repeat(np.arange(n), np.diff(known.indptr)) * n + known.indices
        wanted = rows.astype(np.int64) * n + columns
        place = np.searchsorted(keys, wanted)  # in range: the last node is its own neighbour
        found = keys[place] == wanted
        slots = torch.from_numpy(known.data[place]).to(self.nodes.device)
        distances = self.distances.flatten()[slots]
        missing = np.flatnonzero(~found)
        step = max(1, PAIRS_AT_ONCE // self.nodes.shape[1])
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            left, right = (torch.from_numpy(ends[part]).long() for ends in (rows, columns))
            pairs = METRICS[metric](self.nodes[left][:, None], self.nodes[right][:, None])
            distances[torch.from_numpy(part)] = pairs.flatten()
        return distances


def _adjacency(indices: NDArray[np.int64]) -> Csr:
    """Build the graph in which row i has an edge of weight one to each of ``indices[i]``."""
    n, k = indices.shape
    edges = np.ones(n * k, dtype=np.float32), indices.flatten()  # a copy: SciPy sorts in place
    return sparse.csr_array((*edges, np.arange(n + 1) * k), shape=(n, n))


def _reciprocal(indices: NDArray[np.int64]) -> Csr:
    """Keep the edges that go both ways."""
    forward = _adjacency(indices)
    return forward.multiply(forward.T.tocsr()).tocsr()


def _expand(reciprocal: Csr, half: Csr) -> Csr:
    """Add to each row's set the half sets of its members that overlap with it by over 2/3."""
    overlap = (reciprocal @ half).multiply(reciprocal).tocsr()  # half is symmetric
    sizes = half.sum(axis=1)
    overlap.data = (3 * overlap.data > 2 * sizes[overlap.indices]).astype(np.float32)
    overlap.eliminate_zeros()
    members = (reciprocal + overlap @ half).tocsr()
    members.sort_indices()
    return members


def _shared(encoding: Csr, by_column: Csr) -> NDArray[np.float32]:
    """Sum the minima of some rows and all columns of the inverted index."""
    shared = np.empty((encoding.shape[0], by_column.shape[1]), dtype=np.float32)
    pairs = np.diff(by_column.indptr).astype(np.int64)[encoding.indices]
    pairs = np.concatenate([[0], np.cumsum(pairs)])[encoding.indptr]
    start = 0
    while start < len(shared):
        limit = np.searchsorted(pairs, pairs[start] + PAIRS_AT_ONCE, side="right") - 1
        stop = max(start + 1, int(limit))
        _sum_minima(encoding[start:stop], by_column, shared[start:stop])
        start = stop
    return shared


def _sum_minima(encoding: Csr, by_column: Csr, out: NDArray[np.float32]) -> None:
    """Write into ``out`` the sum over columns of the smaller of two rows' entries."""
    lists = by_column[encoding.indices]  # one row for each non-zero: who has that column too
    minima = np.minimum(lists.data, np.repeat(encoding.data, np.diff(lists.indptr)))
    # The rows of one query joined are one row with repeated columns, which toarray adds up.
    joined = (minima, lists.indices, lists.indptr[encoding.indptr])
    sparse.csr_array(joined, shape=out.shape).toarray(out=out)
