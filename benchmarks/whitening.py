"""What whitening of the test features by those of the training set brings on Market-1501.

Each network is a folder of training (``data.save_dir``). Its features are ranked as they are, and
whitened by the covariance of all training features or by that within identities, with different
eps. The figures are added to the JSON file beside those of other networks; no feature is written.

Example:
    python benchmarks/whitening.py small=log/market1501/small/spectral/seed_1 --root reid-data \
        --json results/whitening.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from market1501_rows import Features, Images, market, unzipped  # beside this file, as the next
from rerank_defaults import add_rows, read_config

from torchreid_spectral.evaluation import COVARIANCES, Whitening, evaluate_blocks
from torchreid_spectral.rerank import build_reranker

METHODS: dict[str, dict[str, Any]] = {  # whitened cosines differ more: the walk may be warmer
    "none": {},
    "local_blurring": {},
    "local_blurring, temperature 0.3": {"temperature": 0.3},
    "graph_walk": {},
}
EPS = (0.001, 0.1, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks that are named.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 2 where the user can mend something.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="+", metavar="NAME=FOLDER", help="folders of training")
    parser.add_argument("--root", default="reid-data", help="folder that holds Market-1501")
    parser.add_argument("--json", type=Path, required=True, help="file of the figures")
    args = parser.parse_args(argv)

    def row(network: str) -> tuple[str, dict[str, Any]]:
        name, _, folder = network.partition("=")
        if not folder:
            parser.error(f"a network must be given as NAME=FOLDER, got {network!r}")
        print(f"{name} ...", flush=True)
        return name, measured(Path(folder), args.root)

    return add_rows(args.networks, row, args.json)


def measured(folder: Path, root: str) -> dict[str, Any]:
    """Test a network with each whitening and without.

    Args:
        folder: Of its training.
        root: Folder that holds Market-1501.

    Returns:
        How it was made, and figures in [0, 1] of each method.
    """
    from torchreid_spectral.inference import SpectralReID

    reid = SpectralReID(folder, batch_size=128, whitening=False)
    images = (trained(root), *market(root))
    train, query, gallery = ((torch.from_numpy(reid.features(part[0], progress=True)), *part[1:])
                             for part in images)  # fmt: skip
    found = [{"covariance": None, "eps": None, **figures(query, gallery)}]
    for covariance in COVARIANCES:
        for eps in EPS:
            whitening = Whitening("zca", eps=eps, covariance=covariance)
            whitening.fit(train[0], torch.tensor(train[1]))
            parts = ((whitening.transform(part[0]), *part[1:]) for part in (query, gallery))
            found.append({"covariance": covariance, "eps": eps, **figures(*parts)})
            print(f"  {covariance} {eps} {100 * found[-1]['none']['mAP']:.2f}", flush=True)
    saved = read_config(folder)
    return {"commit": saved["commit"], "trained": saved["train"], "figures": found}


def trained(root: str) -> Images:
    """List the training images as torchreid reads them."""
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    ts.register()
    dataset = _compat.dataset_tables()["image"]["market1501"](root=root, verbose=False)
    return unzipped(dataset.train)


def figures(query: Features, gallery: Features) -> dict[str, dict[str, float]]:
    """Rank with each method.

    Args:
        query: Features (Q, D), identities, cameras.
        gallery: The same of G images.

    Returns:
        Method to mAP and rank-1 in [0, 1].
    """
    ids = [np.asarray(part[place]) for place in (1, 2) for part in (query, gallery)]
    found = {}
    for name, options in METHODS.items():
        reranker = build_reranker(name.partition(",")[0], progress=False, **options)
        blocks = reranker.fit(gallery[0]).iter_distances(query[0])
        metrics = evaluate_blocks(blocks, *ids)
        found[name] = {"mAP": metrics.mAP, "rank-1": metrics.rank(1)}
    return found


if __name__ == "__main__":
    raise SystemExit(main())
