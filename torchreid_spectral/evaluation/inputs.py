"""Identities, cameras and distances as arrays, and the errors where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchreid_spectral.errors import InputError

__all__ = ["as_array", "as_ids", "check_ids", "check_kinds"]

Ids = NDArray[Any]


def check_ids(q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids) -> None:
    """Check that identities and cameras belong together.

    Args:
        q_pids: ``(Q,)``.
        g_pids: ``(G,)``.
        q_camids: ``(Q,)``.
        g_camids: ``(G,)``.

    Raises:
        InputError: If an array is not one-dimensional, there is no camera for each identity, or
            queries have numbers where the gallery has names.
    """
    pairs = (("q", q_pids, q_camids, "query"), ("g", g_pids, g_camids, "gallery image"))
    for short, pids, camids, each in pairs:
        if pids.ndim != 1:
            raise InputError(f"{short}_pids must be one-dimensional, got shape {pids.shape}.")
        if camids.shape != pids.shape:
            raise InputError(
                f"{short}_camids must have shape {pids.shape}, one a {each}, got {camids.shape}."
            )
    check_kinds(q_pids, g_pids, q_camids, g_camids)


def check_kinds(q_pids: Ids, g_pids: Ids, q_camids: Ids, g_camids: Ids) -> None:
    """Check that what is compared can be equal.

    Args:
        q_pids: Identities of the queries.
        g_pids: Of the gallery.
        q_camids: Cameras of the queries.
        g_camids: Of the gallery.

    Raises:
        InputError: If queries have numbers where the gallery has names.
    """
    for kind, mine, others in (("pids", q_pids, g_pids), ("camids", q_camids, g_camids)):
        kinds = {ids.dtype.kind if ids.dtype.kind in "US" else "number" for ids in (mine, others)}
        if len(mine) and len(others) and len(kinds) > 1:
            raise InputError(
                f"q_{kind} are {mine.dtype} and g_{kind} {others.dtype}: numbers and names never "
                "match, nor do names and bytes. Give both as numbers or both as names."
            )


def as_ids(ids: Any) -> NDArray[Any]:  # noqa: ANN401
    """Give identities or cameras as an array, names in an object array (of pandas) as text.

    Args:
        ids: Numbers or names.

    Returns:
        The array.

    Raises:
        InputError: If one is None.
    """
    array = np.asarray(ids)
    if array.dtype == object and (missing := [n for n, each in enumerate(array) if each is None]):
        raise InputError(
            f"Identities and cameras must be known, got None at {missing[0]}. Leave out queries "
            "of nobody; in the gallery name nobody as no query is, such as '-1'."
        )
    if array.dtype == object and all(isinstance(each, str) for each in array.flat):
        return array.astype(str)
    return array


def as_array(block: Any) -> NDArray[Any]:  # noqa: ANN401
    """Give an array for an array or a tensor, on whatever device and of whatever precision.

    Args:
        block: Distances.

    Returns:
        The same on the CPU.
    """
    if isinstance(block, torch.Tensor):
        block = block.detach().cpu()
        return np.asarray(block.float() if block.dtype == torch.bfloat16 else block)
    return np.asarray(block)
