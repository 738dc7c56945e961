"""What each training of benchmarks/market1501.py costs: seconds a step, and seconds of its test.

A step is forward, loss, backward and update of a batch of random images of the suite's size; a
test is the feature of as many images. The steps of all trainings take turns in one process, so
that what else the machine does falls on all of them, and so do the tests. What re-ranking takes is
in the rows of benchmarks/market1501.py.

Example:
    python benchmarks/market1501_cost.py --json results/market1501_cost.json
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import market1501 as whole  # beside this file, as the next
import torch
from losses import engine_of, in_turns

from torchreid_spectral.engine.results import provenance, write_json

IDENTITIES = 751


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0.
    """
    import torchreid_spectral as ts

    args = parse(argv)
    warnings.simplefilter("ignore")
    ts.register()
    configs = {name: configured(args, name) for name in whole.chosen(args)}
    engines = {name: engine_of(cfg, IDENTITIES) for name, cfg in configs.items()}
    batches = {name: batch(cfg) for name, cfg in configs.items()}
    steps = {name: partial(engine.forward_backward, batches[name])
             for name, engine in engines.items()}  # fmt: skip
    rows = {name: {"step": row}
            for name, row in in_turns(steps, args.warm_up, args.repeats).items()}  # fmt: skip
    tests = {name: partial(embed, engine, batches[name]["img"])
             for name, engine in engines.items()}  # fmt: skip
    for name, row in in_turns(tests, args.warm_up, args.repeats).items():
        rows[name]["test"] = row
    for name, row in rows.items():
        cells = [f"{row[part]['seconds'] * 1e3:9.1f} ms{row[part]['relative']:6.2f}"
                 for part in ("step", "test")]  # fmt: skip
        print(f"{name:<24}{''.join(cells)}")
    if args.json:
        found = {"size": args.size, "threads": torch.get_num_threads(), "rows": rows}
        found["images"] = len(next(iter(batches.values()))["img"])
        write_json(provenance() | found, args.json)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE",
                        help=f"what is timed, beside the ablation: {', '.join(whole.SUITES)} "
                        "(default all)")  # fmt: skip
    parser.add_argument("--size", choices=[*whole.SIZES], default="small")
    parser.add_argument("--repeats", type=int, default=15, help="of each step and test")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds before those")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all")  # fmt: skip
    args = parser.parse_args(argv)
    suites = args.suites or [*whole.SUITES]
    for name in suites:
        if name not in whole.SUITES:
            parser.error(f"there is no suite {name}: {', '.join(whole.SUITES)}")
    args.suites, args.only = ["ablation", *(each for each in suites if each != "ablation")], None
    return args


def configured(args: argparse.Namespace, name: str) -> Any:
    """Give the config of a training, all layers trained, without what loads images."""
    return whole.configured(
        whole.chosen(args)[name], *whole.SIZES[args.size], "train.channels_last", "True",
        "use_gpu", "False", "test.rerank", "False", *args.set,
    )  # fmt: skip


def batch(cfg: Any) -> dict[str, torch.Tensor]:
    """Draw a batch of random images: ``img`` (B, 3, H, W) and ``pid`` (B,)."""
    size, group = cfg.train.batch_size, cfg.sampler.num_instances
    noise = torch.Generator().manual_seed(0)
    return {
        "img": torch.rand(size, 3, cfg.data.height, cfg.data.width, generator=noise),
        "pid": torch.arange(size // group).repeat_interleave(group),
    }


def embed(engine: Any, images: torch.Tensor) -> None:
    """Compute the test features of images, as the engine's test does."""
    engine.set_model_mode("eval")
    with torch.inference_mode():
        engine._features(images)
    engine.set_model_mode("train")


if __name__ == "__main__":
    raise SystemExit(main())
