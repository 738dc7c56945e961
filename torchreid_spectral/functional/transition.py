r"""Transition matrices: where a random walker goes next.

Sources: Z. Zhang's talk, 2018 (both views); C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature
Transformation for Person Re-identification*, ICCV 2019.

==================================  ===================  ==============================
Talk                                Here                 Shape
==================================  ===================  ==============================
:math:`w_{ij}=\exp(s_{ij}/\sigma)`  softmax's numerator  ``(..., N, M)``
:math:`T = D^{-1} W`                ``transition``       ``(..., N, M)``, rows sum to 1
:math:`\sigma`                      ``temperature``      scalar > 0
==================================  ===================  ==============================

Normalising the affinities of clustering and the softmax of self-attention are one computation:
both divide a row of exponentials by its sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import at_least_float32, full_precision
from torchreid_spectral.functional.similarity import cosine_similarity

__all__ = ["softmax_transition", "transition_matrix"]


def transition_matrix(
    features: Float[Tensor, "*batch N D"],
    temperature: float | Float[Tensor, ""] = 0.1,
    self_loops: bool = True,
    top_k: int | None = None,
) -> Float[Tensor, "*batch N N"]:
    r"""Compute the transition matrix of a walk over cosine similarities.

    .. math:: T_{ij} = \operatorname{softmax}_j(\cos(x_i, x_j) / \sigma)

    Args:
        features: Features, one row a node. A zero row is equally similar to all nodes.
        temperature: :math:`\sigma > 0`. Small values keep a walker near, large ones spread it
            evenly.
        self_loops: Whether a walker may stay where it is.
        top_k: Keep only the most similar nodes of each row; all if not given.

    Returns:
        Transition probabilities in the dtype of ``features``; each row sums to one.

    Raises:
        ValueError: If ``temperature`` or ``top_k`` is out of range, or a single node has no
            self loop.

    Example:
        >>> transition_matrix(torch.eye(3), temperature=1e3).round(decimals=2)
        tensor([[0.3300, 0.3300, 0.3300],
                [0.3300, 0.3300, 0.3300],
                [0.3300, 0.3300, 0.3300]])
    """
    # The similarity stays in float32: rounded to half precision its steps of 2^-9 would be
    # magnified by 1/temperature before the softmax.
    similarity = cosine_similarity(at_least_float32(features))
    transition = softmax_transition(
        similarity, temperature=temperature, self_loops=self_loops, top_k=top_k
    )
    return transition.to(features.dtype)


def softmax_transition(
    similarity: Float[Tensor, "*batch N M"],
    *,
    temperature: float | Float[Tensor, ""],
    self_loops: bool = True,
    top_k: int | None = None,
) -> Float[Tensor, "*batch N M"]:
    r"""Turn similarities into transition probabilities by a softmax over each row.

    Computed in float32 at least, autocast or not.

    Args:
        similarity: Larger is closer.
        temperature: :math:`\sigma > 0`, a number or a learned scalar.
        self_loops: Whether the diagonal takes part; ``False`` needs a square matrix.
        top_k: Keep only the largest entries of each row, at a tie those of the lower column;
            a self loop counts as one. All if not given or not smaller than ``M``.

    Returns:
        Probabilities in the dtype of ``similarity``; each row sums to one.

    Raises:
        ValueError: If ``temperature`` or ``top_k`` is out of range, or a node has nowhere to go.
    """
    # A learned temperature on a GPU is positive by construction: asking would stall the queue.
    value = temperature.detach() if isinstance(temperature, Tensor) else torch.tensor(temperature)
    if not value.is_cuda and not value > 0:
        raise ValueError(f"temperature must be positive, got {float(value)}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}.")
    with full_precision(similarity):
        logits = at_least_float32(similarity) / temperature
        if not self_loops:
            logits = _without_diagonal(logits)
        if top_k is not None and top_k < logits.shape[-1]:
            logits = _largest_of_each_row(logits, top_k)
        transition = logits.softmax(dim=-1)
    return transition.to(similarity.dtype)


def _without_diagonal(logits: Tensor) -> Tensor:
    rows, columns = logits.shape[-2:]
    if rows != columns:
        raise ValueError(
            f"self_loops=False needs a square similarity matrix, got {rows} x {columns}."
        )
    if rows == 1:
        raise ValueError("A single node needs self_loops=True: it has no neighbour to go to.")
    loops = torch.eye(rows, dtype=torch.bool, device=logits.device)
    return logits.masked_fill(loops, float("-inf"))


def _largest_of_each_row(logits: Tensor, k: int) -> Tensor:
    kept = logits.detach().argsort(dim=-1, descending=True, stable=True)[..., :k]
    dropped = torch.ones_like(logits, dtype=torch.bool).scatter(-1, kept, False)
    return logits.masked_fill(dropped, float("-inf"))
