"""Extract features of a folder or a dataset into a gallery that tools/search.py opens.

Shards that are there already are kept: stopped, the same command goes on. A dataset is read as
the weights' run read it (folder.*, synthetic.*, cuhk03.*, data.split_id), so that who was trained
on is in no gallery; --set says otherwise.

Example:
    python tools/extract.py weights.safetensors folder/ --out gallery/
    python tools/extract.py weights.safetensors --dataset market1501 --split gallery \
        --root reid-data --out gallery/
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral._files import show_any_name
from torchreid_spectral.errors import InputError, UnknownNameError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0; 2 where the user can mend something; 130 where Ctrl-C stopped it.
    """
    args = parse(argv)
    show_any_name()
    try:
        run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", help="trained weights")
    parser.add_argument("images", nargs="?", help="folder of images")
    parser.add_argument("--dataset", help="a dataset of torchreid instead of a folder")
    parser.add_argument("--split", choices=["train", "query", "gallery"],
                        help="of the dataset (default gallery)")  # fmt: skip
    parser.add_argument("--set", action="extend", nargs="*", default=[], metavar="KEY VALUE",
                        help="config options of the dataset, above the run's")  # fmt: skip
    parser.add_argument("--root", help="folder that holds the datasets (default: that of the run)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the gallery")
    parser.add_argument("--shard-size", type=int, default=10_000, help="images a shard")
    add_model_arguments(parser)
    return parser.parse_args(argv)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command line say what is not saved with the weights."""
    parser.add_argument("--model-name", help="where nothing is saved with the weights")
    parser.add_argument("--height", type=int, help="of the model's input")
    parser.add_argument("--width", type=int, help="of the model's input")
    parser.add_argument("--device", help="cpu, cuda, ...")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once")
    parser.add_argument("--amp", default="off", help="off, bf16 or fp16")
    parser.add_argument("--workers", type=int, help="threads that read images")


def open_reid(args: argparse.Namespace, **more: Any) -> Any:
    """Open the weights; from here on messages go to standard error, answers to standard output."""
    from torchreid_spectral import registry
    from torchreid_spectral.inference import SpectralReID

    registry.show_messages(logging.StreamHandler())
    names = ("model_name", "height", "width")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return SpectralReID(
        args.weights, device=args.device, batch_size=args.batch_size, amp=args.amp,
        workers=args.workers, **given, **more,
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Extract what is not there yet, a shard at a time."""
    from torchreid_spectral._locks import alone_in

    if args.shard_size < 1:
        raise InputError(f"--shard-size must be >= 1, got {args.shard_size}.")
    paths, labels = listed(args)
    reid = open_reid(args)
    with alone_in(args.out, "Wait for it, or choose another --out."):
        extract(args, reid, paths, labels)


def extract(
    args: argparse.Namespace, reid: Any, paths: list[str], labels: dict[str, list[Any]]
) -> None:
    """Write the shards that are not there yet, and what says that the gallery is whole."""
    from torchreid_spectral.inference.extraction import NothingReadError
    from torchreid_spectral.inference.shards import drop_other_shards, write_manifest, write_shard

    shards, kept, skipped = [], 0, 0
    for number, start in enumerate(range(0, len(paths), args.shard_size)):
        rows = slice(start, start + args.shard_size)
        part = {key: values[rows] for key, values in labels.items()}
        name = f"features-{number:05d}"
        if whole(args.out, name, paths[rows], part, reid.fingerprint, args.amp):
            kept += 1
        else:
            started = time.time()
            try:
                gallery = reid.index(paths[rows], **part)
            except NothingReadError as error:  # broken files must not stop other shards
                print(f"warning: {error}", file=sys.stderr)
                skipped += len(paths[rows])
                continue
            # What is left of another gallery is none: it must not open as one.
            (args.out / "index.json").unlink(missing_ok=True)
            write_shard(args.out, number, gallery)
            # A file that changes from here on is newer than its shard, see `whole`.
            os.utime(args.out / f"{name}.json", (started, started))
        skipped += len(skipped_of(args.out, name))
        shards.append(name)
    if not shards:
        raise InputError(f"None of the {len(paths)} images could be read.")
    write_manifest(args.out, shards, reid.fingerprint, reid.settings.metric)
    drop_other_shards(args.out, shards)
    broken = f", {skipped} could not be read" if skipped else ""
    count = len(paths) - skipped
    print(f"{count} images in {len(shards)} shards ({kept} kept) in {args.out}{broken}")


def skipped_of(folder: Path, name: str) -> dict[str, str]:
    """Give the files of a shard that could not be read."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["skipped"]


def listed(args: argparse.Namespace) -> tuple[list[str], dict[str, list[Any]]]:
    """List the images, and ids and cameras where a dataset has them."""
    from torchreid_spectral.inference.images import list_folder

    if (args.images is None) == (args.dataset is None):
        raise InputError("Give a folder of images or --dataset NAME, one of the two.")
    if args.images is not None:
        of_datasets = [f"--{name}" for name in ("split", "set", "root") if getattr(args, name)]
        if of_datasets:
            raise InputError(f"{', '.join(of_datasets)}: of a --dataset only, not of a folder.")
        return list_folder(args.images), {}
    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.data.catalog import check_available
    from torchreid_spectral.data.folder_datasets import numeric

    ts.register()
    known = _compat.dataset_tables()["image"]
    if args.dataset not in known:
        raise UnknownNameError("image dataset", args.dataset, known)
    cfg = config_of(args)
    args.split, args.root = args.split or "gallery", args.root or cfg.data.root
    check_available(args.root, {args.dataset}, "image")
    try:
        dataset = opened(known[args.dataset], cfg, args)
    except (RuntimeError, OSError) as error:
        raise InputError(str(error)) from error
    rows = getattr(dataset, args.split)
    # Distractors are not one person; training labels count from 0, and all of them are people.
    nobody = set() if args.split == "train" else set(getattr(dataset, "_junk_pids", ()))
    names = getattr(dataset, "identities", {row[1]: str(row[1]) for row in rows})  # of own data
    if numeric(names.values()):
        ids = [-1 if row[1] in nobody else int(names[row[1]]) for row in rows]
    else:  # whose numbers the next person who is added would change
        ids = [None if row[1] in nobody else names[row[1]] for row in rows]
    return [str(row[0]) for row in rows], {"ids": ids, "camids": [row[2] for row in rows]}


def config_of(args: argparse.Namespace) -> Any:
    """Give the config of the weights' run, and what the command line says above it."""
    from torchreid_spectral.config import get_default_config, merge_options
    from torchreid_spectral.config.merging import merged_config
    from torchreid_spectral.inference.weights import latest_weights, read_config

    weights = Path(args.weights).expanduser()
    if not weights.exists():
        raise InputError(f"There are no weights {args.weights!r}.")
    config = read_config(latest_weights(weights) if weights.is_dir() else weights)
    cfg = get_default_config() if config is None else merged_config(config)
    merge_options(cfg, args.set)
    return cfg


def opened(kind: Any, cfg: Any, args: argparse.Namespace) -> Any:
    """Open a dataset with the options of a config."""
    from torchreid_spectral.config import build
    from torchreid_spectral.config.data import image_dataset_options

    with build.active_defaults(cfg):
        return kind(root=args.root, mode=args.split, verbose=False, split_id=cfg.data.split_id,
                    **image_dataset_options(cfg))  # fmt: skip


def touched(path: str) -> float:
    """Give when a file was last written or put in its place: a copy may keep an earlier time.

    A change of its permissions or links counts too; its shard is then extracted again.
    """
    found = Path(path).stat()
    return max(found.st_mtime, found.st_ctime)


def rows_of(file: Path) -> int | None:
    """Count the features of a shard, or give ``None`` where it is missing or cut off."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return int(opened.get_slice("features").get_shape()[0])
    except (OSError, SafetensorError):
        return None


def whole(
    folder: Path, name: str, paths: Sequence[str], labels: Mapping[str, list[Any]], model: str,
    amp: str,
) -> bool:  # fmt: skip
    """Say whether a shard of just these images, unchanged since, labels and network is there."""
    shard = folder / f"{name}.json"
    try:
        content = json.loads(shard.read_text(encoding="utf-8"))
        found = {*content["paths"], *content["skipped"]}
        written = shard.stat().st_mtime
        changed = any(touched(path) > written for path in paths)  # replaced, or mended
        row = {path: number for number, path in enumerate(paths)}
        known = {kind: [values[row[path]] for path in content["paths"]]
                 for kind, values in labels.items()}  # fmt: skip
        changed |= any(content[kind] != known.get(kind) for kind in ("ids", "camids"))
    except (OSError, ValueError, KeyError):
        return False
    there = rows_of(folder / f"{name}.safetensors") == len(content["paths"])
    same = (content["model"], content.get("amp", "off")) == (model, amp)
    return there and same and found == set(paths) and not changed


if __name__ == "__main__":
    raise SystemExit(main())
