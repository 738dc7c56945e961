"""Features with identities and cameras from files: npz, npy with csv, safetensors, or a folder.

==================  =========================================================================
File                What it holds
==================  =========================================================================
``x.npz``           arrays ``features``, ``pids``, ``camids``; or of query and gallery
                    together: ``qf``, ``q_pids``, ``q_camids``, ``gf``, ``g_pids``, ``g_camids``
``x.npy``           the features; ``x.csv`` beside it has the columns ``pid`` and ``camid``
``x.safetensors``   tensors ``features``, ``pids``, ``camids``; or ids in ``x.json`` beside it
folder              what ``tools/extract.py`` wrote: ``index.json`` and shards
==================  =========================================================================

Identities and cameras may be missing; then there are no metrics. Columns of a csv that hold whole
numbers only are read as numbers. Nothing is unpickled.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from torchreid_spectral.errors import InputError

__all__ = ["FeatureSet", "load_features"]

_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")

DAMAGED = (
    OSError, EOFError, ValueError, TypeError, KeyError, csv.Error, zipfile.BadZipFile, zlib.error,
    SafetensorError,
)  # fmt: skip
"""What readers raise on files that are cut off, of another kind, or pickled."""


@dataclass(frozen=True)
class FeatureSet:
    """Features with what is known of them.

    Args:
        features: ``(N, D)``.
        pids: ``(N,)`` identities, numbers or names.
        camids: ``(N,)`` cameras.
        model: Fingerprint of the weights they were made by; empty where not known.
        metric: Distance that they are compared by; empty where not known.
    """

    features: NDArray[Any]
    pids: NDArray[Any] | None = None
    camids: NDArray[Any] | None = None
    model: str = ""
    metric: str = ""


def load_features(path: str | Path, role: str) -> FeatureSet:
    """Read a feature file.

    Args:
        path: See this module's table.
        role: ``query`` or ``gallery``: which of the two, where a file holds both.

    Returns:
        The features.

    Raises:
        InputError: If the file is missing, damaged, or lacks something.
    """
    path = Path(path).expanduser()
    readers = {".npz": _npz, ".npy": _npy, ".safetensors": _safetensors}
    try:
        if path.is_dir():
            content = _folder(path)
        elif path.suffix in readers:
            content = readers[path.suffix](path)
        else:
            raise InputError(f"{path} is no feature file: take {', '.join(readers)} or a folder.")
        return _chosen(content, path, role)
    except FileNotFoundError as error:
        raise InputError(f"The {role} file {error.filename or path} does not exist.") from error
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"The {role} file {path} cannot be read: {error!r}") from error


def _chosen(content: Mapping[str, Any], path: Path, role: str) -> FeatureSet:
    short = role[0]
    names = {
        "features": ("features", f"{short}f", f"{role}_features"),
        "pids": ("pids", "ids", f"{short}_pids"),
        "camids": ("camids", f"{short}_camids"),
    }
    found = {
        kind: next((content[name] for name in known if content.get(name) is not None), None)
        for kind, known in names.items()
    }
    if found["features"] is None:
        raise InputError(
            f"{path} has no features: expected one of {names['features']}, got {sorted(content)}."
        )
    features = np.asarray(found["features"])
    ids = {}
    for kind in ("pids", "camids"):
        values = None if found[kind] is None else np.asarray(found[kind])
        if values is not None and values.dtype == object:
            values = _known(values, role)
        if values is not None and values.shape != features.shape[:1]:
            raise InputError(
                f"{path}: {kind} must have one entry a feature, got {values.shape} for "
                f"{features.shape}."
            )
        ids[kind] = values
    model, metric = (
        told if isinstance(told := content.get(name), str) else "" for name in ("model", "metric")
    )
    return FeatureSet(features, **ids, model=model, metric=metric)


def _known(values: NDArray[Any], role: str) -> NDArray[Any]:
    """Give those who are not known an identity that nobody of the other file has."""
    names = any(isinstance(value, str) for value in values)
    nobody: Any = {"query": (-2, " "), "gallery": (-1, "")}[role][names]
    return np.array([nobody if value is None else value for value in values])


def _npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if not name.endswith("names")}


def _npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as raw:  # numpy leaves damaged files open
        content: dict[str, Any] = {"features": np.load(raw, allow_pickle=False)}
    table = path.with_suffix(".csv")
    if table.exists():
        with table.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a mark first
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
        for kind in ("pid", "camid"):
            if kind not in columns:
                raise InputError(f"{table} needs the columns pid and camid, got {columns}.")
            short = [number for number, row in enumerate(rows, start=1) if row[kind] is None]
            if short:
                raise InputError(f"{table} cannot be read: row {short[0]} ends before {kind}.")
            content[f"{kind}s"] = _numbers_or_names([row[kind] for row in rows])
    return content


def _numbers_or_names(values: list[str]) -> NDArray[Any]:
    if all(_NUMBER.fullmatch(value) for value in values):  # int() would take 1_11 for 111
        return np.array([int(value) for value in values], dtype=np.int64)
    return np.array(values)


def _safetensors(path: Path) -> dict[str, Any]:
    path.stat()  # names the file if it is missing, which safetensors does not
    content: dict[str, Any] = dict(load_file(path))
    beside = path.with_suffix(".json")
    if beside.exists():
        content |= json.loads(beside.read_text(encoding="utf-8"))
    return content


def _folder(path: Path) -> dict[str, Any]:
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    shards = index["shards"]
    parts = [_safetensors(path / f"{name}.safetensors") for name in shards]
    content: dict[str, Any] = {"features": np.concatenate([part["features"] for part in parts])}
    if len(models := {part.get("model", "") for part in parts}) > 1:
        raise InputError(f"The shards of {path} are of different weights: extract it anew.")
    content["model"], content["metric"] = models.pop(), index.get("metric", "")
    for kind in ("ids", "camids"):
        if all(part.get(kind) is not None for part in parts):
            content[kind] = np.concatenate([part[kind] for part in parts])
    return content
