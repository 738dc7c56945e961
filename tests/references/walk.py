"""Loops over scalars, for functional.transition and functional.walk."""

import math

import numpy as np

from tests.references.similarity import cosine


def softmax_transition(
    similarity: np.ndarray,
    temperature: float,
    self_loops: bool = True,
    top_k: int | None = None,
    mutual: bool = False,
    normalization: str = "rows",
) -> np.ndarray:
    """Build T one entry at a time: T_ij = exp(s_ij / temperature) / sum over the kept j."""
    rows, columns = similarity.shape
    out = np.zeros((rows, columns))
    chosen = []
    for i in range(rows):
        kept = [j for j in range(columns) if self_loops or j != i]
        kept.sort(key=lambda j, i=i: (-similarity[i, j], j))
        chosen.append(kept if top_k is None else kept[:top_k])
    if mutual:
        chosen = [[j for j in chosen[i] if i in chosen[j]] or [i] for i in range(rows)]
    if normalization == "symmetric":
        return _symmetric(similarity, temperature, chosen)
    for i, kept in enumerate(chosen):
        largest = max(similarity[i, j] for j in kept)
        weights = {j: math.exp((similarity[i, j] - largest) / temperature) for j in kept}
        total = math.fsum(weights.values())
        for j, weight in weights.items():
            out[i, j] = weight / total
    return out


def _symmetric(similarity: np.ndarray, temperature: float, chosen: list[list[int]]) -> np.ndarray:
    """Build D^-1/2 W D^-1/2; a node that is left alone has itself, with any weight."""
    weights = np.zeros(similarity.shape)
    for i, kept in enumerate(chosen):
        for j in kept:
            weights[i, j] = math.exp(similarity[i, j] / temperature)
    degrees = [math.fsum(row) for row in weights]
    for i, row in enumerate(weights):
        for j in range(len(row)):
            weights[i, j] /= math.sqrt(degrees[i] * degrees[j])
    return weights


def transition(
    x: np.ndarray,
    temperature: float,
    self_loops: bool = True,
    top_k: int | None = None,
    mutual: bool = False,
    normalization: str = "rows",
) -> np.ndarray:
    """Build T of a set of features."""
    return softmax_transition(cosine(x, x), temperature, self_loops, top_k, mutual, normalization)


def step(transition: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Average x over the places one step leads to."""
    out = np.zeros((len(transition), x.shape[1]))
    for i in range(len(transition)):
        for c in range(x.shape[1]):
            out[i, c] = math.fsum(transition[i, j] * x[j, c] for j in range(len(x)))
    return out


def random_walk(
    transition: np.ndarray,
    x: np.ndarray,
    steps: int,
    restart: float,
    anchors: np.ndarray | None = None,
) -> np.ndarray:
    """Go step by step, going home with probability ``restart`` at each; anchors never move."""
    out = x.astype(np.float64)
    for _ in range(steps):
        nodes = out if anchors is None else np.concatenate([out, anchors])
        out = (1.0 - restart) * step(transition, nodes) + restart * x
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
