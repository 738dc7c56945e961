"""Whether an option's value is of the kind that its annotation names."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["KINDS", "fits"]

KINDS: dict[str, type] = {
    "int": Integral, "float": Real, "bool": bool, "str": str, "None": type(None)
}  # fmt: skip
"""Annotation, as text, to the kind of its values; NumPy's numbers are numbers."""


def fits(value: Any, wanted: str) -> bool:  # noqa: ANN401
    """Say whether a value is of a kind: True and False are no numbers.

    Args:
        value: Of an option.
        wanted: Keys of :data:`KINDS`, such as ``int`` or ``int | None``.

    Returns:
        Whether it is of one of them.
    """
    kinds = tuple(KINDS[name] for name in wanted.split(" | "))
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
