r"""Graph walk in NumPy and SciPy: see :mod:`torchreid_spectral.rerank.graph_walk`.

The re-ranker's defaults only: mutual graph, rows that sum to one, walkers' distributions compared
by their cosine, all queries of a call in one graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from torchreid_spectral.errors import InputError
from torchreid_spectral.portable.features import Floats, Indices, checked, nearest

__all__ = ["graph_walk"]

ROWS_AT_ONCE = 512


def graph_walk(
    query: Any,  # noqa: ANN401 (what becomes an array)
    gallery: Any,  # noqa: ANN401
    *,
    k: int = 30,
    temperature: float = 0.5,
    steps: int = 1,
    num_averaged: int = 6,
    lambda_value: float = 0.2,
    top_k: int = 100,
) -> tuple[Indices, Floats]:
    r"""Compare images by where random walkers from them go.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.
        k: Neighbours of an image in the graph.
        temperature: Of the edges' weights.
        steps: Of the walk.
        num_averaged: Nearest neighbours over which the outcome is averaged, itself counted.
        lambda_value: Share of the original cosine distance.
        top_k: How many answers.

    Returns:
        Indices and distances, both ``(Q, min(top_k, G))``, nearest first.

    Raises:
        InputError: If an option is out of range.
    """
    if min(k, num_averaged, top_k) < 1 or steps < 0 or not temperature > 0:
        raise InputError(
            f"k, num_averaged, top_k must be >= 1, steps >= 0, temperature > 0; got {k}, "
            f"{num_averaged}, {top_k}, {steps}, {temperature}."
        )
    if not 0 <= lambda_value <= 1:
        raise InputError(f"lambda_value must be in [0, 1], got {lambda_value}.")
    left, right = checked(query, gallery)
    nodes = np.concatenate([left, right])
    near, distances = _neighbours(nodes, max(k + 1, num_averaged))
    weights = np.exp(-np.maximum(distances[:, : k + 1], 0) / temperature)
    edges = _graph(near[:, : k + 1], weights)
    graph = edges.minimum(edges.T.tocsr())  # edges that go both ways
    transition = _scaled(graph, np.asarray(graph.sum(axis=1)).ravel())
    walked = sparse.identity(len(nodes), format="csr", dtype=np.float32)
    for _ in range(steps):
        walked = transition @ walked
    averaged = near[:, :num_averaged]
    walked = _graph(averaged, np.full(averaged.shape, 1 / averaged.shape[1])) @ walked
    walked = _scaled(walked, np.sqrt(np.asarray(walked.multiply(walked).sum(axis=1)).ravel()))
    answers, found = [], []
    others = walked[len(left) :].T.tocsr()
    for start in range(0, len(left), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(left)))
        moved = 1 - (walked[rows] @ others).toarray()
        mixed = (1 - lambda_value) * moved + lambda_value * (1 - left[rows] @ right.T)
        order = nearest(mixed, top_k)
        answers.append(order)
        found.append(np.take_along_axis(mixed, order, axis=1))
    return np.concatenate(answers), np.concatenate(found).astype(np.float32)


def _neighbours(nodes: Floats, k: int) -> tuple[Indices, Floats]:
    """Give the k nearest of each node, itself first."""
    indices, distances = [], []
    for start in range(0, len(nodes), ROWS_AT_ONCE):
        block = 1 - nodes[start : start + ROWS_AT_ONCE] @ nodes.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -1
        order = nearest(block, k)
        indices.append(order)
        distances.append(np.take_along_axis(block, order, axis=1))
    return np.concatenate(indices), np.concatenate(distances)


def _graph(indices: Indices, weights: Any) -> Any:  # noqa: ANN401 (CSR)
    count, k = indices.shape
    edges = weights.astype(np.float32).flatten(), indices.flatten()
    return sparse.csr_array((*edges, np.arange(count + 1) * k), shape=(count, count))


def _scaled(rows: Any, lengths: Any) -> Any:  # noqa: ANN401 (CSR)
    factors = 1 / np.maximum(lengths, np.finfo(np.float32).tiny)
    return (sparse.diags_array(factors.astype(np.float32)) @ rows).tocsr()
