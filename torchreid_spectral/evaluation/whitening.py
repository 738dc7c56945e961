"""Whitening of test features, fitted on the features of the training set."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional import WHITENINGS, whiten, whitening_matrix

__all__ = ["Whitening"]


class Whitening:
    """Learn mean and covariance from some features, and whiten others by them.

    Formulas: :mod:`torchreid_spectral.functional.whitening`. Query and gallery must be whitened by
    the same fit; that on training features knows nothing of either.

    Args:
        method: ``pca``, ``zca`` or ``iterative``. The first two give the same distances: they
            differ by a rotation.
        eps: Added to each variance, in shares of their mean.
        iterations: Of ``iterative``; 5 in its paper.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> Whitening("zca", eps=0.0).fit(x).transform(x).T @ x.new_ones(4)
        tensor([0., 0.])
    """

    def __init__(self, method: str = "zca", *, eps: float = 1e-3, iterations: int = 5) -> None:
        if method not in WHITENINGS:
            raise ValueError(f"method must be one of {WHITENINGS}, got {method!r}.")
        if not (eps >= 0 and iterations >= 0):
            raise ValueError(f"eps and iterations must be >= 0, got {eps} and {iterations}.")
        self.method, self.eps, self.iterations = method, eps, iterations
        self._fitted: tuple[Tensor, Tensor] | None = None

    def fit(self, features: Float[Tensor, "N D"]) -> Whitening:
        """Learn from features.

        Args:
            features: Of the training set, extracted as the test's are.

        Returns:
            Itself.
        """
        self._fitted = whitening_matrix(
            features, self.method, eps=self.eps, iterations=self.iterations
        )
        return self

    def transform(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """Whiten.

        Args:
            features: Of queries or gallery.

        Returns:
            The same dtype.

        Raises:
            RuntimeError: If nothing was fitted.
        """
        if self._fitted is None:
            raise RuntimeError("Whitening knows no features yet: call fit() first.")
        return whiten(features, *self._fitted)
