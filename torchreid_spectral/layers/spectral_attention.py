r"""Spectral self-attention: one random-walk step as a layer.

Sources: Z. Zhang, *From spectral clustering to self-attention*, talk, 2018 ("training view"); C.
Luo et al., *Spectral Feature Transformation for Person Re-identification*, ICCV 2019.

==================================  ===========================  ===================
Talk                                Here                         Shape
==================================  ===========================  ===================
:math:`\phi, \varphi, g`            ``query, key, value``        ``(B, D) → (B, D)``
:math:`W = \phi(X)^T \varphi(X)`    similarity of the samples    ``(A, B, B)``
:math:`T = softmax(W / \sigma)`     ``transition``               ``(A, B, B)``
:math:`Y = T g(X)`                  output                       ``(B, D)``
==================================  ===========================  ===================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchreid_spectral.functional import (
    cosine_similarity,
    dot_product,
    random_walk,
    random_walk_limit,
    softmax_transition,
)
from torchreid_spectral.functional._precision import at_least_float32

__all__ = ["SpectralAttention"]

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_similarity,
    "dot": dot_product,
}
AXES = ("samples",)
PROJECTIONS = ("identity", "linear")


class SpectralAttention(nn.Module):
    r"""Move each sample's feature towards its neighbours in the batch.

    .. math:: Y = T g(X), \quad T = \operatorname{softmax}(\cos(\phi(x_i), \varphi(x_j)) / \sigma)

    The defaults are the method of the paper: no projection, cosine, one step, self loops, no
    residual, gradient through :math:`T`.

    Args:
        dim: Feature width D; needed for linear projections and more than one head.
        temperature: :math:`\sigma > 0`, or its first value where it is learned.
        learn_temperature: Learn :math:`\log \sigma`, so that it stays positive.
        heads: A; the width is cut into A slices, each walking on its own graph.
        query: ``identity`` or ``linear``, :math:`\phi`.
        key: ``identity`` or ``linear``, :math:`\varphi`.
        value: ``identity`` or ``linear``, :math:`g`.
        similarity: ``cosine`` (projections are L2-normalised) or ``dot``.
        steps: Length of the walk; ``inf`` is the closed form and needs a restart.
        restart: Share of the start that every step returns to.
        residual: Add the input to the output.
        self_loops: Whether a sample attends to itself.
        top_k: Attend only to the most similar samples.
        detach_transition: Hold the graph fixed in the backward pass.
        over: Axis whose entries are the nodes; ``samples`` takes ``(B, D)``.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> SpectralAttention(temperature=1e6)(torch.tensor([[0.0, 2.0], [2.0, 0.0]])).round()
        tensor([[1., 1.],
                [1., 1.]])
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        heads: int = 1,
        query: str = "identity",
        key: str = "identity",
        value: str = "identity",
        similarity: str = "cosine",
        steps: int | float = 1,
        restart: float = 0.0,
        residual: bool = False,
        self_loops: bool = True,
        top_k: int | None = None,
        detach_transition: bool = False,
        over: str = "samples",
    ) -> None:
        super().__init__()
        _check_choice("over", over, AXES)
        _check_choice("similarity", similarity, tuple(SIMILARITIES))
        _check_walk(temperature, steps, restart)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {top_k}.")
        if heads < 1 or (dim is not None and dim % heads):
            raise ValueError(f"heads must be >= 1 and divide dim={dim}, got {heads}.")
        self.dim, self.heads, self.similarity, self.over = dim, heads, similarity, over
        self.steps, self.restart, self.residual = steps, restart, residual
        self.self_loops, self.top_k = self_loops, top_k
        self.detach_transition = detach_transition
        self.query = _projection("query", query, dim)
        self.key = _projection("key", key, dim)
        self.value = _projection("value", value, dim)
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self._fixed_temperature = float(temperature)
        self.learn_temperature = learn_temperature

    @property
    def temperature(self) -> float | Tensor:
        """The temperature of the softmax: a number, or a tensor where it is learned."""
        return self.log_temperature.exp() if self.learn_temperature else self._fixed_temperature

    def transition(self, x: Float[Tensor, "B D"]) -> Tensor:
        """Compute the transition matrix that :meth:`forward` walks on.

        Args:
            x: Features.

        Returns:
            Probabilities, float32 at least: ``(B, B)`` for one head, else ``(A, B, B)``.
        """
        query, key = at_least_float32(self.query(x)), at_least_float32(self.key(x))
        pairs = SIMILARITIES[self.similarity](self._split(query), self._split(key))
        return softmax_transition(
            pairs, temperature=self.temperature, self_loops=self.self_loops, top_k=self.top_k
        )

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Walk.

        Args:
            x: Features of a batch.

        Returns:
            The features after the walk.
        """
        transition = self.transition(x)
        if self.detach_transition:
            transition = transition.detach()
        values = self._split(self.value(x))
        if math.isinf(self.steps):
            walked = random_walk_limit(transition, values, restart=self.restart)
        else:
            walked = random_walk(transition, values, int(self.steps), self.restart)
        walked = self._join(walked)
        return x + walked if self.residual else walked

    def _split(self, x: Tensor) -> Tensor:
        if self.heads == 1:
            return x
        if x.shape[1] % self.heads:
            raise ValueError(
                f"The feature width must be divisible by heads={self.heads}, got {x.shape[1]}."
            )
        return x.unflatten(1, (self.heads, -1)).movedim(1, 0)

    def _join(self, x: Tensor) -> Tensor:
        return x if self.heads == 1 else x.movedim(0, 1).flatten(1)

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
            f"top_k={self.top_k}, residual={self.residual}"
        )


def _projection(name: str, kind: str, dim: int | None) -> nn.Module:
    _check_choice(name, kind, PROJECTIONS)
    if kind == "identity":
        return nn.Identity()
    if dim is None:
        raise ValueError(f"dim must be given for {name}='linear', got None.")
    return nn.Linear(dim, dim, bias=False)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}.")


def _check_walk(temperature: float, steps: float, restart: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    if not steps >= 0:
        raise ValueError(f"steps must be >= 0, got {steps}.")
    if not math.isinf(steps) and steps != int(steps):
        raise ValueError(f"steps must be a whole number or inf, got {steps}.")
    if not 0 <= restart <= 1:
        raise ValueError(f"restart must be in [0, 1], got {restart}.")
    if math.isinf(steps) and restart == 0:
        raise ValueError("steps=inf needs a restart in (0, 1], got 0.0: else no unique limit.")
