r"""Local blurring re-ranking: the talk's post-processing.

Sources: Z. Zhang's talk, 2018 ("+ post-processing"); C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral
Feature Transformation for Person Re-identification*, ICCV 2019.

================================  ===========================================  ================
Paper                             Here                                         Shape
================================  ===========================================  ================
:math:`q`                         ``query``                                    ``(Q, D)``
:math:`g`, the top k of a probe   ``neighbours``                               ``(Q, k, D)``
:math:`y_0 = g q`                 ``start``, cosine similarities               ``(Q, k)``
:math:`W = softmax(g g^T/\sigma)` ``transition``, probe excluded               ``(Q, k, k)``
:math:`(W g) q = W y_0`           ``blurred``                                  ``(Q, k)``
================================  ===========================================  ================

The paper moves the features, :math:`g' = W g`, and compares them with the probe. As
:math:`(W g) q = W (g q)`, walking the k similarities gives the same and no ``k x D`` product is
formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import (
    random_walk,
    rank_top_k,
    top_k,
    transition_matrix,
    unit_rows,
)
from torchreid_spectral.functional.distance import cosine_distance
from torchreid_spectral.rerank.base import Array, Reranker

__all__ = ["LocalBlurring"]


class LocalBlurring(Reranker):
    r"""Re-order the nearest k of each query by one random-walk step among themselves.

    The rest keeps its order. Within one query the distances are :math:`1 - W y_0`, shifted by a
    constant so that the farthest of the k keeps the k-th original distance and so stays before
    the rest.

    Args:
        k: Gallery images that take part, the nearest of each query.
        temperature: :math:`\sigma` of the softmax.
        steps: Random-walk steps; one is the paper's, more can hurt rank-1.
        chunk_size: Queries handled at once; memory is ``chunk_size * k * D`` floats.

    Raises:
        InputError: If an option is out of range.
    """

    def __init__(
        self, *, k: int = 50, temperature: float = 0.1, steps: int = 1, chunk_size: int = 64
    ) -> None:
        super().__init__(chunk_size=chunk_size)
        if k < 1:
            raise InputError(f"k must be >= 1, got {k}.")
        if temperature <= 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        if steps < 0:
            raise InputError(f"steps must be >= 0, got {steps}.")
        self.k, self.temperature, self.steps = k, temperature, steps

    def fit(self, gallery: Array, camids: Array | None = None) -> LocalBlurring:
        """Take in the gallery and scale its rows to unit length, once.

        Args:
            gallery: ``(G, D)`` features.
            camids: Not used.

        Returns:
            The re-ranker itself.
        """
        super().fit(gallery, camids)
        self._gallery = unit_rows(self.gallery)
        return self

    def _rank(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        depth = max(k, min(self.k, len(self.gallery)))
        indices, distances = rank_top_k(query, self.gallery, depth)
        head, blurred = self._blur(indices[:, : self.k], distances[:, : self.k])
        indices = torch.cat([head, indices[:, self.k :]], dim=1)
        distances = torch.cat([blurred, distances[:, self.k :]], dim=1)
        return indices[:, :k], distances[:, :k]

    def _distances(self, query: Tensor) -> Tensor:
        distances = cosine_distance(query, self.gallery)
        head, blurred = self._blur(*top_k(distances, self.k))
        return distances.scatter(1, head, blurred)

    def _blur(self, indices: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Re-order the nearest of each query; both in and out are (Q, k), nearest first."""
        neighbours = self.gallery[indices]
        transition = transition_matrix(neighbours, temperature=self.temperature)
        start = (1 - distances)[..., None]
        blurred = 1 - random_walk(transition, start, steps=self.steps)[..., 0]
        order, blurred = top_k(blurred, blurred.shape[1])
        shift = distances[:, -1:] - blurred[:, -1:]
        return indices.gather(1, order), blurred + shift
