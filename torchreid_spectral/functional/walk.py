r"""Random walks on a similarity graph.

Sources: Z. Zhang's talk, 2018 (:math:`X' = T X`); C. Luo et al., *Spectral Feature Transformation
for Person Re-identification*, ICCV 2019. The walk with restart and its closed form as in Y. Shen
et al., *Deep Group-shuffling Random Walk for Person Re-identification*, CVPR 2018.

=======================  ==================================  ==========================
Paper                    Here                                Shape
=======================  ==================================  ==========================
:math:`T`                ``transition``, rows sum to one     ``(..., N, N)``
:math:`X`                ``features``                        ``(..., N, D)``
:math:`\alpha`           ``1 - restart``                     scalar in [0, 1]
=======================  ==================================  ==========================
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchreid_spectral.functional._precision import at_least_float32, full_precision

__all__ = ["random_walk", "random_walk_limit"]


def random_walk(
    transition: Float[Tensor, "*batch N N"],
    features: Float[Tensor, "*batch N D"],
    steps: int = 1,
    restart: float = 0.0,
) -> Float[Tensor, "*batch N D"]:
    r"""Average features over the places a walker reaches after some steps.

    .. math:: X_{t+1} = (1 - r) \, T X_t + r \, X_0

    Args:
        transition: Transition matrix, rows summing to one.
        features: :math:`X_0`, one row a node.
        steps: Length of the walk; zero gives the features back.
        restart: :math:`r`, the share of the start that every step returns to.

    Returns:
        The features after the walk, same shape and dtype.

    Raises:
        ValueError: If ``steps`` is negative or ``restart`` not in [0, 1].

    Example:
        >>> random_walk(torch.full((2, 2), 0.5), torch.tensor([[0.0], [2.0]]))
        tensor([[1.],
                [1.]])
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}.")
    if not 0 <= restart <= 1:
        raise ValueError(f"restart must be in [0, 1], got {restart}.")
    walked = features
    for _ in range(steps):
        walked = _mix(transition, walked)
        if restart:
            walked = (1 - restart) * walked + restart * features
    return walked


def random_walk_limit(
    transition: Float[Tensor, "*batch N N"],
    features: Float[Tensor, "*batch N D"],
    *,
    restart: float,
) -> Float[Tensor, "*batch N D"]:
    r"""Compute where the walk with restart ends, without walking.

    .. math:: X_\infty = r \, (I - (1 - r) \, T)^{-1} X_0

    The fixed point of :func:`random_walk` for endlessly many steps, by a linear solve in float32
    or wider.

    Args:
        transition: Transition matrix, rows summing to one.
        features: :math:`X_0`, one row a node.
        restart: :math:`r`; without restart the limit would not depend on the start.

    Returns:
        The limit, in the shape and dtype of ``features``.

    Raises:
        ValueError: If ``restart`` is not in (0, 1].
    """
    if not 0 < restart <= 1:
        raise ValueError(f"restart must be in (0, 1], got {restart}: without it no unique limit.")
    with full_precision(features):
        wide = at_least_float32(transition)
        wide = wide.to(torch.promote_types(wide.dtype, features.dtype))
        identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
        system = identity - (1 - restart) * wide
        limit = torch.linalg.solve(system, restart * at_least_float32(features).to(wide.dtype))
    return limit.to(features.dtype)


def _mix(transition: Tensor, features: Tensor) -> Tensor:
    """Multiply in float32 or wider: half precision would lose what near-equal rows differ by."""
    with full_precision(features):
        wide = at_least_float32(features)
        return (transition.to(wide.dtype) @ wide).to(features.dtype)
