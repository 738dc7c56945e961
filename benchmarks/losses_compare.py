"""Accuracy of the walk under each loss, of the strong recipe and of DarkRank, with controls.

On the embedded dataset, 100 steps fewer than the demo at twice its learning rate, equal for
all; metric losses stand beside softmax. Runs go through ``tools/compare.py``: finished ones are
kept, and the same command goes on where it was stopped. The teacher of DarkRank is trained once,
by all steps of its config; all else under each seed.

Example:
    python benchmarks/losses_compare.py --out log/losses_compare --seeds 3
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from torchreid_spectral.engine.results import provenance, write_json
from torchreid_spectral.report.comparison import comparison_table, load_run, summarise

HERE = Path(__file__).parents[1]
EPOCHS, STEPS_AN_EPOCH = 24, 25
SCHEDULE = ["train.max_epoch", f"{EPOCHS}", "train.stepsize", "[16,21]", "train.lr", "0.006",
            "train.warmup_epochs", "1"]  # fmt: skip
PLAIN = ["train.print_freq", f"{STEPS_AN_EPOCH}", "data.workers", "0", "data.cache", "ram",
         "report.html", "False", "report.ranked_lists", "0"]  # fmt: skip
# Name to its config lines; the walk's metric losses are on X and X', as its identity losses are.
LOSSES = {name: ["loss.id", name] for name in ("softmax", "am_softmax", "l_softmax")} | {
    f"softmax_{name}": ["loss.id", "softmax", "loss.metric", name]
    for name in ("triplet", "quadruplet")
}
STUDENT, TEACHER, TEACHER_EPOCHS = "am_softmax_walk_taught", "teacher", 48


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not there yet, and write table and JSON.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 where a run failed.
    """
    args = parse(argv)
    if not args.collect and train(args):
        return 1
    found = results(args.out, range(1, args.seeds + 1))
    write_json(found, args.json or args.out / "losses_compare.json")
    for summary in found["pairs"].values():
        print(comparison_table(summary) + "\n")
    return 0


def train(args: argparse.Namespace) -> int:
    """Run what is not there yet.

    Args:
        args: Command line.

    Returns:
        Exit status of tools/compare.py.
    """
    compare = load_tool("compare")
    shared = ["--out", str(args.out), "--jobs", str(args.jobs)]
    shared += ["--root", args.root] if args.root else []
    once = ["--seeds", "1", "--variant", TEACHER, config("teacher_demo"), "--set", *PLAIN]
    every = ["--seeds", str(args.seeds)]
    for variant in variants(args.out):
        every += ["--variant", *variant]
    every += ["--set", *PLAIN, *SCHEDULE]
    status: int = compare.main([*shared, *once, *args.set])
    return status or compare.main([*shared, *every, *args.set])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("log/losses_compare"), help="folder")
    parser.add_argument("--root", default="", help="folder that holds the dataset")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--json", type=Path, help="file of the figures, else in the folder")
    parser.add_argument("--collect", action="store_true",
                        help="train nothing: figures of what has finished")  # fmt: skip
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all runs")  # fmt: skip
    return parser.parse_args(argv)


def config(name: str) -> str:
    """Give the path of a config."""
    return str(HERE / "configs" / f"{name}.yaml")


def load_tool(name: str) -> ModuleType:
    """Import a command of ``tools/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / "tools" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(out: Path) -> list[list[str]]:
    """List name, file and options of what is trained under each seed."""
    found = []
    for name, options in LOSSES.items():
        walked = [*options, "loss.metric_on", "both"]
        found.append([f"{name}_baseline", config("baseline_demo"), *options])
        found.append([f"{name}_walk", config("spectral_demo"), *walked])
    found.append(["strong_baseline", config("baseline_strong_demo")])
    found.append(["strong_walk", config("spectral_strong_demo")])
    weights = out / TEACHER / "seed_1" / "model" / f"model.pth.tar-{TEACHER_EPOCHS}"
    found.append([STUDENT, config("student_demo"), "distill.weights", str(weights)])
    return found


def pairs() -> dict[str, tuple[str, str]]:
    """List what is compared with what: without first."""
    found = {name: (f"{name}_baseline", f"{name}_walk") for name in (*LOSSES, "strong")}
    # student_demo.yaml is spectral_demo.yaml with a teacher.
    return found | {"dark_rank": ("am_softmax_walk", STUDENT)}


def results(out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Compare the finished runs pair by pair, under the seeds that both sides have.

    Args:
        out: Folder of the runs.
        seeds: Those asked for.

    Returns:
        What is written as JSON; the commit is that of the runs.
    """
    compared: dict[str, Any] = {}
    for name, sides in pairs().items():
        both = [seed for seed in seeds if all(file(out, side, seed).is_file() for side in sides)]
        if both:
            compared[name] = summarise(
                {side: [load_run(file(out, side, seed).parent) for seed in both] for side in sides}
            )
    saved = [json.loads(path.read_text()) for path in sorted(out.glob("*/seed_*/metrics.json"))]
    commits = ", ".join(sorted({run["commit"] or "not known" for run in saved}))
    teacher = file(out, TEACHER, 1)
    return {
        **provenance(),
        "commit": commits,
        "threads": torch.get_num_threads(),
        "steps": EPOCHS * STEPS_AN_EPOCH,
        "teacher": load_run(teacher.parent).metrics if teacher.is_file() else None,
        "pairs": compared,
    }


def file(out: Path, name: str, seed: int) -> Path:
    """Give where a run saves its figures."""
    return out / name / f"seed_{seed}" / "metrics.json"


if __name__ == "__main__":
    sys.exit(main())
