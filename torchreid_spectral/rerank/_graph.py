"""The sparse graph of :class:`GraphWalk`, walks on it, and rows attached to it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank._sparse import ROWS_AT_ONCE, Csr, adjacency, diagonal, row_sums

__all__ = ["EdgeRule", "Walk"]

Rows = Any  # numpy.ndarray or CSR: what walks


@dataclass(frozen=True)
class EdgeRule:
    """Which edges there are and what they weigh; see :class:`GraphWalk`."""

    k: int
    temperature: float
    graph: str
    weights: str
    cross_camera: float

    def build(self, indices: NDArray[Any], distances: NDArray[Any], cameras: Any) -> Csr:  # noqa: ANN401
        """Build the symmetric graph of all nodes from their lists, themselves first."""
        near = indices[:, : self.k + 1]
        edges = adjacency(near, self.weigh(distances[:, : self.k + 1]))
        back = edges.T.tocsr()
        # Distances of a pair may differ in the last bit between its two lists.
        graph = edges.minimum(back) if self.graph == "mutual" else edges.maximum(back)
        if self.weights == "jaccard":
            graph = _jaccard(graph, graph)
        return self.across(graph, cameras, cameras)

    def attach(
        self, near: NDArray[Any], distances: NDArray[Any], taken: NDArray[Any], graph: Csr
    ) -> Csr:
        """Build rows of single nodes: gallery neighbours, and themselves in a last column."""
        count, k = graph.shape[0], min(self.k, near.shape[1])
        own = np.full((len(near), 1), count)
        columns = np.concatenate([near[:, :k], own], axis=1)
        weights = self.weigh(distances[:, :k])
        if self.graph == "mutual":
            weights = weights * taken[:, :k]
        weights = np.concatenate([weights, np.ones_like(own)], axis=1)
        rows = adjacency(columns, weights, columns=count + 1)
        rows.eliminate_zeros()
        if self.weights == "jaccard":
            wide = graph.copy()
            wide.resize((count + 1, count + 1))
            rows = _jaccard(rows, wide)
            rows = rows + adjacency(own, columns=count + 1)  # itself: all in common
        return rows.tocsr()

    def weigh(self, distances: NDArray[Any]) -> NDArray[np.float32]:
        """Give exp((cos - 1) / temperature); a node's distance to itself is stored as -1."""
        return np.exp(-np.maximum(distances, 0) / self.temperature)

    def across(self, graph: Csr, left: Any, right: Any) -> Csr:  # noqa: ANN401
        """Multiply the edges between different cameras; a column past ``right`` is one's own."""
        if self.cross_camera == 1:
            return graph
        rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
        others = np.minimum(graph.indices, len(right) - 1)
        between = (left[rows] != right[others]) & (graph.indices < len(right))
        graph.data[between] *= self.cross_camera
        return graph


def _jaccard(rows: Csr, graph: Csr) -> Csr:
    """Weigh each edge by the share of neighbours that its two ends have in common."""
    mine, others = (side.copy() for side in (rows, graph))
    mine.data[:], others.data[:] = 1, 1
    back = others.T.tocsr()
    # Of all that rows have in common only their edges are kept: never all of it at once.
    starts = range(0, mine.shape[0], ROWS_AT_ONCE)
    parts = [mine[start : start + ROWS_AT_ONCE] for start in starts]
    common = sparse.vstack([(part @ back).multiply(part) for part in parts], format="csr")
    sizes = np.repeat(row_sums(mine), np.diff(common.indptr)) + row_sums(others)[common.indices]
    common.data = (common.data / (sizes - common.data)).astype(np.float32)
    return common


class Walk:
    r"""A walk with restart: :math:`X_{t+1} = (1 - r) T X_t + r X_0`.

    Args:
        graph: ``(N, N)`` symmetric weights.
        normalization: ``rows`` (:math:`D^{-1} W`) or ``symmetric`` (:math:`D^{-1/2} W D^{-1/2}`).
        steps: Steps, or ``inf`` for the limit.
        restart: :math:`r`.
    """

    def __init__(self, graph: Csr, normalization: str, steps: float, restart: float) -> None:
        self.graph, self.normalization = graph, normalization
        self.steps, self.restart = steps, restart
        self.degrees = row_sums(graph)
        self.transition = self._normalized(graph, self.degrees)

    def _normalized(self, rows: Csr, degrees: NDArray[Any]) -> Csr:
        if self.normalization == "rows":
            return (diagonal(1 / row_sums(rows)) @ rows).tocsr()
        return (diagonal(row_sums(rows) ** -0.5) @ rows @ diagonal(degrees**-0.5)).tocsr()

    def states(self, start: Rows) -> list[Rows]:
        """Give all states, the start first; of an endless walk the limit alone.

        Args:
            start: :math:`X_0`, ``(N, M)``, dense or CSR.

        Returns:
            ``steps + 1`` states.
        """
        return list(self._walked(start))

    def last(self, start: Rows) -> Rows:
        """Give the last of :meth:`states`, and hold no other."""
        return deque(self._walked(start), maxlen=1)[0]

    def _walked(self, start: Rows) -> Iterator[Rows]:
        """Walk on: one state after the other, or the limit alone."""
        if math.isinf(self.steps):
            yield self._limit(start)
            return
        yield (state := start)
        for _ in range(int(self.steps)):
            yield (state := self._mixed(self.transition @ state, start))

    def attached(self, rows: Csr, states: list[Rows], start: Rows) -> Rows:
        """Walk from single nodes into this graph, which does not know them.

        Args:
            rows: ``(M, N + 1)`` their weights; the last column is each node itself.
            states: Of :meth:`states`.
            start: ``(M, D)`` their own start.

        Returns:
            ``(M, D)`` their last state.
        """
        count = self.graph.shape[0]
        own = np.asarray(rows[:, [count]].todense()).ravel()
        degrees = row_sums(rows)
        transition = self._normalized(rows, np.append(self.degrees, 1))[:, :count]
        own = own / degrees  # both normalisations divide w_ii by the node's own degree
        if math.isinf(self.steps):
            ends = self._mixed(transition @ states[-1], start)
            return diagonal(1 / (1 - (1 - self.restart) * own)) @ ends
        mine = start
        for state in states[:-1]:
            mine = self._mixed(transition @ state + diagonal(own) @ mine, start)
        return mine

    def _mixed(self, moved: Rows, start: Rows) -> Rows:
        return (1 - self.restart) * moved + self.restart * start if self.restart else moved

    def _limit(self, start: NDArray[Any], tolerance: float = 1e-6) -> NDArray[np.float32]:
        """Solve (I - (1 - r) T) X = r X_0 by conjugate gradient, all columns at once."""
        # D^-1 W is not symmetric, but D^1/2 (D^-1 W) D^-1/2 is.
        roots = np.sqrt(self.degrees, dtype=np.float64)
        system = diagonal(1 / roots) @ self.graph @ diagonal(1 / roots)
        if self.normalization == "symmetric":
            roots = np.ones_like(roots)
        residual = self.restart * roots[:, None] * start
        solution, direction = np.zeros_like(residual), residual.copy()
        norm = (residual**2).sum(axis=0)
        goal = tolerance**2 * norm
        for _ in range(1000):
            if (norm <= goal).all():
                return (solution / roots[:, None]).astype(np.float32)
            image = direction - (1 - self.restart) * (system @ direction)
            step = _ratio(norm, (direction * image).sum(axis=0))
            solution += step * direction
            residual -= step * image
            last, norm = norm, (residual**2).sum(axis=0)
            direction = residual + _ratio(norm, last) * direction
        raise InputError(
            f"The end of the walk was not reached in 1000 rounds: restart={self.restart} is too "
            "small, take a larger one or a number of steps."
        )


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[Any]:
    """Divide; zero where a column has nothing left to solve."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
