r"""How well a labelling cuts a graph: normalised cut and escape probability.

Source: Z. Zhang's talk, 2018, after J. Shi and J. Malik, *Normalized Cuts and Image Segmentation*,
TPAMI 2000, and M. Meila and J. Shi, *A Random Walks View of Spectral Segmentation*, AISTATS 2001.

=====================================  =====================================  ===============
Talk                                   Here                                   Shape
=====================================  =====================================  ===============
:math:`W`                              ``affinity``, entries >= 0             ``(N, N)``
:math:`p_c`                            column ``c`` of the soft assignment    ``(N, C)``
:math:`P(\bar A \mid A)`               ``escape_probability``                 scalar in [0, 1]
=====================================  =====================================  ===============
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.functional._precision import as_given, at_least_float32, full_precision
from torchreid_spectral.functional.similarity import cosine_similarity

__all__ = ["affinity_matrix", "cut_ratios", "escape_probability", "normalized_cut"]


def affinity_matrix(
    features: Float[Tensor, "N D"], temperature: float = 0.1
) -> Float[Tensor, "N N"]:
    r"""Compute :math:`w_{ij} = \exp((\cos(x_i, x_j) - 1) / \sigma)`.

    Note:
        The talk writes :math:`\exp(\cos / \sigma)`. The constant factor changes neither the
        transition matrix nor the normalised cut, and keeps small temperatures from overflowing
        (tested in ``tests/functional/test_cut.py``).

    Args:
        features: Features, one row a node.
        temperature: :math:`\sigma > 0`.

    Returns:
        Affinities in [0, 1] up to rounding, in the dtype of ``features``, computed in float32 at
        least.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    affinity = ((cosine_similarity(at_least_float32(features)) - 1) / temperature).exp()
    return as_given(affinity, features)


def normalized_cut(
    affinity: Float[Tensor, "N N"], labels: Int[Tensor, " N"] | Float[Tensor, "N C"]
) -> Float[Tensor, ""]:
    r"""Compute the normalised cut of a labelled graph.

    .. math:: \mathrm{Ncut} = \sum_c \frac{p_c^T W (1 - p_c)}{p_c^T W 1}

    For two classes with hard labels this is :math:`cut(A, \bar A)/vol(A) + cut(A, \bar
    A)/vol(\bar A) = P(\bar A|A) + P(A|\bar A)`. A class of zero volume contributes nothing.

    Args:
        affinity: Non-negative affinities.
        labels: Class of each node, or probability of each class for each node.

    Returns:
        The cut, between zero and the number of classes; differentiable in both arguments.

    Raises:
        ValueError: If ``labels`` has another number of nodes, or two dimensions and whole numbers.
    """
    _check_labels(affinity, labels)
    if labels.dim() > 2 or (labels.dim() == 2 and not labels.is_floating_point()):
        raise ValueError(
            "labels must be (N,) classes or (N, C) probabilities of floating point, got "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )
    with full_precision(affinity):
        wide = at_least_float32(affinity)
        assignment = _soft_assignment(labels, wide.dtype)
        ratios = cut_ratios(wide, assignment, assignment)
    return as_given(ratios.sum(), affinity)


def cut_ratios(
    affinity: Float[Tensor, "N N"],
    assignment: Float[Tensor, "N C"],
    members: Float[Tensor, "N C"],
) -> Float[Tensor, " C"]:
    r"""Compute each class's term of the normalised cut.

    .. math:: \frac{q_c^T W (1 - p_c)}{q_c^T W 1}

    Args:
        affinity: Non-negative affinities, float32 or wider.
        assignment: p, the probability of each class for each node.
        members: q, which is p but for any factor a class: it cancels, and keeps a class that is
            improbable everywhere from underflowing.

    Returns:
        The terms; zero for a class of zero volume.
    """
    volume = members.mT @ affinity.sum(dim=1)
    cut = ((affinity @ (1 - assignment)) * members).sum(dim=0)
    empty = volume == 0
    return (cut / volume.masked_fill(empty, 1)).masked_fill(empty, 0)


def escape_probability(
    transition: Float[Tensor, "N N"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    r"""Compute the mean probability that one step leaves the walker's class.

    .. math:: \frac{1}{N} \sum_i \frac{\sum_{j: y_j \ne y_i} T_{ij}}{\sum_{j \ne i} T_{ij}}

    Self loops are excluded: a step is what changes the node, else a walk could look safe merely
    because it stays. A node that can only stay counts as not leaving; a node that is alone in its
    class always leaves.

    Args:
        transition: Transition probabilities.
        labels: Class of each node.

    Returns:
        A probability; zero is a perfect graph. Differentiable in ``transition``.

    Raises:
        ValueError: If ``labels`` has another number of nodes, or is not one-dimensional.

    Note:
        A softmax over self loops too may leave so little for all else that nothing is left of it
        in the transition's precision: such a node seems to stay. Compute T without self loops.
    """
    _check_labels(transition, labels)
    if labels.dim() != 1:
        raise ValueError(f"labels must be one-dimensional, got shape {tuple(labels.shape)}.")
    wide = at_least_float32(transition)
    loops = torch.eye(wide.shape[0], dtype=torch.bool, device=wide.device)
    moves = wide.masked_fill(loops, 0)
    leaves = moves.masked_fill(labels[:, None] == labels[None, :], 0).sum(dim=1)
    total = moves.sum(dim=1)
    stays = total == 0
    escape = (leaves / total.masked_fill(stays, 1)).masked_fill(stays, 0)
    return as_given(escape.mean(), transition)


def _check_labels(graph: Tensor, labels: Tensor) -> None:
    if labels.shape[0] != graph.shape[0]:
        raise ValueError(
            f"labels must have one entry a node: {graph.shape[0]} nodes, got labels of shape "
            f"{tuple(labels.shape)}."
        )


def _soft_assignment(labels: Tensor, dtype: torch.dtype) -> Tensor:
    if labels.dim() == 2:
        return labels.to(dtype)
    classes, index = labels.unique(return_inverse=True)
    return torch.nn.functional.one_hot(index, len(classes)).to(dtype)
