"""Loops over queries and feature groups, for rerank.group_shuffling (Shen et al., CVPR 2018)."""

import numpy as np

from tests.references.similarity import cosine, nearest
from tests.references.walk import softmax_transition


def rank(
    query: np.ndarray, gallery: np.ndarray, k: int, groups: int, alpha: float, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Order the whole gallery for every query; returns gallery indices and distances."""
    order, original = nearest(1.0 - cosine(query, gallery), len(gallery))
    distances = original.copy()
    for q in range(len(query)):
        head = order[q, :k]
        if len(head) < 2:
            continue
        outcome = 1.0 - _walked(query[q], gallery[head], groups, alpha, temperature)
        positions, outcome = (t[0] for t in nearest(outcome[None], len(head)))
        order[q, :k] = head[positions]
        # the last of the head keeps the distance of the k-th place, so that the tail is behind it
        distances[q, :k] = outcome - outcome[-1] + original[q, len(head) - 1]
    return order, distances


def _walked(
    query: np.ndarray, head: np.ndarray, groups: int, alpha: float, temperature: float
) -> np.ndarray:
    """Average (1 - alpha) (I - alpha A_a)^-1 y_b over all pairs of groups a and b."""
    total = np.zeros(len(head))
    width = len(query) // groups
    slices = [slice(a * width, (a + 1) * width) for a in range(groups)]
    for a in slices:
        affinities = cosine(head[:, a], head[:, a])
        graph = softmax_transition(affinities, temperature, self_loops=False)
        inverse = np.linalg.inv(np.eye(len(head)) - alpha * graph)
        for b in slices:
            start = cosine(query[None, b], head[:, b])[0]
            total += (1.0 - alpha) * inverse @ start
    return total / groups**2
