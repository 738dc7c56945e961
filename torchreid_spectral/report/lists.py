"""Ranked lists of the best and the worst queries, before and after post-processing, as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.report.figures import view_name
from torchreid_spectral.report.page import data_url

__all__ = ["choose_queries", "ranked_lists"]

SHOWN = 10


def choose_queries(precision: NDArray[np.float64], count: int) -> dict[str, list[int]]:
    """Choose the queries with the best and the worst average precision.

    Args:
        precision: ``(Q,)``; NaN for queries that do not count.
        count: How many of each.

    Returns:
        ``worst`` and ``best`` queries; no query is in both.
    """
    valid = np.flatnonzero(~np.isnan(precision))
    order = valid[np.argsort(precision[valid], kind="stable")]
    count = min(count, len(order) // 2) or min(1, len(order))
    worst = order[:count].tolist()
    return {"worst": worst, "best": [q for q in order[::-1][:count].tolist() if q not in worst]}


def ranked_lists(
    queries: Mapping[str, Sequence[int]],
    precision: Mapping[str, NDArray[np.float64]],
    orders: Mapping[str, Mapping[int, Sequence[int]]],
    query: Sequence[Any],
    gallery: Sequence[Any],
) -> str:
    """Lay out the lists.

    Args:
        queries: Kind (``best``, ``worst``) to queries.
        precision: View to average precision of each query.
        orders: View to query to gallery indices, nearest first.
        query: ``(path, pid, camid, ...)`` of each query.
        gallery: The same for the gallery.

    Returns:
        HTML: a fold a query, a row a view; changes of rank are written under the pictures.
    """
    parts = []
    for kind, chosen in queries.items():
        for number, row in enumerate(chosen):
            figures = ", ".join(
                f"{view_name(view)} {100 * values[row]:.0f} %"
                for view, values in precision.items()
            )
            title = f"{kind.capitalize()} query {number + 1}: average precision {figures}"
            lists = _lists({view: of[row] for view, of in orders.items()}, query[row], gallery)
            opened = " open" if number == 0 else ""
            parts.append(
                f"<details{opened}><summary>{html.escape(title)}</summary>{lists}</details>"
            )
    return "".join(parts)


def _lists(orders: Mapping[str, Sequence[int]], query: Any, gallery: Sequence[Any]) -> str:  # noqa: ANN401
    """A row a view; images of the query's identity and camera do not count and are left out."""
    path, pid, camid = query[:3]
    kept = {
        view: [g for g in order if not (gallery[g][1] == pid and gallery[g][2] == camid)]
        for view, order in orders.items()
    }
    before = next(iter(kept.values()))
    parts = []
    for view, order in kept.items():
        cards = [f'<div class="card"><img alt="query" src="{data_url(path)}"><b>query</b></div>']
        for place, index in enumerate(order[:SHOWN]):
            old = before.index(index) if index in before else None
            cards.append(_card(place, old, gallery[index], pid))
        parts.append(f'<div>{html.escape(view_name(view))}</div><div class="list">'
                     + "".join(cards) + "</div>")  # fmt: skip
    return "".join(parts)


def _card(place: int, old: int | None, row: Any, pid: Any) -> str:  # noqa: ANN401
    right = row[1] == pid
    word = "✓ right" if right else "✗ wrong"
    if old is None:
        moved = " new"
    elif old == place:
        moved = ""
    else:
        moved = f" ▲{old - place}" if old > place else f" ▼{place - old}"
    alt = f"rank {place + 1}, {'right' if right else 'wrong'}"
    return (
        f'<div class="card {"right" if right else "wrong"}">'
        f'<img alt="{alt}" src="{data_url(row[0])}"><b>{place + 1} {word}</b>{moved}</div>'
    )
