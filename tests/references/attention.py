"""Loops over scalars: attention over pixels, channels and frames, and the relation module."""

import math

import numpy as np

from tests.references import walk as _walk
from tests.references.similarity import dot


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float) -> np.ndarray:
    """Compute softmax(Q K^T · scale) V for (N, d) arrays."""
    out = np.zeros(value.shape)
    for i in range(len(query)):
        logits = [dot(query[i], row) * scale for row in key]
        powers = [math.exp(v - max(logits)) for v in logits]
        for c in range(value.shape[1]):
            out[i, c] = math.fsum(p * v for p, v in zip(powers, value[:, c])) / math.fsum(powers)
    return out


def non_local(x: np.ndarray, theta, phi, g, w, gamma, beta, eps: float = 1e-5) -> np.ndarray:
    """Wang et al. 2018: y = softmax(theta(x)^T phi(x)) g(x); z = BN(W y) + x, BN of a batch.

    x (B, C, H, W); theta, phi, g (C/2, C); w (C, C/2); gamma, beta (C,).
    """
    batch, channels, height, width = x.shape
    out = np.zeros(x.shape)
    for b in range(batch):
        pixels = [x[b, :, r, c] for r in range(height) for c in range(width)]
        embedded = [
            np.array([[dot(row, pixel) for row in m] for pixel in pixels]) for m in (theta, phi, g)
        ]
        y = attend(*embedded, scale=1.0)
        for n, pixel in enumerate(y):
            for c in range(channels):
                out[b, c, n // width, n % width] = dot(w[c], pixel)
    for c in range(channels):
        mean = math.fsum(out[:, c].ravel()) / out[:, c].size
        variance = math.fsum((v - mean) ** 2 for v in out[:, c].ravel()) / out[:, c].size
        out[:, c] = gamma[c] * (out[:, c] - mean) / math.sqrt(variance + eps) + beta[c]
    return out + x


def channels(x: np.ndarray, gamma: float) -> np.ndarray:
    """Fu et al. 2019: x_ji = softmax of A_i · A_j; E_j = gamma · sum_i x_ji A_i + A_j."""
    out = np.zeros(x.shape)
    for b, image in enumerate(x):
        rows = image.reshape(len(image), -1)
        out[b] = attend(rows, rows, rows, 1.0).reshape(image.shape)
    return gamma * out + x


def multi_head(x: np.ndarray, wq, wk, wv, wo, heads: int) -> np.ndarray:
    """Vaswani et al. 2017, for one sequence (L, D); matrices (inner, D), wo (D, inner)."""
    q, k, v = (np.array([[dot(row, t) for row in m] for t in x]) for m in (wq, wk, wv))
    size = q.shape[1] // heads
    parts = [
        attend(*(m[:, h * size : (h + 1) * size] for m in (q, k, v)), 1 / math.sqrt(size))
        for h in range(heads)
    ]
    joined = np.concatenate(parts, axis=1)
    return np.array([[dot(row, t) for row in wo] for t in joined])


def relation(x: np.ndarray, wq, wk, weight, bias) -> np.ndarray:
    """Hu et al. 2018, one head: w_mn = G_mn exp(A_mn) / sum_k G_mk exp(A_mk), for (C, H, W)."""
    _, height, width = x.shape
    places = [(r, c) for r in range(height) for c in range(width)]
    out = np.zeros((len(places), len(places)))
    for m, (r, c) in enumerate(places):
        query = [dot(row, x[:, r, c]) for row in wq]
        for n, (s, d) in enumerate(places):
            key = [dot(row, x[:, s, d]) for row in wk]
            appearance = dot(query, key) / math.sqrt(len(query))
            sines = []
            for offset in (s - r, d - c):
                place = 100 * math.log(max(abs(offset), 1e-3))
                angles = [place / 1000 ** (i / 8) for i in range(8)]
                sines += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            geometry = max(dot(weight, sines) + bias, 1e-6)
            out[m, n] = geometry * math.exp(appearance)
    return out / out.sum(1, keepdims=True)


def samples(x: np.ndarray, temperature: float) -> np.ndarray:
    """Move whole maps between the images of a batch."""
    rows = x.reshape(len(x), -1)
    return _walk.step(_walk.transition(rows, temperature), rows).reshape(x.shape)
