"""Neighbour lists of a gallery, and of queries and gallery together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional.ranking import collected, merge_top_k, rank_prepared
from torchreid_spectral.search import ExactSearch, Search

__all__ = ["ROWS_AT_ONCE", "Neighbours"]

Parts = Iterator[tuple[Tensor, Tensor, Tensor]]
Bar = Callable[[Iterable[Any], str], Iterable[Any]]
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of each node, nearest first; equal distances by the lower node.

    Args:
        indices: ``(N, k)``; each node is its own first neighbour, before its duplicates.
        distances: ``(N, k)``; to itself -1, so that it stays first.
        farthest: ``(N,)`` distance of the farthest node; zeros where an approximate
            search was not asked for it.
    """

    indices: Tensor
    distances: Tensor
    farthest: Tensor

    @staticmethod
    def of(search: Search, k: int, bar: Bar, *, farthest: bool = False) -> Neighbours:
        """Search for the neighbours of everything that a search was fitted with.

        Args:
            search: Fitted.
            k: Neighbours, the node itself counted; more than there are means all.
            bar: Shows progress.
            farthest: Whether the farthest distance is needed too.

        Returns:
            The lists.

        Raises:
            InputError: If the farthest is needed and the search cannot tell.
        """

        def lists() -> Parts:
            for rows in bar(_slices(len(search.features)), "neighbours"):
                units, first = search.features[rows], rows.start
                if isinstance(search, ExactSearch):
                    metric = search.metric
                    yield rank_prepared(units, search.features, k, metric=metric, first=first)
                else:
                    near = _itself_first(*search.nearest(units, k), first)
                    yield *near, _farthest(search, units, farthest)

        return Neighbours(*collected(lists(), len(search.features)))

    def extended(self, search: Search, count: int, k: int, bar: Bar) -> Neighbours:
        """Add what the search was given after the first ``count`` features.

        Args:
            search: Holds the old features and then the new ones.
            count: Features that these lists are of.
            k: Neighbours, as these lists were made with.
            bar: Shows progress.

        Returns:
            The lists of all, as if searched for at once.

        Raises:
            InputError: If the lists are of another number of images.
        """
        if len(self.indices) != count:
            raise InputError(f"The lists are of {len(self.indices)} images, not of {count}.")
        metric, more = search.metric, search.features[count:]
        old = self._with_others(search.features[:count], more, metric, k, count, bar, first=False)

        def lists() -> Parts:
            yield old.indices, old.distances, old.farthest
            for rows in bar(_slices(len(more)), "new neighbours"):
                first = count + rows.start
                yield rank_prepared(more[rows], search.features, k, metric=metric, first=first)

        return Neighbours(*collected(lists(), len(search.features)))

    def joined(
        self, search: Search, query: Tensor, k: int, bar: Bar, *, farthest: bool = False
    ) -> Neighbours:
        """Give the lists of the graph whose nodes are the queries and then the gallery.

        Args:
            search: Fitted with the gallery.
            query: ``(Q, D)``, prepared rows.
            k: Neighbours, the node itself counted.
            bar: Shows progress.
            farthest: Whether the farthest distance is needed too.

        Returns:
            Lists of ``Q + G`` nodes.
        """
        metric, shift = search.metric, len(query)

        def lists() -> Parts:
            for rows in bar(_slices(len(query)), "queries' neighbours"):
                among = rank_prepared(query[rows], query, k, metric=metric, first=rows.start)
                if isinstance(search, ExactSearch):
                    found = rank_prepared(query[rows], search.features, k, metric=metric)
                else:
                    near = search.nearest(query[rows], k)
                    found = (*near, _farthest(search, query[rows], farthest))
                yield _merged(among, found, shift, k)
            shifted = Neighbours(self.indices + shift, self.distances, self.farthest)
            gallery = shifted._with_others(search.features, query, metric, k, 0, bar, first=True)
            yield gallery.indices, gallery.distances, gallery.farthest

        return Neighbours(*collected(lists(), len(query) + len(search.features)))

    def _with_others(
        self,
        mine: Tensor,
        others: Tensor,
        metric: str,
        k: int,
        shift: int,
        bar: Bar,
        *,
        first: bool,
    ) -> Neighbours:
        """Let other nodes into the lists; ``first``: they have the lower numbers."""

        def lists() -> Parts:
            for rows in bar(_slices(len(mine)), "gallery's neighbours"):
                found = rank_prepared(mine[rows], others, k, metric=metric)
                own = self.indices[rows], self.distances[rows], self.farthest[rows]
                yield _merged(found, own, 0, k) if first else _merged(own, found, shift, k)

        return Neighbours(*collected(lists(), len(mine)))

    def reach(self, search: Search, k: int) -> Tensor:
        """Give how near another image must be to be among a node's k: as the last, up to rounding.

        A query that is a copy of that last one is computed in a product of another shape, and must
        not be in or out by its last bit. A product of two rows is rounded to some units of the
        last place of their lengths.

        Args:
            search: Holds the nodes' features.
            k: Neighbours, the node itself not counted.

        Returns:
            ``(N,)`` distances; infinite where a list has room for anybody.
        """
        if self.distances.shape[1] <= k:
            return self.distances.new_full((len(self.distances),), float("inf"))
        last, slack = self.distances[:, k], 64 * torch.finfo(torch.float32).eps
        if search.metric == "cosine":
            return last + slack
        squared = last.square() if search.metric == "euclidean" else last
        length = search.features.norm(dim=1)
        longest = length + squared.clamp_min(0).sqrt()  # whoever is so near is no longer than this
        squared = squared + slack * (length.square() + longest.square())
        return squared.sqrt() if search.metric == "euclidean" else squared

    def state(self) -> dict[str, Tensor]:
        """Give the tensors to save."""
        return {f"near_{name}": value for name, value in vars(self).items()}

    @staticmethod
    def from_state(tensors: dict[str, Tensor], count: int, k: int) -> Neighbours:
        """Take back what :meth:`state` gave.

        Args:
            tensors: As saved.
            count: Nodes that there are.
            k: Neighbours of each, as the method needs.

        Returns:
            The lists.

        Raises:
            InputError: If they are not of so many nodes and neighbours.
        """
        lists = Neighbours(*(tensors[f"near_{n}"] for n in ("indices", "distances", "farthest")))
        shape = (count, min(k, count))
        if not (
            lists.indices.shape == lists.distances.shape == shape
            and lists.farthest.shape == (count,)
            and lists.indices.dtype in (torch.int32, torch.int64)
            and 0 <= int(lists.indices.min())
            and int(lists.indices.max()) < count
            and bool(lists.distances.isfinite().all())
        ):
            raise InputError(
                f"The saved neighbour lists are not of {count} images with {shape[1]} neighbours "
                f"each, as the options want: got {tuple(lists.indices.shape)}. Fit and save anew."
            )
        return lists


def _merged(left: Any, right: Any, shift: int, k: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """Merge two lists a row; those of ``right`` get higher numbers by ``shift``."""
    indices = torch.cat([left[0], right[0] + shift], dim=1)
    distances = torch.cat([left[1], right[1]], dim=1)
    return *merge_top_k(indices, distances, k), torch.maximum(left[2], right[2])


def _itself_first(indices: Tensor, distances: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Put each row's own node first; where it was not found it takes the last place."""
    own = torch.arange(first, first + len(indices), device=indices.device)[:, None]
    mine = indices == own
    mine[:, -1] |= ~mine.any(dim=1)
    indices = torch.where(mine, own, indices)
    return merge_top_k(indices, distances.masked_fill(mine, -1), indices.shape[1])


def _farthest(search: Search, units: Tensor, wanted: bool) -> Tensor:
    if not wanted:
        return units.new_zeros(len(units))
    if search.metric != "cosine":
        raise InputError(
            f"k_reciprocal with search {type(search).__name__} needs metric='cosine': an index "
            "finds the farthest image only among unit vectors. Or take search='exact'."
        )
    opposite = search.nearest(-units, 1)[1][:, 0]  # 1 + cos of the farthest
    return 2 - opposite


def _slices(count: int) -> list[slice]:
    return [slice(i, min(i + ROWS_AT_ONCE, count)) for i in range(0, count, ROWS_AT_ONCE)]
