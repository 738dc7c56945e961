"""Re-rankers: post-processing of a ranking by the relations among its images.

Works on plain NumPy arrays or tensors; torchreid is not needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.rerank._store import read
from torchreid_spectral.rerank.base import Reranker
from torchreid_spectral.rerank.graph_walk import GraphWalk
from torchreid_spectral.rerank.group_shuffling import GroupShuffling
from torchreid_spectral.rerank.k_reciprocal import KReciprocal
from torchreid_spectral.rerank.knn_voting import KNNVoting
from torchreid_spectral.rerank.local_blurring import LocalBlurring
from torchreid_spectral.rerank.none import NoReranking
from torchreid_spectral.rerank.supervised_manifold import SupervisedManifold

__all__ = [
    "RERANKERS",
    "GraphWalk",
    "GroupShuffling",
    "KNNVoting",
    "KReciprocal",
    "LocalBlurring",
    "NoReranking",
    "Reranker",
    "SupervisedManifold",
    "build_reranker",
    "load_reranker",
]

RERANKERS: dict[str, Callable[..., Reranker]] = {
    "none": NoReranking,
    "local_blurring": LocalBlurring,
    "k_reciprocal": KReciprocal,
    "graph_walk": GraphWalk,
    "group_shuffling": GroupShuffling,
    "supervised_manifold": SupervisedManifold,
    "knn_voting": KNNVoting,
}
"""Re-rankers by name."""


def build_reranker(name: str, **options: Any) -> Reranker:  # noqa: ANN401 (each has its own)
    """Build a re-ranker by name.

    Args:
        name: One of ``torchreid_spectral.list_rerankers()``.
        **options: Options of that re-ranker, by keyword.

    Returns:
        A re-ranker that has no gallery yet.

    Raises:
        UnknownNameError: If there is no such re-ranker.
        InputError: If it has no such option.

    Example:
        >>> import numpy as np
        >>> gallery = np.eye(3, dtype=np.float32)
        >>> indices, distances = build_reranker("none").fit(gallery).rank(gallery[:1], top_k=1)
        >>> indices.tolist()
        [[0]]
    """
    if name not in RERANKERS:
        raise UnknownNameError("re-ranker", name, RERANKERS)
    known = inspect.signature(RERANKERS[name]).parameters
    for option in options:
        if option not in known:
            raise InputError(f"Re-ranker {name} has no option {option!r}; it has {sorted(known)}.")
    return RERANKERS[name](**options)


def load_reranker(path: str | Path, device: str = "cpu") -> Reranker:
    """Open a fitted gallery that ``Reranker.save`` wrote.

    On a CPU the features stay in the file and are mapped into memory: they are read when looked
    at and shared by the processes that opened it. A FAISS index is built anew.

    Args:
        path: The ``.safetensors`` file; its ``.json`` lies beside it.
        device: Where the features go.

    Returns:
        The re-ranker, ready to rank.

    Raises:
        InputError: If a file is missing, damaged, of a later version, or of another pair.
    """
    tensors, about = read(Path(path), device)
    try:
        reranker = build_reranker(about["reranker"], **about["options"])
        reranker.restore(tensors)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no saved gallery: {error!r} is missing or wrong.") from error
    return reranker
