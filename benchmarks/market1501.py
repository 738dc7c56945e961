"""What the walk brings on Market-1501: suites of trainings, each under several seeds.

Market-1501's own split and protocol, OSNet x0.25 from torchreid's MSMT17 weights. Trainings go
through ``tools/compare.py``: finished ones are kept, and the same command goes on where it was
stopped. Each finished run is then tested by plain distance and with re-rankers, on Market-1501 and
on whatever ``--transfer`` names, and its figures are added to the JSON file; rows that are there
already stay, so that machines and sessions add up. No image, feature or weight leaves ``--out``.

Example:
    python benchmarks/market1501.py ablation --weights osnet_x0_25_msmt17.pth --root reid-data \
        --transfer cuhk01 reid-data/cuhk01 --json results/market1501_small.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from losses_compare import config, load_tool  # beside this file, as the next
from market1501_rows import CAMERAS, FLIPPED, METHODS, measure, setting

from torchreid_spectral._run_files import training_metrics
from torchreid_spectral.engine.results import provenance, write_json
from torchreid_spectral.errors import InputError

STEPS_AN_EPOCH = 46  # 751 identities once an epoch, 16 at a time
SIZES = {
    "small": ["data.height", "128", "data.width", "64"],
    "full": ["data.height", "256", "data.width", "128", "train.amp", "bf16",
             "train.lr_scheduler", "warmup_cosine",
             "train.open_layers", "[conv3,conv4,conv5,fc,classifier]"],
}  # fmt: skip
EPOCHS = {"small": 26, "full": 64}
FROZEN = {"small": 0.0, "full": 0.8}  # share of the epochs in which the first layers rest
# What changes no figure but the time.
SHARED = ["train.channels_last", "True", "data.cache", "ram", "data.workers", "1",
          "data.persistent_workers", "True", "train.graph_every", f"{STEPS_AN_EPOCH}",
          "report.html", "False"]  # fmt: skip

WALK, PLAIN = "spectral_market1501_osnet_x0_25", "baseline_market1501_osnet_x0_25"
Variant = tuple[str, list[str]]
SPECTRAL: dict[str, Variant] = {"spectral": (WALK, [])}
# Stripes beside the whole map, GeM pooling, crops and erasing.
PARTS = ("spectral.pooling", "gem", "spectral.stripes", "2",
         "data.transforms", "[random_flip,random_pad_crop,random_erase]")  # fmt: skip
TRIPLET = ("loss.id", "softmax", "loss.metric", "triplet")
QUADRUPLET = ("loss.id", "softmax", "loss.metric", "quadruplet")
# H. Luo et al., 2019: BNNeck, triplet, label smoothing; and the parts.
STRONG = (*TRIPLET, "loss.softmax.label_smooth", "True", "loss.softmax.scale", "15.0",
          "spectral.neck", "bnneck", "spectral.test_feature", "bottleneck", *PARTS)  # fmt: skip
BASELINE: dict[str, Variant] = {"baseline": (PLAIN, [])}


def walks(key: str, *values: str) -> dict[str, Variant]:
    """Vary one option of the walk."""
    return {f"{key}_{value}": (WALK, [f"spectral.{key}", value]) for value in values}


def pairs(name: str, *options: str) -> dict[str, Variant]:
    """Give something without and with the walk; metric losses are on X' too."""
    both = ["loss.metric_on", "both"] if "loss.metric" in options else []
    return {f"{name}_baseline": (PLAIN, [*options]), f"{name}_walk": (WALK, [*options, *both])}


# The first of each is what the others are compared with.
SUITES: dict[str, dict[str, Variant]] = {
    # The talk's ablation, and two controls of deep supervision: X' alone, and X twice.
    "ablation": BASELINE | SPECTRAL | {
        "classified_twice": (WALK, ["spectral.supervision", "plain_twice"]),
        "walk_alone": (WALK, ["spectral.supervision", "walked"]),
    },
    "temperature": SPECTRAL | walks("temperature", "0.02", "0.05", "0.2")
    | walks("learn_temperature", "True"),
    "steps": SPECTRAL | walks("steps", "2", "3"),
    "graph": SPECTRAL | walks("detach_transition", "True") | walks("memory", "256")
    | walks("walked_feature", "bottleneck"),
    "losses": pairs("softmax", "loss.id", "softmax")
    | pairs("softmax_triplet", *TRIPLET) | pairs("softmax_quadruplet", *QUADRUPLET),
    # Metric losses on X and X', and on X alone.
    "triplet": pairs("softmax_triplet", *TRIPLET)
    | {"softmax_triplet_walk_plain": (WALK, [*TRIPLET])},
    "quadruplet": pairs("softmax_quadruplet", *QUADRUPLET)
    | {"softmax_quadruplet_walk_plain": (WALK, [*QUADRUPLET])},
    "parts": pairs("parts", *PARTS),
    # A second and a third cycle of the learning rate, each from weights of the one before: give
    # them as --weights.
    "again": {"parts_walk": pairs("parts", *PARTS)["parts_walk"],
              "parts_walk_again": (WALK, [*PARTS, "train.lr", "0.00075"]),
              "parts_walk_third": (WALK, [*PARTS, "train.lr", "0.00075"]),
              # From weights of long_walk_images_4, with fresh crops.
              "images_4_again": (WALK, [*PARTS, "train.lr", "0.00075",
                                        "sampler.num_instances", "4"])},
    # Long trainings, of benchmarks/market1501_rested.py.
    "long": {"long_walk": pairs("parts", *PARTS)["parts_walk"],
             "long_walk_quadruplet": (WALK, [*PARTS, "loss.metric", "quadruplet"]),
             # Half the steps an epoch: 32 identities once, with 4 images each.
             "long_walk_images_4": (WALK, [*PARTS, "sampler.num_instances", "4"])},
    # The walk with the triplet loss on X alone, on the feature after the BNNeck, and both. There
    # the triplet loss compares that feature too: so has a baseline of its own.
    "strong": pairs("strong", *STRONG) | {
        "strong_walk_metric_plain": (WALK, [*STRONG]),
        "strong_walk_bottleneck": (WALK, [*STRONG, "loss.metric_on", "both",
                                          "spectral.walked_feature", "bottleneck"]),
        "strong_baseline_bottleneck": (PLAIN, [*STRONG, "spectral.walked_feature", "bottleneck"]),
        "strong_walk_bottleneck_plain": (WALK, [*STRONG, "spectral.walked_feature", "bottleneck"]),
    },
    # K 4, 8, 16 images an identity, 128 images and equally many steps each.
    "batches": BASELINE | SPECTRAL | pairs("images_4", "sampler.num_instances", "4")
    | pairs("images_16", "sampler.num_instances", "16"),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure what is not there yet.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0; 1 where a run failed; 2 where the user can mend something.
    """
    args = parse(argv)
    try:
        status = 0 if args.collect else train(args)
        collect(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="+", choices=[*SUITES], help="what is compared")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the suites, these alone")
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--weights", required=True, type=Path, help="OSNet x0.25 of MSMT17")
    parser.add_argument("--root", default="reid-data", help="folder that holds the datasets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--first-seed", type=int, default=1,
                        help="several machines can share the seeds (default 1)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("log/market1501"), help="folder")
    parser.add_argument("--json", type=Path, help="file of the figures, else in the folder")
    parser.add_argument("--transfer", nargs=2, action="append", default=[],
                        metavar=("NAME", "FOLDER"),
                        help="own data to test on; repeatable")  # fmt: skip
    parser.add_argument("--flip", action="store_true",
                        help="test on Market-1501 with mirror images as well")  # fmt: skip
    parser.add_argument("--cameras", action="store_true",
                        help="test on Market-1501 with normalized cameras as well")  # fmt: skip
    parser.add_argument("--collect", action="store_true",
                        help="train nothing: figures of what has finished")  # fmt: skip
    parser.add_argument("--plot", type=Path,
                        help="picture of escape and Ncut over training, first suite")  # fmt: skip
    parser.add_argument("--plot-map", type=Path,
                        help="picture of mAP, a panel a suite")  # fmt: skip
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all runs")  # fmt: skip
    return checked(parser, argv)


def checked(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Refuse names of ``--only`` that no suite has."""
    args = parser.parse_args(argv)
    have = [name for suite in args.suites for name in SUITES[suite]]
    for name in args.only or []:
        if name not in have:
            parser.error(f"--only {name} is in none of these suites; they have {', '.join(have)}")
    return args


def schedule(size: str, options: Sequence[str]) -> list[str]:
    """Give epochs and steps of the learning rate: equally many steps, whatever the batch."""
    given = dict(zip(options[::2], options[1::2]))
    epochs = EPOCHS[size] * 8 // int(given.get("sampler.num_instances", "8"))
    steps = [round(epochs * share) for share in (17 / 26, 23 / 26)]
    return ["train.max_epoch", f"{epochs}", "train.stepsize", f"[{steps[0]},{steps[1]}]",
            "train.fixbase_epoch", f"{round(epochs * FROZEN[size])}"]  # fmt: skip


def train(args: argparse.Namespace) -> int:
    """Train what has not finished.

    Args:
        args: Command line.

    Returns:
        Exit status of tools/compare.py.
    """
    command = ["--out", str(args.out / args.size), "--jobs", str(args.jobs), "--root", args.root,
               "--seeds", str(args.seeds), "--first-seed", str(args.first_seed)]  # fmt: skip
    for name, (file, options) in chosen(args).items():
        command += ["--variant", name, config(file), *options, *schedule(args.size, options)]
    command += ["--set", "model.load_weights", str(args.weights), *SIZES[args.size], *SHARED]
    status: int = load_tool("compare").main([*command, *args.set])
    return status


def chosen(args: argparse.Namespace) -> dict[str, Variant]:
    """List the variants of all suites that were asked for, each once."""
    return {name: each for suite in args.suites for name, each in SUITES[suite].items()
            if name in (args.only or SUITES[suite])}  # fmt: skip


def configured(variant: Variant, *options: str) -> Any:
    """Give the config of a training, with options that are its own."""
    from torchreid_spectral.config import get_default_config, merge_file, merge_options

    cfg = get_default_config()
    merge_file(cfg, config(variant[0]))
    merge_options(cfg, [*variant[1], *options])
    return cfg


def collect(args: argparse.Namespace) -> None:
    """Measure each finished run and write the figures after each."""
    path = args.json or args.out / f"{args.size}.json"
    rows = read_rows(path)
    for name in chosen(args):
        for folder in sorted((args.out / args.size / name).glob("seed_*")):
            if not (folder / "metrics.json").is_file():
                continue
            key = f"{name}/{folder.name}"
            row = rows.get(key, {})
            earlier = {} if not row or differs(row, folder) else row
            known = earlier.get("metrics", {})
            wanted = {"market1501", *([FLIPPED] if args.flip else []), *dict(args.transfer)}
            wanted |= {CAMERAS} if args.cameras else set()
            if not wanted <= known.keys():
                print(f"{key} is tested ...", flush=True)
                transfer = dict(args.transfer)
                rows[key] = measure(folder, args.root, transfer, known, flip=args.flip,
                                    cameras=args.cameras)  # fmt: skip
                for figures in ("metrics", "seconds_of_test"):
                    rows[key][figures] = {**earlier.get(figures, {}), **rows[key][figures]}
                write(path, rows, args.size)
    write(path, rows, args.size)
    if args.plot:
        plot(rows, [*SUITES[args.suites[0]]], args.plot)
    if args.plot_map:
        plot_map(rows, args.suites, args.plot_map)


def plot(rows: dict[str, Any], variants: Sequence[str], path: Path) -> None:
    """Draw escape probability and Ncut over training, means over the seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    from torchreid_spectral.report.figures import COLOURS, LINES

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, curve, title in zip(figure.subplots(1, 2), ("escape", "ncut"),
                                  ("escape probability", "Ncut")):  # fmt: skip
        for number, variant in enumerate(variants):
            found = [row["curves"][curve] for key, row in rows.items()
                     if key.startswith(f"{variant}/")]  # fmt: skip
            if found:
                mean = np.mean(found, axis=0)
                axes.plot(range(1, len(mean) + 1), mean, color=COLOURS[number % 8],
                          ls=LINES[number % 4], label=variant)  # fmt: skip
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_map(rows: dict[str, Any], suites: Sequence[str], path: Path) -> None:
    """Draw mAP of each training, a panel a suite: mean and standard deviation over the seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    from torchreid_spectral.report.figures import COLOURS, MARKERS

    columns, lines = min(3, len(suites)), -(-len(suites) // 3)
    figure = Figure(figsize=(5 * columns, 4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for empty in panels[len(suites) :]:
        empty.set_visible(False)
    for axes, suite in zip(panels, suites):
        found: dict[str, list[Any]] = {variant: [] for variant in SUITES[suite]}
        for key, row in rows.items():
            if (variant := key.partition("/")[0]) in found:
                found[variant].append(row["metrics"]["market1501"])
        found = {variant: runs for variant, runs in found.items() if runs}
        for number, view in enumerate(METHODS):
            values = [[100 * run[view]["mAP"] for run in runs] for runs in found.values()]
            spread = [np.std(each, ddof=1) if len(each) > 1 else 0.0 for each in values]
            axes.errorbar(np.arange(len(values)) + 0.1 * (number - 1.5), [*map(np.mean, values)],
                          spread, label=view, color=COLOURS[number], marker=MARKERS[number],
                          ls="", capsize=3)  # fmt: skip
        axes.set_xticks(range(len(found)), [*found], rotation=20, ha="right")
        axes.set(title=suite, ylabel="mAP, %")
        axes.grid(axis="y", alpha=0.3)
    marks = axes.get_legend_handles_labels()
    figure.legend(*marks, loc="outside upper center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def read_rows(path: Path) -> dict[str, Any]:
    """Read the rows that are there already."""
    if not path.is_file():
        return {}
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def differs(row: dict[str, Any], folder: Path) -> bool:
    """Say whether a row is of another training than the folder's."""
    saved = json.loads(training_metrics(folder).read_text(encoding="utf-8"))
    feature = saved["config"]["spectral"]["test_feature"]
    return (row["commit"], row.get("tested")) != (saved["commit"], setting(feature))


def write(path: Path, rows: dict[str, Any], size: str) -> None:
    """Write all rows, with the commits of the trainings."""
    order = [name for suite in SUITES.values() for name in suite]
    place = {name: number for number, name in enumerate(dict.fromkeys(order))}
    rows = dict(sorted(rows.items(), key=lambda row: (place.get(row[0].split("/")[0], len(order)),
                                                      row[0])))  # fmt: skip
    content = {
        **provenance(),
        "commit": ", ".join(sorted({row["commit"] or "not known" for row in rows.values()})),
        "threads": ", ".join(sorted({str(row["threads"]) for row in rows.values()})),
        "size": size,
        "suites": {suite: [*variants] for suite, variants in SUITES.items()},
        "rows": rows,
    }
    write_json(content, path)


if __name__ == "__main__":
    raise SystemExit(main())
