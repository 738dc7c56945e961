"""Re-rankers: post-processing of a ranking by the relations among its images.

Works on plain NumPy arrays or tensors; torchreid is not needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchreid_spectral._kinds import KINDS, fits
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.rerank._store import read
from torchreid_spectral.rerank.base import Reranker
from torchreid_spectral.rerank.camera_normalization import (
    CAMERA_NORMALIZATIONS,
    CameraNormalization,
)
from torchreid_spectral.rerank.graph_walk import GraphWalk
from torchreid_spectral.rerank.group_shuffling import GroupShuffling
from torchreid_spectral.rerank.k_reciprocal import KReciprocal
from torchreid_spectral.rerank.knn_voting import KNNVoting
from torchreid_spectral.rerank.local_blurring import LocalBlurring
from torchreid_spectral.rerank.none import NoReranking
from torchreid_spectral.rerank.supervised_manifold import SupervisedManifold

__all__ = [
    "CAMERA_NORMALIZATIONS",
    "RERANKERS",
    "CameraNormalization",
    "GraphWalk",
    "GroupShuffling",
    "KNNVoting",
    "KReciprocal",
    "LocalBlurring",
    "NoReranking",
    "Reranker",
    "SupervisedManifold",
    "build_reranker",
    "default_options",
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
    known = _parameters(name)
    for option, value in options.items():
        if option not in known:
            raise InputError(f"Re-ranker {name} has no option {option!r}; it has {sorted(known)}.")
        wanted = known[option].annotation
        if wanted in KINDS and not fits(value, wanted):
            raise InputError(f"Option {option} of {name} must be {wanted}, got {value!r}.")
    return RERANKERS[name](**options)


def default_options(name: str) -> dict[str, Any]:
    """Give what is particular to a re-ranker, with its defaults; for configs.

    Args:
        name: Of the re-ranker.

    Returns:
        Its options but its metric and those that all share: search, chunk_size, progress and
        camera_normalization.
    """
    shared = {"metric", "search", "chunk_size", "progress", "camera_normalization"}
    return {
        option: float(found.default) if found.annotation == "float" else found.default
        for option, found in _parameters(name).items()
        if option not in shared
    }


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in RERANKERS:
        raise UnknownNameError("re-ranker", name, RERANKERS)
    return inspect.signature(RERANKERS[name]).parameters


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
    tensors, about = read(Path(path).expanduser(), device)
    try:
        reranker = build_reranker(about["reranker"], **about["options"])
        reranker.restore(tensors)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no saved gallery: {error!r} is missing or wrong.") from error
    return reranker
