"""Whole-step images/s of torchreid's stock engine against ours, and what the spectral head costs.

Each figure comes from fresh processes, the contestants in turn: same model, weights (random, or
with --weights trained), batch, workers, seed and images (drawn pedestrians). A step is everything
between two steps: waiting for data, copies, forward, loss, backward, optimiser, logging.

Example:
    python benchmarks/training.py --model osnet_x0_25 --batch 64 --height 128 --width 64 \
        --weights osnet_x0_25_msmt17.pth
    python benchmarks/training.py --model resnet50 --batch 128 --workers 8 --options \
        train.amp bf16 train.channels_last True data.cache ram data.persistent_workers True
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

CONTESTANTS = ("stock", "ours", "stride1", "spectral", "denormals")
WHAT = {
    "stock": "torchreid's ImageSoftmaxEngine in torchreid's loop",
    "ours": "the same losses in this package's loop, with --options",
    "stride1": "ours, with the last stride of the spectral model",
    "spectral": "ours, with the spectral head",
    "denormals": "ours, with train.flush_denormals False",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status.
    """
    args = parse(argv)
    if args.one:
        print(json.dumps(measure(args)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    for _ in range(args.repeats):
        for name in args.only:
            found[name].append(in_fresh_process(name, args))
    report = {
        "command": " ".join(sys.argv),
        "contestants": {name: summary(name, runs) for name, runs in found.items()},
        "summary": ratios(found),
        **found[args.only[0]][0]["machine"],
    }
    text = json.dumps(report, indent=2)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", default="", help="trained ones; random if not given")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="measured, after the warm-up")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each")
    parser.add_argument("--out", default="", help="JSON file")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS[:4])
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--options", nargs="*", default=[], help="config KEY VALUE ... of ours")
    return parser.parse_args(argv)


def in_fresh_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one contestant once."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name]
    for option in ("model", "weights", "batch", "height", "width", "workers", "steps", "warmup"):
        command += [f"--{option}", str(getattr(args, option))]
    done = subprocess.run(
        [*command, "--options", *args.options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train some steps in this process and time them."""
    import torch

    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.config.assemble import arithmetic
    from torchreid_spectral.engine.results import provenance
    from torchreid_spectral.rerank._memory import peak_memory

    ts.register()
    stock = nullcontext() if args.one == "stock" else arithmetic(config(args))
    with stock:
        engine = build(args)
        times, waits = timed(engine, args.warmup + args.steps)
        shares = profile(engine)
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    steps = times[args.warmup :]
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    return {
        "images_per_second": args.batch / statistics.median(steps),
        "seconds_a_step": statistics.median(steps),
        "waiting_for_data": sum(waits[args.warmup :]) / sum(steps),
        "spread": [args.batch / max(steps), args.batch / min(steps)],
        "peak_bytes": peak,
        "profile": shares,
        "machine": {
            **provenance(),
            "device": device,
            "threads": torch.get_num_threads(),
            "torchreid": _compat.load().__name__,
        },
    }


def config(args: argparse.Namespace) -> Any:
    """Give the config of a contestant."""
    import torch

    from torchreid_spectral.config import get_default_config, merge_options

    cfg = get_default_config()
    spectral = args.one == "spectral"
    merge_options(cfg, [
        "model.name", f"spectral_{args.model}" if spectral else args.model,
        "model.pretrained", "False", "loss.name", "spectral" if spectral else "softmax",
        "data.sources", "['synthetic_pedestrians']", "data.targets", "['synthetic_pedestrians']",
        "data.height", str(args.height), "data.width", str(args.width),
        "data.workers", str(args.workers), "train.batch_size", str(args.batch),
        "sampler.train_sampler", "RandomIdentitySampler", "sampler.num_instances", "8",
        "data.root", str(Path(tempfile.gettempdir()) / "torchreid_spectral_benchmark"),
        "synthetic.height", "128", "synthetic.width", "64",
        *([] if args.one == "stock" else args.options),
        *(["train.flush_denormals", "False"] if args.one == "denormals" else []),
    ])  # fmt: skip
    cfg.use_gpu = torch.cuda.is_available()
    return cfg


def build(args: argparse.Namespace) -> Any:
    """Build the engine of a contestant."""
    import contextlib
    import io

    import torch

    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.config import build as builders
    from torchreid_spectral.config import engines
    from torchreid_spectral.config.assemble import load_weights
    from torchreid_spectral.models.spectral_net import set_last_stride

    torchreid, cfg = _compat.load(), config(args)
    torch.backends.cudnn.benchmark = cfg.use_gpu
    torchreid.utils.set_random_seed(1)
    with contextlib.redirect_stdout(io.StringIO()), builders.active_defaults(cfg):
        data = builders.build_datamanager(cfg)
        model = ts.build_model(cfg.model.name, data.num_train_pids, cfg.loss.name, False)
        if args.weights:
            load_weights(model, args.weights)
        if args.one == "stride1":
            set_last_stride(model, 1)
        model = torch.nn.DataParallel(model, device_ids=[0]).cuda() if cfg.use_gpu else model
        optimizer = builders.build_optimizer(cfg, model)
        if args.one == "stock":
            kind = torchreid.engine.ImageSoftmaxEngine
            return kind(data, model, optimizer, use_gpu=cfg.use_gpu)
        return engines.build_engine(cfg, data, model, optimizer, None, progress=False)


class Enough(Exception):
    """Raised when enough steps are timed."""


def timed(engine: Any, count: int) -> tuple[list[float], list[float]]:
    """Time steps of the engine's own ``train``, epoch after epoch, and the waits before them."""
    import contextlib
    import io

    import torch

    inner, times, waits, last = engine.forward_backward, [], [], [0.0]

    def step(data: Any) -> Any:
        begun = time.perf_counter()
        found = inner(data)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if last[0]:
            times.append(now - last[0])
            waits.append(begun - last[0])
        last[0] = now
        if len(times) >= count:
            raise Enough
        return found

    engine.forward_backward, engine.max_epoch = step, 10**6
    with contextlib.suppress(Enough), contextlib.redirect_stdout(io.StringIO()):
        for engine.epoch in range(10**6):
            engine.train(print_freq=10)
    engine.forward_backward = inner
    return times, waits


def profile(engine: Any) -> dict[str, float]:
    """Say where the time of a step goes: shares of the largest operators."""
    import torch

    data = next(iter(engine.train_loader))
    cuda = torch.cuda.is_available()
    kinds = torch.profiler.ProfilerActivity
    watched = [kinds.CPU, kinds.CUDA] if cuda else [kinds.CPU]
    with torch.profiler.profile(activities=watched) as profiler:
        engine.forward_backward(data)
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    averages = profiler.key_averages()
    total = sum(getattr(event, key) for event in averages)
    largest = sorted(averages, key=lambda event: -getattr(event, key))[:10]
    return {event.key: round(getattr(event, key) / total, 4) for event in largest}


def summary(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the runs of a contestant together."""
    speeds = [run["images_per_second"] for run in runs]
    return {
        "what": WHAT[name],
        "images_per_second": statistics.median(speeds),
        "of_runs": speeds,
        "spread": [min(run["spread"][0] for run in runs), max(run["spread"][1] for run in runs)],
        "waiting_for_data": statistics.median(run["waiting_for_data"] for run in runs),
        "peak_megabytes": round(max(run["peak_bytes"] for run in runs) / 2**20),
        "profile": runs[0]["profile"],
    }


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Compare contestants run by run, since a machine's speed drifts."""
    pairs = {
        "ours / torchreid's engine, images/s": ("ours", "stock"),
        "spectral / plain with its stride, seconds a step": ("stride1", "spectral"),
        "ours / with denormal numbers, images/s": ("ours", "denormals"),
    }
    return {
        name: statistics.median(
            one["images_per_second"] / other["images_per_second"]
            for one, other in zip(found[above], found[below])
        )
        for name, (above, below) in pairs.items()
        if above in found and below in found
    }


if __name__ == "__main__":
    raise SystemExit(main())
