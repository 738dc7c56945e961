r"""Graph walk: the spectral transformation over the graph of all queries and the whole gallery.

Sources: Z. Zhang's talk, 2018 (the walk, here at test time); A. Iscen et al., *Efficient Diffusion
on Region Manifolds*, CVPR 2017 (mutual neighbours, symmetric normalisation, conjugate gradient);
Z. Zhong et al., CVPR 2017 (averaging over the nearest neighbours).

===================================  =====================================  ====================
Term                                 Here                                   Shape
===================================  =====================================  ====================
:math:`w_{ij}=e^{(\cos_{ij}-1)/σ}`   ``graph``, symmetric, sparse           ``(N, N)``, CSR
:math:`T`                            ``transition``                         ``(N, N)``, CSR
:math:`K`                            ``averaging``, over the nearest        ``(N, N)``, CSR
:math:`X_0`                          what walks: identity, features, or     ``(N, N | D | Q)``
                                     the queries' similarities
:math:`Y = K X_t`                    ``walked``                             as :math:`X_0`
===================================  =====================================  ====================

.. math:: X_{t+1} = (1 - r) \, T X_t + r \, X_0, \qquad Y = K X_t

* ``walked="distributions"``: :math:`X_0 = I`, so that a row of Y says where a walker from that
  image is; images are compared by the cosine of these sparse rows;
* ``"features"``: :math:`X_0 = X`; the walked features are compared by their cosine;
* ``"scores"``: :math:`X_0` holds every image's cosine with the queries, Y is the new similarity.

The distance is one minus that, mixed with the original cosine distance.

With ``inductive=True`` each query has a row of its own and no column in the gallery's rows; in
the ``knn`` graph it is tied to its own neighbours only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional.distance import PREPARED_METRICS, prepared_rows
from torchreid_spectral.functional.transition import NORMALIZATIONS
from torchreid_spectral.rerank._graph import EdgeRule, Walk
from torchreid_spectral.rerank._joint import JointReranker
from torchreid_spectral.rerank._sparse import (
    ROWS_AT_ONCE,
    Csr,
    adjacency,
    product_lengths,
    scaled_rows,
)
from torchreid_spectral.search import Search

__all__ = ["GraphWalk"]

WALKED = ("distributions", "features", "scores")
GRAPHS = ("mutual", "knn")
WEIGHTS = ("cosine", "jaccard")
HOST = torch.device("cpu")  # where the sparse graph is, whatever device the features are on


class GraphWalk(JointReranker):
    r"""Compare images by where random walkers from them go.

    All queries of one call and the gallery are nodes of one graph, unless ``inductive``.
    ``chunk_size`` changes nothing, but for the order of what is equal up to rounding (copies,
    features of few whole numbers). Distances are in [0, 2] up to rounding; walked ``scores`` with
    ``symmetric`` normalization, whose rows sum to more than one at hubs, may be far below.

    Degenerate inputs: ``k >= N`` makes all images neighbours. An image is its own first neighbour,
    before its duplicates. A zero vector has cosine zero with everything.

    Args:
        k: Neighbours of an image in the graph.
        temperature: :math:`\sigma` of the edges' weights.
        steps: Random-walk steps; ``inf`` is the end of a walk with restart, by conjugate gradient,
            not for ``distributions``.
        restart: Share of the start in each step.
        num_averaged: Nearest neighbours over which the outcome is averaged, the image itself
            counted; 1 averages none.
        walked: ``distributions``, ``features`` or ``scores``.
        lambda_value: Share of the original cosine distance, in [0, 1].
        graph: ``mutual`` keeps the edges that go both ways, ``knn`` those that go either way.
        normalization: ``rows``, or ``symmetric``: :math:`D^{-1/2} W D^{-1/2}`.
        weights: ``cosine``, or ``jaccard``: the share of common neighbours of two images.
        cross_camera: Factor on the weights of edges between cameras; other than 1 needs camids.
        search: See :class:`~torchreid_spectral.rerank.Reranker`.
        chunk_size: Queries handled at once.
        progress: Show a bar for long work, on terminals.
        camera_normalization: See :class:`~torchreid_spectral.rerank.Reranker`.

    Raises:
        UnknownNameError: If there is no such choice.
        InputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        k: int = 30,
        temperature: float = 0.5,
        steps: float = 1,
        restart: float = 0.0,
        num_averaged: int = 6,
        walked: str = "distributions",
        lambda_value: float = 0.2,
        graph: str = "mutual",
        normalization: str = "rows",
        weights: str = "cosine",
        cross_camera: float = 1.0,
        search: str | Search = "exact",
        chunk_size: int = 512,
        progress: bool = True,
        camera_normalization: str = "none",
    ) -> None:
        super().__init__(
            search=search,
            chunk_size=chunk_size,
            progress=progress,
            camera_normalization=camera_normalization,
        )
        for kind, name, known in (
            ("walked", walked, WALKED),
            ("graph", graph, GRAPHS),
            ("normalization", normalization, NORMALIZATIONS),
            ("weights", weights, WEIGHTS),
        ):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        _check_numbers(k, temperature, num_averaged, lambda_value, cross_camera)
        _check_walk(steps, restart, walked)
        self.k, self.temperature, self.steps, self.restart = k, temperature, steps, restart
        self.num_averaged, self.walked, self.lambda_value = num_averaged, walked, lambda_value
        self.graph, self.normalization, self.weights = graph, normalization, weights
        self.cross_camera = cross_camera
        self._rule = EdgeRule(k, temperature, graph, weights, cross_camera)
        self._cache: tuple[Walk, Csr, list[Any], _Compared | None] | None = None

    @property
    def _depth(self) -> int:
        return max(self.k + 1, self.num_averaged)

    def _together(self, query: Tensor, camids: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        near = self._near.joined(self._search, query, self._depth, self._bar)
        indices, cameras = near.indices.cpu().numpy(), self._all_cameras(camids, len(query))
        graph = self._rule.build(indices, near.distances.cpu().numpy(), cameras)
        walk = Walk(graph, self.normalization, self.steps, self.restart)
        averaging = self._averaging(indices)
        count = len(query)
        if self.walked == "scores":
            nodes = torch.cat([query, self._search.features])
            for rows in self._slices(count):
                start = self._similarities(nodes, query[rows])
                new = (averaging @ walk.last(start))[count:].T
                yield rows, self._mixed(query[rows], new)
            return
        self._check_memory("rank", self._reached_memory(graph), HOST)
        state = walk.last(self._start(count + len(self.gallery), query))
        gallery = _Compared(averaging[count:], state)
        for rows in self._slices(count):
            yield rows, self._mixed(query[rows], gallery.cosines(averaging[rows] @ state))

    def _alone(self, query: Tensor, camids: Tensor | None) -> Tensor:
        walk, averaging, states, gallery = self._gallery_walk()
        if gallery is not None:
            return self._mixed(query, gallery.cosines(self._attached(query, camids, walk, states)))
        start = self._similarities(self._search.features, query)
        return self._mixed(query, (averaging @ walk.last(start)).T)

    def _attached(
        self, query: Tensor, camids: Tensor | None, walk: Walk, states: list[Any]
    ) -> Any:  # noqa: ANN401 (dense or CSR)
        """Give where queries are after the walk, each attached alone, averaged as the gallery."""
        found = self._found(query)
        indices, distances = (part.cpu().numpy() for part in found[:2])
        reach = self._near.reach(self._search, self.k)
        taken = (found[1] <= reach[found[0]]).cpu().numpy()
        rows = self._rule.attach(indices, distances, taken, walk.graph)
        rows = self._rule.across(rows, *self._camera_pair(camids, len(query)))
        walked = walk.attached(rows, states, self._own_start(query))
        near = indices[:, : self.num_averaged - 1]
        if near.shape[1]:
            walked = walked + adjacency(near, columns=len(self.gallery)) @ states[-1]
        return walked / (near.shape[1] + 1)

    def _gallery_walk(self) -> tuple[Walk, Csr, list[Any], _Compared | None]:
        """Walk on the gallery alone, once."""
        if self._cache is None:
            near, cameras = self._near, self._all_cameras(None, 0)
            indices = near.indices.cpu().numpy()
            graph = self._rule.build(indices, near.distances.cpu().numpy(), cameras)
            walk = Walk(graph, self.normalization, self.steps, self.restart)
            averaging = self._averaging(indices)
            states, compared = [], None
            if self.walked != "scores":
                self._check_memory("rank", self._reached_memory(graph), HOST)
                states = walk.states(self._start(len(self.gallery), extra=1))
                compared = _Compared(averaging, states[-1])
            self._cache = walk, averaging, states, compared
        return self._cache

    def _forget(self) -> None:
        self._cache = None

    def _averaging(self, indices: NDArray[Any]) -> Csr:
        near = indices[:, : self.num_averaged]
        return adjacency(near, np.full(near.shape, 1 / near.shape[1]))

    def _start(self, count: int, query: Tensor | None = None, extra: int = 0) -> Any:  # noqa: ANN401
        """Give the features, or where each node is; ``extra`` columns stay empty."""
        if self.walked == "features":
            nodes = self._search.features
            return (nodes if query is None else torch.cat([query, nodes])).cpu().numpy()
        return adjacency(np.arange(count)[:, None], columns=count + extra)

    def _own_start(self, query: Tensor) -> Any:  # noqa: ANN401 (dense or CSR)
        if self.walked == "features":
            return query.cpu().numpy()
        count = len(self.gallery)
        return adjacency(np.full((len(query), 1), count), columns=count + 1)

    def _similarities(self, nodes: Tensor, query: Tensor) -> NDArray[np.float32]:
        return (1 - PREPARED_METRICS[self.metric](nodes, query)).cpu().numpy()

    def _mixed(self, query: Tensor, found: NDArray[Any]) -> Tensor:
        """Mix the distance after the walk, one minus a similarity, with the original one."""
        original = PREPARED_METRICS[self.metric](query, self._search.features)
        similarity = torch.from_numpy(found).to(query)
        return (1 - similarity).mul_(1 - self.lambda_value).add_(original, alpha=self.lambda_value)

    def _all_cameras(self, camids: Tensor | None, count: int) -> NDArray[Any] | None:
        if self.cross_camera == 1:
            return None
        if self._camids is None or (count and camids is None):
            raise InputError(
                f"cross_camera={self.cross_camera} needs cameras: fit(gallery, camids) and "
                "rank(query, camids=...)."
            )
        gallery = self._camids.numpy()
        return gallery if camids is None else np.concatenate([camids.cpu().numpy(), gallery])

    def _camera_pair(self, camids: Tensor | None, count: int) -> tuple[Any, Any]:
        """Give the cameras of queries and of gallery."""
        cameras = self._all_cameras(camids, count)
        return (None, None) if cameras is None else (cameras[:count], cameras[count:])

    def _chunk_memory(self, rows: int, count: int, width: int) -> int:
        solved = self.walked == "scores" and math.isinf(self.steps)  # five matrices in float64
        return (52 if solved else 20) * rows * count

    def _graph_memory(self, nodes: int) -> int:
        width = self.gallery.shape[1]
        lists, edges = 28 * nodes * min(self._depth, nodes), 24 * nodes * min(self.k, nodes)
        # How many images a longer walk reaches is known when there is a graph.
        reached = 16 * nodes * min(self.k, nodes)
        # Features: all states of the walk, or what its limit is solved with in float64.
        states = 15 if math.isinf(self.steps) else 6 + self.steps
        walked = reached if self.walked == "distributions" else int(4 * nodes * width * states)
        # Products of which some rows are there at a time: averages, and neighbours in common.
        averaged = self.k * self.num_averaged if self.walked == "distributions" else 0
        common = self.k**2 if self.weights == "jaccard" else 0
        at_once = 16 * min(ROWS_AT_ONCE, nodes) * min(max(averaged, common), nodes)
        return lists + edges + walked + at_once

    def _reached_memory(self, graph: Csr) -> int:
        """Estimate the bytes of the distributions after the walk, and of the step before."""
        if self.walked != "distributions":
            return 0
        nodes, degree = graph.shape[0], max(1.0, graph.nnz / graph.shape[0])
        reached = min(math.log(nodes), self.steps * math.log(degree))  # its power may overflow
        averaged = min(nodes, math.exp(reached) * self.num_averaged)  # of the rows at once
        return int(16 * nodes * math.exp(reached) + 16 * min(ROWS_AT_ONCE, nodes) * averaged)


class _Compared:
    """The gallery after the walk, averaged, as what other rows are compared with by cosine.

    Args:
        averaging: ``(G, N)`` how a gallery image's neighbours are averaged.
        state: ``(N, M)`` the walk's last, dense or CSR.
    """

    def __init__(self, averaging: Csr, state: Any) -> None:  # noqa: ANN401
        self._sparse = sparse.issparse(state)
        if self._sparse:  # the product would be several times as large as the two
            self._scale = 1 / product_lengths(averaging, state)
            self._state, self._averaging = state.T.tocsr(), averaging.T.tocsr()
        else:
            self._units = _units(averaging @ state)

    def cosines(self, rows: Any) -> NDArray[Any]:  # noqa: ANN401
        """Give the cosines ``(Q, G)`` of rows ``(Q, M)``, dense or CSR as the state."""
        if self._sparse:
            product = (scaled_rows(rows) @ self._state) @ self._averaging
            return np.asarray(product.toarray() * self._scale)
        return np.asarray(_units(rows) @ self._units.T)


def _units(rows: NDArray[Any]) -> NDArray[Any]:
    return prepared_rows(torch.from_numpy(np.asarray(rows)), "cosine").numpy()


def _check_numbers(
    k: int, temperature: float, num_averaged: int, lambda_value: float, cross_camera: float
) -> None:
    for name, value in (("k", k), ("num_averaged", num_averaged)):
        if value < 1:
            raise InputError(f"{name} must be >= 1, got {value}.")
    for name, amount in (("temperature", temperature), ("cross_camera", cross_camera)):
        if not amount > 0:
            raise InputError(f"{name} must be positive, got {amount}.")
    if not 0 <= lambda_value <= 1:
        raise InputError(f"lambda_value must be in [0, 1], got {lambda_value}.")


def _check_walk(steps: float, restart: float, walked: str) -> None:
    if not steps >= 0 or (not math.isinf(steps) and steps != int(steps)):
        raise InputError(f"steps must be a whole number >= 0 or inf, got {steps}.")
    if not 0 <= restart <= 1:
        raise InputError(f"restart must be in [0, 1], got {restart}.")
    if math.isinf(steps) and (restart == 0 or walked == "distributions"):
        raise InputError(
            "steps=inf needs restart > 0, and walked='features' or 'scores': without restart the "
            "end does not depend on the start, and distributions would be dense."
        )
