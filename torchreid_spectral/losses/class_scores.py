r"""What a cosine classifier says about a batch, with all that losses need of it.

==========================  ===========================  ===========
Papers                      Here                         Shape
==========================  ===========================  ===========
:math:`\cos\theta_{ij}`     ``cosine``                   ``(B, I)``
:math:`X` or :math:`X'`     ``feature``                  ``(B, D)``
:math:`\|x_i\|`             ``feature_norm``             ``(B,)``
:math:`\|x_i\| \|W_j\|`     ``length``                   ``(B, I)``
==========================  ===========================  ===========
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import cosine_similarity
from torchreid_spectral.functional._precision import at_least_float32, full_precision

__all__ = ["ClassScores"]


class ClassScores(NamedTuple):
    """Cosines of a batch with the weights of all identities, and the lengths behind them.

    Most losses need the cosines alone; A-Softmax and L-Softmax need lengths too. A tuple of
    tensors whose first axis is the batch, so that it can be gathered over processes.

    Attributes:
        cosine: Cosine of each embedding with each identity's weight, ``(B, I)``.
        feature: What metric losses compare, X or X' = T X, ``(B, D)``; not the embedding.
        feature_norm: Length of each embedding, ``(B,)``.
        length: Length of each embedding times that of each weight, ``(B, I)``.
    """

    cosine: Tensor
    feature: Tensor | None = None
    feature_norm: Tensor | None = None
    length: Tensor | None = None

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
            wide = at_least_float32(embedding)
            rows = weight.to(wide.dtype)
            norms = wide.norm(dim=1)
            return cls(
                cosine_similarity(wide, rows),
                embedding if feature is None else feature,
                norms,
                norms[:, None] * rows.norm(dim=1)[None, :],
            )

    def known(self, name: str, loss: str) -> Tensor:
        """Give an attribute that may be missing.

        Args:
            name: ``feature``, ``feature_norm`` or ``length``.
            loss: What needs it, for the message.

        Returns:
            The tensor.

        Raises:
            InputError: If it is not there.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise InputError(
                f"{loss} needs {name} beside the cosines, got cosines alone. Pass "
                "ClassScores.of(embedding, weight) in their place."
            )
        return value
