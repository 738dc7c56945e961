"""Python sets and loops over the pairs of nodes, for rerank.graph_walk."""

import math

import numpy as np

from tests.references.similarity import cosine


def graph_walk(
    query: np.ndarray,
    gallery: np.ndarray,
    camids: tuple[np.ndarray, np.ndarray] | None = None,
    inductive: bool = False,
    **options: object,
) -> np.ndarray:
    """Compute the distances ``(Q, G)``; ``camids`` are the queries' and the gallery's."""
    if inductive:
        rows = []
        for i in range(len(query)):
            pair = None if camids is None else (camids[0][i : i + 1], camids[1])
            rows.append(_distances(query[i : i + 1], gallery, pair, True, **options))
        return np.concatenate(rows)
    return _distances(query, gallery, camids, False, **options)


def _distances(
    query: np.ndarray,
    gallery: np.ndarray,
    camids: tuple[np.ndarray, np.ndarray] | None,
    attached: bool,
    *,
    k: int,
    temperature: float = 0.5,
    steps: float = 1,
    restart: float = 0.0,
    num_averaged: int = 6,
    walked: str = "distributions",
    lambda_value: float = 0.2,
    graph: str = "mutual",
    normalization: str = "rows",
    weights: str = "cosine",
    cross_camera: float = 1.0,
) -> np.ndarray:
    nodes = np.concatenate([query, gallery]).astype(np.float64)
    first, cos = len(query), cosine(nodes, nodes)
    order = _lists(cos, first if attached else 0)
    hoods = _neighbourhoods(order, cos, k, graph, first if attached else 0)
    w = np.zeros(cos.shape)
    for i, hood in enumerate(hoods):
        for j in hood:
            common = len(hood & hoods[j]) / len(hood | hoods[j])
            near = 1.0 if i == j else cos[i, j]  # an image is itself, also a zero vector
            w[i, j] = common if weights == "jaccard" else math.exp((near - 1) / temperature)
            if camids is not None and np.concatenate(camids)[i] != np.concatenate(camids)[j]:
                w[i, j] *= cross_camera
    degree = [math.fsum(row) for row in w]
    for i, j in np.ndindex(*w.shape):
        w[i, j] /= degree[i] if normalization == "rows" else math.sqrt(degree[i] * degree[j])
    lengths = np.linalg.norm(nodes, axis=1, keepdims=True)
    start = {
        "distributions": np.eye(len(nodes)),
        "features": nodes / np.where(lengths > 0, lengths, 1.0),
        "scores": cos[:, :first],
    }[walked]
    x = _walk(w, start, steps, restart)
    y = np.array([np.mean([x[j] for j in near[:num_averaged]], axis=0) for near in order])
    similarity = y[first:].T if walked == "scores" else cosine(y[:first], y[first:])
    return (1 - lambda_value) * (1 - similarity) + lambda_value * (1 - cos[:first, first:])


def _lists(cos: np.ndarray, attached: int) -> list[list[int]]:
    """Every node's list: itself, then the nearest; the first ``attached`` are in no other's."""
    nodes = range(len(cos))
    others = [[j for j in nodes if j >= attached and j != i] for i in nodes]
    return [[i, *sorted(others[i], key=lambda j, i=i: (-cos[i, j], j))] for i in nodes]


def _neighbourhoods(
    order: list[list[int]], cos: np.ndarray, k: int, graph: str, attached: int
) -> list[set[int]]:
    """The nodes that each node is tied to, itself first of all."""
    lists = [set(near[: k + 1]) for near in order]
    hoods = []
    for i, near in enumerate(lists):
        if i < attached:  # a gallery image takes it if it is no farther than the last in its list
            takes = {i}
            for j in near - {i}:
                if len(order[j]) <= k or cos[i, j] >= cos[j, order[j][k]]:
                    takes.add(j)
            hoods.append(takes if graph == "mutual" else near)
        elif graph == "mutual":
            hoods.append({j for j in near if i in lists[j]})
        else:
            hoods.append(near | {j for j in range(attached, len(order)) if i in lists[j]})
    return hoods


def _walk(transition: np.ndarray, start: np.ndarray, steps: float, restart: float) -> np.ndarray:
    """Go step by step, or solve for the end of the walk."""
    if steps == math.inf:
        system = np.eye(len(start)) - (1 - restart) * transition
        return np.linalg.solve(system, restart * start)
    x = start
    for _ in range(int(steps)):
        x = (1 - restart) * (transition @ x) + restart * start
    return x
