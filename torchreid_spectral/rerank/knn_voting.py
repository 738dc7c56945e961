r"""k-NN voting: a query's first results query again, and their rankings vote.

Source: X. Shen, Z. Lin, J. Brandt, S. Avidan, Y. Wu, *Object Retrieval and Localization with
Spatially-constrained Similarity Measure and k-NN Re-ranking*, CVPR 2012.

==========================  ====================================================  ==============
Paper                       Here                                                  Shape
==========================  ====================================================  ==============
:math:`R(Q, D)`             ``ranks``, 1-based rank of image D for the query      ``(chunk, G)``
:math:`N_i`                 ``voters``, the query's i-th nearest, i from 1        ``(chunk, k)``
:math:`R(N_i, D)`           place of D in the gallery's list ``near[N_i]``        ``(G, depth)``
==========================  ====================================================  ==============

.. math:: s(Q, D) = \frac{1}{R(Q, D)} + \sum_{i=1}^{k} \frac{1}{(i + 1) \, R(N_i, D)}

Note:
    The paper's spatial verification belongs to keypoint retrieval and is left out. A voter's list
    is cut at ``depth``: what is farther down would get less than ``1 / (i * depth)`` from it and
    gets nothing; ``depth >= G`` is the paper's. A voter's list begins with itself.
    tests/rerank/test_knn_voting.py compares with loops.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional.distance import PREPARED_METRICS, prepared_rows
from torchreid_spectral.rerank._neighbours import Neighbours
from torchreid_spectral.rerank.base import Reranker
from torchreid_spectral.search import Search

__all__ = ["KNNVoting"]

TIE_BREAK = 1e-7


class KNNVoting(Reranker):
    """Order by the sum of reciprocal ranks in the query's list and in those of its voters.

    The distance is 1 / s(Q, D): the rank that the score amounts to. Scores that differ by less
    than 1e-7 of themselves are ordered as the plain distance orders them by ``rank`` and
    ``iter_distances``; ``distance_matrix``, in float32, cannot tell them apart.

    Args:
        k: Voters, the nearest of each query.
        depth: Length of each voter's list.
        search: See :class:`~torchreid_spectral.rerank.Reranker`.
        chunk_size: Queries handled at once; memory is about ``40 * chunk_size * G`` bytes.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.

    Raises:
        InputError: If an option is not positive.
    """

    def __init__(
        self,
        *,
        k: int = 10,
        depth: int = 100,
        search: str | Search = "exact",
        chunk_size: int = 256,
        progress: bool = True,
        camera_normalization: str = "none",
    ) -> None:
        super().__init__(
            search=search,
            chunk_size=chunk_size,
            progress=progress,
            camera_normalization=camera_normalization,
        )
        for name, value in (("k", k), ("depth", depth)):
            if value < 1:
                raise InputError(f"{name} must be >= 1, got {value}.")
        self.k, self.depth = k, depth
        self._near: Neighbours | None = None

    def _blocks(
        self, query: Tensor, camids: Tensor | None, inductive: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        for rows in self._slices(len(query)):
            yield rows, self._voted(prepared_rows(query[rows], self.metric))

    def _voted(self, query: Tensor) -> Tensor:
        distances = PREPARED_METRICS[self.metric](query, self._search.features)
        order = distances.argsort(dim=1, stable=True)
        # Sums of fractions are often equal: in float64 their rounding is below the tie break.
        places = torch.arange(1, order.shape[1] + 1, dtype=torch.float64, device=query.device)
        reciprocal = places.reciprocal().expand_as(order)
        scores = torch.zeros_like(order, dtype=torch.float64).scatter_(1, order, reciprocal)
        tie_break = scores.reciprocal().mul_(TIE_BREAK / order.shape[1])
        lists = self._lists
        votes = torch.arange(1, lists.shape[1] + 1, dtype=torch.float64, device=query.device)
        for i in range(min(self.k, order.shape[1])):
            vote = votes.reciprocal() / (i + 2)
            near = lists[order[:, i]]
            scores.scatter_add_(1, near, vote.expand_as(near))
        return (1 + tie_break) / scores

    @property
    def _lists(self) -> Tensor:
        if self._near is None:
            raise InputError("KNNVoting has no gallery yet: call fit(gallery) first.")
        return self._near.indices.long()

    def _fitted(self) -> None:
        self._near = Neighbours.of(self._search, self.depth, self._bar)

    def _added(self, count: int) -> None:
        if self._near is not None:
            self._near = self._near.extended(self._search, count, self.depth, self._bar)

    def _state(self) -> dict[str, Tensor]:
        return {} if self._near is None else self._near.state()

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self._near = Neighbours.from_state(tensors, len(self.gallery), self.depth)

    def _fit_memory(self, count: int, width: int) -> int:
        return 4 * count * width + 24 * count * min(self.depth, count)

    def _chunk_memory(self, rows: int, count: int, width: int) -> int:
        return 40 * rows * count
