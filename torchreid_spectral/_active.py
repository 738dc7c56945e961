"""Values that hold inside a block: what torchreid's fixed signatures have no argument for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

__all__ = ["Active"]

T = TypeVar("T")


class Active(Generic[T]):
    """A value, and others in its place inside blocks; each thread has its own.

    Args:
        default: What holds outside of all blocks.

    Example:
        >>> padding = Active(10)
        >>> with padding.held(3):
        ...     padding.value
        3
        >>> padding.value
        10
    """

    def __init__(self, default: T) -> None:
        self._held: ContextVar[T] = ContextVar("held", default=default)

    @property
    def value(self) -> T:
        """What holds now."""
        return self._held.get()

    @contextmanager
    def held(self, value: T) -> Iterator[None]:
        """Let another value hold inside the block.

        Args:
            value: Which.

        Yields:
            Nothing.
        """
        token = self._held.set(value)
        try:
            yield
        finally:
            self._held.reset(token)
