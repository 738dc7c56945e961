"""A long run on the embedded dataset: memory and file handles must stay flat.

Example:
    python benchmarks/soak.py --minutes 30 --out soak.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torchreid_spectral.engine.results import provenance

REPOSITORY = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 1 where memory or handles grow.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", default="", help="JSON file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        samples, done = watch(Path(folder), 60 * args.minutes)
    report = judge(samples) | done | provenance()
    text = json.dumps(report, indent=2)
    if args.out:
        Path(args.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if report["flat"] else 1


def watch(folder: Path, seconds: float) -> tuple[list[list[float]], dict[str, int]]:
    """Train with workers, tests and checkpoints, and look at the process every two seconds."""
    command = [
        sys.executable, "-W", "ignore", "tools/main.py", "--config-file",
        "configs/spectral_demo.yaml", "synthetic.num_train_ids", "16", "synthetic.num_test_ids",
        "8", "data.root", str(folder / "data"), "data.save_dir", str(folder / "log"),
        "train.max_epoch", "100000", "train.batch_size", "32", "train.checkpoint_every", "5",
        "test.eval_freq", "5", "report.ranked_lists", "0", "data.workers", "1",
        "train.ema_decay", "0.99", "train.graph_every", "10", "train.print_freq", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    started, samples = time.monotonic(), []
    while process.poll() is None and time.monotonic() - started < seconds:
        time.sleep(2)
        samples.append([time.monotonic() - started, *state(process.pid)])
    if process.poll() is not None:
        raise SystemExit(f"the run ended by itself with status {process.returncode}")
    process.send_signal(signal.SIGTERM)
    if process.wait(timeout=120) != 128 + signal.SIGTERM:
        raise SystemExit(f"told to stop, the run ended with status {process.returncode}")
    return samples, work(folder / "log")


def state(pid: int) -> tuple[float, float, float]:
    """Give resident memory in megabytes, the number of open files, and that of processes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    children = sum(len(task.read_text().split()) for task in Path(f"/proc/{pid}/task").glob(
        "*/children"))  # fmt: skip
    return (
        int(resident.split()[1]) / 1024,
        float(len(os.listdir(f"/proc/{pid}/fd"))),
        1.0 + children,
    )


def work(log: Path) -> dict[str, int]:
    """Count what was done, from the run's log."""
    lines = "".join(path.read_text(encoding="utf-8") for path in log.glob("train.log*"))
    epochs = [int(part.split("/")[0]) for part in lines.split("epoch: [")[1:]]
    tests = len(list((log / "model").glob("model.pth.tar-*")))
    return {"epochs": max(epochs, default=0), "tests": tests}


def judge(samples: Sequence[Sequence[float]]) -> dict[str, object]:
    """Compare the most of the run's second quarter with the last's: the first one warms up."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]

    def largest(part: Sequence[Sequence[float]], column: int) -> float:
        return max(sample[column] for sample in part)

    memory = [round(largest(part, 1)) for part in (early, late)]
    files = [int(largest(part, 2)) for part in (early, late)]
    processes = [int(largest(part, 3)) for part in (early, late)]
    return {
        "seconds": round(samples[-1][0]),
        "memory_megabytes": memory,
        "open_files": files,
        "processes": processes,
        "flat": memory[1] <= 1.05 * memory[0] and files[1] <= files[0] + 4
        and processes[1] <= processes[0],
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
