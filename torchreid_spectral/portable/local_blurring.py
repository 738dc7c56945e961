r"""Local blurring in NumPy: see :mod:`torchreid_spectral.rerank.local_blurring`."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchreid_spectral.errors import InputError
from torchreid_spectral.portable.features import Floats, Indices, checked, nearest

__all__ = ["local_blurring"]


def local_blurring(
    query: Any,  # noqa: ANN401 (what becomes an array)
    gallery: Any,  # noqa: ANN401
    *,
    k: int = 50,
    temperature: float = 0.1,
    steps: int = 1,
    top_k: int = 100,
) -> tuple[Indices, Floats]:
    r"""Re-order the nearest k of each query by random-walk steps among themselves.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.
        k: Gallery images that take part.
        temperature: :math:`\sigma`.
        steps: Of the walk.
        top_k: How many answers.

    Returns:
        Indices and distances, both ``(Q, min(top_k, G))``, nearest first.

    Raises:
        InputError: If an option is out of range.
    """
    if min(k, top_k) < 1 or steps < 0 or not temperature > 0:
        raise InputError(
            f"k, top_k must be >= 1, steps >= 0, temperature > 0; got {k}, {top_k}, {steps}, "
            f"{temperature}."
        )
    left, right = checked(query, gallery)
    answers, found = [], []
    for row in left:  # one query at a time: G distances and k x k weights
        distances = 1 - right @ row
        order = nearest(distances[None], max(k, top_k))[0]
        near = distances[order]
        head = order[:k]
        scores = 1 - near[:k]
        similarity = right[head] @ right[head].T / np.float32(temperature)
        weights = np.exp(similarity - similarity.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        for _ in range(steps):
            scores = weights @ scores
        moved = 1 - scores
        places = np.argsort(moved, kind="stable")
        last = near[len(head) - 1]
        if len(head) < len(right):  # before the rest, duplicates of the last too
            last = np.nextafter(last, np.float32(-np.inf))
        order = np.concatenate([head[places], order[k:]])
        near = np.concatenate([moved[places] - moved[places][-1] + last, near[k:]])
        answers.append(order[:top_k])
        found.append(near[:top_k])
    return np.stack(answers), np.stack(found).astype(np.float32)
