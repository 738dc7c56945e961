"""Run several configs under equal seeds and compare them: mean, spread and paired difference.

Differences are to the first config. Finished runs are kept: the same command goes on where it
was stopped.

Example:
    python tools/compare.py configs/baseline_demo.yaml configs/spectral_demo.yaml --seeds 3
    python tools/compare.py configs/spectral_demo.yaml --seeds 3 \
        --variant control configs/spectral_demo.yaml spectral.supervision plain_twice \
        --set train.max_epoch 12
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from torchreid_spectral._files import show_any_name
from torchreid_spectral.errors import InputError

MAIN = Path(__file__).with_name("main.py")
# What does not change a result, or is set by the run itself.
FREE_KEYS = {"use_gpu", "data.root", "data.save_dir", "model.resume",
             "train.start_epoch", "train.print_freq", "report.html", "report.baseline",
             "report.ranked_lists"}  # fmt: skip


RUNNING: set[subprocess.Popen[bytes]] = set()


class Variant(NamedTuple):
    """A config file with options of its own."""

    name: str
    file: str
    options: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0, 1 where a run failed, 2 where the user can mend something, 128 + N where
        signal N stopped it.
    """
    args = parse(argv)
    show_any_name()
    try:
        return run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", help="config files; the first is compared with")
    parser.add_argument("--variant", nargs="+", action="append", default=[],
                        metavar="ARG", help="NAME FILE [KEY VALUE ...]; repeatable")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="runs a config (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="seeds count from here")
    parser.add_argument("--jobs", type=int, default=1,
                        help="runs at a time (default 1)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("log/compare"), help="folder")
    parser.add_argument("--root", default="", help="folder that holds the datasets")
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all runs")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet, then write table and JSON."""
    from torchreid_spectral._locks import alone_in

    variants = collect(args)
    if args.seeds < 1:
        raise InputError(f"--seeds must be >= 1, got {args.seeds}.")
    if args.jobs < 1:
        raise InputError(f"--jobs must be >= 1, got {args.jobs}.")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    shared = [*(["data.root", args.root] if args.root else []), *args.set]
    # A round of all configs a seed: what is there after a stop can be compared already.
    jobs = [(variant, seed) for seed in seeds for variant in variants]
    configs = {job: effective(*job, shared) for job in jobs}  # wrong options stop before training
    todo = [job for job in jobs if not finished(folder_of(args.out, *job), configs[job])]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished already.", flush=True)
    alone = alone_in(args.out, "Wait for it, or choose another --out.")
    with alone, handing_on() as stopped, ThreadPoolExecutor(args.jobs) as pool:

        def fine(job: tuple[Variant, int]) -> bool:  # its thread only waits for the process
            return not stopped and launch_one(args.out, job, shared, variants[0])

        at_once = pool.map if args.jobs > 1 else map
        failed = [job for job, well in zip(todo, at_once(fine, todo)) if not well]
    if stopped:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 128 + stopped[0]
    done = {v.name: [folder_of(args.out, v, s) for s in seeds if (v, s) not in failed]
            for v in variants}  # fmt: skip
    conclude(args.out, {name: folders for name, folders in done.items() if folders})
    for variant, seed in failed:
        print(f"failed: {variant.name} seed {seed}", file=sys.stderr)
    return 1 if failed else 0


def collect(args: argparse.Namespace) -> list[Variant]:
    """List what is compared."""
    variants = [Variant(Path(file).stem, file) for file in args.configs]
    for given in args.variant:
        if len(given) < 2:
            raise InputError(f"--variant takes NAME FILE [KEY VALUE ...], got {given}.")
        variants.append(Variant(given[0], given[1], tuple(given[2:])))
    names = [variant.name for variant in variants]
    if not variants or len(set(names)) < len(names):
        raise InputError(f"Give at least one config, each under a name of its own, got {names}.")
    return variants


def effective(variant: Variant, seed: int, shared: Sequence[str]) -> dict[str, Any]:
    """Merge what the run's config will be: key to value."""
    from torchreid_spectral.config import get_default_config, merge_file, merge_options
    from torchreid_spectral.config.merging import leaves

    cfg = get_default_config()
    merge_file(cfg, variant.file)
    merge_options(cfg, [*variant.options, *shared, "train.seed", str(seed)])
    return dict(leaves(cfg))


def folder_of(out: Path, variant: Variant, seed: int) -> Path:
    """Give the run's ``data.save_dir``."""
    return out / variant.name / f"seed_{seed}"


def finished(folder: Path, config: Mapping[str, Any]) -> bool:
    """Say whether the run is there, whole and of this config; also a begun one must be of it."""
    from torchreid_spectral.config.merging import leaves, merged_config

    saved = record_of(folder)
    if not saved.get("config"):
        return False
    # a key that came later had its default, one that moved keeps its value
    had = dict(leaves(merged_config(saved["config"])))
    free = set(FREE_KEYS)
    if had["test.whitening"] == config["test.whitening"] == "none":  # its options change nothing
        free |= {key for key in config if key.startswith("test.whitening_")}
    differing = sorted(key for key, value in config.items()
                       if key not in free and had[key] != value)  # fmt: skip
    if differing:
        key = differing[0]
        raise InputError(
            f"{folder} holds a run of another config: {key} was {had[key]!r}, now "
            f"{config[key]!r} ({len(differing)} keys differ). Remove it or choose another --out."
        )
    epochs = saved.get("epochs", -1)  # none was tested
    ended = epochs >= config["train.max_epoch"] or saved.get("stopped_early")
    return epochs >= 0 and bool(config["test.evaluate"] or ended)


def record_of(folder: Path) -> dict[str, Any]:
    """Read what a run says of itself: its metrics, or before any test its checkpoint."""
    from torchreid_spectral._run_files import CHECKPOINTS, training_metrics
    from torchreid_spectral.engine.checkpoints import CheckpointFolder

    try:
        found: dict[str, Any] = json.loads(training_metrics(folder).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        try:
            checkpoint = CheckpointFolder(folder / CHECKPOINTS).latest()
        except InputError:  # the run itself says what is wrong with it
            return {}
        return {} if checkpoint is None else {"config": checkpoint.state.get("config")}


def launch_one(out: Path, job: tuple[Variant, int], shared: Sequence[str], first: Variant) -> bool:
    """Run one training, or go on with it, and say how it went."""
    variant, seed = job
    folder = folder_of(out, variant, seed)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{variant.name} seed {seed}"
    print(f"{name} ...", flush=True)
    options = [*variant.options, *shared, "train.seed", str(seed), "data.save_dir", str(folder),
               "model.resume", "auto"]  # fmt: skip
    if variant is not first:  # drawn beside it in the run's report
        options += ["report.baseline", str(folder_of(out, first, seed))]
    started = time.perf_counter()
    status = launch(["--config-file", variant.file, *options], folder / "output.txt")
    minutes = (time.perf_counter() - started) / 60
    if status == 0 and (folder / "metrics.json").is_file():
        print(f"{name}: done in {minutes:.1f} min", flush=True)
        return True
    tail = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    lines = [f"{name}: failed with exit status {status} after {minutes:.1f} min; its last lines:"]
    print("\n    ".join([*lines, *tail]), flush=True)
    return False


def launch(arguments: Sequence[str], output: Path) -> int:
    """Run tools/main.py in a process of its own, so that no run sees another's state."""
    with output.open("a", encoding="utf-8") as file:  # after what is there of an earlier start
        command = [sys.executable, str(MAIN), *arguments]
        # In a session of its own: a terminal's Ctrl-C comes from handing_on(), once.
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        RUNNING.add(process)
        try:
            return process.wait()
        finally:
            RUNNING.discard(process)


@contextmanager
def handing_on() -> Iterator[list[int]]:
    """Hand SIGTERM and Ctrl-C on to the trainings, which save, and wait for them.

    Yields:
        The signals that came.
    """
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in list(RUNNING):
            if os.name != "nt":
                process.send_signal(signum)
            elif signum == signal.SIGTERM:  # Ctrl-C they get from their console, and save
                process.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def conclude(out: Path, done: Mapping[str, Sequence[Path]]) -> None:
    """Write ``comparison.json`` and the table."""
    from torchreid_spectral._files import write_text
    from torchreid_spectral.engine.results import provenance, write_json
    from torchreid_spectral.report.comparison import comparison_table, load_run, summarise
    from torchreid_spectral.report.comparison_page import write_comparison

    if not done:
        return
    summary = summarise({name: [load_run(f) for f in folders] for name, folders in done.items()})
    text = comparison_table(summary)
    write_json(provenance() | summary, out / "comparison.json")
    write_text(out / "comparison.txt", text + "\n")
    page = write_comparison(summary, done, out)
    print(f"\n{text}\n\nSaved to {out / 'comparison.json'} and {page}")


if __name__ == "__main__":
    raise SystemExit(main())
