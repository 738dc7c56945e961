"""What users hand to a re-ranker: checked, as tensors, and given back as it came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchreid_spectral.errors import InputError

__all__ = ["Array", "as_cameras", "as_features", "like", "named_options"]

LARGEST = 1e16  # squares of a million of these are finite
SMALLEST = 1e-18  # squares of smaller ones are zero, or hardly more
Array = Any  # numpy.ndarray or torch.Tensor: what comes in goes out


def as_features(name: str, values: Array) -> Tensor:
    if isinstance(values, np.ndarray):  # torch takes no reversed and no read-only arrays
        if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            raise InputError(f"{name} must be floating point, got {values.dtype}.")
        native = values.dtype.newbyteorder("=")
        values = np.require(values, dtype=native, requirements=["C", "W"])
        if min(values.strides, default=0) < 0:  # one row, which counts as contiguous either way
            values = values.copy()
    features = torch.as_tensor(values).detach()
    if features.dim() != 2 or 0 in features.shape:
        raise InputError(f"{name} must be (N, D) with N, D >= 1, got {tuple(features.shape)}.")
    if not features.is_floating_point():
        raise InputError(f"{name} must be floating point, got {features.dtype}.")
    features = features.float()  # of float64, what float32 cannot hold is not finite either
    ends = torch.stack([features.min(), features.max()]).cpu()  # both NaN where one is
    largest = float(ends.abs().max())
    if not math.isfinite(largest):
        finite = features.isfinite().all(dim=1)
        rows = (~finite).nonzero().flatten()[:5].tolist()
        raise InputError(
            f"{name} must be finite: {int((~finite).sum())} rows hold NaN or infinity, the first "
            f"at index {rows}. Remove them or extract them anew."
        )
    if largest > LARGEST:
        raise InputError(
            f"{name} must lie within ±{LARGEST:g}, got {largest:g}: float32 cannot hold the "
            "squares of larger numbers. Scale the features."
        )
    if 0 < largest < SMALLEST:
        raise InputError(
            f"{name} must hold numbers of at least {SMALLEST:g}, got {largest:g} at most: float32 "
            "cannot hold the squares of smaller numbers. Scale the features."
        )
    return features


def as_cameras(name: str, values: Array | None, count: int) -> Tensor | None:
    if values is None:
        return None
    if isinstance(values, Tensor):
        cameras = values
    else:
        given = np.asarray(values)
        if given.dtype.kind not in "biuf":
            raise InputError(
                f"{name} must be numbers, got {given.dtype}: number the "
                f"{'cameras' if name == 'camids' else name}."
            )
        # torch takes no reversed and no read-only arrays, nor those of another byte order
        cameras = torch.from_numpy(
            given.astype(np.float64 if given.dtype.kind == "f" else np.int64)
        )
    if not cameras.is_floating_point():
        cameras = cameras.long()  # torch cannot sort unsigned numbers
    if cameras.shape != (count,):
        raise InputError(
            f"{name} must have shape ({count},), one a row of the features, got "
            f"{tuple(cameras.shape)}."
        )
    if not (known := cameras.isfinite()).all():
        raise InputError(
            f"{name} must be finite: {int((~known).sum())} are NaN or infinite. Give images of "
            "unknown cameras a number of their own, such as -1."
        )
    return cameras.cpu()  # where graphs are built


def like(example: Array, result: Tensor) -> Array:
    return result if isinstance(example, Tensor) else np.asarray(result.cpu())


def named_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read options of a command line, ``NAME=VALUE``.

    Args:
        texts: Such as ``k=20`` or ``graph=mutual``.

    Returns:
        Name to a whole number, a number, True or False, or the word as it is.

    Raises:
        InputError: If one has no ``=``.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"Options of a method are NAME=VALUE, got {text!r}.")
        options[name] = _number_or_word(value)
    return options


def _number_or_word(text: str) -> Any:  # noqa: ANN401
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
