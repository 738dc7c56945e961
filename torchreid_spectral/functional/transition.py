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
both divide a row of exponentials by its sum. The symmetric normalisation
:math:`D^{-1/2} W D^{-1/2}` is that of A. Ng, M. Jordan, Y. Weiss, *On Spectral Clustering*,
NeurIPS 2001; the mutual graph is the usual remedy for hubs (U. von Luxburg, *A Tutorial on
Spectral Clustering*, 2007).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import as_given, at_least_float32, full_precision
from torchreid_spectral.functional.similarity import cosine_similarity

__all__ = ["NORMALIZATIONS", "log_softmax_transition", "softmax_transition", "transition_matrix"]

NORMALIZATIONS = ("rows", "symmetric")
"""How affinities become a transition: :math:`D^{-1} W` or :math:`D^{-1/2} W D^{-1/2}`."""


def transition_matrix(
    features: Float[Tensor, "*batch N D"],
    temperature: float | Float[Tensor, ""] = 0.1,
    self_loops: bool = True,
    top_k: int | None = None,
    mutual: bool = False,
    normalization: str = "rows",
) -> Float[Tensor, "*batch N N"]:
    r"""Compute the transition matrix of a walk over cosine similarities.

    .. math:: T_{ij} = \operatorname{softmax}_j(\cos(x_i, x_j) / \sigma)

    Args:
        features: Features, one row a node. A zero row is equally similar to all nodes.
        temperature: :math:`\sigma > 0`. Small values keep a walker near, large ones spread it
            evenly.
        self_loops: Whether a walker may stay where it is.
        top_k: Keep only the most similar nodes of each row; all if not given.
        mutual: Keep an edge only where each end is among the other's ``top_k``.
        normalization: ``rows`` or ``symmetric``, see :func:`softmax_transition`.

    Returns:
        Transition probabilities in the dtype of ``features``; each row sums to one, unless
        ``symmetric``.

    Raises:
        ValueError: If an option is out of range, or a single node has no self loop.

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
        similarity,
        temperature=temperature,
        self_loops=self_loops,
        top_k=top_k,
        mutual=mutual,
        normalization=normalization,
    )
    return as_given(transition, features)


def softmax_transition(
    similarity: Float[Tensor, "*batch N M"],
    *,
    temperature: float | Float[Tensor, ""],
    self_loops: bool = True,
    top_k: int | None = None,
    mutual: bool = False,
    normalization: str = "rows",
) -> Float[Tensor, "*batch N M"]:
    r"""Turn similarities into transition probabilities by a softmax over each row.

    .. math:: T = D^{-1} W \quad\text{(rows)}, \qquad
              T = D^{-1/2} W D^{-1/2} \quad\text{(symmetric)}, \qquad
              w_{ij} = e^{s_{ij} / \sigma}, \; D_{ii} = \sum_j w_{ij}

    Computed in float32 at least, autocast or not.

    Args:
        similarity: Larger is closer.
        temperature: :math:`\sigma > 0`, a number or a learned scalar.
        self_loops: Whether the diagonal takes part; ``False`` needs a square matrix.
        top_k: Keep only the largest entries of each row, at a tie those of the lower column;
            a self loop counts as one. All if not given or not smaller than ``M``.
        mutual: Keep an entry only where its mirror is kept too; needs a square matrix. A node
            that this leaves alone stays where it is.
        normalization: ``rows``, or ``symmetric``, which needs a symmetric similarity and, with
            ``top_k``, ``mutual``; its rows do not sum to one, its eigenvalues are those of
            ``rows``.

    Returns:
        Probabilities in the dtype of ``similarity``; each row sums to one, unless ``symmetric``.

    Raises:
        ValueError: If an option is out of range, or a node has nowhere to go. A temperature with a
            gradient, or on a GPU, is not looked at.
    """
    # A learned temperature is positive by construction: asking would stall a GPU's queue, and cut
    # what torch.compile puts together.
    learned = isinstance(temperature, Tensor) and (
        temperature.requires_grad or temperature.is_cuda
    )
    if not learned and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {float(temperature)}.")
    _check_graph(similarity, top_k, mutual, normalization)
    with full_precision(similarity):
        logits = at_least_float32(similarity) / temperature
        if not self_loops:
            logits = _without_diagonal(logits)
        if top_k is not None and top_k < logits.shape[-1]:
            logits = _largest_of_each_row(logits, top_k, mutual)
        transition = logits.softmax(dim=-1) if normalization == "rows" else _symmetric(logits)
    return as_given(transition, similarity)


def log_softmax_transition(
    similarity: Float[Tensor, "*batch N M"], *, temperature: float
) -> Float[Tensor, "*batch N M"]:
    r"""Compute the logarithm of :func:`softmax_transition`, which does not underflow.

    Args:
        similarity: Larger is closer.
        temperature: :math:`\sigma > 0`.

    Returns:
        Logarithms of probabilities, float32 at least.

    Raises:
        ValueError: If the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    with full_precision(similarity):
        return (at_least_float32(similarity) / temperature).log_softmax(dim=-1)


def _check_graph(similarity: Tensor, top_k: int | None, mutual: bool, normalization: str) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}.")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}.")
    symmetric = normalization == "symmetric"
    rows, columns = similarity.shape[-2:]
    if (mutual or symmetric) and rows != columns:
        name = "normalization='symmetric'" if symmetric else "mutual=True"
        raise ValueError(f"{name} needs a square similarity matrix, got {rows} x {columns}.")
    if symmetric and top_k is not None and not mutual:
        raise ValueError("normalization='symmetric' with top_k needs mutual=True, got False.")


def _symmetric(logits: Tensor) -> Tensor:
    """Divide by the roots of both ends' degrees, in logarithms, so that nothing overflows."""
    degree = logits.logsumexp(dim=-1)
    return (logits - (degree[..., :, None] + degree[..., None, :]) / 2).exp()


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


def _largest_of_each_row(logits: Tensor, k: int, mutual: bool) -> Tensor:
    best = logits.detach().argsort(dim=-1, descending=True, stable=True)[..., :k]
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
    if not mutual:
        return logits.masked_fill(~kept, float("-inf"))
    kept = kept & kept.mT & logits.isfinite()
    loops = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    alone = ~kept.any(dim=-1, keepdim=True) & loops
    return logits.masked_fill(~kept, float("-inf")).masked_fill(alone, 0.0)
