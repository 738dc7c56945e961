"""Loops over scalars, for functional.cut."""

import math

import numpy as np

from tests.references.similarity import cosine


def affinity(x: np.ndarray, temperature: float) -> np.ndarray:
    """Compute w_ij = exp((cos_ij - 1) / temperature)."""
    similarity = cosine(x, x)
    out = np.zeros(similarity.shape)
    for i in range(len(x)):
        for j in range(len(x)):
            out[i, j] = math.exp((similarity[i, j] - 1.0) / temperature)
    return out


def normalized_cut(affinity: np.ndarray, labels: np.ndarray) -> float:
    """Sum cut / volume over the classes of a hard (N,) or soft (N, C) assignment."""
    if labels.ndim == 1:
        members = [[float(label == c) for label in labels] for c in sorted(set(labels.tolist()))]
    else:
        members = labels.T.tolist()
    n = len(affinity)
    total = 0.0
    for p in members:
        pairs = [(i, j) for i in range(n) for j in range(n)]
        cut = math.fsum(p[i] * affinity[i, j] * (1.0 - p[j]) for i, j in pairs)
        volume = math.fsum(p[i] * affinity[i, j] for i, j in pairs)
        total += cut / volume if volume > 0 else 0.0
    return total


def escape_probability(transition: np.ndarray, labels: np.ndarray) -> float:
    """Average over the nodes the share of moves that end in another class."""
    n = len(transition)
    total = 0.0
    for i in range(n):
        moves = math.fsum(transition[i, j] for j in range(n) if j != i)
        away = math.fsum(transition[i, j] for j in range(n) if labels[j] != labels[i])
        total += away / moves if moves > 0 else 0.0
    return total / n
