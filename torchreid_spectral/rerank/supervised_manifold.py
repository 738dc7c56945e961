r"""Supervised smoothed manifold: similarities of pairs spread on the graph of pairs.

Source: S. Bai, X. Bai, Q. Tian, *Scalable Person Re-identification on Supervised Smoothed
Manifold*, CVPR 2017.

==============================  ============================================  =================
Paper                           Here                                          Shape
==============================  ============================================  =================
probe and its neighbours        node 0, then the nearest k                    ``(Q, k + 1)``
:math:`P`                       ``transition``, rows sum to one               ``(Q, k+1, k+1)``
:math:`A`                       ``affinity``, learned                         ``(Q, k+1, k+1)``
:math:`L`                       ``target``: 1 on the diagonal and for pairs   ``(Q, k+1, k+1)``
                                known to be the same identity
:math:`\alpha`                  ``alpha``                                     scalar
==============================  ============================================  =================

.. math:: A_{t+1} = \alpha \, P A_t P^T + (1 - \alpha) \, L

One entry of A is a node of the tensor-product graph, so the two products walk both ends of a pair.
The probe's row of A orders its neighbours; A is symmetric, and that row alone is computed:

.. math:: A_T e_0 = \alpha^T P^T L \, (P^\top)^T e_0
          + (1 - \alpha) \sum_{t < T} \alpha^t P^t L \, (P^\top)^t e_0

by products of P with vectors, the sum from its last term on.

Note:
    The paper's graph holds the probe and the whole gallery; here, so that the memory is bounded,
    the probe and its k nearest. ``k >= G`` is the paper's. Which pairs are known is told by
    ``fit(..., identities=...)``; without it L is the identity and the method is unsupervised.
    tests/rerank/test_supervised_manifold.py compares with loops.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import transition_matrix
from torchreid_spectral.rerank._head import HeadReranker
from torchreid_spectral.rerank._inputs import Array, as_cameras
from torchreid_spectral.search import Search

__all__ = ["SupervisedManifold"]


class SupervisedManifold(HeadReranker):
    r"""Re-order the nearest k of each query by the smoothed similarity of pairs.

    Args:
        k: Gallery images that take part.
        alpha: Share that is spread in each round, in [0, 1).
        rounds: Repetitions of the formula, from :math:`A_0 = L`.
        temperature: :math:`\sigma` of the softmax behind P.
        search: See :class:`~torchreid_spectral.rerank.Reranker`.
        chunk_size: Queries handled at once; memory is about ``4 * chunk_size * k * (k + D)``
            floats.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.

    Raises:
        InputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        k: int = 50,
        alpha: float = 0.9,
        rounds: int = 10,
        temperature: float = 0.1,
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
        if not 0 <= alpha < 1:
            raise InputError(f"alpha must be in [0, 1), got {alpha}.")
        if rounds < 1:
            raise InputError(f"rounds must be >= 1, got {rounds}.")
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        self.alpha, self.rounds, self.temperature = alpha, rounds, temperature
        self._identities: Tensor | None = None

    def fit(
        self, gallery: Array, camids: Array | None = None, identities: Array | None = None
    ) -> SupervisedManifold:
        """Take in the gallery and what is known of it.

        Args:
            gallery: ``(G, D)`` features.
            camids: Not used.
            identities: ``(G,)`` identity of each image, negative where unknown.

        Returns:
            The re-ranker itself.

        Raises:
            InputError: If ``identities`` are not of the gallery's length, or no whole numbers.
        """
        if identities is not None and np.shape(identities) != (len(gallery),):
            raise InputError(
                f"identities must have shape ({len(gallery)},), got {np.shape(identities)}."
            )
        known = as_cameras("identities", identities, len(gallery))
        if known is not None and known.is_floating_point():
            if bool((known != known.floor()).any()):
                raise InputError("identities must be whole numbers: number them.")
            known = known.long()
        super().fit(gallery, camids)
        self._identities = known
        return self

    def _new_distances(self, query: Tensor, near: Tensor, distances: Tensor) -> Tensor:
        nodes = torch.cat([query[:, None], self._search.rows(near)], dim=1)
        transition = transition_matrix(nodes, temperature=self.temperature)
        target = self._target(near, nodes)
        probe = torch.zeros_like(nodes[:, :, :1])
        probe[:, 0] = 1
        spread = [probe]  # P^T to the power of t, of the probe
        for _ in range(self.rounds):
            spread.append(transition.mT @ spread[-1])
        known = [each if target is None else target @ each for each in spread]
        affinity = known.pop()
        for each in reversed(known):
            affinity = self.alpha * (transition @ affinity) + (1 - self.alpha) * each
        tiny = torch.finfo(affinity.dtype).tiny
        return -affinity[:, 1:, 0].clamp_min(tiny).log()  # the order, of the smallest too

    def _target(self, near: Tensor, nodes: Tensor) -> Tensor | None:
        """Give L, the probe known to be itself only; nothing where it is the identity."""
        if self._identities is None:
            return None
        identities = self._identities.to(near.device)[near]
        same = (identities[:, :, None] == identities[:, None, :]) & (identities[:, :, None] >= 0)
        target = torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device)
        target = target.repeat(len(nodes), 1, 1)
        target[:, 1:, 1:] = torch.maximum(target[:, 1:, 1:], same.to(target.dtype))
        return target

    def _added(self, count: int) -> None:
        if self._identities is not None:
            more = self._identities.new_full((len(self.gallery) - count,), -1)
            self._identities = torch.cat([self._identities, more])

    def _state(self) -> dict[str, Tensor]:
        return {} if self._identities is None else {"identities": self._identities}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self._identities = as_cameras("identities", tensors.get("identities"), len(self.gallery))
