"""Ranked lists of some queries before and after post-processing, as one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from torchreid_spectral.data.images import decode
from torchreid_spectral.rerank import Reranker

__all__ = ["draw_ranked_lists", "folders_of_pictures"]

RIGHT, WRONG, QUERY, INK = (0, 114, 178), (213, 94, 0), (90, 90, 90), (20, 20, 20)
SIZE, GAP, BORDER, LABEL, TITLE = (64, 128), 8, 4, 18, 130


def draw_ranked_lists(
    path: Path,
    views: Mapping[str, Reranker],
    features: Tensor,
    query: Sequence[Any],
    gallery: Sequence[Any],
    *,
    num_queries: int = 8,
    top_k: int = 10,
    inductive: bool = False,
) -> None:
    """Draw the top of the ranking of evenly spaced queries, a row for each view.

    Of a tracklet the middle frame is shown.

    Right and wrong answers differ in colour (blue, orange) and in the word under the image. As in
    the protocol, images of the query's own identity and camera are left out.

    Args:
        path: Where the PNG goes; the folder is made if missing.
        views: Name to fitted re-ranker; the rows of each query.
        features: ``(Q, D)`` features of the queries.
        query: Tuples ``(path, pid, camid, ...)``, one a query; of a tracklet all paths.
        gallery: The same for the gallery.
        num_queries: How many queries.
        top_k: How many answers each.
        inductive: Answer each query as if it were alone.
    """
    asked = {"camids": np.array([row[2] for row in query]), "inductive": inductive}
    chosen = np.unique(np.linspace(0, len(query) - 1, num_queries).astype(int))
    orders = {name: _orders(method, features, chosen, asked) for name, method in views.items()}
    width = TITLE + (top_k + 1) * (SIZE[0] + GAP) + GAP
    height = SIZE[1] + LABEL + GAP
    canvas = Image.new("RGB", (width, height * len(chosen) * len(views) + GAP), "white")
    row = 0
    for position, index in enumerate(chosen):
        for name in views:
            answers = _answers(orders[name][position], query[index], gallery, top_k)
            _draw_row(canvas, GAP + row * height, name, query[index], answers)
            row += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def folders_of_pictures(paths: Sequence[str | Sequence[str]]) -> dict[str, list[int]]:
    """Say into which folder each query's picture goes, so that none takes the place of another.

    torchreid's ``visrank`` names a picture by the file name of its query alone, of a tracklet its
    first frame.

    Args:
        paths: Of the queries; of a tracklet all paths.

    Returns:
        Folder to its queries: all in one where their file names differ, else the queries' own.
    """
    firsts = [Path(path if isinstance(path, str) else path[0]).absolute() for path in paths]
    if len({path.stem for path in firsts}) == len(firsts):
        return {"": list(range(len(firsts)))}
    root = Path(os.path.commonpath([path.parent for path in firsts]))
    folders: dict[str, list[int]] = {}
    for row, path in enumerate(firsts):
        folders.setdefault(str(path.parent.relative_to(root)), []).append(row)
    return folders


def _orders(
    method: Reranker,
    features: Tensor,
    chosen: Any,  # noqa: ANN401
    asked: Mapping[str, Any],
) -> list[list[int]]:
    """Rank all queries, as some methods treat them jointly, and keep the chosen ones."""
    depth = min(len(method.gallery), 200)
    indices, _ = method.rank(features, top_k=depth, **asked)
    rows: list[list[int]] = indices[torch.as_tensor(chosen)].tolist()
    return rows


def _answers(
    order: Sequence[int], query: Sequence[Any], gallery: Sequence[Any], top_k: int
) -> list[tuple[Any, bool]]:
    """Give path and rightness of the nearest valid gallery images."""
    _, pid, camid = query[:3]
    found = (gallery[index][:3] for index in order)
    valid = [(p, bool(i == pid)) for p, i, c in found if not (i == pid and c == camid)]
    return valid[:top_k]


def _draw_row(
    canvas: Image.Image,
    top: int,
    name: str,
    query: Sequence[Any],
    answers: Sequence[tuple[Any, bool]],
) -> None:
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    title = "plain distance" if name == "none" else name.replace("_", "\n").replace("+", "\n+ ")
    pen.multiline_text((GAP, top + SIZE[1] // 2 - 8), title, fill=INK, font=font)
    _paste(canvas, TITLE, top, query[0], QUERY, "query")
    for rank, (path, right) in enumerate(answers, start=1):
        left = TITLE + rank * (SIZE[0] + GAP)
        colour, sign = (RIGHT, "right") if right else (WRONG, "no")
        _paste(canvas, left, top, path, colour, f"{rank} {sign}")


def _picture_of(path: str | Sequence[str]) -> str:
    """Give the path of an image, or that of a tracklet's middle frame."""
    return path if isinstance(path, str) else path[len(path) // 2]


def _paste(
    canvas: Image.Image,
    left: int,
    top: int,
    path: str | Sequence[str],
    colour: tuple[int, int, int],
    label: str,
) -> None:
    pen = ImageDraw.Draw(canvas)
    right, bottom = left + SIZE[0], top + SIZE[1]
    pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    inner = (SIZE[0] - 2 * BORDER, SIZE[1] - 2 * BORDER)
    canvas.paste(decode(_picture_of(path)).resize(inner), (left + BORDER, top + BORDER))
    font = ImageFont.load_default(size=13)
    pen.text((left + BORDER, bottom + 1), label, fill=colour, font=font)
