"""Random rankings: several cameras, identities that only one side has, equal distances."""

from collections.abc import Iterator

import numpy as np

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def case(
    seed: int, queries: int = 17, gallery: int = 60, *, levels: int = 0, names: bool = False,
    dtype: str = "float64",
) -> Case:  # fmt: skip
    """Draw distances ``(Q, G)`` and the ids of queries and gallery."""
    rng = np.random.default_rng(seed)
    distances = rng.random((queries, gallery))
    if levels:  # equal distances
        distances = np.floor(distances * levels) / levels
    q_pids, g_pids = rng.integers(0, 14, queries), rng.integers(2, 12, gallery)
    q_camids, g_camids = rng.integers(0, 3, queries), rng.integers(0, 3, gallery)
    g_camids[g_pids == 5] = 1  # one camera only: its queries from there are dropped
    q_pids[0], q_camids[0], g_pids[0], g_camids[0] = 7, 0, 7, 2  # one query counts
    ids = [q_pids, g_pids, q_camids, g_camids]
    if names:
        ids = [np.array([f"id {value}" for value in values]) for values in ids]
    return distances.astype(dtype), *ids


def blocks(distances: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Cut queries into chunks."""
    for start in range(0, len(distances), size):
        rows = slice(start, start + size)
        yield rows, distances[rows]


KINDS = {
    "float64": {},
    "float16": {"dtype": "float16"},
    "ties": {"levels": 6},
    "all equal": {"levels": 1},
    "names": {"names": True, "dtype": "float32"},
    "one query": {"queries": 1},
}
"""Options of :func:`case` worth a test each."""
