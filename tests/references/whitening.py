"""Loops over scalars, for functional.whitening."""

import math

import numpy as np

from tests.references.similarity import dot


def covariance(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and covariance, N in the denominator."""
    n, d = x.shape
    mean = np.array([math.fsum(column) / n for column in x.T])
    out = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            out[i, j] = math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in x) / n
    return mean, out


def within(x: np.ndarray, labels: list[int]) -> np.ndarray:
    """Compute the covariance of what is left when each label's mean is taken away."""
    n, d = x.shape
    rest = np.zeros((n, d))
    for i in range(n):
        mine = [x[k] for k in range(n) if labels[k] == labels[i]]
        for j in range(d):
            rest[i, j] = x[i, j] - math.fsum(row[j] for row in mine) / len(mine)
    out = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            out[i, j] = math.fsum(row[i] * row[j] for row in rest) / n
    return out


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply two matrices."""
    return np.array([[dot(row, column) for column in b.T] for row in a])


def newton(x: np.ndarray, iterations: int) -> np.ndarray:
    """P <- 1.5 P - 0.5 P^3 S / tr S from the identity; P / sqrt(tr S)."""
    _, s = covariance(x)
    trace = math.fsum(s[i, i] for i in range(len(s)))
    p = np.eye(len(s))
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * product(product(product(p, p), p), s / trace)
    return p / math.sqrt(trace)
