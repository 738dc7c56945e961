"""Loops over scalars, for layers.SpectralAttention: Y = T g(X), one T a head."""

import math

import numpy as np

from tests.references import similarity as _similarity
from tests.references import walk as _walk

Affine = tuple[np.ndarray, np.ndarray | None]


def project(x: np.ndarray, weights: Affine | None) -> np.ndarray:
    """Apply x W^T + b, or nothing."""
    if weights is None:
        return x.astype(np.float64)
    matrix, bias = weights
    out = np.zeros((len(x), len(matrix)))
    for i, row in enumerate(x):
        for c, weight in enumerate(matrix):
            out[i, c] = _similarity.dot(row, weight) + (0.0 if bias is None else float(bias[c]))
    return out


def transitions(
    x: np.ndarray,
    *,
    temperature: float,
    heads: int = 1,
    query: Affine | None = None,
    key: Affine | None = None,
    similarity: str = "cosine",
    self_loops: bool = True,
    top_k: int | None = None,
    mutual: bool = False,
    normalization: str = "rows",
) -> list[np.ndarray]:
    """Build one T for every slice of the features."""
    queries, keys = project(x, query), project(x, key)
    width = queries.shape[1] // heads
    out = []
    for h in range(heads):
        a, b = (t[:, h * width : (h + 1) * width] for t in (queries, keys))
        if similarity == "cosine":
            logits = _similarity.cosine(a, b)
        else:
            logits = np.array([[_similarity.dot(s, t) for t in b] for s in a])
        if similarity == "scaled_dot":
            logits = logits / math.sqrt(width)
        out.append(
            _walk.softmax_transition(logits, temperature, self_loops, top_k, mutual, normalization)
        )
    return out


def spectral_attention(
    x: np.ndarray,
    *,
    heads: int = 1,
    value: Affine | None = None,
    steps: float = 1,
    restart: float = 0.0,
    residual: bool = False,
    output: Affine | None = None,
    group_shuffling: bool = False,
    **graph,
) -> np.ndarray:
    """Walk every slice on its own graph and put the slices side by side.

    With group shuffling every graph walks all slices, and the results are averaged.
    """
    values = project(x, value)
    width = values.shape[1] // heads
    slices = []
    for h, transition in enumerate(transitions(x, heads=heads, **graph)):
        start = values if group_shuffling else values[:, h * width : (h + 1) * width]
        if math.isinf(steps):
            slices.append(_walk.random_walk_limit(transition, start, restart))
        else:
            slices.append(_walk.random_walk(transition, start, int(steps), restart))
    out = sum(slices) / heads if group_shuffling else np.concatenate(slices, axis=1)
    out = project(out, output)
    return out + x if residual else out
