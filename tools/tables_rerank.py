"""Layout of what the benchmarks of re-ranking found, see results_tables.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def rerank(figures: Figures) -> list[str]:
    """Lay out rows of benchmarks/rerank.py."""
    lines = [
        "| method | query × gallery × width | seconds | peak GB | mAP | rank-1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        size = " × ".join(f"{count:,}" for count in row["size"])
        rates = [f"{100 * row[name]:.2f}" if name in row else "" for name in ("mAP", "rank-1")]
        time_and_memory = [f"{row[name]:.2f}" for name in ("seconds", "peak_GB")]
        cells = [f"`{row['row']}` {options}".strip(), size, *time_and_memory, *rates]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + summary(figures)


def rates(figures: Figures) -> list[str]:
    """Lay out mAP and rank-1 of one method under options."""
    lines = ["| options | mAP | rank-1 |", "|---|---|---|"]
    for row in figures["rows"]:
        options = " ".join(f"`{key}={value}`" for key, value in row["options"].items())
        found = " | ".join(f"{100 * row[name]:.2f}" for name in ("mAP", "rank-1"))
        lines.append(f"| {options or 'defaults'} | {found} |")
    return lines


def summary(figures: Figures) -> list[str]:
    """Lay out the ratios of a benchmark."""
    if not figures["summary"]:
        return []
    lines = ["", "| ratio or difference | value |", "|---|---|"]
    return lines + [f"| {name} | {value:.3g} |" for name, value in figures["summary"].items()]


def costs(figures: Figures, *others: Figures) -> list[str]:
    """Lay out time and peak memory of each method; torchreid's own for comparison."""
    sizes, columns = [], []
    for found in (figures, *others):
        rows = {row["row"]: row for row in found["rows"]}
        queries, gallery, _ = next(iter(rows.values()))["size"]
        sizes.append(f"{queries:,} × {gallery:,}")
        columns.append(rows)
    lines = [f"| method | mAP | rank-1 | {' | '.join(sizes)} |", "|---" * (3 + len(sizes)) + "|"]
    shown = [row for row in figures["rows"] if "seconds_fit" in row]
    shown += [row for row in figures["rows"] if row["row"] == "torchreid_re_ranking"]
    for row in shown:
        rates = [f"{100 * row[name]:.1f}" for name in ("mAP", "rank-1")]
        cells = []
        for rows in columns:
            found = rows.get(row["row"])
            cells.append(f"{found['seconds']:.2f} s, {found['peak_GB']:.2f} GB" if found else "")
        lines.append(f"| `{row['row']}` | {' | '.join([*rates, *cells])} |")
    return lines


def online(figures: Figures) -> list[str]:
    """Lay out rows of benchmarks/rerank.py: preparation once, then each query."""
    lines = [
        "| method | query × gallery × width | fit, s | ms a query | peak GB | recall@10 |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        size = " × ".join(f"{count:,}" for count in row["size"])
        each = 1000 * row["seconds_rank"] / row["size"][0]
        recall = f"{row['search_recall']:.3f}" if "search_recall" in row else "exact"
        cells = [f"`{row['row']}`, {row['options']['search']}", size, f"{row['seconds_fit']:.1f}"]
        cells += [f"{each:.2f}", f"{row['peak_GB']:.2f}", recall]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def growth(figures: Figures) -> list[str]:
    """Lay out the suite growth: a method a line, a size a column."""
    rows = figures["rows"]
    sizes = sorted({row["size"][1] for row in rows})
    lines = [
        f"| method | {' | '.join(f'G = {size:,}' for size in sizes)} | slope: time | memory |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    for method in dict.fromkeys(row["row"] for row in rows):
        found = {row["size"][1]: row for row in rows if row["row"] == method}
        measured = [(found[size]["seconds"], found[size]["peak_GB"]) for size in sizes]
        cells = [f"{seconds:.2f} s, {memory:.2f} GB" for seconds, memory in measured]
        names = [f"{method}, slope of {figure}" for figure in ("seconds", "peak_GB")]
        slopes = [f"{figures['summary'][name]:.2f}" for name in names]
        lines.append(f"| `{method}` | {' | '.join([*cells, *slopes])} |")
    return lines


def defaults(figures: Figures) -> list[str]:
    """Lay out benchmarks/rerank_defaults.py: a network a column, an option a line.

    Defaults have mAP / rank-1; the other lines what the change adds to the defaults' mAP.
    """
    networks = {name: row["figures"] for name, row in figures["rows"].items()}
    lines = [f"| | {' | '.join(f'`{name}`' for name in networks)} |",
             "|---" * (1 + len(networks)) + "|"]  # fmt: skip
    default: Sequence[Figures] = ()  # of the method that the lines below are of
    for places in zip(*networks.values(), strict=True):
        method, options = places[0]["method"], places[0]["options"]
        if options:
            title = " ".join(f"`{key}={value}`" for key, value in options.items())
            cells = [f"{100 * (row['mAP'] - base['mAP']):+.2f}"
                     for row, base in zip(places, default)]  # fmt: skip
        else:
            title, default = f"`{method}`", places
            cells = [f"{100 * row['mAP']:.2f} / {100 * row['rank-1']:.2f}" for row in places]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines
