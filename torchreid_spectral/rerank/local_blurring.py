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

from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import random_walk, softmax_transition
from torchreid_spectral.functional.distance import PREPARED_METRICS
from torchreid_spectral.rerank._head import HeadReranker
from torchreid_spectral.search import Search

__all__ = ["LocalBlurring"]


class LocalBlurring(HeadReranker):
    r"""Re-order the nearest k of each query by one random-walk step among themselves.

    The rest keeps its order. Within one query the distances are :math:`1 - W y_0`, shifted by a
    constant so that the farthest of the k has the k-th original distance and stays before the
    rest, see :class:`~torchreid_spectral.rerank._head.HeadReranker`.

    Args:
        k: Gallery images that take part, the nearest of each query.
        temperature: :math:`\sigma` of the softmax.
        steps: Random-walk steps; one is the paper's, more can hurt rank-1.
        search: See :class:`~torchreid_spectral.rerank.Reranker`.
        chunk_size: Queries handled at once; memory is ``chunk_size * k * D`` floats.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.

    Raises:
        InputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        k: int = 50,
        temperature: float = 0.1,
        steps: int = 1,
        search: str | Search = "exact",
        chunk_size: int = 64,
        progress: bool = True,
        camera_normalization: str = "none",
    ) -> None:
        super().__init__(
            k=k,
            search=search,
            chunk_size=chunk_size,
            progress=progress,
            camera_normalization=camera_normalization,
        )
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        if not steps >= 0:
            raise InputError(f"steps must be >= 0, got {steps}.")
        self.temperature, self.steps = temperature, steps

    def _new_distances(self, query: Tensor, near: Tensor, distances: Tensor) -> Tensor:
        units = self._search.rows(near)
        nearness = -PREPARED_METRICS["cosine"](units, units)  # cos - 1: the same softmax
        transition = softmax_transition(nearness, temperature=self.temperature)
        start = (1 - distances)[..., None]
        return 1 - random_walk(transition, start, steps=self.steps)[..., 0]
