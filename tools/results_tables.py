"""Write the tables of README.md and docs/results.md from the figures in results/.

A page asks for a table by a comment, ``<!-- table: KIND FILE ... -->``, up to ``<!-- end -->``:

    <!-- table: rerank rerank_market1501 -->              rows of benchmarks/rerank.py
    <!-- table: costs rerank_market1501 rerank_msmt17 -->   a method a line, a file a column
    <!-- table: rates rerank_sensitivity -->              mAP and rank-1 alone
    <!-- table: online rerank_million -->                 index, answer, time a query
    <!-- table: growth rerank_growth -->                  its suite growth, a line a method
    <!-- table: training training_cpu -->                 benchmarks/training.py
    <!-- table: extraction extraction_cpu -->             benchmarks/extraction.py
    <!-- table: onnx onnx_parity -->                      benchmarks/onnx_parity.py
    <!-- table: comparison NAME [DATASET] -->             tools/compare.py, mean ± std
    <!-- table: pairs losses_compare -->                    mAP without and with, a pair a line
    <!-- table: steps losses_time -->                       time of a step of each loss
    <!-- table: suite market1501_small NAME [DATASET] -->   benchmarks/market1501.py, mean ± std
    <!-- table: brief market1501_small NAME -->             the same: mAP / rank-1, few columns
    <!-- table: gains market1501_stage NAME -->            its pairs without and with the walk
    <!-- table: glance market1501_small -->               what the walk adds beside each loss
    <!-- table: whitening whitening -->                  benchmarks/whitening.py
    <!-- table: walkers market1501_small NAME -->           its escape and Ncut over training
    <!-- table: cost market1501_cost -->                    benchmarks/market1501_cost.py
    <!-- table: defaults rerank_defaults -->                benchmarks/rerank_defaults.py

Example:
    python tools/results_tables.py
    python tools/results_tables.py --check
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import tables_rerank  # beside this file, as the next
import tables_training

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
        made = f"{circumstances(figures, shown(kind, figures, rest))}, `results/{name}.json`"
        given = [load(other) for other in rest] if kind in OF_SEVERAL else rest
        lines = [*KINDS[kind](figures, *given), "", made]
        return f"{found[1]}{chr(10).join(lines)}\n{found[3]}"

    return TABLE.sub(replaced, page.read_text(encoding="utf-8"))


def load(name: str) -> Figures:
    """Read the figures of a name."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def shown(kind: str, figures: Figures, rest: Sequence[str]) -> Collection[str]:
    """Name the trainings that a table shows, none where it does not choose among them."""
    if kind == "glance":
        return {name for pair in tables_training.BESIDE.values() for name in pair}
    return figures.get("suites", {}).get(rest[0], ()) if rest else ()


def circumstances(figures: Figures, shown: Collection[str] = ()) -> str:
    """Say with what the figures were made; of some trainings, by which commits those were."""
    threads = f", {figures['threads']} threads" if "threads" in figures else ""
    torch, commit = figures["versions"]["torch"], figures["commit"]
    if shown:
        commit = ", ".join(sorted({row["commit"] or "not known"
                                   for key, row in figures["rows"].items()
                                   if key.rpartition("/")[0] in shown}))  # fmt: skip
    return f"Commit {commit}, torch {torch}, {figures['platform']}{threads}"


LAYOUTS = {
    tables_rerank: ("rerank", "rates", "costs", "online", "growth", "defaults"),
    tables_training: ("comparison", "pairs", "suite", "brief", "gains", "glance", "walkers",
                      "cost", "steps", "whitening", "training", "extraction", "onnx"),
}  # fmt: skip
KINDS: dict[str, Callable[..., list[str]]] = {
    name: getattr(module, name) for module, names in LAYOUTS.items() for name in names
}
OF_SEVERAL = ("costs",)  # kinds that name several files


if __name__ == "__main__":
    raise SystemExit(main())
