"""Layout of what trainings and their benchmarks found, see results_tables.py."""

from __future__ import annotations

import statistics
from typing import Any

from tables_rerank import summary  # beside this file

from torchreid_spectral.report.comparison import Spread, paired_difference

Figures = dict[str, Any]


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
            if config not in found:  # such as a re-ranker of some configs
                cells += ["", "", ""]
                continue
            cells += [spread(found[config]["mAP"]), spread(found[config]["rank-1"])]
            cells.append(spread(found[config]["mAP"]["difference"], sign="+"))
        lines.append(f"| `{config}` | {' | '.join(cells)} |")
    return lines


def pairs(figures: Figures) -> list[str]:
    """Lay out benchmarks/losses_compare.py: a pair a line, mAP by plain distance."""
    lines = ["| | without | with | difference | seeds |", "|---|---|---|---|---|"]
    for name, pair in figures["pairs"].items():
        (views,) = pair["datasets"].values()
        before, after = (found["mAP"] for found in views["none"].values())
        cells = [spread(before), spread(after), spread(after["difference"], sign="+")]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {len(before['by_seed'])} |")
    return lines


def suite(figures: Figures, name: str, dataset: str = "market1501") -> list[str]:
    """Lay out a suite of benchmarks/market1501.py: a training a line, a view two columns.

    The difference is that of mAP by plain distance to the first line, paired by seed.
    """
    of = {variant: seeds_of(figures, variant) for variant in figures["suites"][name]}
    of = {variant: {seed: row for seed, row in rows.items() if dataset in row["metrics"]}
          for variant, rows in of.items()}  # fmt: skip
    of = {variant: rows for variant, rows in of.items() if rows}
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


def gains(figures: Figures, name: str, dataset: str = "market1501") -> list[str]:
    """Lay out the pairs of a suite without and with the walk: mAP and its paired difference."""
    twins = {"baseline": "spectral"}
    lines: list[str] = []
    for variant in figures["suites"][name]:
        twin = twins.get(variant, variant.replace("_baseline", "_walk"))
        before, after = seeds_of(figures, variant), seeds_of(figures, twin)
        both = sorted(before.keys() & after.keys())
        if twin == variant or not both:
            continue
        views = before[both[0]]["metrics"][dataset]
        if not lines:
            heads = [f"{view}: without | with | difference ± standard error" for view in views]
            lines = [f"| | {' | '.join(heads)} | seeds |", "|---" * (2 + 3 * len(views)) + "|"]
        cells = []
        for view in views:
            found = [{seed: rows[seed]["metrics"][dataset][view]["mAP"] for seed in both}
                     for rows in (before, after)]  # fmt: skip
            cells += [mean(Spread.of([*each.values()])) for each in found]
            cells.append(mean(paired_difference(*found), "+", error=True))
        title = variant.removesuffix("_baseline")
        lines.append(f"| `{title}` | {' | '.join(cells)} | {len(both)} |")
    return lines


# What the walk stands beside in benchmarks/market1501.py: trainings without it and with it.
BESIDE = {
    "AM-softmax, 16 images of an identity": ("images_16_baseline", "images_16_walk"),
    "AM-softmax, 8 images (the configs)": ("baseline", "spectral"),
    "AM-softmax, 4 images": ("images_4_baseline", "images_4_walk"),
    "softmax": ("softmax_baseline", "softmax_walk"),
    "softmax, triplet on X": ("softmax_triplet_baseline", "softmax_triplet_walk_plain"),
    "softmax, triplet on X and X'": ("softmax_triplet_baseline", "softmax_triplet_walk"),
    "softmax, quadruplet on X": ("softmax_quadruplet_baseline", "softmax_quadruplet_walk_plain"),
    "softmax, quadruplet on X and X'": ("softmax_quadruplet_baseline", "softmax_quadruplet_walk"),
    "strong recipe, walk after the BNNeck, triplet on X":
        ("strong_baseline", "strong_walk_bottleneck_plain"),
    "strong recipe, walk before the BNNeck, triplet on X and X'":
        ("strong_baseline", "strong_walk"),
}  # fmt: skip


def glance(figures: Figures, dataset: str = "market1501") -> list[str]:
    """Lay out what the walk adds beside each loss: mAP, paired by seed ± standard error."""
    lines: list[str] = []
    for title, (without, with_walk) in BESIDE.items():
        before, after = seeds_of(figures, without), seeds_of(figures, with_walk)
        both = sorted(before.keys() & after.keys())
        if not both:
            continue
        views = before[both[0]]["metrics"][dataset]
        if not lines:
            heads = ["without", "with", *(f"{view}: walk adds" for view in views), "seeds"]
            lines = [f"| mAP of | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        found = {view: [{seed: rows[seed]["metrics"][dataset][view]["mAP"] for seed in both}
                        for rows in (before, after)] for view in views}  # fmt: skip
        cells = [mean(Spread.of([*each.values()]), digits=1) for each in found["none"]]
        cells += [mean(paired_difference(*each), "+", error=True, digits=1)
                  for each in found.values()]  # fmt: skip
        lines.append(f"| {title} | {' | '.join(cells)} | {len(both)} |")
    return lines


def whitening(figures: Figures) -> list[str]:
    """Lay out benchmarks/whitening.py: mAP / rank-1 plainly, then differences of mAP to that."""
    lines: list[str] = []
    for name, row in figures["rows"].items():
        plain, *others = row["figures"]
        methods = [key for key, value in plain.items() if isinstance(value, dict)]
        if not lines:
            lines = [f"| network | whitening | {' | '.join(methods)} |",
                     "|---" * (2 + len(methods)) + "|"]  # fmt: skip
        cells = [f"{100 * plain[each]['mAP']:.2f} / {100 * plain[each]['rank-1']:.2f}"
                 for each in methods]  # fmt: skip
        lines.append(f"| `{name}` | `none` | {' | '.join(cells)} |")
        for other in others:
            gains = [{figure: 100 * (other[each][figure] - plain[each][figure])
                      for figure in ("mAP", "rank-1")} for each in methods]  # fmt: skip
            cells = [f"{each['mAP']:+.2f} / {each['rank-1']:+.2f}" for each in gains]
            lines.append(
                f"| | `{other['covariance']}`, eps {other['eps']:g} | {' | '.join(cells)} |"
            )
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


def cost(figures: Figures) -> list[str]:
    """Lay out benchmarks/market1501_cost.py: a training a line, its step and its test."""
    lines = ["| | ms a step | quartiles | relative | ms a test | quartiles | relative |",
             "|---" * 7 + "|"]  # fmt: skip
    for name, row in figures["rows"].items():
        cells = [cell for part in ("step", "test") for cell in timed(row[part])]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
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


def timed(row: Figures) -> list[str]:
    """Write median and quartiles in ms, and the ratio to what all are compared with."""
    low, high = (f"{1000 * value:.0f}" for value in row["quartiles"])
    return [f"{1000 * row['seconds']:.0f}", f"{low} to {high}", f"{row['relative']:.2f}"]


def steps(figures: Figures) -> list[str]:
    """Lay out benchmarks/losses.py: a loss a line."""
    lines = ["| loss | ms a step | quartiles | relative |", "|---|---|---|---|"]
    return lines + [f"| {name} | {' | '.join(timed(row))} |"
                    for name, row in figures["losses"].items()]  # fmt: skip


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


def extraction(figures: Figures) -> list[str]:
    """Lay out benchmarks/extraction.py: a contestant a line."""
    lines = ["| | images/s | time, relative |", "|---|---|---|"]
    for name, row in figures["rows"].items():
        lines.append(f"| {name} | {row['images_per_second']:.0f} | {row['relative']:.2f} |")
    return lines


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
