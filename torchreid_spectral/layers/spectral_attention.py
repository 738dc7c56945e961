r"""Spectral self-attention: a random walk as a layer, over samples, pixels, channels or frames.

Sources: Z. Zhang, *From spectral clustering to self-attention*, talk, 2018 ("training view"); C.
Luo et al., *Spectral Feature Transformation for Person Re-identification*, ICCV 2019 (samples); X.
Wang et al., *Non-local Neural Networks*, CVPR 2018 (pixels); J. Fu et al., *Dual Attention Network
for Scene Segmentation*, CVPR 2019 (channels); A. Vaswani et al., *Attention Is All You Need*,
NeurIPS 2017 (heads); Y. Shen et al., *Deep Group-shuffling Random Walk for Person
Re-identification*, CVPR 2018 (group shuffling).

==================================  ===========================  ====================
Talk                                Here                         Shape (samples)
==================================  ===========================  ====================
:math:`\phi, \varphi, g`            ``query, key, value``        ``(B, D) → (B, D)``
:math:`W = \phi(X)^T \varphi(X)`    similarity of the nodes      ``(A, B, B)``
:math:`T = softmax(W / \sigma)`     ``transition``               ``(A, B, B)``
:math:`Y = T g(X)`                  output                       ``(B, D)``
==================================  ===========================  ====================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchreid_spectral.functional import (
    cosine_similarity,
    dot_product,
    random_walk,
    random_walk_limit,
    scaled_dot_product,
    softmax_transition,
)
from torchreid_spectral.functional._precision import at_least_float32
from torchreid_spectral.layers.axes import channels_first, channels_last, from_nodes, to_nodes
from torchreid_spectral.layers.checks import check_options
from torchreid_spectral.layers.memory import NodeMemory
from torchreid_spectral.layers.projection import build_output, build_projection
from torchreid_spectral.layers.relation import PositionTerm

__all__ = ["SIMILARITIES", "Gather", "SpectralAttention"]

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_similarity,
    "dot": dot_product,
    "scaled_dot": scaled_dot_product,
    "appearance_and_position": scaled_dot_product,  # and a PositionTerm
}
"""Similarities by name."""

Gather = Callable[[Tensor], tuple[Tensor, slice]]
"""Gives the features of all processes, with gradient, and where the own ones stand in them."""


class SpectralAttention(nn.Module):
    r"""Move each node's feature towards its neighbours.

    .. math:: Y = T g(X), \quad T = \operatorname{softmax}(\cos(\phi(x_i), \varphi(x_j)) / \sigma)

    The defaults are the method of the paper: over the samples of a batch, no projection, cosine,
    one step, self loops, no residual, gradient through :math:`T`. The non-local block is
    ``over="pixels", inner_dim=dim // 2, query=key=value="linear", similarity="dot",
    temperature=1, output="norm", residual=True``.

    Args:
        dim: Feature width D, or channels C; needed for linear maps, a memory and to check heads.
        inner_dim: Width after linear projections; ``dim`` if not given.
        over: Axis whose entries are the nodes, see :mod:`~torchreid_spectral.layers.axes`.
        frames: L, frames of a tracklet, where their maps come on the batch axis.
        temperature: :math:`\sigma > 0`, or its first value where it is learned.
        learn_temperature: Learn :math:`\log \sigma`, so that it stays positive.
        heads: A; the feature is cut into A slices, each walking on its own graph.
        group_shuffling: Every slice's graph walks the whole feature, and the A results are
            averaged; :meth:`walks` gives them one by one.
        query: ``identity`` or ``linear``, :math:`\phi`.
        key: ``identity`` or ``linear``, :math:`\varphi`.
        value: ``identity`` or ``linear``, :math:`g`.
        output: See :data:`~torchreid_spectral.layers.projection.OUTPUTS`.
        similarity: ``cosine`` (projections are L2-normalised), ``dot``, ``scaled_dot``, or
            ``appearance_and_position`` over pixels, see
            :mod:`~torchreid_spectral.layers.relation`.
        steps: Length of the walk; ``inf`` is the closed form and needs a restart.
        restart: Share of the start that every step returns to.
        residual: Add the input to the output.
        self_loops: Whether a node attends to itself.
        top_k: Attend only to the most similar nodes.
        mutual: Only where each is among the other's ``top_k``.
        normalization: ``rows`` or ``symmetric``, see
            :func:`~torchreid_spectral.functional.softmax_transition`.
        detach_transition: Hold the graph fixed in the backward pass.
        memory: Over samples, how many features of earlier batches are nodes beside the current
            ones, which a walker can step to; kept in training only.
        alone_in_eval: Over samples, let each be a graph of its own in eval mode, so that no
            output depends on the rest of the batch.

    Attributes:
        gather: Over samples, set by whoever trains on several processes: the graph then spans
            what it gives, and the output is that of the own samples. None for one process.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> SpectralAttention(temperature=1e6)(torch.tensor([[0.0, 2.0], [2.0, 0.0]])).round()
        tensor([[1., 1.],
                [1., 1.]])
    """

    gather: Gather | None

    def __init__(
        self,
        dim: int | None = None,
        *,
        inner_dim: int | None = None,
        over: str = "samples",
        frames: int | None = None,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        heads: int = 1,
        group_shuffling: bool = False,
        query: str = "identity",
        key: str = "identity",
        value: str = "identity",
        output: str = "identity",
        similarity: str = "cosine",
        steps: int | float = 1,
        restart: float = 0.0,
        residual: bool = False,
        self_loops: bool = True,
        top_k: int | None = None,
        mutual: bool = False,
        normalization: str = "rows",
        detach_transition: bool = False,
        memory: int = 0,
        alone_in_eval: bool = False,
    ) -> None:
        options = {name: given for name, given in dict(locals()).items() if name != "self"}
        options.pop("__class__")
        super().__init__()
        check_options(**options, similarities=tuple(SIMILARITIES))
        inner_dim = dim if inner_dim is None else inner_dim
        self.dim, self.over, self.frames, self.heads = dim, over, frames, heads
        self.similarity, self.steps, self.restart = similarity, steps, restart
        self.residual, self.group_shuffling = residual, group_shuffling
        self.self_loops, self.top_k = self_loops, top_k
        self.mutual, self.normalization = mutual, normalization
        self.detach_transition, self.alone_in_eval = detach_transition, alone_in_eval
        self.query = build_projection("query", query, dim, inner_dim)
        self.key = build_projection("key", key, dim, inner_dim)
        self.value = build_projection("value", value, dim, inner_dim)
        self.output = build_output(output, dim, dim if value == "identity" else inner_dim)
        self.memory = NodeMemory(memory, dim or 0) if memory else None
        positions = similarity == "appearance_and_position"
        self.position = PositionTerm(heads) if positions else None
        self.gather = None
        if learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        else:
            self._fixed_temperature = float(temperature)
        self.learn_temperature = learn_temperature

    @property
    def temperature(self) -> float | Tensor:
        """The temperature of the softmax: a number, or a tensor where it is learned."""
        return self.log_temperature.exp() if self.learn_temperature else self._fixed_temperature

    def transition(self, x: Tensor, *, self_loops: bool | None = None) -> Tensor:
        """Compute the transition matrix among the nodes of ``x``, without a memory's.

        Args:
            x: Input of the layer.
            self_loops: Whether nodes may stay; as the layer has it if not given.

        Returns:
            Probabilities, float32 at least: ``(B, B)`` over samples with one head, ``(A, B, B)``
            with more, else ``(G, A, N, N)``.
        """
        graph = self._transition(channels_last(x, self.over), None, self_loops)
        if self.over != "samples":
            return graph
        return graph[0, 0] if self.heads == 1 else graph[0]

    def forward(self, x: Tensor) -> Tensor:
        """Walk.

        Args:
            x: Features of a batch, in a shape that the axis takes.

        Returns:
            The features after the walk, in the same shape.
        """
        last = channels_last(x, self.over)
        if self.alone_in_eval and not self.training:
            walked = self.value(last)
        else:
            nodes = self._walk(last)
            if self.group_shuffling:
                nodes = nodes.mean(dim=1, keepdim=True)
            walked = from_nodes(nodes, self._like(last), self.over, self.frames)
        result = channels_first(self.output(walked))
        return x + result if self.residual else result

    def walks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Give the features after each group's walk; their mean is what :meth:`forward` gives.

        But for ``output="norm"`` in training, where each group is normalised by itself.

        Args:
            x: Features ``(B, D)``.

        Returns:
            With ``group_shuffling`` one ``(B, D)`` a group, else, and where nobody walks, the
            output alone.

        Raises:
            ValueError: If groups are asked of anything but vectors.
        """
        if not self.group_shuffling or (self.alone_in_eval and not self.training):
            return (self(x),)
        if x.dim() != 2:
            raise ValueError(f"walks of groups take vectors (B, D), got shape {tuple(x.shape)}.")
        groups = self._walk(x).unbind(dim=1)
        found = (self.output(from_nodes(g[:, None], x, self.over)) for g in groups)
        return tuple(x + each if self.residual else each for each in found)

    def _walk(self, x: Tensor) -> Tensor:
        """Give ``(G, A, N, F)`` after the walk, of the own samples."""
        own = slice(None)
        if self.memory is not None and x.dim() != 2:
            raise ValueError(f"a memory takes vectors (B, D), got shape {tuple(x.shape)}.")
        if self.gather is not None and self.over == "samples" and self.training:
            x, own = self.gather(x)
        remembers = self.memory is not None and self.training
        kept = self.memory.read().to(x.dtype) if remembers else None  # type: ignore[union-attr]
        transition = self._transition(x, kept)
        if self.detach_transition:
            transition = transition.detach()
        values = self._values(x)
        anchors = None if kept is None else self._values(kept)
        if math.isinf(self.steps):
            walked = random_walk_limit(transition, values, restart=self.restart, anchors=anchors)
        else:
            walked = random_walk(
                transition, values, int(self.steps), self.restart, anchors=anchors
            )
        if self.memory is not None and self.training:
            self.memory.write(x)
        return walked[:, :, own]

    def _transition(
        self, x: Tensor, kept: Tensor | None, self_loops: bool | None = None
    ) -> Tensor:
        columns = x if kept is None else torch.cat([x, kept])
        query, key = at_least_float32(self.query(x)), at_least_float32(self.key(columns))
        pairs = SIMILARITIES[self.similarity](self._nodes(query), self._nodes(key))
        if self.position is not None:
            pairs = pairs + self.position(*x.shape[1:3])
        return softmax_transition(
            pairs,
            temperature=self.temperature,
            self_loops=self.self_loops if self_loops is None else self_loops,
            top_k=self.top_k,
            mutual=self.mutual,
            normalization=self.normalization,
        )

    def _nodes(self, x: Tensor) -> Tensor:
        return to_nodes(x, self.over, self.heads, self.frames)

    def _values(self, x: Tensor) -> Tensor:
        """Give what is walked: slices of the values, or for each group all of them."""
        values = self.value(x)
        if not self.group_shuffling:
            return self._nodes(values)
        whole = to_nodes(values, self.over, 1, self.frames)
        return whole.expand(-1, self.heads, -1, -1)

    def _like(self, x: Tensor) -> Tensor:
        """Give a tensor of the shape that the walk has before the output."""
        width = self.value.out_features if isinstance(self.value, nn.Linear) else x.shape[-1]
        return x.new_empty(()).expand(*x.shape[:-1], width)

    def extra_repr(self) -> str:
        """Show the settings.

        Returns:
            One line for ``repr``.
        """
        temperature = float(torch.as_tensor(self.temperature).detach())
        return (
            f"over={self.over}, similarity={self.similarity}, temperature={temperature:.4g}"
            f"{' (learned)' if self.learn_temperature else ''}, heads={self.heads}, "
            f"steps={self.steps}, restart={self.restart}, self_loops={self.self_loops}, "
            f"top_k={self.top_k}, mutual={self.mutual}, normalization={self.normalization}, "
            f"group_shuffling={self.group_shuffling}, residual={self.residual}"
        )
