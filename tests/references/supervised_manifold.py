"""Loops over queries and pairs, for rerank.supervised_manifold (Bai et al., CVPR 2017)."""

import numpy as np

from tests.references.similarity import cosine, nearest
from tests.references.walk import transition


def rank(
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    alpha: float,
    rounds: int,
    temperature: float,
    identities: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Order the whole gallery for every query; an identity below zero is not known."""
    order, original = nearest(1.0 - cosine(query, gallery), len(gallery))
    distances = original.copy()
    for q in range(len(query)):
        head = order[q, :k]
        known = None if identities is None else identities[head]
        nodes = np.concatenate([query[q : q + 1], gallery[head]])
        affinity = _smoothed(nodes, known, alpha, rounds, temperature)
        # of the logarithm, as affinities differ by orders of magnitude
        outcome = -np.log(np.maximum(affinity[0, 1:], np.finfo(np.float32).tiny))
        positions, outcome = (t[0] for t in nearest(outcome[None], len(head)))
        order[q, :k] = head[positions]
        # the last of the head keeps the distance of the k-th place, so that the tail is behind it
        distances[q, :k] = outcome - outcome[-1] + original[q, len(head) - 1]
    return order, distances


def _smoothed(
    nodes: np.ndarray, known: np.ndarray | None, alpha: float, rounds: int, temperature: float
) -> np.ndarray:
    """A of the tensor-product graph, as a vector over the pairs of nodes; node 0 is the probe."""
    target = np.eye(len(nodes))
    if known is not None:
        for i, left in enumerate(known):
            for j, right in enumerate(known):
                if left == right and left >= 0:
                    target[i + 1, j + 1] = 1.0
    graph = transition(nodes, temperature)
    pairs = np.kron(graph, graph)
    affinity = target.reshape(-1)
    for _ in range(rounds):
        affinity = alpha * (pairs @ affinity) + (1.0 - alpha) * target.reshape(-1)
    return affinity.reshape(target.shape)
