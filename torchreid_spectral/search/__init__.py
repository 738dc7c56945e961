"""Nearest neighbours of features, through one seam: exact blocks, or FAISS where installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.search.base import Search
from torchreid_spectral.search.exact import ExactSearch
from torchreid_spectral.search.faiss import FaissFlat, FaissHNSW, FaissIVF

__all__ = [
    "SEARCHES",
    "ExactSearch",
    "FaissFlat",
    "FaissHNSW",
    "FaissIVF",
    "Search",
    "build_search",
]

SEARCHES: dict[str, Callable[..., Search]] = {
    "exact": ExactSearch,
    "faiss_flat": FaissFlat,
    "faiss_ivf": FaissIVF,
    "faiss_hnsw": FaissHNSW,
}
"""Searches by name."""


def build_search(name: str, **options: Any) -> Search:  # noqa: ANN401 (each has its own)
    """Build a search by name.

    Args:
        name: A key of :data:`SEARCHES`.
        **options: Options of that search, by keyword.

    Returns:
        A search that has no features yet.

    Raises:
        UnknownNameError: If there is no such search.
        InputError: If it has no such option.

    Example:
        >>> import torch
        >>> indices, distances = build_search("exact").fit(torch.eye(3)).nearest(torch.eye(3), 1)
        >>> indices.flatten().tolist()
        [0, 1, 2]
    """
    if name not in SEARCHES:
        raise UnknownNameError("search", name, SEARCHES)
    known = inspect.signature(SEARCHES[name]).parameters
    for option in options:
        if option not in known:
            raise InputError(f"Search {name} has no option {option!r}; it has {sorted(known)}.")
    return SEARCHES[name](**options)
