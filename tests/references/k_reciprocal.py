"""Python sets and loops over scalars, for rerank.k_reciprocal (Zhong et al., CVPR 2017)."""

import math

import numpy as np

from tests.references.similarity import distance


def k_reciprocal(
    query: np.ndarray,
    gallery: np.ndarray,
    k1: int,
    k2: int,
    lambda_value: float,
    metric: str = "squared_euclidean",
    square_distances: bool = True,
) -> np.ndarray:
    """Compute the re-ranked distances ``(Q, G)``."""
    nodes = np.concatenate([query, gallery])
    d = _relative(distance(nodes, nodes, metric), square_distances)
    order = [sorted(range(len(d)), key=lambda j, i=i: (j != i, d[i, j], j)) for i in range(len(d))]
    encoding = [_encode(d[i], _expanded(order, i, k1)) for i in range(len(d))]
    encoding = [_average([encoding[j] for j in order[i][:k2]]) for i in range(len(d))]
    out = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            jaccard = _jaccard(encoding[q], encoding[len(query) + g])
            original = d[q, len(query) + g]
            out[q, g] = (1.0 - lambda_value) * jaccard + lambda_value * original
    return out


def k_reciprocal_alone(
    query: np.ndarray,
    gallery: np.ndarray,
    k1: int,
    k2: int,
    lambda_value: float,
    metric: str = "squared_euclidean",
    square_distances: bool = True,
) -> np.ndarray:
    """Do it with ``inductive=True``: each query is one more node, which no other list has."""
    among, count = distance(gallery, gallery, metric), len(gallery)
    d = _relative(among, square_distances)
    order = [sorted(range(count), key=lambda j, i=i: (j != i, d[i, j], j)) for i in range(count)]
    single = [_encode(d[i], _expanded(order, i, k1)) for i in range(count)]
    encoding = [_average([single[j] for j in order[i][:k2]]) for i in range(count)]
    out = np.zeros((len(query), count))
    for q, row in enumerate(distance(query, gallery, metric)):
        own = _relative(np.append(row, 0.0)[None], square_distances, itself=count)[0]
        near = sorted(range(count), key=lambda j, own=own: (own[j], j))
        takes = {j for j in near[:k1] if count <= k1 or row[j] <= among[j, order[j][k1]]}
        members = takes | {count}
        for j in takes:
            half = _reciprocal(order, j, int(np.around(k1 / 2)))
            if 3 * len(half & takes) > 2 * len(half):
                members |= half
        mine = _average([_encode(own, members), *(single[j] for j in near[: k2 - 1])])
        for g in range(count):
            out[q, g] = (1.0 - lambda_value) * _jaccard(mine, encoding[g]) + lambda_value * own[g]
    return out


def _relative(d: np.ndarray, square: bool, itself: int = 0) -> np.ndarray:
    """Square the distances if asked to, divide each row by its largest; row 0 is of ``itself``."""
    out = np.zeros(d.shape)
    for i, row in enumerate(d):
        values = [float(value) ** 2 if square else float(value) for value in row]
        values[i + itself] = 0.0
        farthest = max(values)
        out[i] = [value / farthest if farthest > 0 else 0.0 for value in values]
    return out


def _reciprocal(order: list[list[int]], i: int, k: int) -> set[int]:
    """R(i, k): those of the k nearest, and i itself, that have i among theirs."""
    return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}


def _expanded(order: list[list[int]], i: int, k1: int) -> set[int]:
    """R*(i, k1): grown by the half sets that overlap with it by over two thirds."""
    near = _reciprocal(order, i, k1)
    expanded = set(near)
    for j in near:
        half = _reciprocal(order, j, int(np.around(k1 / 2)))
        if 3 * len(half & near) > 2 * len(half):
            expanded |= half
    return expanded


def _encode(distances: np.ndarray, members: set[int]) -> dict[int, float]:
    """V_i, Gaussian weights scaled to sum one."""
    weights = {j: math.exp(-distances[j]) for j in members}
    total = math.fsum(weights.values())
    return {j: weight / total for j, weight in weights.items()}


def _average(encodings: list[dict[int, float]]) -> dict[int, float]:
    """Local query expansion: the mean of the vectors."""
    columns = set().union(*encodings)
    return {j: math.fsum(e.get(j, 0.0) for e in encodings) / len(encodings) for j in columns}


def _jaccard(a: dict[int, float], b: dict[int, float]) -> float:
    """One minus the sum of minima over the sum of maxima."""
    columns = set(a) | set(b)
    minima = math.fsum(min(a.get(j, 0.0), b.get(j, 0.0)) for j in columns)
    maxima = math.fsum(max(a.get(j, 0.0), b.get(j, 0.0)) for j in columns)
    return 1.0 - minima / maxima
