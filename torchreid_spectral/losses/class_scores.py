r"""What a cosine classifier says about a batch, with all that identity losses need of it.

==========================  ===========================  ===========
Papers                      Here                         Shape
==========================  ===========================  ===========
:math:`\cos\theta_{ij}`     ``cosine``                   ``(B, I)``
:math:`\|x_i\|`             ``feature_norm``             ``(B,)``
:math:`\|W_j\|`             ``weight_norm``              ``(I,)``
:math:`X` or :math:`X'`     ``feature``                  ``(B, D)``
==========================  ===========================  ===========
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import cosine_similarity
from torchreid_spectral.functional._precision import at_least_float32, full_precision

__all__ = ["ClassScores"]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Cosines of a batch with the weights of all identities, and the lengths behind them.

    Most losses need the cosines alone; L-Softmax and A-Softmax need the norms too.

    Attributes:
        cosine: Cosine of each embedding with each identity's weight, ``(B, I)``.
        feature_norm: Length of each embedding, ``(B,)``.
        weight_norm: Length of each weight, ``(I,)``.
        feature: What metric losses compare, X or X' = T X, ``(B, D)``; not the embedding.
    """

    cosine: Tensor
    feature_norm: Tensor | None = None
    weight_norm: Tensor | None = None
    feature: Tensor | None = None

    @classmethod
    def of(
        cls,
        embedding: Float[Tensor, "B E"],
        weight: Float[Tensor, "I E"],
        feature: Float[Tensor, "B D"] | None = None,
    ) -> ClassScores:
        """Classify embeddings, in float32 at least, autocast or not.

        Args:
            embedding: What is classified, not normalised.
            weight: One row an identity, not normalised.
            feature: What metric losses compare; the embedding if not given.

        Returns:
            The scores.
        """
        with full_precision(embedding):
            wide, rows = at_least_float32(embedding), at_least_float32(weight)
            return cls(
                cosine_similarity(wide, rows.to(wide.dtype)),
                wide.norm(dim=1),
                rows.norm(dim=1),
                embedding if feature is None else feature,
            )

    def products(self, name: str) -> tuple[Tensor, Tensor]:
        """Give the two lengths, for losses on inner products.

        Args:
            name: The loss that needs them, for the message.

        Returns:
            ``feature_norm`` as ``(B, 1)`` and ``weight_norm`` as ``(1, I)``.

        Raises:
            InputError: If there are none.
        """
        if self.feature_norm is None or self.weight_norm is None:
            raise InputError(
                f"{name} needs the lengths of features and weights, got cosines alone. Pass "
                "ClassScores.of(embedding, weight) in their place."
            )
        return self.feature_norm[:, None], self.weight_norm[None, :]
