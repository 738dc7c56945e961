"""Figures of the report; colours (Okabe, Ito) come with shapes, hatches or words beside them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from torchreid_spectral.inference.calibration import Calibration
from torchreid_spectral.report.history import Curve

__all__ = ["COLOURS", "LINES", "MARKERS", "affinity", "bars", "cmc", "curves", "histogram",
           "save", "view_name"]  # fmt: skip

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A00"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
HATCHES = ["", "//", "..", "xx"]
LINES = ["-", "--", ":", "-."]
TITLES = {"acc": "accuracy in %", "escape": "escape probability", "lr": "learning rate",
          "images_per_second": "images a second"}  # fmt: skip
WORDS = {"acc": "before the walk", "acc_walked": "after the walk", "loss": "all losses"}


def save(
    figure: Figure, folder: Path, name: str, alt: str, *, narrow: Figure | None = None
) -> str:
    """Save a figure as SVG and PNG and give it as HTML.

    Args:
        figure: What was drawn.
        folder: Where ``name.svg`` and ``name.png`` go.
        name: File name without ending.
        alt: What is seen, for those who do not see it.
        narrow: The same with its panels below one another, shown on phones alone.

    Returns:
        HTML with the SVG inside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    svg = _svg(figure, name)
    figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    if narrow is None:
        return _inline(svg, name, alt)
    stacked = f"{name}-narrow"
    return (
        f'<div class="wide-only">{_inline(svg, name, alt)}</div>'
        f'<div class="narrow-only">{_inline(_svg(narrow, stacked), stacked, alt)}</div>'
    )


def _svg(figure: Figure, name: str) -> str:
    """Draw as SVG; the same data give the same file: no date, and ids that the name decides."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()


def _inline(svg: str, name: str, alt: str) -> str:
    """Give the element for a page, with ids that no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
    return f"<figure>{svg}</figure>"


def curves(history: Mapping[str, Curve], columns: int = 2) -> Figure:
    """Draw what the training wrote: losses, accuracies, escape probability, rate.

    Args:
        history: Tag to curve.
        columns: Panels side by side.

    Returns:
        The figure, a panel a group of scalars.
    """
    groups: dict[str, list[str]] = {}
    for tag in sorted(history):
        kind, _, name = tag.partition("/")
        if name in ("time", "data") or (kind != "Train" and len(history[tag].steps) < 2):
            continue
        group = next((word for word in ("loss", "acc") if name.startswith(word)), name)
        panel = groups.setdefault(group if kind == "Train" else f"{kind} {group}", [])
        if not any(_alike(history[tag], history[other]) for other in panel):
            panel.append(tag)
    columns = min(columns, len(groups))
    rows = -(-len(groups) // columns)
    figure = _apart(Figure(figsize=(4.6 * columns, 2.7 * rows), layout="constrained"))
    for index, (group, tags) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for number, tag in enumerate(tags):
            curve = history[tag]
            marker = "o" if len(curve.steps) == 1 else None
            axes.plot(curve.steps, curve.values, lw=1.4, marker=marker, color=COLOURS[number % 8],
                      ls=LINES[number % 4], label=_word(tag))  # fmt: skip
        axes.set_title(TITLES.get(group, group), fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.3)
        if len(tags) > 1:
            axes.legend(fontsize=8)
    return figure


def _alike(first: Curve, second: Curve) -> bool:
    return np.array_equal(first.steps, second.steps) and np.array_equal(
        first.values, second.values
    )


def _word(tag: str) -> str:
    name = tag.partition("/")[2]
    return WORDS.get(name, name.replace("_", " "))


def bars(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw mAP and CMC values before and after post-processing.

    Args:
        metrics: View to figure to share.

    Returns:
        The figure.
    """
    names = [name for name in next(iter(metrics.values())) if "queries" not in name]
    figure = Figure(figsize=(4.7, 3.2), layout="constrained")
    axes, width = figure.add_subplot(), 0.8 / len(metrics)
    for index, (view, values) in enumerate(metrics.items()):
        places = np.arange(len(names)) + (index - (len(metrics) - 1) / 2) * width
        drawn = axes.bar(places, [100 * values[name] for name in names], width * 0.94,
                         color=COLOURS[index], hatch=HATCHES[index % 4], edgecolor="white",
                         label=view_name(view))  # fmt: skip
        axes.bar_label(drawn, fmt="%.1f", fontsize=8 if len(metrics) < 3 else 6)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("%")
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def cmc(lines: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Draw cumulative match curves.

    Args:
        lines: View to CMC.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(4.7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (view, values) in enumerate(lines.items()):
        values = values[:20]
        axes.plot(np.arange(1, len(values) + 1), 100 * values, color=COLOURS[index],
                  ls=LINES[index % 4], marker=MARKERS[index], ms=4,
                  label=view_name(view))  # fmt: skip
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.set_xlabel("rank")
    axes.set_ylabel("CMC in %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def affinity(
    panels: Mapping[str, NDArray[Any]], labels: Sequence[int], columns: int = 3
) -> Figure:
    """Draw similarities of one batch, sorted by identity.

    Args:
        panels: Title to ``(B, B)`` cosines.
        labels: ``(B,)`` identity of each, sorted.
        columns: Panels side by side.

    Returns:
        The figure; lines separate the identities.
    """
    columns, rows = _grid(len(panels), columns)
    below = columns == 1 < rows
    size = (3.8 * columns, 4.0 * rows + 0.7 if below else 3.5 * rows)
    figure = _apart(Figure(figsize=size, layout="constrained"))
    edges = np.flatnonzero(np.diff(np.asarray(labels))) + 0.5
    for index, (title, matrix) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        image = axes.imshow(matrix, vmin=-0.2, vmax=1, cmap="cividis", interpolation="nearest")
        for edge in edges:
            axes.axhline(edge, color="white", lw=0.6)
            axes.axvline(edge, color="white", lw=0.6)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(image, ax=figure.axes, label="cosine", shrink=0.8,
                    location="bottom" if below else "right")  # fmt: skip
    return figure


def histogram(
    same: NDArray[Any], different: NDArray[Any], calibration: Calibration | None, name: str
) -> Figure:
    """Draw how far pairs of the same and of different identities are apart.

    Args:
        same: Distances of pairs of one identity.
        different: Distances of pairs of two.
        calibration: Its threshold is drawn as a line, if known.
        name: Of the distance.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(4.9, 3.7), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0, max(float(same.max()), float(different.max())) or 1.0, 60).tolist()
    for values, colour, hatch, label in (
        (same, COLOURS[0], "//", f"same identity ({len(same):,} pairs)"),
        (different, COLOURS[1], "", f"different ({len(different):,} pairs)"),
    ):
        axes.hist(values, edges, density=True, alpha=0.55, color=colour, hatch=hatch, label=label)
    if calibration is not None:
        passed = f"threshold {calibration.threshold:.3f}: {100 * calibration.true_match_rate:.1f} "
        passed += f"% of the same pass, {100 * calibration.false_match_rate:.1f} % of different"
        axes.axvline(calibration.threshold, color="black", ls="--", label=passed)
    axes.set_xlabel(f"{name} distance")
    axes.set_ylabel("density")
    figure.legend(loc="outside upper left", fontsize=8.5, frameon=False)
    return figure


def scatter(panels: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], columns: int = 3) -> Figure:
    """Draw embeddings of the same identities side by side, coloured and shaped alike.

    Args:
        panels: Title to points ``(N, 2)`` and identities ``(N,)``.
        columns: Panels side by side.

    Returns:
        The figure.
    """
    columns, rows = _grid(len(panels), columns)
    figure = _apart(Figure(figsize=(3.8 * columns, 3.7 * rows + 0.6), layout="constrained"))
    people = sorted({int(pid) for _, pids in panels.values() for pid in pids})
    for index, (title, (points, pids)) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for number, pid in enumerate(people):
            mine = points[pids == pid]
            axes.scatter(mine[:, 0], mine[:, 1], s=26, color=COLOURS[number % 8],
                         marker=MARKERS[(number + number // 8) % 8], label=str(pid),
                         edgecolor="white", linewidth=0.4)  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8,
                  ncols=6 if columns == 1 else 12, title="identity")  # fmt: skip
    return figure


def _apart(figure: Figure) -> Figure:
    """Leave room between a panel and the title of the one below it."""
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.1)
    return figure


def _grid(panels: int, columns: int) -> tuple[int, int]:
    """Give columns and rows; four panels are two by two."""
    columns = 2 if panels == 4 and columns == 3 else min(columns, panels)
    return columns, -(-panels // columns)


def view_name(view: str) -> str:
    """Give the words for a view.

    Args:
        view: ``none`` or a re-ranker's name.

    Returns:
        Its words.
    """
    return "plain distance" if view == "none" else view.replace("_", " ")
