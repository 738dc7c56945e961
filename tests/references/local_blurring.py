"""Loops over queries, for rerank.local_blurring (method.md, section 4)."""

import numpy as np

from tests.references.similarity import cosine, nearest
from tests.references.walk import step, transition


def rank(
    query: np.ndarray, gallery: np.ndarray, k: int, temperature: float, steps: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Order the whole gallery for every query; returns gallery indices and distances."""
    order, original = nearest(1.0 - cosine(query, gallery), len(gallery))
    distances = original.copy()
    for q in range(len(query)):
        head = order[q, :k]
        graph = transition(gallery[head], temperature)  # the probe is no node of it
        scores = (1.0 - original[q, :k])[:, None]
        for _ in range(steps):
            scores = step(graph, scores)
        blurred = 1.0 - scores[:, 0]
        positions, blurred = (t[0] for t in nearest(blurred[None], len(head)))
        order[q, :k] = head[positions]
        # the last of the head keeps the distance of the k-th place, so that the tail is behind it
        distances[q, :k] = blurred - blurred[-1] + original[q, len(head) - 1]
    return order, distances
