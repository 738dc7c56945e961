"""Sets of neighbours as sparse rows: what :class:`KReciprocal` encodes images by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from torchreid_spectral.rerank._neighbours import Neighbours
from torchreid_spectral.rerank._sparse import Csr, adjacency

__all__ = ["PAIRS_AT_ONCE", "expand", "known", "resized", "shared"]

PAIRS_AT_ONCE = 2**21  # of two non-zeros in one column, and of features: bounds the memory


def known(
    near: Neighbours, indices: NDArray[np.int64], rows: NDArray[Any], columns: NDArray[Any]
) -> tuple[Tensor, NDArray[np.int64]]:
    """Look up the distance of pairs of nodes; the places of those that are no neighbours."""
    entries, n = adjacency(indices, np.zeros(indices.shape)), len(indices)
    entries.data = np.arange(entries.nnz)
    entries.sort_indices()
    # 64 bits also on Windows, where NumPy 1 counts in 32
    keys = np.repeat(np.arange(n, dtype=np.int64), np.diff(entries.indptr)) * n + entries.indices
    wanted = rows.astype(np.int64) * n + columns
    place = np.searchsorted(keys, wanted)  # in range: the last node is its own neighbour
    found = keys[place] == wanted
    slots = torch.from_numpy(entries.data[place]).to(near.distances.device)
    return near.distances.flatten()[slots], np.flatnonzero(~found)


def expand(reciprocal: Csr, half: Csr) -> Csr:
    """Add to each row's set the half sets of its members that overlap with it by over 2/3."""
    overlap = (reciprocal @ half).multiply(reciprocal).tocsr()  # half is symmetric
    sizes = half.sum(axis=1)
    overlap.data = (3 * overlap.data > 2 * sizes[overlap.indices]).astype(np.float32)
    overlap.eliminate_zeros()
    members = (reciprocal + overlap @ half).tocsr()
    members.sort_indices()
    return members


def resized(graph: Csr, shape: tuple[int, int]) -> Csr:
    """Add empty rows and columns at the end."""
    ends = np.full(shape[0] - graph.shape[0], graph.indptr[-1])
    indptr = np.concatenate([graph.indptr, ends])
    return sparse.csr_array((graph.data, graph.indices, indptr), shape=shape)


def shared(encoding: Csr, by_column: Csr) -> NDArray[np.float32]:
    """Sum the minima of some rows and all columns of the inverted index."""
    out = np.empty((encoding.shape[0], by_column.shape[1]), dtype=np.float32)
    pairs = np.diff(by_column.indptr).astype(np.int64)[encoding.indices]
    pairs = np.concatenate([[0], np.cumsum(pairs)])[encoding.indptr]
    start = 0
    while start < len(out):
        limit = np.searchsorted(pairs, pairs[start] + PAIRS_AT_ONCE, side="right") - 1
        stop = max(start + 1, int(limit))
        _sum_minima(encoding[start:stop], by_column, out[start:stop])
        start = stop
    return out


def _sum_minima(encoding: Csr, by_column: Csr, out: NDArray[np.float32]) -> None:
    """Write into ``out`` the sum over columns of the smaller of two rows' entries."""
    lists = by_column[encoding.indices]  # one row for each non-zero: who has that column too
    minima = np.minimum(lists.data, np.repeat(encoding.data, np.diff(lists.indptr)))
    # The rows of one query joined are one row with repeated columns, which toarray adds up.
    joined = (minima, lists.indices, lists.indptr[encoding.indptr])
    sparse.csr_array(joined, shape=out.shape).toarray(out=out)
