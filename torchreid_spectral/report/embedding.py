"""The talk's picture: the same identities (a) by a baseline, (b) by the method, (c) re-ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import require_extra
from torchreid_spectral.functional.distance import cosine_distance

__all__ = ["choose_people", "cosine_matrix", "embed"]


def choose_people(pids: NDArray[Any], people: int, images: int) -> NDArray[np.int64]:
    """Choose images of some identities, evenly spaced among those with the most images.

    Args:
        pids: ``(N,)`` identity of each image; negative ones are nobody.
        people: How many identities.
        images: At most so many images of each.

    Returns:
        Indices, sorted by identity.
    """
    names, counts = np.unique(pids[pids >= 0], return_counts=True)
    full = np.sort(names[np.argsort(-counts, kind="stable")[: max(people, len(names) // 2)]])
    chosen = full[np.unique(np.linspace(0, len(full) - 1, people).astype(int))]
    return np.concatenate([np.flatnonzero(pids == pid)[:images] for pid in chosen])


def cosine_matrix(features: Any) -> NDArray[np.float64]:  # noqa: ANN401 (a tensor)
    """Compute the distances that :func:`embed` takes.

    Args:
        features: ``(N, D)`` tensor.

    Returns:
        ``(N, N)``.
    """
    return np.asarray(cosine_distance(features, features), dtype=np.float64)


def embed(distances: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Place images in the plane by t-SNE of their distances.

    Source: L. van der Maaten, G. Hinton, *Visualizing Data using t-SNE*, JMLR 2008.

    Args:
        distances: ``(N, N)``; made symmetric, negative ones become zero.
        seed: Of the start.

    Returns:
        ``(N, 2)``.

    Raises:
        InputError: If scikit-learn is not installed.
    """  # noqa: DOC502
    manifold = require_extra("sklearn.manifold", "report", "The embedding picture")
    symmetric = np.clip((distances + distances.T) / 2, 0, None)
    np.fill_diagonal(symmetric, 0)
    perplexity = min(15.0, max(2.0, (len(symmetric) - 1) / 4))
    method = manifold.TSNE(
        metric="precomputed", init="random", random_state=seed, perplexity=perplexity
    )
    return np.asarray(method.fit_transform(symmetric), dtype=np.float64)


def titles(first: str, others: Sequence[str]) -> list[str]:
    """Letter the panels.

    Args:
        first: Title of (a).
        others: The rest.

    Returns:
        Titles with letters.
    """
    return [f"({letter}) {title}" for letter, title in zip("abcdef", [first, *others])]
