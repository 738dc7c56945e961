r"""Random walks on a similarity graph.

Sources: Z. Zhang's talk, 2018 (:math:`X' = T X`); C. Luo et al., *Spectral Feature Transformation
for Person Re-identification*, ICCV 2019. The walk with restart and its closed form as in Y. Shen
et al., *Deep Group-shuffling Random Walk for Person Re-identification*, CVPR 2018.

=======================  ==================================  ==========================
Paper                    Here                                Shape
=======================  ==================================  ==========================
:math:`T`                ``transition``, rows sum to one     ``(..., N, N + M)``
:math:`X`                ``features``                        ``(..., N, D)``
:math:`\alpha`           ``1 - restart``                     scalar in [0, 1]
not there                ``anchors``, nodes that stay        ``(..., M, D)``
=======================  ==================================  ==========================

Anchors are nodes that a walker reaches but that are not walked themselves, such as the features of
earlier batches: the last M columns of the transition lead to them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import as_given, at_least_float32, full_precision

__all__ = ["random_walk", "random_walk_limit"]


def random_walk(
    transition: Float[Tensor, "*batch N N_M"],
    features: Float[Tensor, "*batch N D"],
    steps: int = 1,
    restart: float = 0.0,
    *,
    anchors: Float[Tensor, "*batch M D"] | None = None,
) -> Float[Tensor, "*batch N D"]:
    r"""Average features over the places a walker reaches after some steps.

    .. math:: X_{t+1} = (1 - r) \, T \begin{bmatrix} X_t \\ M \end{bmatrix} + r \, X_0

    Args:
        transition: Transition matrix, rows summing to one; square where there are no anchors.
        features: :math:`X_0`, one row a node.
        steps: Length of the walk; zero gives the features back.
        restart: :math:`r`, the share of the start that every step returns to.
        anchors: :math:`M`, features of nodes that stay as they are; none if not given.

    Returns:
        The features after the walk, same shape and dtype.

    Raises:
        ValueError: If ``steps`` is negative, ``restart`` not in [0, 1], or the transition's
            columns are not the nodes and anchors.

    Example:
        >>> random_walk(torch.full((2, 2), 0.5), torch.tensor([[0.0], [2.0]]))
        tensor([[1.],
                [1.]])
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}.")
    if not 0 <= restart <= 1:
        raise ValueError(f"restart must be in [0, 1], got {restart}.")
    _check_columns(transition, features, anchors)
    walked = features
    for _ in range(steps):
        walked = _mix(transition, _with_anchors(walked, anchors))
        if restart:
            walked = (1 - restart) * walked + restart * features
    return walked


def random_walk_limit(
    transition: Float[Tensor, "*batch N N_M"],
    features: Float[Tensor, "*batch N D"],
    *,
    restart: float,
    anchors: Float[Tensor, "*batch M D"] | None = None,
) -> Float[Tensor, "*batch N D"]:
    r"""Compute where the walk with restart ends, without walking.

    .. math:: X_\infty = (I - (1 - r) \, T)^{-1} \, (r X_0 + (1 - r) \, T_M M)

    The fixed point of :func:`random_walk` for endlessly many steps, by a linear solve in float32
    or wider. :math:`T_M` are the columns that lead to anchors.

    Args:
        transition: Transition matrix, rows summing to one; square where there are no anchors.
        features: :math:`X_0`, one row a node.
        restart: :math:`r`; without restart the limit would not depend on the start.
        anchors: :math:`M`, features of nodes that stay as they are; none if not given.

    Returns:
        The limit, in the shape and dtype of ``features``.

    Raises:
        ValueError: If ``restart`` is not in (0, 1], or the transition's columns are not the nodes
            and anchors.
    """
    if not 0 < restart <= 1:
        raise ValueError(f"restart must be in (0, 1], got {restart}: without it no unique limit.")
    _check_columns(transition, features, anchors)
    with full_precision(features):
        wide = at_least_float32(transition)
        wide = wide.to(torch.promote_types(wide.dtype, features.dtype))
        inner, outer = wide.split([features.shape[-2], wide.shape[-1] - features.shape[-2]], -1)
        known = restart * at_least_float32(features).to(wide.dtype)
        if anchors is not None:
            known = known + (1 - restart) * (outer @ at_least_float32(anchors).to(wide.dtype))
        identity = torch.eye(inner.shape[-1], dtype=wide.dtype, device=wide.device)
        limit = torch.linalg.solve(identity - (1 - restart) * inner, known)
    return as_given(limit, features)


def _check_columns(transition: Tensor, features: Tensor, anchors: Tensor | None) -> None:
    nodes = features.shape[-2] + (0 if anchors is None else anchors.shape[-2])
    if transition.shape[-1] != nodes:
        raise ValueError(
            f"transition must have one column a node and anchor, {nodes}, got "
            f"{transition.shape[-1]}."
        )
    if anchors is None and transition.shape[-2] != nodes:
        raise ValueError(
            f"transition must be square without anchors, got {tuple(transition.shape)}."
        )


def _with_anchors(walked: Tensor, anchors: Tensor | None) -> Tensor:
    return walked if anchors is None else torch.cat([walked, anchors.to(walked.dtype)], dim=-2)


def _mix(transition: Tensor, features: Tensor) -> Tensor:
    """Multiply in float32 or wider: half precision would lose what near-equal rows differ by."""
    with full_precision(features):
        wide = at_least_float32(features)
        return as_given(transition.to(wide.dtype) @ wide, features)
