"""Time of a training step under each loss, relative to softmax without the walk.

Every loss trains the same spectral OSNet with the walk, on the same random images through the
engine: alone as identity loss, beside softmax as metric loss or with a teacher twice as wide. The
steps of all losses take turns, so that what else the machine does falls on all of them.

Example:
    python benchmarks/losses.py --batch 64 --steps 15 --out losses.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

BASE = "softmax, no walk"
TEACHER = "spectral_osnet_x0_5"


class Images:
    """A data manager with nothing to load: the benchmark hands over its batch."""

    data_type = "image"

    def __init__(self, identities: int) -> None:
        self.num_train_pids = identities
        self.train_loader = DataLoader([("none", 0, 0, 0)], batch_size=1)
        self.test_loader: dict[str, Any] = {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Command line.

    Returns:
        Exit status.
    """
    args = parse(argv)
    import torchreid_spectral as ts
    from torchreid_spectral.engine.results import provenance, write_json

    warnings.simplefilter("ignore")
    ts.register()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.pth"
        torch.save(ts.build_model(TEACHER, 1, pretrained=False).state_dict(), weights)
        engines = {name: build(options) for name, options in rows(weights).items()}
    per_identity = args.batch // args.identities
    batch = {
        "img": torch.rand(args.batch, 3, 64, 32, generator=torch.Generator().manual_seed(0)),
        "pid": torch.arange(args.identities).repeat_interleave(per_identity),
    }
    steps = {name: partial(engine.forward_backward, batch) for name, engine in engines.items()}
    table = in_turns(steps, args.warm_up, args.steps)
    for name, row in table.items():
        print(f"{name:<16}{row['seconds'] * 1e3:9.1f} ms{row['relative']:7.2f}")
    if args.out:
        found = {"losses": table, "batch": args.batch, "threads": torch.get_num_threads()}
        write_json(found | provenance(), Path(args.out))
    return 0


def in_turns(
    actions: Mapping[str, Callable[[], Any]], warm_up: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Time actions that take turns.

    Args:
        actions: By name; the first is what all are compared with.
        warm_up: Rounds that do not count.
        repeats: Rounds that do, at least two.

    Returns:
        For each its median seconds, their quartiles, and the ratio to the first's median.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(warm_up + repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    counted = {name: values[warm_up:] for name, values in seconds.items()}
    base = statistics.median(next(iter(counted.values())))
    return {
        name: {
            "seconds": statistics.median(values),
            "quartiles": statistics.quantiles(values, n=4)[::2],
            "relative": statistics.median(values) / base,
        }
        for name, values in counted.items()
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images, 64x32 pixels")
    parser.add_argument("--identities", type=int, default=8, help="of the batch")
    parser.add_argument("--steps", type=int, default=15, help="measured steps of each loss")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before those")
    parser.add_argument("--out", default="", help="JSON file to write")
    return parser.parse_args(argv)


def rows(weights: Path) -> dict[str, list[str]]:
    """Give the options of each loss; the first is what all are compared with.

    Args:
        weights: Of the teacher.

    Returns:
        Name to config lines.
    """
    from torchreid_spectral.losses.registry import ID_LOSSES, METRIC_LOSSES

    softmax = ["loss.id", "softmax"]
    found = {BASE: [*softmax, "spectral.supervision", "plain"]}
    found |= {name: ["loss.id", name] for name in sorted(ID_LOSSES)}
    found |= {f"+ {name}": [*softmax, "loss.metric", name] for name in sorted(METRIC_LOSSES)}
    taught = ["distill.teacher", TEACHER, "distill.weights", str(weights)]
    return found | {"+ dark_rank": [*softmax, *taught]}


def build(options: list[str]) -> Any:
    """Build the engine of one row by its config lines."""
    from torchreid_spectral.config import get_default_config, merge_options

    cfg = get_default_config()
    shared = ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral", "use_gpu", "False"]
    merge_options(cfg, [*shared, *options])
    return engine_of(cfg, identities=100)


def engine_of(cfg: Any, identities: int) -> Any:
    """Build an engine, in training mode, that is handed its batches.

    Args:
        cfg: The effective config.
        identities: That are classified.

    Returns:
        An engine of this package.
    """
    import torchreid_spectral as ts
    from torchreid_spectral.config import build as objects
    from torchreid_spectral.config import engines
    from torchreid_spectral.config.check import check_config

    check_config(cfg)
    torch.manual_seed(0)
    with objects.active_defaults(cfg):
        model = ts.build_model(cfg.model.name, identities, loss=cfg.loss.name, pretrained=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    engine = engines.build_engine(cfg, Images(identities), model, optimizer, None)
    engine.set_model_mode("train")
    return engine


if __name__ == "__main__":
    sys.exit(main())
