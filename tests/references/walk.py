"""Loops over scalars, for functional.transition and functional.walk."""

import math

import numpy as np

from tests.references.similarity import cosine


def softmax_transition(
    similarity: np.ndarray,
    temperature: float,
    self_loops: bool = True,
    top_k: int | None = None,
) -> np.ndarray:
    """Build T one entry at a time: T_ij = exp(s_ij / temperature) / sum over the kept j."""
    rows, columns = similarity.shape
    out = np.zeros((rows, columns))
    for i in range(rows):
        kept = [j for j in range(columns) if self_loops or j != i]
        kept.sort(key=lambda j, i=i: (-similarity[i, j], j))
        kept = kept if top_k is None else kept[:top_k]
        largest = max(similarity[i, j] for j in kept)
        weights = {j: math.exp((similarity[i, j] - largest) / temperature) for j in kept}
        total = math.fsum(weights.values())
        for j, weight in weights.items():
            out[i, j] = weight / total
    return out


def transition(
    x: np.ndarray, temperature: float, self_loops: bool = True, top_k: int | None = None
) -> np.ndarray:
    """Build T of a set of features."""
    return softmax_transition(cosine(x, x), temperature, self_loops, top_k)


def step(transition: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Average x over the places one step leads to."""
    out = np.zeros(x.shape)
    for i in range(len(x)):
        for c in range(x.shape[1]):
            out[i, c] = math.fsum(transition[i, j] * x[j, c] for j in range(len(x)))
    return out


def random_walk(transition: np.ndarray, x: np.ndarray, steps: int, restart: float) -> np.ndarray:
    """Go step by step, going home with probability ``restart`` at each."""
    out = x.astype(np.float64)
    for _ in range(steps):
        out = (1.0 - restart) * step(transition, out) + restart * x
    return out


def random_walk_limit(transition: np.ndarray, x: np.ndarray, restart: float) -> np.ndarray:
    """Sum the series restart * (1 - restart)^t T^t X until nothing is left to add."""
    term = x.astype(np.float64)
    out = np.zeros(x.shape)
    left = 1.0
    while left > 1e-18:
        out += restart * left * term
        left *= 1.0 - restart
        term = step(transition, term)
    return out
