"""Errors that a user can mend: the command line shows them without a traceback."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

__all__ = ["InputError", "RunError", "UnknownNameError", "first_line", "reason", "require_extra"]


class InputError(ValueError):
    """Something given by the user breaks a rule; the message says what, which, and the remedy."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why, and from where to go on."""


class UnknownNameError(InputError):
    """A name that is not in a table of names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"Unknown {kind} {name!r}. {hint}")
        self.name, self.nearest = name, near


def first_line(error: BaseException) -> str:
    """Shorten an error to its first line, or to its kind where it says nothing.

    Args:
        error: Whatever was raised.

    Returns:
        The line.
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def reason(error: Exception) -> str:
    """Shorten an error of PyTorch's to what is wrong, without what it would advise.

    Args:
        error: Of loading a file or a state.

    Returns:
        A line.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    forbidden = re.search(r"Unsupported global: GLOBAL (\S+)", text)
    if forbidden:
        return f"it holds a {forbidden[1]}."
    refused = re.search(r"WeightsUnpickler error: (.+)", text)
    if refused:
        return f"it holds more than plain data ({refused[1].strip()})."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:3]) if lines[0].startswith("Error(s) in loading") else lines[0]


def require_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency or say which command installs it.

    Args:
        module: Name to import.
        extra: The extra of this package that brings it.
        purpose: What needs it, for the message.

    Returns:
        The module.

    Raises:
        InputError: If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        absent = missing is not None and f"{module}.".startswith(f"{missing}.")
        why = "is not installed" if absent else f"cannot be imported ({error})"
        raise InputError(
            f"{purpose} needs {module}, which {why}. "
            f"Run: pip install 'torchreid-spectral[{extra}]'"
        ) from error
