"""Slow float64 twin of pooling by attention over frames, from the talk's formulas."""

import numpy as np


def attention_pool(frames, temperature):
    """Pool (B, F, D) and give the weights (B, F), a number at a time."""
    batch, length, width = frames.shape
    pooled, weights = np.zeros((batch, width)), np.zeros((batch, length))
    for b in range(batch):
        unit = [row / np.sqrt(sum(value * value for value in row)) for row in frames[b]]
        for i in range(length):
            row = [np.exp(float(np.dot(unit[i], unit[j])) / temperature) for j in range(length)]
            if length > 1:
                row[i] = 0.0
            for j in range(length):
                weights[b, j] += row[j] / sum(row) / length
        for j in range(length):
            pooled[b] += weights[b, j] * frames[b, j]
    return pooled, weights
