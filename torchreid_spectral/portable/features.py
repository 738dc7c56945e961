"""Features as the portable re-rankers take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError

__all__ = ["Floats", "Indices", "checked", "load_features", "nearest", "unit_rows"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def load_features(folder: str | Path) -> tuple[Floats, list[str]]:
    """Read a gallery of ``SpectralReID`` or ``tools/extract.py``.

    Args:
        folder: Where it lies.

    Returns:
        Features ``(G, D)`` and the paths of their images.

    Raises:
        InputError: If it is missing or unfinished.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    root = Path(folder)
    try:
        shards = json.loads((root / "index.json").read_text(encoding="utf-8"))["shards"]
        parts = [load_file(root / f"{name}.safetensors")["features"] for name in shards]
        rows = [json.loads((root / f"{name}.json").read_text(encoding="utf-8")) for name in shards]
        models, paths = {row["model"] for row in rows}, [row["paths"] for row in rows]
        sizes = [*map(len, paths)], [*map(len, parts)]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{root} is not a finished gallery ({error}).") from error
    if not parts or sizes[0] != sizes[1]:
        raise InputError(f"{root} is not a finished gallery (not one path a feature).")
    if len(models) > 1:
        raise InputError(f"The shards of {root} are of different weights: extract it anew.")
    return np.concatenate(parts), [path for part in paths for path in part]


def checked(query: Any, gallery: Any) -> tuple[Floats, Floats]:  # noqa: ANN401
    """Check features and scale their rows to unit length.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.

    Returns:
        Both, float32.

    Raises:
        InputError: If they are empty, not finite, or of different widths.
    """
    both = [np.asarray(part, dtype=np.float32) for part in (query, gallery)]
    for name, part in zip(("query", "gallery"), both):
        if part.ndim != 2 or 0 in part.shape or not np.isfinite(part).all():
            raise InputError(f"{name} must be (N, D), finite, N, D >= 1, got shape {part.shape}.")
    if both[0].shape[1] != both[1].shape[1]:
        raise InputError(
            f"query and gallery must have the same width, got {both[0].shape[1]} and "
            f"{both[1].shape[1]}."
        )
    return unit_rows(both[0]), unit_rows(both[1])


def unit_rows(rows: Floats) -> Floats:
    """Scale rows to unit length; zero rows stay.

    Args:
        rows: ``(N, D)``.

    Returns:
        The same shape.
    """
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.where(length == 0, 1, length), dtype=np.float32)


def nearest(distances: Floats, k: int) -> Indices:
    """Find the columns of the k smallest distances, nearest first, ties by the lower column.

    Args:
        distances: ``(N, M)``.
        k: How many; more than M means all.

    Returns:
        ``(N, min(k, M))``.
    """
    if k >= distances.shape[1]:
        return np.argsort(distances, axis=1, kind="stable")
    columns = np.sort(np.argpartition(distances, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(distances, columns, axis=1)
    tied = (distances <= values.max(axis=1, keepdims=True)).sum(axis=1) > k  # at the k-th place
    order = np.argsort(values, axis=1, kind="stable")
    found = np.take_along_axis(columns, order, axis=1)
    found[tied] = np.argsort(distances[tied], axis=1, kind="stable")[:, :k]
    return found
