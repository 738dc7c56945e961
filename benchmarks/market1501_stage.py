"""The suites of benchmarks/market1501.py where only the last stage of the network is trained.

OSNet x0.25 keeps its first three stages as torchreid's MSMT17 weights have them, BatchNorm
statistics included; stage 4, the last convolution, the fully connected layer and the head are
trained. What goes into stage 4 is computed once for each image and its mirror image, so that a
training of as many steps as the size ``small`` takes a minute or two on a core and each suite can
have many seeds. Losses, sampler, optimiser, schedule and test are those of ``small``. How far its
findings hold for whole networks is seen by the suite ``ablation``, which has been run on both.

Example:
    python benchmarks/market1501_stage.py ablation temperature --weights osnet_x0_25_msmt17.pth \
        --root reid-data --seeds 5 --jobs 2 --json results/market1501_stage.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import market1501 as whole  # beside this file, as the next
import numpy as np
import torch
from market1501_rows import curves, ranked, setting
from torch import Tensor, nn

from torchreid_spectral.data.loading import leave_with_parent

TRUNK = ("conv1", "maxpool", "conv2", "conv3")
PARTS = ("train", "mirrored", "query", "gallery")
Task = tuple[argparse.Namespace, str, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure what is not in the JSON file yet.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0.
    """
    args = parse(argv)
    path = args.json or args.out / "market1501_stage.json"
    rows = whole.read_rows(path)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    wanted = [(args, name, seed) for seed in seeds for name in whole.chosen(args)]
    missing = [task for task in wanted if f"{task[1]}/seed_{task[2]}" not in rows]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them finished already.")
    if missing:
        prepare(args)
    workers = {"mp_context": get_context("spawn"), "initializer": leave_with_parent}
    with ProcessPoolExecutor(args.jobs, **workers, initargs=(0,)) as pool:
        for done in as_completed([pool.submit(run, task) for task in missing]):
            key, row = done.result()
            rows[key] = row
            whole.write(path, rows, "stage")
            found = row["metrics"]["market1501"]["none"]
            print(f"{key}: mAP {found['mAP']:.1%}, rank-1 {found['rank-1']:.1%}", flush=True)
    if args.plot_map:
        whole.plot_map(rows, args.suites, args.plot_map)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="+", choices=[*whole.SUITES], help="what is compared")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the suites, these alone")
    parser.add_argument("--weights", required=True, type=Path, help="OSNet x0.25 of MSMT17")
    parser.add_argument("--root", default="reid-data", help="folder that holds the datasets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="(default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("log/market1501_stage"), help="folder")
    parser.add_argument("--json", type=Path, help="file of the figures, else in the folder")
    parser.add_argument("--plot-map", type=Path,
                        help="picture of mAP, a panel a suite")  # fmt: skip
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options for all runs")  # fmt: skip
    args = whole.checked(parser, argv)
    for name, (_, options) in whole.chosen(args).items():
        if "data.transforms" in options:
            parser.error(f"{name} crops or erases images, but activations are flipped alone")
    return args


def configured(args: argparse.Namespace, name: str, seed: int) -> Any:
    """Give the config of a training of ``small``."""
    from torchreid_spectral.config.check import check_config

    variant = whole.chosen(args)[name]
    cfg = whole.configured(
        variant, *whole.schedule("small", variant[1]), *whole.SIZES["small"],
        "train.seed", f"{seed}", "train.graph_every", f"{whole.STEPS_AN_EPOCH}",
        "train.channels_last", "True",
        "data.root", args.root, "data.workers", "0", "test.rerank", "False",
        "data.save_dir", str(args.out / name / f"seed_{seed}"), *args.set,
    )  # fmt: skip
    cfg.use_gpu = False
    check_config(cfg)
    return cfg


def network(args: argparse.Namespace, cfg: Any) -> Any:
    """Build the model with its first weights."""
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    model = ts.build_model(cfg.model.name, 751, loss=cfg.loss.name, pretrained=False)
    with contextlib.redirect_stdout(None):
        _compat.load().utils.load_pretrained_weights(model, str(args.weights))
    return model


def prepare(args: argparse.Namespace) -> None:
    """Compute what goes into stage 4, unless it is there."""
    import torchreid_spectral as ts
    from torchreid_spectral.config import build

    args.out.mkdir(parents=True, exist_ok=True)
    if all(stored(args, part).is_file() for part in PARTS):
        return
    ts.register()
    cfg = configured(args, [*whole.chosen(args)][0], args.first_seed)
    with build.active_defaults(cfg), contextlib.redirect_stdout(None):
        data, model = build.build_datamanager(cfg), network(args, cfg)
    trunk = nn.Sequential(*(getattr(model, name) for name in TRUNK)).eval()
    loaders = data.test_loader["market1501"]
    sets = {"train": data.train_loader.dataset, "mirrored": data.train_loader.dataset,
            "query": loaders["query"].dataset, "gallery": loaders["gallery"].dataset}  # fmt: skip
    sets["train"].transform = data.transform_te  # no random flip: both are computed
    for part, images in sets.items():
        print(f"{part}: {len(images):,} images through the first stages ...", flush=True)
        loader = torch.utils.data.DataLoader(images, 256)
        batches = (batch["img"].flip(3) if part == "mirrored" else batch["img"]
                   for batch in loader)  # fmt: skip
        with torch.inference_mode():
            found = torch.cat([trunk(batch) for batch in batches]).numpy()
        partial = args.out / f"{part}.partial.npy"
        np.save(partial, found)
        os.replace(partial, stored(args, part))


def stored(args: argparse.Namespace, part: str) -> Path:
    """Name the file of what goes into stage 4, (N, 96, 8, 4) float32."""
    path: Path = args.out / f"{part}.npy"
    return path


class Activations(torch.utils.data.Dataset[dict[str, Any]]):
    """A torchreid dataset whose images are what goes into stage 4.

    Args:
        images: Of torchreid.
        files: Of its images, and in training of their mirror images, one of which is drawn.
    """

    def __init__(self, images: Any, *files: Path) -> None:  # noqa: ANN401
        self.data, self.mode = images.data, images.mode
        self.views = [np.load(file, mmap_mode="r") for file in files]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, pid, camid, domain = self.data[index]
        view = int(torch.randint(len(self.views), ())) if len(self.views) > 1 else 0
        image = torch.from_numpy(np.array(self.views[view][index]))
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": domain}


def feed(args: argparse.Namespace, data: Any) -> Any:  # noqa: ANN401 (torchreid's)
    """Let a data manager of torchreid give activations for images."""

    def loader(original: Any, *parts: str) -> torch.utils.data.DataLoader[dict[str, Any]]:
        images = Activations(original.dataset, *(stored(args, part) for part in parts))
        return torch.utils.data.DataLoader(images, original.batch_size, sampler=original.sampler,
                                           drop_last=original.drop_last)  # fmt: skip

    test = {part: loader(original, part)
            for part, original in data.test_loader["market1501"].items()}  # fmt: skip
    data.train_loader = loader(data.train_loader, "train", "mirrored")
    data.test_loader = {"market1501": test}
    return data


def run(task: Task) -> tuple[str, dict[str, Any]]:
    """Train the last stage once and test it.

    Args:
        task: Command line, variant, seed.

    Returns:
        Key and row of the JSON file.
    """
    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.config import build, engines
    from torchreid_spectral.engine.results import provenance
    from torchreid_spectral.report.history import read_history, seconds_a_step

    args, name, seed = task
    torch.set_num_threads(1)
    ts.register()
    cfg = configured(args, name, seed)
    _compat.load().utils.set_random_seed(seed)
    folder = Path(cfg.data.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    started = provenance()
    with (open(folder / "output.txt", "w", buffering=1, encoding="utf-8") as log,
          contextlib.redirect_stdout(log), build.active_defaults(cfg)):  # fmt: skip
        data = feed(args, build.build_datamanager(cfg))
        model = network(args, cfg)
        for layer in TRUNK:
            setattr(model, layer, nn.Identity())
        optimizer = build.build_optimizer(cfg, model)
        engine = engines.build_engine(cfg, data, model, optimizer,
                                    build.build_scheduler(cfg, optimizer))  # fmt: skip
        engine.run(**engines.run_kwargs(cfg))
    metrics, seconds = ranked(*(features(model, part.dataset) for part in
                                data.test_loader["market1501"].values()))  # fmt: skip
    history = read_history(folder)
    return f"{name}/seed_{seed}", {
        "seed": seed,
        "commit": started["commit"],
        "versions": started["versions"],
        "threads": 1,
        "epochs": cfg.train.max_epoch,
        "spectral": dict(cfg.spectral),
        "tested": setting(cfg.spectral.test_feature),
        "seconds_a_step": seconds_a_step(history),
        "metrics": {"market1501": metrics},
        "seconds_of_test": {"market1501": seconds},
        "curves": curves(history, cfg.train.max_epoch),
    }


def features(model: nn.Module, images: Activations) -> tuple[Tensor, list[int], list[int]]:
    """Compute the test features, (N, D), with identities and cameras."""
    model.eval()
    blocks = np.array_split(images.views[0], len(images) // 512 + 1)
    with torch.inference_mode():
        found = torch.cat([model(torch.from_numpy(np.array(block))) for block in blocks])
    return found, [item[1] for item in images.data], [item[2] for item in images.data]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
