"""One finished training of benchmarks/market1501.py: its test with each post-processing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_spectral._run_files import training_metrics
from torchreid_spectral.evaluation import evaluate_blocks
from torchreid_spectral.rerank import build_reranker

# All with their defaults, which were not chosen on any of these networks' features.
METHODS = ("none", "local_blurring", "graph_walk", "k_reciprocal")
FLIPPED = "market1501_flip"  # a feature is the mean of the image's and its mirror image's
CAMERAS = "market1501_cameras"  # each camera's mean and deviation are taken out of the features
Images = tuple[list[str], list[int], list[int]]  # paths, identities, cameras
Features = tuple[torch.Tensor, list[int], list[int]]


def measure(
    folder: Path,
    root: str,
    transfer: Mapping[str, str],
    known: Collection[str] = (),
    *,
    flip: bool = False,
    cameras: bool = False,
) -> dict[str, Any]:
    """Test a run and read what it logged.

    Args:
        folder: Its ``data.save_dir``.
        root: Folder that holds Market-1501.
        transfer: Name to folder of own data with query and gallery, which it was not trained on.
        known: Names of datasets whose figures are there already.
        flip: Test on Market-1501 with mirror images as well.
        cameras: Test on it with normalized cameras as well, where it is tested plainly.

    Returns:
        A row of the JSON file, without the figures of those.
    """
    from torchreid_spectral.inference import SpectralReID
    from torchreid_spectral.report.history import read_history, seconds_a_step

    saved = json.loads(training_metrics(folder).read_text(encoding="utf-8"))
    history = read_history(folder)
    reid = SpectralReID(folder, batch_size=128)
    metrics, seconds = {}, {}
    wanted = {"market1501": "none", CAMERAS: "standardize"} if cameras else {"market1501": "none"}
    wanted = {name: word for name, word in wanted.items() if name not in known}
    if wanted:
        features = extracted(reid, *market(root))
        for name, word in wanted.items():
            metrics[name], seconds[name] = ranked(*features, cameras=word)
    for name in [*([FLIPPED] if flip else []), *transfer]:
        if name not in known:
            images = own(transfer[name]) if name in transfer else market(root)
            model = SpectralReID(folder, batch_size=128, flip=True) if name == FLIPPED else reid
            metrics[name], seconds[name] = ranked(*extracted(model, *images))
    return {
        "seed": saved["config"]["train"]["seed"],
        "commit": saved["commit"],
        "versions": saved["versions"],
        "threads": threads(folder),
        "epochs": saved["epochs"],
        "spectral": saved["config"]["spectral"],
        "tested": setting(saved["config"]["spectral"]["test_feature"]),
        "seconds_a_step": seconds_a_step(history),
        "metrics": metrics,
        "seconds_of_test": seconds,
        "curves": curves(history, saved["epochs"]),
    }


def setting(feature: str) -> str:
    """Say how a run is tested.

    Args:
        feature: ``spectral.test_feature``.

    Returns:
        A line of the JSON file.
    """
    name = {"pooled": "X"}.get(feature, feature)
    return f"test feature {name}, cosine, " + ", ".join(METHODS)


def market(root: str) -> tuple[Images, Images]:
    """List query and gallery as torchreid reads them."""
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    ts.register()
    dataset = _compat.dataset_tables()["image"]["market1501"](root=root, verbose=False)
    query, gallery = (unzipped(part) for part in (dataset.query, dataset.gallery))
    return query, gallery


def own(folder: str) -> tuple[Images, Images]:
    """List query and gallery of own data, see data/folder.py."""
    from torchreid_spectral.data.folder_datasets import FolderDataset

    dataset = FolderDataset(root=folder, mode="query", verbose=False)
    return unzipped(dataset.query), unzipped(dataset.gallery)


def unzipped(rows: list[Any]) -> Images:
    """Give columns for rows."""
    paths, pids, camids = ([row[column] for row in rows] for column in range(3))
    return paths, pids, camids


def extracted(reid: Any, query: Images, gallery: Images) -> tuple[Features, Features]:
    """Let a model look at images.

    Args:
        reid: The model.
        query: Q images.
        gallery: G images.

    Returns:
        Features in place of the paths.
    """
    first, second = ((torch.from_numpy(reid.features(part[0], progress=True)), *part[1:])
                     for part in (query, gallery))  # fmt: skip
    return first, second


def ranked(
    query: Features, gallery: Features, cameras: str = "none"
) -> tuple[dict[str, Any], dict[str, float]]:
    """Rank features by each method.

    Args:
        query: Features (Q, D), identities, cameras.
        gallery: The same of G images.
        cameras: Camera normalization of the re-rankers.

    Returns:
        Method to figures in [0, 1], and to seconds after the features.
    """
    features = [query[0], gallery[0]]
    ids = [np.asarray(part[1]) for part in (query, gallery)]
    ids += [np.asarray(part[2]) for part in (query, gallery)]
    metrics, seconds = {}, {}
    for method in METHODS:
        started = time.perf_counter()
        reranker = build_reranker(method, camera_normalization=cameras)
        reranker.fit(features[1], torch.from_numpy(ids[3]))
        blocks = reranker.iter_distances(features[0], camids=torch.from_numpy(ids[2]))
        found = evaluate_blocks(blocks, *ids)
        seconds[method] = time.perf_counter() - started
        ranks = {f"rank-{k}": found.rank(k) for k in (1, 5, 10)}
        metrics[method] = {"mAP": found.mAP, "mAP_trapezoidal": found.mAP_trapezoidal, **ranks}
    return metrics, seconds


def threads(folder: Path) -> int | None:
    """Read how many threads trained."""
    for path in sorted([*folder.glob("train.log*"), *folder.glob("output.txt")]):
        found = re.search(r"^CPU, (\d+) threads", path.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1])
    return None


def curves(history: Mapping[str, Any], epochs: int) -> dict[str, list[float]]:
    """Give escape probability (mean of each epoch) and Ncut (of a batch of it) over training.

    Args:
        history: Scalars of TensorBoard.
        epochs: Of the training.

    Returns:
        Name to one value an epoch; a name is missing where it was not logged.
    """
    found = {}
    for name, tag in (("escape", "Train/escape"), ("ncut", "Graph/ncut")):
        curve = history.get(tag)
        if curve is None:
            continue
        length = len(history["Train/loss"].steps) // epochs
        by_epoch = {int(step) // length: float(value)
                    for step, value in zip(curve.steps, curve.values)}  # fmt: skip
        found[name] = [round(by_epoch[epoch], 5) for epoch in range(epochs) if epoch in by_epoch]
    return found
