"""Long trainings of benchmarks/market1501.py at 256 x 128, whose first layers rest throughout.

``conv1`` and ``conv2`` of OSNet x0.25 keep their weights and BatchNorm statistics, as in the size
``full`` for most epochs. What leaves them is computed once for a number of views of each image,
flipped, cropped and erased as the config says; each time that an image is drawn, so is one of its
views. All else is the engine's: the run's folder is that of a run of tools/main.py, goes on after
an interruption, and its model reads images. The best training there is starts from such a one: see
docs/results.md, 256 × 128.

Example:
    python benchmarks/market1501_rested.py long --epochs 400 --weights osnet_x0_25_msmt17.pth \
        --root reid-data --json results/market1501_full.json
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import market1501 as whole  # beside this file, as the next ones
import numpy as np
import torch
from losses_compare import load_tool
from market1501_rows import measure
from market1501_stage import Activations
from torch import Tensor, nn

TRUNK = ("conv1", "maxpool", "conv2")
WIDTH = 64  # channels that leave the trunk, and enter no layer of it


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure what is not in the JSON file yet.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0.
    """
    args = parse(argv)
    path = args.json or args.out / "market1501_rested.json"
    rows = whole.read_rows(path)
    for name in whole.chosen(args):
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            key, folder = f"{name}/seed_{seed}", args.out / name / f"seed_{seed}"
            if key in rows:
                print(f"{key} is in {path} already.")
                continue
            if not (folder / "metrics.json").is_file():
                train(args, name, seed)
            print(f"{key} is tested ...", flush=True)
            rows[key] = measure(folder, args.root, {}, flip=True, cameras=True)
            rows[key]["views"] = args.views
            whole.write(path, rows, "full")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="+", choices=[*whole.SUITES], help="what is trained")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the suites, these alone")
    parser.add_argument("--weights", required=True, type=Path, help="OSNet x0.25 of MSMT17")
    parser.add_argument("--root", default="reid-data", help="folder that holds the datasets")
    parser.add_argument("--epochs", type=int, default=400,
                        help=f"of {whole.STEPS_AN_EPOCH} steps, or half as many with 4 images an "
                             "identity (default 400)")  # fmt: skip
    parser.add_argument("--views", type=int, default=16,
                        help="of each image, 0.85 GB of disk each (default 16)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default 1)")
    parser.add_argument("--first-seed", type=int, default=1, help="(default 1)")
    parser.add_argument("--out", type=Path, default=Path("log/market1501_rested"), help="folder")
    parser.add_argument("--json", type=Path, help="file of the figures, else in the folder")
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all runs")  # fmt: skip
    args = whole.checked(parser, argv)
    for option in ("epochs", "views"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} must be >= 1, got {getattr(args, option)}")
    return args


def configured(args: argparse.Namespace, name: str, seed: int) -> Any:
    """Give the config of a training of ``full``, with its first layers at rest throughout."""
    from torchreid_spectral.config.check import check_config

    cfg = whole.configured(
        whole.chosen(args)[name], *whole.SIZES["full"], *whole.SHARED,
        "train.max_epoch", f"{args.epochs}", "train.fixbase_epoch", f"{args.epochs}",
        "train.seed", f"{seed}", "model.load_weights", str(args.weights), "model.resume", "auto",
        "data.root", args.root, "data.workers", "0", "data.cache", "none",
        "data.save_dir", str(args.out / name / f"seed_{seed}"), *args.set,
    )  # fmt: skip
    cfg.use_gpu = False
    check_config(cfg)
    return cfg


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train and test once, as tools/main.py does, but that training reads views.

    Args:
        args: Command line.
        name: Of the variant.
        seed: Of the run.
    """
    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.config import build, engines
    from torchreid_spectral.config.assemble import arithmetic, assemble, set_backends
    from torchreid_spectral.config.resume import resume_own
    from torchreid_spectral.data.loading import EpochLoader
    from torchreid_spectral.engine.results import provenance

    ts.register()
    cfg = configured(args, name, seed)
    log = Path(cfg.data.save_dir) / f"train.log{time.strftime('-%Y-%m-%d-%H-%M-%S')}"
    with arithmetic(cfg), load_tool("main").tee(log), build.active_defaults(cfg):
        set_backends(cfg)
        _compat.load().utils.set_random_seed(seed)
        engine = assemble(cfg, commit=provenance()["commit"])
        trunk = nn.Sequential(*(getattr(engine.model, layer) for layer in TRUNK))
        images = engine.datamanager.train_loader
        files = views(args.out / folder_of_views(cfg), args.views, images.dataset, trunk.eval())
        pass_by(engine.model)
        _compat.load().utils.set_random_seed(seed)
        stored = Views(images.dataset, *files)
        loader = torch.utils.data.DataLoader(stored, images.batch_size, sampler=images.sampler,
                                             drop_last=images.drop_last)  # fmt: skip
        engine.train_loader = EpochLoader(loader)
        resume_own(cfg, engine)
        engine.run(**engines.run_kwargs(cfg))


def folder_of_views(cfg: Any) -> str:  # noqa: ANN401 (a config)
    """Name the folder of views by all that they are made by but the data.

    Args:
        cfg: The effective config.

    Returns:
        The name.
    """
    made_by = [cfg.data.height, cfg.data.width, cfg.data.transforms, cfg.data.crop_padding,
               str(cfg.model.load_weights)]  # fmt: skip
    return f"views_{hashlib.sha256(repr(made_by).encode()).hexdigest()[:8]}"


def views(folder: Path, count: int, images: Any, trunk: nn.Module) -> list[Path]:  # noqa: ANN401
    """Compute what leaves the trunk for some views of all images, unless it is there.

    Args:
        folder: Of the files.
        count: Of views.
        images: torchreid's dataset, with the transforms of training.
        trunk: The first layers, (B, 3, 256, 128) -> (B, 64, 32, 16).

    Returns:
        A file a view, (N, 64, 32, 16) bfloat16 numbers as int16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.npy" for number in range(count)]
    for number, path in enumerate(paths):
        if path.is_file():
            continue
        print(f"View {number + 1} of {count} through the first layers ...", flush=True)
        torch.manual_seed(number)
        loader = torch.utils.data.DataLoader(images, 128, num_workers=1)
        unfinished = path.with_suffix(".partial.npy")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = [trunk(batch["img"]).bfloat16().view(torch.int16) for batch in loader]
        np.save(unfinished, torch.cat(found).numpy())
        os.replace(unfinished, path)
    return paths


class Views(Activations):
    """A torchreid dataset whose images are what leaves the trunk for one of their views."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return item | {"img": item["img"].view(torch.bfloat16)}


def pass_by(model: nn.Module) -> None:
    """Let what left the trunk pass its layers by; images go through them.

    Args:
        model: Changed in place; its state dict stays as it is.
    """

    def either(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return x if x.shape[1] == WIDTH else forward(x)

    for layer in (getattr(model, name) for name in TRUNK):
        layer.forward = partial(either, layer.forward)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
