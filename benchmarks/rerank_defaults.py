"""How good the defaults of graph_walk and local_blurring are on features of other networks.

Each network's test features of Market-1501 are ranked with the defaults and with one option at a
time changed, and the figures are added to the JSON file beside those of other networks. Networks
are folders of training (``data.save_dir``) or feature files. No image and no feature is written.

Example:
    python benchmarks/rerank_defaults.py log/mobilenetv2 log/osnet features.npz --root reid-data \
        --json results/rerank_defaults.json
    python benchmarks/rerank_defaults.py small=log/osnet --own cuhk01 reid-data/cuhk01 \
        --json results/rerank_defaults.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from market1501 import read_rows  # beside this file, as the next two
from market1501_rows import market, own
from numpy.typing import NDArray
from rerank import SENSITIVITY
from rerank_rows import features as read_features

from torchreid_spectral._run_files import training_metrics
from torchreid_spectral.engine.results import provenance, write_json
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import evaluate_blocks
from torchreid_spectral.rerank import build_reranker

Data = dict[str, NDArray[Any]]
GRID: dict[str, list[dict[str, Any]]] = {
    "none": [{}],
    "local_blurring": [
        {},
        *({"k": k} for k in (10, 20, 30, 100, 200)),
        *({"temperature": value} for value in (0.05, 0.2, 0.5)),
        *({"steps": steps} for steps in (2, 3)),
    ],
    "graph_walk": SENSITIVITY,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks that are named.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 2 where the user can mend something.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="+", metavar="[NAME=]PATH",
                        help="folders of training, or npz files")  # fmt: skip
    parser.add_argument("--root", default="reid-data", help="folder that holds Market-1501")
    parser.add_argument("--own", nargs=2, metavar=("NAME", "FOLDER"),
                        help="own data to test on in place of Market-1501")  # fmt: skip
    parser.add_argument("--json", type=Path, required=True, help="file of the figures")
    args = parser.parse_args(argv)

    def row(network: str) -> tuple[str, dict[str, Any]]:
        name, data, made = load(network, args)
        print(f"{name} ...", flush=True)
        return name, made | {"figures": [*measured(data)]}

    return add_rows(args.networks, row, args.json)


def add_rows(
    networks: Sequence[str], row: Callable[[str], tuple[str, dict[str, Any]]], path: Path
) -> int:
    """Measure networks and write each at once beside what the file holds.

    Args:
        networks: As the command line names them.
        row: Gives a network's name and its row.
        path: JSON file of the figures.

    Returns:
        Exit status: 0, or 2 where the user can mend something.
    """
    try:
        rows = read_rows(path)
        for network in networks:
            name, rows[name] = row(network)
            content = {**provenance(), "threads": torch.get_num_threads(), "rows": rows}
            write_json(content, path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load(network: str, args: argparse.Namespace) -> tuple[str, Data, dict[str, Any]]:
    """Read or extract the test features of a network.

    Args:
        network: Folder of a training, or npz file of query and gallery, a name before it or not.
        args: Command line: the images to test on.

    Returns:
        The network's name, its features with identities and cameras, and how it was made.
    """
    given, named, rest = network.partition("=")
    if Path(network).exists() or not named:  # a path may hold the sign
        given, rest = "", network
    path = Path(rest)
    if path.is_file():
        return given or path.stem, read_features({"features": str(path)}), {}
    from torchreid_spectral.inference import SpectralReID

    reid = SpectralReID(path, batch_size=128)
    data: Data = {}
    images = own(args.own[1]) if args.own else market(args.root)
    for letter, part in zip("qg", images):
        data[f"{letter}f"] = reid.features(part[0], progress=True)
        data[f"{letter}_pids"], data[f"{letter}_camids"] = map(np.asarray, part[1:])
    saved = read_config(path)
    name = given or saved["model"]["name"]
    name += f" on {args.own[0]}" if args.own else ""
    return name, data, {"commit": saved["commit"], "trained": saved["train"]}


def read_config(folder: Path) -> dict[str, Any]:
    """Read what a training's metrics.json says of model, steps and commit."""
    saved = json.loads(training_metrics(folder).read_text(encoding="utf-8"))
    config = saved["config"]
    train = {"epochs": saved["epochs"], "seed": config["train"]["seed"],
             "weights": Path(config["model"]["load_weights"]).name or "random"}  # fmt: skip
    return {"model": config["model"], "train": train, "commit": saved["commit"]}


def measured(data: Data) -> list[dict[str, Any]]:
    """Rank with each method and option.

    Args:
        data: Q and G features with identities and cameras.

    Returns:
        Method, options, mAP and rank-1 in [0, 1].
    """
    query, gallery = (torch.from_numpy(data[name]) for name in ("qf", "gf"))
    ids = [data[name] for name in ("q_pids", "g_pids", "q_camids", "g_camids")]
    found = []
    for method, grid in GRID.items():
        for options in grid:
            reranker = build_reranker(method, progress=False, **options)
            reranker.fit(gallery, torch.from_numpy(ids[3]))
            blocks = reranker.iter_distances(query, camids=torch.from_numpy(ids[2]))
            metrics = evaluate_blocks(blocks, *ids)
            row = {"method": method, "options": options}
            found.append(row | {"mAP": metrics.mAP, "rank-1": metrics.rank(1)})
            print(f"  {method} {options} {100 * metrics.mAP:.2f}", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
