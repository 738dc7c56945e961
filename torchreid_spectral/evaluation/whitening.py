"""Whitening of test features, fitted on the features of the training set."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.functional import WHITENINGS, whiten, whitening_matrix

__all__ = ["COVARIANCES", "Whitening"]

COVARIANCES = ("total", "within")
"""Of all features about their mean, or of each identity's about its own."""


class Whitening:
    """Learn mean and covariance from some features, and whiten others by them.

    Formulas: :mod:`torchreid_spectral.functional.whitening`. Query and gallery must be whitened by
    the same fit; that on training features knows nothing of either.

    Args:
        method: ``pca``, ``zca`` or ``iterative``. The first two give the same distances: they
            differ by a rotation.
        eps: Added to each variance, in shares of their mean.
        iterations: Of ``iterative``; 5 in its paper.
        covariance: A name of :data:`COVARIANCES`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> Whitening("zca", eps=0.0).fit(x).transform(x).T @ x.new_ones(4)
        tensor([0., 0.])
    """

    def __init__(
        self,
        method: str = "zca",
        *,
        eps: float = 1e-3,
        iterations: int = 5,
        covariance: str = "total",
    ) -> None:
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {COVARIANCES}, got {covariance!r}.")
        if method not in WHITENINGS:
            raise ValueError(f"method must be one of {WHITENINGS}, got {method!r}.")
        if not (eps >= 0 and iterations >= 0):
            raise ValueError(f"eps and iterations must be >= 0, got {eps} and {iterations}.")
        self.method, self.eps, self.iterations = method, eps, iterations
        self.covariance = covariance
        self._fitted: tuple[Tensor, Tensor] | None = None

    def fit(
        self, features: Float[Tensor, "N D"], labels: Int[Tensor, " M"] | None = None
    ) -> Whitening:
        """Learn from features.

        Args:
            features: Of the training set, extracted as the test's are.
            labels: Their identities; not looked at where the covariance is ``total``.

        Returns:
            Itself.

        Raises:
            ValueError: If labels are needed and missing, or the features cannot be whitened.
        """
        if self.covariance == "total":
            labels = None
        elif labels is None:
            raise ValueError("Whitening within identities needs the labels of the features.")
        self._fitted = whitening_matrix(
            features, self.method, eps=self.eps, iterations=self.iterations, labels=labels
        )
        return self

    @property
    def fitted(self) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
        """Mean and matrix, in float64.

        Raises:
            RuntimeError: If nothing was fitted.
        """
        if self._fitted is None:
            raise RuntimeError("Whitening knows no features yet: call fit() first.")
        return self._fitted

    def transform(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """Whiten.

        Args:
            features: Of queries or gallery.

        Returns:
            The same dtype.

        Raises:
            RuntimeError: If nothing was fitted.
        """  # noqa: DOC502
        return whiten(features, *self.fitted)
