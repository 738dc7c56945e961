"""Exact fractions and loops over scalars, for rerank.knn_voting (Shen et al., CVPR 2012)."""

from fractions import Fraction

import numpy as np

from tests.references.similarity import cosine, nearest


def rank(
    query: np.ndarray, gallery: np.ndarray, k: int, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order the whole gallery for every query, equal scores by the query's own list."""
    count = len(gallery)
    lists, _ = nearest(1.0 - cosine(query, gallery), count)
    near = _gallery_lists(gallery)
    order = np.zeros((len(query), count), dtype=np.int64)
    distances = np.zeros((len(query), count))
    for q, first in enumerate(lists.tolist()):
        scores = {}
        for place, image in enumerate(first):
            score = Fraction(1, place + 1)
            for i, voter in enumerate(first[:k], start=1):
                rank_there = near[voter].index(image) + 1
                if rank_there <= depth:
                    score += Fraction(1, (i + 1) * rank_there)
            scores[image] = score
        order[q] = sorted(first, key=lambda image, scores=scores: -scores[image])
        distances[q] = [float(1 / scores[image]) for image in order[q]]
    return order, distances


def _gallery_lists(gallery: np.ndarray) -> list[list[int]]:
    """Every image's list of the whole gallery, itself first."""
    cos = cosine(gallery, gallery)
    images = range(len(gallery))
    return [sorted(images, key=lambda j, i=i: (j != i, -cos[i, j], j)) for i in images]
