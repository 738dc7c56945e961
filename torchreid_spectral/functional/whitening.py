r"""Whitening: turn features so that their covariance is the identity.

Sources: A. Kessy, A. Lewin, K. Strimmer, *Optimal Whitening and Decorrelation*, The American
Statistician 2018 (PCA, ZCA); L. Huang, Y. Zhou, F. Zhu, L. Liu, L. Shao, *Iterative Normalization:
Beyond Standardization towards Efficient Whitening*, CVPR 2019 (Newton's iteration); A. Hatch,
S. Kajarekar, A. Stolcke, *Within-Class Covariance Normalization for SVM-based Speaker
Recognition*, Interspeech 2006 (with labels).

===================================================  ===============  ==========
Paper                                                Here             Shape
===================================================  ===============  ==========
:math:`\mu, \Sigma = U \Lambda U^T`                  ``mean``         ``(D,)``
:math:`\Lambda^{-1/2} U^T` (PCA)                     ``matrix``       ``(D, D)``
:math:`U \Lambda^{-1/2} U^T` (ZCA)                   ``matrix``       ``(D, D)``
:math:`P_{k+1} = \tfrac32 P_k - \tfrac12 P_k^3       ``matrix``       ``(D, D)``
\Sigma / tr \Sigma`, :math:`P / \sqrt{tr \Sigma}`
:math:`\Sigma_w` of :math:`x_i - \mu_{y_i}`          with ``labels``  ``(D, D)``
===================================================  ===============  ==========

Without labels every direction becomes equally wide, of noise too. With them those in which the
images of one identity differ are narrowed, and what tells identities apart is left.

Newton's iteration goes from the scaled identity towards ZCA: few iterations whiten the large
directions only and leave the small, noisy ones alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
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
    labels: Int[Tensor, " M"] | None = None,
) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
    r"""Compute what whitens a set of features, in float64.

    The covariance is :math:`\Sigma + \epsilon \frac{tr \Sigma}{D} I`, with N in the denominator of
    :math:`\Sigma`; with labels it is that of the deviations from each label's mean,
    :math:`\Sigma_w`. The same features give the same matrix: of PCA's rows the entry of the
    largest size is positive.

    Args:
        features: One row a sample.
        method: A name of :data:`WHITENINGS`.
        eps: :math:`\epsilon \ge 0`, in shares of the mean variance; needed where the covariance
            is singular, as with fewer samples than dimensions. ``iterative`` does without.
        iterations: Steps of the method ``iterative``.
        labels: Identity of each row (M is N), some of them with several rows.

    Returns:
        Mean of all rows and matrix, in float64.

    Raises:
        ValueError: If an option is out of range, there is a single sample, a value is not finite,
            the labels are not one a row, no label has two rows that differ, or the covariance is
            singular.
    """
    _check(features, method, eps, iterations)
    with full_precision(features):
        wide = features.detach().double()
        mean = wide.mean(dim=0)
        centred = wide - (mean if labels is None else _means(wide, labels))
        covariance = centred.mT @ centred / len(wide)
        variance = covariance.diagonal().mean()
        if not variance > 0:
            raise ValueError(
                "All features are the same: there is nothing to whiten." if labels is None else
                "No label has two features that differ: there is nothing to whiten."
            )  # fmt: skip
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
        The whitened features in the dtype of ``features``, of whole numbers in that of ``matrix``,
        in which it is computed.
    """
    with full_precision(features):
        centred = features.to(matrix) - mean.to(matrix)
        whitened = centred @ matrix.mT
        return whitened.to(features) if features.is_floating_point() else whitened


def _means(features: Tensor, labels: Tensor) -> Tensor:
    """Give each row the mean of its label's rows."""
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"Whitening needs a label a feature: {tuple(labels.shape)} labels for features "
            f"{tuple(features.shape)}."
        )
    found, which, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(found), features.shape[1]).index_add_(0, which, features)
    return (sums / counts[:, None])[which]


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
