"""Camera normalization, image by image and number by number, in float64."""

import numpy as np


def moments(rows: list[np.ndarray]) -> tuple[list[float], list[float]]:
    """Give mean and variance of each dimension."""
    means, variances = [], []
    for dimension in range(len(rows[0])):
        values = [float(row[dimension]) for row in rows]
        mean = sum(values) / len(values)
        means.append(mean)
        variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    return means, variances


def normalized(
    gallery: np.ndarray,
    gallery_cameras: list[int],
    features: np.ndarray,
    cameras: list[int],
    *,
    divide: bool,
    prior: float,
    eps: float,
) -> np.ndarray:
    """Normalise features by what the gallery has of their cameras."""
    units = [row / np.sqrt(float(row @ row)) for row in gallery.astype(np.float64)]
    all_means, all_variances = moments(units)
    result = []
    for row, camera in zip(features.astype(np.float64), cameras):
        own = [unit for unit, of in zip(units, gallery_cameras) if of == camera]
        means, variances = moments(own) if own else (all_means, all_variances)
        share = len(own) / (len(own) + prior) if own else 0.0
        mean = [share * a + (1 - share) * b for a, b in zip(means, all_means)]
        variance = [share * a + (1 - share) * b for a, b in zip(variances, all_variances)]
        more = eps * sum(variance) / len(variance)
        length = np.sqrt(float(row @ row))
        new = []
        for dimension, value in enumerate(row):
            moved = value / length - mean[dimension]
            new.append(moved / np.sqrt(variance[dimension] + more) if divide else moved)
        result.append(new)
    return np.array(result)
