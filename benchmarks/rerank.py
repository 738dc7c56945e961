"""Time, peak memory and metrics of re-ranking and evaluation, beside torchreid's.

Each row runs in a process of its own, `--repeats` times, and its median is given. Run it on an
idle machine.

Suites:
    market      3,368 x 15,913 x 512: every method, the bare search, torchreid's re_ranking,
                and its two evaluators; on real features with --features
    msmt17      11,659 x 82,161 x 512: every method
    distractors 3,368 x 519,281 x 512: local_blurring and graph_walk, FAISS IVF
    million     1,000 x 1,000,000 x 256: local_blurring through FAISS
    growth      1,000 queries, galleries of 5,000 to 80,000: slopes of time and memory, --plot
    sensitivity graph_walk with other k, temperature and steps; needs --features
    cameras     without and with camera normalization; needs --features

Example:
    python benchmarks/rerank.py market --features features.npz --out market.json
    python benchmarks/rerank.py growth --out growth.json --plot growth.png
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_spectral.rerank import CAMERA_NORMALIZATIONS, RERANKERS

Task = dict[str, Any]
MARKET, MSMT17 = (3368, 15913, 512), (11659, 82161, 512)
DISTRACTORS, MILLION = (3368, 519281, 512), (1000, 1000000, 256)
GROWTH = [(1000, count, 512) for count in (5000, 10000, 20000, 40000, 80000)]
SENSITIVITY: list[Task] = [
    {},
    *({"k": k} for k in (10, 15, 20, 40, 50, 80)),
    *({"temperature": value} for value in (0.05, 0.1, 0.2, 1.0, 2.0)),
    *({"steps": steps} for steps in (0, 2, 3)),
    *({"num_averaged": count} for count in (1, 3, 10)),
    *({"lambda_value": value} for value in (0.0, 0.1, 0.3, 0.5)),
    {"graph": "knn"},
    {"normalization": "symmetric"},
    {"weights": "jaccard"},
    {"walked": "features"},
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Command line.

    Returns:
        Exit status.
    """
    args = parse(argv)
    if args.worker:
        from rerank_rows import run  # beside this file

        print(json.dumps(run(json.loads(args.worker))))
        return 0
    results = []
    print(f"{'row':<44}{'s':>9}{'GB':>7}{'mAP':>8}{'rank-1':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(args, Path(folder)):
            results.append(measured(task, 1 if task["row"] in SLOW else args.repeats))
            print(line(results[-1]), flush=True)
        found = {"suite": args.suite, "rows": results, "summary": summary(results)}
    for name, value in found["summary"].items():
        print(f"{name}: {value:.3g}")
    if args.out:
        write(found, Path(args.out))
    if args.plot:
        plot(results, Path(args.plot))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="?", default="market", choices=sorted(SUITES))
    parser.add_argument("--features", default="", help="npz of query and gallery, real ones")
    parser.add_argument("--only", nargs="*", default=[], help="rows to run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="of each row; slow peers once")
    parser.add_argument("--top-k", type=int, default=100, help="images returned for each query")
    parser.add_argument("--out", default="", help="JSON file to write")
    parser.add_argument("--plot", default="", help="picture of time and memory, suite growth")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    have = sorted({row["row"] for row in SUITES[args.suite]()})
    for name in args.only:
        if name not in have:
            parser.error(f"--only {name} is no row of {args.suite}, which has {', '.join(have)}")
    return args


def tasks(args: argparse.Namespace, folder: Path) -> list[Task]:
    """List the rows of a suite."""
    shared = {"features": args.features, "top_k": args.top_k, "device": args.device}
    blank = {"options": {}, "metrics": bool(args.features), "save": ""}
    rows = [blank | shared | row for row in SUITES[args.suite]()]
    for row in rows:
        peers = args.suite == "market" and row["row"] in COMPARED
        if peers and args.features and args.device == "cpu":
            row["save"] = str(folder / f"{row['row']}.npy")
    return [row for row in rows if not args.only or row["row"] in args.only]


def market() -> list[Task]:
    """Every method and every peer."""
    evaluators = ["evaluate_rank", "torchreid_cython", "torchreid_python"]
    rows = ["bare_search", *RERANKERS, "torchreid_re_ranking", *evaluators]
    return [{"row": row, "size": MARKET} for row in rows]


def msmt17() -> list[Task]:
    """Every method."""
    return [{"row": row, "size": MSMT17} for row in RERANKERS]


def distractors() -> list[Task]:
    """The two methods of the talk; their neighbour lists by FAISS."""
    options = {"search": "faiss_ivf"}
    rows = ("local_blurring", "graph_walk")
    return [{"row": row, "size": DISTRACTORS, "options": options} for row in rows]


def million() -> list[Task]:
    """Local blurring, by exact and by approximate search."""
    searches = ("exact", "faiss_flat", "faiss_ivf")
    row = {"row": "local_blurring", "size": MILLION}
    return [row | {"options": {"search": search}} for search in searches]


def growth() -> list[Task]:
    """Growing galleries."""
    return [{"row": row, "size": size} for row in RERANKERS for size in GROWTH]


def sensitivity() -> list[Task]:
    """One option of graph_walk at a time."""
    row = {"row": "graph_walk", "size": MARKET}
    return [row | {"options": options} for options in SENSITIVITY]


def cameras() -> list[Task]:
    """Camera normalization before each method."""
    return [
        {"row": row, "size": MARKET, "options": {"camera_normalization": word}}
        for row in ("none", "local_blurring", "k_reciprocal", "graph_walk")
        for word in CAMERA_NORMALIZATIONS
    ]


ALL = (market, msmt17, distractors, million, growth, sensitivity, cameras)
SUITES = {each.__name__: each for each in ALL}
SLOW = ("torchreid_re_ranking", "torchreid_python")
COMPARED = ("k_reciprocal", "torchreid_re_ranking")


def measured(task: Task, repeats: int) -> Task:
    """Run a row some times, each in a fresh process.

    Args:
        task: The row.
        repeats: How often.

    Returns:
        The task with the median of each figure.
    """
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--worker", json.dumps(task)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"The row {task['row']} failed with exit status {done.returncode}.")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return task | {name: statistics.median(each[name] for each in runs) for name in runs[0]}


def summary(results: Sequence[Task]) -> dict[str, float]:
    """Compare with the peers, and with the bare search."""
    by_row = {each["row"]: each for each in results}
    if len(by_row) < len(results):  # under several sizes or options
        return slopes(results)
    ratios = {
        "local_blurring / bare search, time": ("local_blurring", "bare_search", "seconds"),
        "torchreid / local_blurring, time": ("torchreid_re_ranking", "local_blurring", "seconds"),
        "torchreid / local_blurring, memory": (
            "torchreid_re_ranking", "local_blurring", "peak_GB"
        ),
        "torchreid / k_reciprocal, time": ("torchreid_re_ranking", "k_reciprocal", "seconds"),
        "torchreid / k_reciprocal, memory": ("torchreid_re_ranking", "k_reciprocal", "peak_GB"),
        "graph_walk / k_reciprocal, time": ("graph_walk", "k_reciprocal", "seconds"),
        "torchreid Python / evaluate_rank, time": ("torchreid_python", "evaluate_rank", "seconds"),
        "torchreid Cython / evaluate_rank, time": ("torchreid_cython", "evaluate_rank", "seconds"),
    }  # fmt: skip
    found = {
        name: by_row[left][figure] / by_row[right][figure]
        for name, (left, right, figure) in ratios.items()
        if left in by_row and right in by_row
    }
    if all(row in by_row and by_row[row]["save"] for row in COMPARED):
        ours, theirs = (np.load(by_row[row]["save"], mmap_mode="r") for row in COMPARED)
        found["k_reciprocal - torchreid, largest difference"] = float(np.abs(ours - theirs).max())
        same = [np.argsort(rows, axis=1, kind="stable") for rows in (ours, theirs)]
        moved = np.take_along_axis(theirs, same[0], 1) - np.take_along_axis(theirs, same[1], 1)
        found["k_reciprocal in torchreid's order, ties up to"] = float(np.abs(moved).max())
    return found | slopes(results)


def slopes(results: Sequence[Task]) -> dict[str, float]:
    """Give the exponent of growth of time and of memory, where a method has several sizes."""
    found = {}
    for row in dict.fromkeys(each["row"] for each in results):
        sizes = [each for each in results if each["row"] == row and "size" in each]
        counts = [math.log(each["size"][1]) for each in sizes]
        if len(set(counts)) > 2:
            for figure in ("seconds", "peak_GB"):
                values = [math.log(each[figure]) for each in sizes]
                found[f"{row}, slope of {figure}"] = float(np.polyfit(counts, values, 1)[0])
    return found


def line(result: Task) -> str:
    """Lay out one row."""
    said = " ".join(f"{name}={value}" for name, value in result["options"].items())
    size = "" if result["features"] else " x ".join(map(str, result["size"]))
    title = " ".join(filter(None, (result["row"], said, size)))
    text = f"{title:<44}{result['seconds']:9.3f}{result['peak_GB']:7.2f}"
    if "mAP" in result:
        text += f"{100 * result['mAP']:8.2f}{100 * result['rank-1']:8.2f}"
    if "search_recall" in result:
        text += f"  fit {result['seconds_fit']:.1f} s, recall {result['search_recall']:.3f}"
    return text


def write(found: dict[str, Any], path: Path) -> None:
    """Write the figures with their circumstances."""
    import torch

    from torchreid_spectral.engine.results import provenance, write_json

    for row in found["rows"]:
        row["features"] = Path(row["features"]).name
        row.pop("save")
    write_json(found | {"threads": torch.get_num_threads()} | provenance(), path)


def plot(results: Sequence[Task], path: Path) -> None:
    """Draw time and memory against the size of the gallery."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for name, axis, title in zip(("seconds", "peak_GB"), axes, ("time, s", "peak memory, GB")):
        for row, marker in zip(dict.fromkeys(each["row"] for each in results), "osD^v<>"):
            points = [(each["size"][1], each[name]) for each in results if each["row"] == row]
            axis.loglog(*zip(*points), marker=marker, label=row)
        axis.set(xlabel="gallery images", ylabel=title)
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
