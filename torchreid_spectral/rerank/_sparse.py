"""Sparse graphs from neighbour lists, as SciPy CSR arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = [
    "ROWS_AT_ONCE", "Csr", "adjacency", "diagonal", "mutual", "product_lengths", "row_sums",
    "scaled_rows",
]  # fmt: skip

Csr = Any  # scipy.sparse.csr_array
ROWS_AT_ONCE = 2048  # of a product that is not kept as it is


def adjacency(
    indices: NDArray[Any], weights: NDArray[Any] | None = None, *, columns: int | None = None
) -> Csr:
    """Build the graph in which row i has an edge to each of ``indices[i]``.

    Args:
        indices: ``(N, k)``.
        weights: ``(N, k)``; one if not given.
        columns: Nodes there are to go to; N if not given.

    Returns:
        ``(N, columns)``, float32.
    """
    n, k = indices.shape
    values = np.ones(n * k) if weights is None else weights.flatten()
    # flatten copies: SciPy sorts in place
    edges = values.astype(np.float32), indices.flatten()
    return sparse.csr_array((*edges, np.arange(n + 1) * k), shape=(n, columns or n))


def mutual(indices: NDArray[Any], weights: NDArray[Any] | None = None) -> Csr:
    """Keep the edges that go both ways.

    Args:
        indices: ``(N, k)``.
        weights: ``(N, k)``, of the edges of each row.

    Returns:
        ``(N, N)``.
    """
    back = adjacency(indices).T.tocsr()
    return adjacency(indices, weights).multiply(back).tocsr()


def row_sums(graph: Csr) -> NDArray[np.float32]:
    """Sum the rows, in float64 on the way."""
    return np.asarray(graph.sum(axis=1, dtype=np.float64)).ravel().astype(np.float32)


def diagonal(values: NDArray[Any]) -> Csr:
    """Build a diagonal matrix, for scaling rows (from the left) or columns."""
    return sparse.diags_array(values.astype(np.float32)).tocsr()


def scaled_rows(rows: Csr) -> Csr:
    """Scale rows to length one; zero rows stay."""
    return (diagonal(1 / _lengths(rows.copy())) @ rows).tocsr()


def product_lengths(left: Csr, right: Csr) -> NDArray[np.float32]:
    """Compute the lengths of the rows of ``left @ right``, which is never held as a whole.

    Args:
        left: ``(N, M)``.
        right: ``(M, D)``.

    Returns:
        ``(N,)``, those of zero rows as tiny.
    """
    starts = range(0, left.shape[0], ROWS_AT_ONCE)
    parts = (left[start : start + ROWS_AT_ONCE] @ right for start in starts)
    return np.concatenate([_lengths(part) for part in parts])


def _lengths(rows: Csr) -> NDArray[np.float32]:
    """Compute the lengths of rows, those of zero rows as tiny; the rows are overwritten."""
    rows.data **= 2
    return np.sqrt(row_sums(rows)).clip(np.finfo(np.float32).tiny)
