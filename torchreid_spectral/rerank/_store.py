"""A fitted gallery on disk: tensors as safetensors, everything else as JSON beside them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from torchreid_spectral._files import write_bytes, write_text
from torchreid_spectral.errors import InputError

__all__ = ["FORMAT", "read", "write"]

FORMAT = 1
"""Version of the files: a reader refuses those of a later one."""


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write ``path`` and, beside it, the same name ending in ``.json``.

    Whoever is killed between the two leaves new tensors beside the earlier description: then
    :func:`read` takes the new one from among the tensors' metadata.

    Args:
        path: Ends in ``.safetensors``.
        tensors: What to keep.
        about: What to say of it.

    Raises:
        InputError: If the name ends otherwise.
    """
    described = _json_beside(path)
    label = secrets.token_hex(8)  # ties the two files together
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "label": label, **about}, indent=2, default=_number)
    inside = {"label": label, "replaces": _label(described), "about": text}
    write_bytes(path, save(whole, metadata=inside))
    write_text(described, text + "\n")


def read(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote; on a CPU the tensors are mapped from the file.

    Args:
        path: The ``.safetensors`` file.
        device: Where the tensors go.

    Returns:
        The tensors, and what was said of them.

    Raises:
        InputError: If a file is missing, damaged, of a later version, or of another pair.
    """
    described = _json_beside(path)
    for part in (path, described):
        if not part.is_file():
            raise InputError(
                f"A saved gallery is {path} and {described.name} beside it; missing: {part}."
            )
    try:
        about = json.loads(described.read_text(encoding="utf-8"))
        with safe_open(path, framework="pt", device=device) as file:
            inside = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, SafetensorError) as error:
        raise InputError(f"{path} or {described.name} is damaged: {error}") from error
    label = inside.get("label")
    if "about" in inside and isinstance(about, dict) and about.get("label") == inside["replaces"]:
        about = json.loads(inside["about"])
    if not isinstance(about, dict) or about.get("label") != label or label is None:
        raise InputError(f"{path} and {described.name} do not belong together: save them anew.")
    if not isinstance(about.get("format"), int) or about["format"] > FORMAT:
        raise InputError(
            f"{described} has format {about.get('format')!r}; this version reads up to {FORMAT}. "
            "Update torchreid_spectral."
        )
    return tensors, about


def _label(described: Path) -> str:
    """Give the label of the description that is there, if any."""
    try:
        return str(json.loads(described.read_text(encoding="utf-8"))["label"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _number(value: Any) -> Any:  # noqa: ANN401 (what JSON does not know)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _json_beside(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise InputError(f"A saved gallery's name must end in .safetensors, got {path.name!r}.")
    return path.with_suffix(".json")
