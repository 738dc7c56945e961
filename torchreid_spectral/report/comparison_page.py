"""The page of several configs under equal seeds: one table, one figure, the talk's picture."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from torchreid_spectral._files import write_text
from torchreid_spectral.report.comparison import SHOWN, percent, seeds_of
from torchreid_spectral.report.figures import COLOURS, MARKERS, save, view_name
from torchreid_spectral.report.page import Section, render, text_table

__all__ = ["write_comparison"]

logger = logging.getLogger(__name__)


def write_comparison(
    summary: Mapping[str, Any], folders: Mapping[str, Sequence[Path]], out: Path
) -> Path:
    """Write ``report.html``.

    Args:
        summary: Of :func:`~torchreid_spectral.report.comparison.summarise`.
        folders: Config name to the folders of its runs, whose embedding pictures are taken in.
        out: Folder of the page.

    Returns:
        The page's path.
    """
    sections = []
    for dataset, views in summary["datasets"].items():
        for view, rows in views.items():
            key, title = _anchor(f"{dataset}-{view}"), f"{dataset}, {view_name(view)}"
            sections.append(Section(key, title, "Mean ± standard deviation over seeds in %; Δ: "
                                    "difference to the first config, paired by seed.",
                                    _table(rows, summary)))  # fmt: skip
            try:
                drawn = save(_figure(rows), out / "figures", key, f"figures of {title}",
                             narrow=_figure(rows, 1))  # fmt: skip
                sections[-1].body += drawn
            except Exception as error:  # the table is worth more than its picture
                logger.warning("The figure of %s failed: %s", title, error)
                sections[-1].notes.append(f"This figure could not be drawn: {error}")
    for name, of_config in list(folders.items())[1:]:
        for folder in of_config[:1]:
            path = folder / "report" / "embedding.svg"
            if path.is_file():
                svg = path.read_text(encoding="utf-8")
                svg = svg[svg.index("<svg") :]
                key = _anchor(f"embedding-{name}")
                svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{key}-", svg)
                sections.append(Section(key, f"Embedding: {name}", "The same "
                                        "identities by the first config, by this one, and after "
                                        f"its post-processing ({folder.name}).",
                                        f'<figure class="scroll">{svg}</figure>'))  # fmt: skip
    page = render("Comparison", f"differences to {summary['baseline']}", sections)
    path = out / "report.html"
    write_text(path, page)
    return path


def _anchor(text: str) -> str:
    """Give an id for a page and a file name: a config's name may hold blanks and quotes."""
    return re.sub(r"[^\w.-]+", "-", text)


def _table(rows: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    heads = ["config", *SHOWN, *(f"Δ {name}" for name in SHOWN), "95 % interval of Δ mAP",
             "s/step", "seeds"]  # fmt: skip
    body = []
    for name, figures in rows.items():
        seconds = summary["seconds_a_step"][name]
        body.append([
            name,
            *(percent(figures[figure]) for figure in SHOWN),
            *(percent(figures[figure]["difference"], sign="+") for figure in SHOWN),
            _interval(figures["mAP"]["difference"]),
            "" if seconds is None else f"{seconds:.3f}",
            seeds_of(figures["mAP"]),
        ])  # fmt: skip
    return text_table(heads, body)


def _interval(spread: Mapping[str, Any] | None) -> str:
    if spread is None or spread["half_width"] is None:
        return "-"
    low, high = (100 * (spread["mean"] + s * spread["half_width"]) for s in (-1, 1))
    return f"{low:+.2f} to {high:+.2f}"


def _figure(rows: Mapping[str, Any], columns: int = 2) -> Figure:
    """Draw every seed as a point and the mean as a line, so that spreads are seen as they are."""
    lines = len(SHOWN) // columns
    size = (4.3 * columns, lines * (1.2 + 0.5 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    for column, name in enumerate(SHOWN):
        axes = figure.add_subplot(lines, columns, column + 1)
        for place, (config, figures) in enumerate(rows.items()):
            values = [100 * value for value in figures[name]["by_seed"].values()]
            axes.plot(values, np.full(len(values), place), MARKERS[place % 8],
                      color=COLOURS[place % 8], label=config)  # fmt: skip
            axes.plot([100 * figures[name]["mean"]] * 2, [place - 0.3, place + 0.3], color="black")
        axes.set_yticks(range(len(rows)), list(rows) if column % columns == 0 else
                        [""] * len(rows))  # fmt: skip
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"{name} in %")
        axes.grid(axis="x", alpha=0.3)
    return figure
