"""Nested tuples of tensors: what models give in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["leaves", "map_tensors"]


def map_tensors(function: Callable[..., Any], *trees: Any) -> Any:  # noqa: ANN401
    """Apply a function to tensors in nested tuples or lists of one shape.

    Args:
        function: Called with one tensor of each tree.
        *trees: Tensors, or nested tuples or lists of them; other leaves are passed through.

    Returns:
        The results in tuples.
    """
    first = trees[0]
    if isinstance(first, (tuple, list)):
        return tuple(map_tensors(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees) if isinstance(first, Tensor) else first


def leaves(tree: Any) -> list[Tensor]:  # noqa: ANN401
    """List the tensors of a tree.

    Args:
        tree: A tensor, or nested tuples or lists of them.

    Returns:
        The tensors, in order.
    """
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree] if isinstance(tree, Tensor) else []
