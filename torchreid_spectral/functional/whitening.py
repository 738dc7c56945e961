r"""Whitening: turn features so that their covariance is the identity.

Sources: A. Kessy, A. Lewin, K. Strimmer, *Optimal Whitening and Decorrelation*, The American
Statistician 2018 (PCA, ZCA); L. Huang, Y. Zhou, F. Zhu, L. Liu, L. Shao, *Iterative Normalization:
Beyond Standardization towards Efficient Whitening*, CVPR 2019 (Newton's iteration).

===================================================  ==============  ==========
Paper                                                Here            Shape
===================================================  ==============  ==========
:math:`\mu, \Sigma = U \Lambda U^T`                  ``mean``        ``(D,)``
:math:`\Lambda^{-1/2} U^T` (PCA)                     ``matrix``      ``(D, D)``
:math:`U \Lambda^{-1/2} U^T` (ZCA)                   ``matrix``      ``(D, D)``
:math:`P_{k+1} = \tfrac32 P_k - \tfrac12 P_k^3       ``matrix``      ``(D, D)``
\Sigma / tr \Sigma`, :math:`P / \sqrt{tr \Sigma}`
===================================================  ==============  ==========

Newton's iteration goes from the scaled identity towards ZCA: few iterations whiten the large
directions only and leave the small, noisy ones alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import full_precision

__all__ = ["WHITENINGS", "whiten", "whitening_matrix"]

WHITENINGS = ("pca", "zca", "iterative")
"""Names of the methods."""


def whitening_matrix(
    features: Float[Tensor, "N D"],
    method: str = "zca",
    *,
    eps: float = 0.0,
    iterations: int = 5,
) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
    r"""Compute what whitens a set of features, in float64.

    The covariance is :math:`\Sigma + \epsilon \frac{tr \Sigma}{D} I`, with N in the denominator of
    :math:`\Sigma`. The same features give the same matrix: of PCA's rows the entry of the largest
    size is positive.

    Args:
        features: One row a sample.
        method: A name of :data:`WHITENINGS`.
        eps: :math:`\epsilon \ge 0`, in shares of the mean variance; needed where the covariance
            is singular, as with fewer samples than dimensions. ``iterative`` does without.
        iterations: Steps of the method ``iterative``.

    Returns:
        Mean and matrix, in float64.

    Raises:
        ValueError: If an option is out of range, there is a single sample, a value is not finite,
            or the covariance is singular.
    """
    _check(features, method, eps, iterations)
    with full_precision(features):
        wide = features.detach().double()
        mean = wide.mean(dim=0)
        centred = wide - mean
        covariance = centred.mT @ centred / len(wide)
        variance = covariance.diagonal().mean()
        if not variance > 0:
            raise ValueError("All features are the same: there is nothing to whiten.")
        identity = torch.eye(len(mean), dtype=wide.dtype, device=wide.device)
        covariance = covariance + eps * variance * identity
        if method == "iterative":
            return mean, _newton(covariance, identity, iterations)
        return mean, _by_eigenvectors(covariance, method, len(features))


def whiten(
    features: Float[Tensor, "N D"], mean: Float[Tensor, " D"], matrix: Float[Tensor, "D D"]
) -> Float[Tensor, "N D"]:
    r"""Compute :math:`M (x - \mu)` for each row.

    Args:
        features: One row a sample.
        mean: :math:`\mu`.
        matrix: :math:`M`, of :func:`whitening_matrix`.

    Returns:
        The whitened features in the dtype of ``features``, computed in that of ``matrix``.
    """
    with full_precision(features):
        centred = features.to(matrix) - mean.to(matrix)
        return (centred @ matrix.mT).to(features)


def _newton(covariance: Tensor, identity: Tensor, iterations: int) -> Tensor:
    # P together with its product with the covariance: the same numbers as the paper's line, but
    # that line lets rounding errors grow where the variances differ: at a condition number of
    # 740 it is off by 0.03 after 12 steps.
    trace = covariance.trace()
    product, root = covariance / trace, identity
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * root @ product
        product, root = product @ step, step @ root
    return root / trace.sqrt()


def _by_eigenvectors(covariance: Tensor, method: str, count: int) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)  # the largest first
    if not values[-1] > len(values) * torch.finfo(values.dtype).eps * values[0]:
        raise ValueError(
            f"The covariance of {count} features of width {len(values)} is singular: give a "
            "positive eps, such as 1e-3, or use 'iterative'."
        )
    largest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors.gather(0, largest[None]).sign()
    scaled = (vectors / values.sqrt()).mT
    return scaled if method == "pca" else vectors @ scaled


def _check(features: Tensor, method: str, eps: float, iterations: int) -> None:
    if method not in WHITENINGS:
        raise ValueError(f"method must be one of {WHITENINGS}, got {method!r}.")
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, got {eps}.")
    if iterations < 0:
        raise ValueError(f"iterations must be >= 0, got {iterations}.")
    if len(features) < 2:
        raise ValueError(f"Whitening needs two samples at least, got {len(features)}.")
    if not features.isfinite().all():
        raise ValueError("Whitening needs finite features, got NaN or infinity.")
