"""Accuracy of the walk under each loss, of the strong recipe and of DarkRank, with controls.

On the embedded dataset, half of the demo's steps at twice its learning rate, equal for all; metric
losses stand beside softmax. Runs go through ``tools/compare.py``: finished ones are kept, and the
same command goes on where it was stopped. The teacher of DarkRank is trained once, by all of the
demo's steps; all else under each seed.

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
METRIC = "mAP"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not there yet, and write table and JSON.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 where a run failed.
    """
    args = parse(argv)
    compare = load_tool("compare")
    shared = ["--out", str(args.out), *(["--root", args.root] if args.root else [])]
    once = ["--seeds", "1", "--variant", TEACHER, config("teacher_demo"), "--set", *PLAIN]
    every = ["--seeds", str(args.seeds)]
    for variant in variants(args.out):
        every += ["--variant", *variant]
    every += ["--set", *PLAIN, *SCHEDULE]
    if any(compare.main([*shared, *options, *args.set]) for options in (once, every)):
        return 1
    found = results(args.out, range(1, args.seeds + 1))
    (args.out / "losses_compare.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table(found["pairs"]))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("log/losses_compare"), help="folder")
    parser.add_argument("--root", default="", help="folder that holds the dataset")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY VALUE",
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
    """Read the finished runs and compare them pair by pair."""
    from torchreid_spectral.engine.results import provenance
    from torchreid_spectral.report.comparison import load_run, summarise

    def runs(name: str) -> Any:
        return [load_run(out / name / f"seed_{seed}") for seed in seeds]

    compared = {
        name: summarise({side: runs(side) for side in sides}) for name, sides in pairs().items()
    }
    teacher = load_run(out / TEACHER / "seed_1").metrics
    steps = EPOCHS * STEPS_AN_EPOCH
    return {"steps": steps, "teacher": teacher, "pairs": compared} | provenance()


def table(compared: dict[str, Any]) -> str:
    """Lay out mAP in %, mean ± standard deviation, and the paired difference in points."""
    lines = ["| | without | with | difference |", "|---|---|---|---|"]
    for name, summary in compared.items():
        (views,) = summary["datasets"].values()
        before, after = (row[METRIC] for row in views["none"].values())
        cells = [percent(before), percent(after), percent(after["difference"], sign="+")]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percent(spread: dict[str, Any], sign: str = "") -> str:
    """Write mean ± standard deviation."""
    mean = f"{100 * spread['mean']:{sign}.1f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.1f}"


if __name__ == "__main__":
    sys.exit(main())
