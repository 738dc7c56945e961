"""Write the tables of README.md and docs/results.md from the figures in results/.

A page asks for a table by a comment, ``<!-- table: KIND FILE ... -->``, up to ``<!-- end -->``:

    <!-- table: rerank rerank_market1501 -->              rows of benchmarks/rerank.py
    <!-- table: costs rerank_market1501 rerank_msmt17 -->   a method a line, a file a column
    <!-- table: rates rerank_sensitivity -->              mAP and rank-1 alone
    <!-- table: online rerank_million -->                 index, answer, time a query
    <!-- table: growth rerank_growth -->                  its suite growth, a line a method
    <!-- table: training training_cpu -->                 benchmarks/training.py
    <!-- table: onnx onnx_parity -->                      benchmarks/onnx_parity.py
    <!-- table: comparison NAME [DATASET] -->             tools/compare.py, mean ± std
    <!-- table: pairs losses_compare -->                    mAP without and with, a pair a line
    <!-- table: steps losses_time -->                       time of a step of each loss
    <!-- table: suite market1501_small NAME [DATASET] -->   benchmarks/market1501.py, mean ± std
    <!-- table: brief market1501_small NAME -->             the same: mAP / rank-1, few columns
    <!-- table: walkers market1501_small NAME -->           its escape and Ncut over training
    <!-- table: defaults rerank_defaults -->                benchmarks/rerank_defaults.py

Example:
    python tools/results_tables.py
    python tools/results_tables.py --check
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral.report.comparison import Spread, paired_difference

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
TABLE = re.compile(r"(<!-- table: (?P<what>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

Figures = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0, or 1 where ``--check`` finds a stale page.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    check = parser.parse_args(argv).check
    stale = [page for page in PAGES if filled(page) != page.read_text(encoding="utf-8")]
    for page in stale:
        if check:
            print(f"{page.name} is stale: run python tools/results_tables.py", file=sys.stderr)
        else:
            page.write_text(filled(page), encoding="utf-8")
    return int(check and bool(stale))


def filled(page: Path) -> str:
    """Give a page with its tables as the figures say."""

    def replaced(found: re.Match[str]) -> str:
        kind, name, *rest = found["what"].split()
        figures = load(name)
        made = f"{circumstances(figures)}, `results/{name}.json`"
        lines = [*KINDS[kind](figures, *rest), "", made]
        return f"{found[1]}{chr(10).join(lines)}\n{found[3]}"

    return TABLE.sub(replaced, page.read_text(encoding="utf-8"))


def load(name: str) -> Figures:
    """Read the figures of a name."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def circumstances(figures: Figures) -> str:
    """Say with what the figures were made."""
    threads = f", {figures['threads']} threads" if "threads" in figures else ""
    torch = figures["versions"]["torch"]
    return f"Commit {figures['commit']}, torch {torch}, {figures['platform']}{threads}"


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


def costs(figures: Figures, *others: str) -> list[str]:
    """Lay out time and peak memory of each method; torchreid's own for comparison."""
    sizes, columns = [], []
    for found in (figures, *map(load, others)):
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


def comparison(figures: Figures, dataset: str = "") -> list[str]:
    """Lay out what tools/compare.py found: a config a line, mean ± std over seeds."""
    views = figures["datasets"][dataset or next(iter(figures["datasets"]))]
    lines = [
        f"| config | {' | '.join(f'{view}: mAP | rank-1 | mAP - baseline' for view in views)} |",
        "|---" * (1 + 3 * len(views)) + "|",
    ]
    for config in figures["seeds"]:
        cells = []
        for found in views.values():
            cells += [spread(found[config]["mAP"]), spread(found[config]["rank-1"])]
            cells.append(spread(found[config]["mAP"]["difference"], sign="+"))
        lines.append(f"| `{config}` | {' | '.join(cells)} |")
    return lines


def pairs(figures: Figures) -> list[str]:
    """Lay out benchmarks/losses_compare.py: a pair a line, mAP by plain distance."""
    lines = ["| | without | with | difference | seeds |", "|---|---|---|---|---|"]
    for name, summary in figures["pairs"].items():
        (views,) = summary["datasets"].values()
        before, after = (found["mAP"] for found in views["none"].values())
        cells = [spread(before), spread(after), spread(after["difference"], sign="+")]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {len(before['by_seed'])} |")
    return lines


def suite(figures: Figures, name: str, dataset: str = "market1501") -> list[str]:
    """Lay out a suite of benchmarks/market1501.py: a training a line, a view two columns.

    The difference is that of mAP by plain distance to the first line, paired by seed.
    """
    of = {variant: seeds_of(figures, variant) for variant in figures["suites"][name]}
    of = {variant: rows for variant, rows in of.items()
          if any(dataset in row["metrics"] for row in rows.values())}  # fmt: skip
    views = next(iter(next(iter(of.values())).values()))["metrics"][dataset]
    heads = ["", "mAP - first, ± standard error", "trapezoidal mAP",
             *(f"{view}: mAP | rank-1" for view in views), "seeds"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * (4 + 2 * len(views)) + "|"]
    first = next(iter(of))
    for variant, rows in of.items():
        found = {seed: row["metrics"][dataset] for seed, row in rows.items()}
        alone = variant == first or not of[first].keys() & rows.keys()
        gains = None if alone else paired_difference(
            *({seed: row["metrics"][dataset]["none"]["mAP"] for seed, row in each.items()}
              for each in (of[first], rows))
        )  # fmt: skip
        figures_of = [("none", "mAP_trapezoidal")]
        figures_of += [(view, figure) for view in views for figure in ("mAP", "rank-1")]
        cells = [f"`{variant}`", mean(gains, "+", error=True)]
        cells += [mean(Spread.of([each[view][figure] for each in found.values()]))
                  for view, figure in figures_of]  # fmt: skip
        lines.append(f"| {' | '.join([*cells, str(len(found))])} |")
    return lines


def brief(figures: Figures, name: str, dataset: str = "market1501") -> list[str]:
    """Lay out a suite of benchmarks/market1501.py with a column a view: mAP / rank-1."""
    lines = []
    for variant in figures["suites"][name]:
        found = [row["metrics"][dataset] for row in seeds_of(figures, variant).values()
                 if dataset in row["metrics"]]  # fmt: skip
        if not found:
            continue
        if not lines:
            lines = [f"| | {' | '.join(found[0])} | seeds |", "|---" * (2 + len(found[0])) + "|"]
        cells = [" / ".join(mean(Spread.of([each[view][figure] for each in found]), digits=1)
                            for figure in ("mAP", "rank-1")) for view in found[0]]  # fmt: skip
        lines.append(f"| `{variant}` | {' | '.join(cells)} | {len(found)} |")
    return lines


def walkers(figures: Figures, name: str) -> list[str]:
    """Lay out escape probability and Ncut at the start, in the middle and at the end."""
    lines = ["| | escape, first epoch | middle | last | Ncut, first epoch | middle | last |",
             "|---" * 7 + "|"]  # fmt: skip
    for variant in figures["suites"][name]:
        rows = seeds_of(figures, variant).values()
        if not rows:
            continue
        cells = []
        for curve in ("escape", "ncut"):
            curves = [row["curves"][curve] for row in rows]
            for place in (0, len(curves[0]) // 2, -1):
                cells.append(f"{statistics.mean(values[place] for values in curves):.3f}")
        lines.append(f"| `{variant}` | {' | '.join(cells)} |")
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


def seeds_of(figures: Figures, variant: str) -> dict[int, Figures]:
    """Give the rows of a training by seed."""
    return {row["seed"]: row for key, row in figures["rows"].items()
            if key.rpartition("/")[0] == variant}  # fmt: skip


def mean(found: Spread | None, sign: str = "", *, error: bool = False, digits: int = 2) -> str:
    """Write mean ± standard deviation, or standard error of the mean, in per cent."""
    if found is None:
        return ""
    text, count = f"{100 * found.mean:{sign}.{digits}f}", len(found.values)
    if count < 2:
        return text
    return f"{text} ± {100 * found.std / (count**0.5 if error else 1):.{digits}f}"


def steps(figures: Figures) -> list[str]:
    """Lay out benchmarks/losses.py: a loss a line."""
    lines = ["| loss | ms a step | quartiles | relative |", "|---|---|---|---|"]
    for name, row in figures["losses"].items():
        low, high = (f"{1000 * value:.0f}" for value in row["quartiles"])
        cells = [f"{1000 * row['seconds']:.0f}", f"{low} to {high}", f"{row['relative']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def training(figures: Figures) -> list[str]:
    """Lay out what benchmarks/training.py found: speed, memory, and where a step's time goes."""
    lines = [
        "| engine | images/s (slowest to fastest step) | waiting for data | peak MB "
        "| largest operators, share of a step |",
        "|---|---|---|---|---|",
    ]
    for found in figures["contestants"].values():
        slowest, fastest = found["spread"]
        largest = list(found["profile"].items())[:4]
        operators = ", ".join(f"`{name}` {100 * share:.0f}%" for name, share in largest)
        cells = [f"{found['images_per_second']:.1f} ({slowest:.1f} to {fastest:.1f})",
                 f"{100 * found['waiting_for_data']:.1f}%",
                 f"{found['peak_megabytes']:,}", operators]  # fmt: skip
        lines.append(f"| {found['what']} | {' | '.join(cells)} |")
    return lines + summary(figures)


def onnx(figures: Figures) -> list[str]:
    """Lay out benchmarks/onnx_parity.py: a backbone a line."""
    lines = ["| family | backbone | largest difference | relative |", "|---|---|---|---|"]
    for row in figures["models"]:
        found = f"{row['difference']:.1e} | {row['relative']:.1e}"
        lines.append(f"| {row['family']} | `{row['model']}` | {found} |")
    return lines


def spread(found: Figures | None, sign: str = "") -> str:
    """Write mean ± std in per cent."""
    if not found:
        return ""
    text = f"{100 * found['mean']:{sign}.1f}"
    return text if found.get("std") is None else f"{text} ± {100 * found['std']:.1f}"


KINDS: dict[str, Callable[..., list[str]]] = {
    each.__name__: each
    for each in (rerank, rates, costs, online, growth, training, comparison, pairs, steps, onnx,
                 suite, brief, walkers, defaults)  # fmt: skip
}


if __name__ == "__main__":
    raise SystemExit(main())
