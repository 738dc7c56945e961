"""Loops over scalars, for functional.similarity, functional.distance and functional.ranking."""

import math

import numpy as np


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum the products of two vectors."""
    return math.fsum(float(s) * float(t) for s, t in zip(a, b))


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute cos(x_i, y_j), zero where one of the two is the zero vector."""
    out = np.zeros((len(x), len(y)))
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            norms = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
            out[i, j] = dot(a, b) / norms if norms > 0 else 0.0
    return out


def squared_euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum the squared differences."""
    out = np.zeros((len(x), len(y)))
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            out[i, j] = math.fsum((float(s) - float(t)) ** 2 for s, t in zip(a, b))
    return out


def distance(x: np.ndarray, y: np.ndarray, metric: str) -> np.ndarray:
    """Compute a distance by its name."""
    if metric == "cosine":
        return 1.0 - cosine(x, y)
    squared = squared_euclidean(x, y)
    return np.sqrt(squared) if metric == "euclidean" else squared


def nearest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort every row, equal distances by index, and keep the first k."""
    rows = [sorted(range(len(row)), key=lambda j, row=row: (row[j], j))[:k] for row in distances]
    indices = np.array(rows, dtype=np.int64)
    return indices, np.take_along_axis(np.asarray(distances), indices, axis=1)
