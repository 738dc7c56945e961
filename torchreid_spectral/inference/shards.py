"""The files of a gallery: each is there whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from torchreid_spectral._files import write_bytes, write_text
from torchreid_spectral.errors import InputError

if TYPE_CHECKING:  # it imports this module
    from torchreid_spectral.inference.gallery import Gallery

__all__ = [
    "FORMAT",
    "SHARD",
    "drop_other_shards",
    "read_shard",
    "write_manifest",
    "write_shard",
]

FORMAT = 1
"""Of ``index.json``."""
SHARD = re.compile(r"features-\d{5}\.(safetensors|json)")
"""What the files of a shard are called."""


def write_shard(folder: Path, number: int, part: Gallery) -> str:
    """Write one shard; its JSON last, which vouches for it.

    Args:
        folder: Of the gallery.
        number: Of the shard.
        part: Its rows.

    Returns:
        The shard's name.

    Raises:
        InputError: If a label is of a kind that JSON does not know; nothing is written then.
    """
    name = f"features-{number:05d}"
    features = np.ascontiguousarray(part.features, dtype=np.float32)
    content = {"paths": part.paths, "ids": part.ids, "camids": part.camids, "model": part.model,
               "skipped": part.skipped, "amp": part.amp}  # fmt: skip
    try:
        text = json.dumps(content) + "\n"
    except TypeError as error:  # before anything is written
        raise InputError(
            f"ids and camids must be words or numbers to be saved: {error}. Give str(...) of them."
        ) from error
    write_bytes(folder / f"{name}.safetensors", save({"features": features}))
    write_text(folder / f"{name}.json", text)
    return name


def drop_other_shards(folder: Path, shards: Sequence[str]) -> None:
    """Remove what is left of an earlier gallery, once this one's ``index.json`` is written.

    Args:
        folder: Of the gallery.
        shards: Names of its shards.
    """
    for path in folder.glob("features-*.*"):
        if SHARD.fullmatch(path.name) and path.stem not in shards:
            path.unlink(missing_ok=True)


def read_shard(folder: Path, name: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Read one shard.

    Args:
        folder: Of the gallery.
        name: Of the shard.

    Returns:
        Its features, and what else a gallery is made of.
    """
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    file = folder / f"{name}.safetensors"
    file.open("rb").close()  # says why not, if it cannot be opened: safetensors does not
    return load_file(file)["features"], content


def write_manifest(folder: Path, shards: Sequence[str], model: str, metric: str) -> None:
    """Write ``index.json``: the gallery is whole.

    Args:
        folder: Of the gallery.
        shards: Names, in order.
        model: Fingerprint of the weights.
        metric: Distance of the features.
    """
    content = {"format": FORMAT, "model": model, "metric": metric, "shards": list(shards)}
    write_text(folder / "index.json", json.dumps(content) + "\n")
