r"""Group-shuffling random walk: every feature group walks on the graph of every other.

Source: Y. Shen, H. Li, T. Xiao, S. Yi, D. Chen, X. Wang, *Deep Group-shuffling Random Walk for
Person Re-identification*, CVPR 2018.

=====================================  ==========================================  =============
Paper                                  Here                                        Shape
=====================================  ==========================================  =============
:math:`y_0`, probe to gallery          ``start``, one column a feature group       ``(Q, k, A)``
:math:`A`, gallery to gallery          ``transition``, no self loop, a group each  ``(Q, k, k)``
:math:`\lambda` (also :math:`\alpha`)  ``alpha``                                   scalar
groups K                               ``groups``, A slices of the feature         integer
=====================================  ==========================================  =============

.. math:: y_\infty = (1 - \alpha) (I - \alpha A)^{-1} y_0, \qquad
    A = \operatorname{softmax}_{j \ne i}(s_{ij} / \sigma)

The feature is cut into A slices of equal width. Each slice's affinities give one graph, each
slice's similarities to the probe one start; all A x A walks are averaged.

Note:
    In the paper the similarities come from layers trained with the walk; here they are cosines,
    sharpened by ``temperature``. tests/rerank/test_group_shuffling.py compares with loops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import random_walk_limit, transition_matrix, unit_rows
from torchreid_spectral.rerank._head import HeadReranker
from torchreid_spectral.search import Search

__all__ = ["GroupShuffling"]


class GroupShuffling(HeadReranker):
    r"""Re-order the nearest k of each query by the end of a walk with restart.

    Fewer than two gallery images keep their order: there is nowhere to walk to.

    Args:
        k: Gallery images that take part; the paper's 75.
        groups: Slices A of the feature; the paper's 2. Its width must be a multiple.
        alpha: Share of the walk, the rest goes back to the start; the paper's 0.95.
        temperature: :math:`\sigma` of the softmax.
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
        k: int = 75,
        groups: int = 2,
        alpha: float = 0.95,
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
        if groups < 1:
            raise InputError(f"groups must be >= 1, got {groups}.")
        if not 0 <= alpha < 1:
            raise InputError(f"alpha must be in [0, 1), got {alpha}.")
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        self.groups, self.alpha, self.temperature = groups, alpha, temperature

    def _fitted(self) -> None:
        width = self.gallery.shape[1]
        if width % self.groups:
            raise InputError(
                f"The feature's width {width} is not a multiple of groups={self.groups}: take a "
                "divisor of the width."
            )

    def _new_distances(self, query: Tensor, near: Tensor, distances: Tensor) -> Tensor:
        if near.shape[1] < 2:
            return distances
        slices = [unit_rows(part) for part in self._slices_of(self._search.rows(near))]
        probes = [unit_rows(part) for part in self._slices_of(query)]
        start = torch.stack(
            [(part @ probe[..., None])[..., 0] for part, probe in zip(slices, probes)], dim=-1
        )
        walked = torch.zeros_like(start)
        for part in slices:
            transition = transition_matrix(part, self.temperature, self_loops=False)
            walked += random_walk_limit(transition, start, restart=1 - self.alpha)
        return 1 - walked.mean(dim=-1) / self.groups

    def _slices_of(self, features: Tensor) -> tuple[Tensor, ...]:
        return features.chunk(self.groups, dim=-1)
