r"""Rank, re-rank and evaluate feature files, without images, models or torchreid.

Example:
    python tools/rerank.py --query q.npz --gallery g.npz --method graph_walk --json metrics.json
    python tools/rerank.py --query features.npz --gallery features.npz --compare
    python tools/rerank.py --query q.npz --gallery g.npz --method local_blurring k=100 \
        temperature=0.05 --top-k 50 --output ranks.npz
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_spectral._files import keep_inputs, show_any_name, write_bytes, write_whole
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import diagnose, evaluate_blocks
from torchreid_spectral.evaluation.feature_files import FeatureSet, load_features
from torchreid_spectral.evaluation.verification import PairDistances
from torchreid_spectral.rerank import (
    CAMERA_NORMALIZATIONS,
    RERANKERS,
    Reranker,
    build_reranker,
)
from torchreid_spectral.rerank._inputs import named_options
from torchreid_spectral.rerank._memory import peak_memory
from torchreid_spectral.search import SEARCHES

FPRS = (1e-4, 1e-3, 1e-2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0, or 2 where the user can mend something.
    """
    args = parse(argv)
    show_any_name()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_outputs(args)
        if args.compare:
            results = compare(args)
        else:
            results = [rank(args)]
            print(table(results))
        if args.json:
            text = json.dumps(results if args.compare else results[0], indent=2) + "\n"
            write_bytes(Path(args.json), text.encode())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--query", required=True, help="feature file or folder of the queries")
    parser.add_argument("--gallery", required=True, help="feature file or folder of the gallery")
    parser.add_argument("--method", default="graph_walk", choices=sorted(RERANKERS))
    parser.add_argument("--search", default="exact", choices=sorted(SEARCHES))
    parser.add_argument("--camera-normalization", default="none",
                        choices=CAMERA_NORMALIZATIONS,
                        help="take each camera's mean (and deviation) out")  # fmt: skip
    parser.add_argument("--top-k", type=int, default=100, help="images returned for each query")
    parser.add_argument("--inductive", action="store_true", help="answer each query alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", default="", help="npz for indices and distances")
    parser.add_argument("--json", default="", help="file for the metrics")
    parser.add_argument("--cuhk03-metric", action="store_true", help="one image an identity")
    parser.add_argument("--compare", action="store_true", help="a table of all methods")
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE", help="of the method")
    return parser.parse_intermixed_args(argv)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse to write over what is read, or twice to one file."""
    inputs: list[Path] = []
    for given in (Path(args.query).expanduser(), Path(args.gallery).expanduser()):
        beside = [given.with_suffix(ending) for ending in (".csv", ".json")]
        inputs += given.iterdir() if given.is_dir() else [given, *beside]
    outputs = {"--output": args.output, "--json": args.json}
    for option, out in outputs.items():
        if out:
            keep_inputs(option, Path(out), inputs)
    if args.output and os.path.realpath(args.output) == os.path.realpath(args.json):
        raise InputError(f"--output and --json are one file, {args.json}: give two.")


def rank(args: argparse.Namespace) -> dict[str, Any]:
    """Rank with one method and evaluate.

    Returns:
        Metrics, seconds and peak memory.
    """
    query, gallery = load_features(args.query, "query"), load_features(args.gallery, "gallery")
    check_kinds(query, gallery)
    shared = {"search": args.search}
    if args.camera_normalization != "none":
        shared["camera_normalization"] = args.camera_normalization
    given = named_options(args.options)
    if "metric" not in given:
        given |= metric_of(args.method, [query, gallery])
    reranker = build_reranker(args.method, **shared | given)
    features = on(args.device, query.features)
    camids, gallery_camids = numbered(query.camids, gallery.camids)
    started = time.perf_counter()
    reranker.fit(on(args.device, gallery.features), gallery_camids)
    fitted = time.perf_counter()
    cameras = {"camids": camids, "inductive": args.inductive}
    indices, distances = reranker.rank(features, args.top_k, **cameras)
    done = time.perf_counter()
    if args.output:
        content = {"indices": indices.cpu().numpy(), "distances": distances.cpu().numpy()}
        write_whole(Path(args.output), lambda path: save(path, content))
    peak = peak_memory()
    result = {
        "method": reranker.label,
        "seconds_fit": fitted - started,
        "seconds_rank": done - fitted,
        "peak_GB": None if peak is None else peak / 1e9,
    }
    if reranker.search_recall is not None:
        result["search_recall"] = reranker.search_recall
    return result | metrics(reranker, features, cameras, [query, gallery], args)


def metric_of(method: str, sets: Sequence[FeatureSet]) -> dict[str, str]:
    """Give the option of the distance that the features were saved with, where a method has it."""
    metrics = sorted({found.metric for found in sets if found.metric})
    if len(metrics) > 1:
        raise InputError(
            f"The files are compared by different distances ({', '.join(metrics)}): extract both "
            "alike, or give metric=NAME."
        )
    if metrics and "metric" in inspect.signature(RERANKERS[method]).parameters:
        return {"metric": metrics[0]}
    if metrics not in ([], ["cosine"]):
        print(f"warning: {method} compares by cosine, the features were saved for {metrics[0]}.",
              file=sys.stderr)  # fmt: skip
    return {}


def save(path: Path, content: dict[str, Any]) -> None:
    """Write arrays."""
    with path.open("wb") as file:
        np.savez(file, **content)


def metrics(
    reranker: Reranker,
    features: torch.Tensor,
    cameras: dict[str, Any],
    sets: Sequence[FeatureSet],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Evaluate over the whole gallery, where identities and cameras are known."""
    ids = [found.pids for found in sets] + [found.camids for found in sets]
    if any(each is None for each in ids):
        print("There are no metrics: not all files have identities and cameras.", file=sys.stderr)
        return {}
    known = somebody(ids[0])
    if not known.all():
        print(f"{(~known).sum()} queries are of nobody known and not evaluated.", file=sys.stderr)
        ids[0], ids[2] = ids[0][known], ids[2][known]
    if not known.any():
        return {}
    diagnosis = diagnose(*ids)
    if diagnosis.num_valid < diagnosis.num_queries:
        print(diagnosis, file=sys.stderr)
    pairs = PairDistances(*ids, max_fpr=max(FPRS))

    def blocks() -> Any:
        done = 0
        for rows, block in reranker.iter_distances(features, **cameras):
            array = block.cpu().numpy()[known[rows]]
            place = slice(done, done := done + len(array))
            if len(array):
                pairs.add(place, array)
                yield place, array

    np.random.seed(0)  # the CUHK03 metric draws, as torchreid's does
    found = evaluate_blocks(blocks(), *ids, use_metric_cuhk03=args.cuhk03_metric)
    ranks = {f"rank-{k}": found.rank(k) for k in (1, 5, 10, 20)}
    summary = {"mAP": found.mAP, **ranks, "mINP": found.mINP, "queries": found.num_queries}
    summary |= {"mAP_trapezoidal": found.mAP_trapezoidal, "valid_queries": found.num_valid}
    if not pairs.num_impostors:  # one identity: nobody can be taken for another
        return summary
    return summary | {f"TPR@FPR={fpr:g}": pairs.tpr_at(fpr)[0] for fpr in FPRS}


def somebody(pids: Any) -> Any:
    """Say which queries are of a person: tools/extract.py writes -1 or no name for nobody."""
    if pids.dtype.kind in "iuf":
        return pids >= 0
    return np.array([str(pid).strip() != "" for pid in pids])


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all methods, each in a process of its own so that its peak memory is its own.

    Returns:
        The result of each; those that refuse, such as a metric that the search does not have,
        are named on stderr.
    """
    if args.options or args.output:
        raise InputError("--compare takes the defaults of all methods: no options, no --output.")
    results: list[dict[str, Any]] = []
    refused: list[str] = []
    for method in RERANKERS:
        command = [sys.executable, __file__, "--query", args.query, "--gallery", args.gallery]
        command += ["--method", method, "--search", args.search, "--device", args.device]
        command += ["--top-k", str(args.top_k)]
        command += ["--camera-normalization", args.camera_normalization]
        command += ["--inductive"] * args.inductive + ["--cuhk03-metric"] * args.cuhk03_metric
        if method == "k_reciprocal" and args.search != "exact":  # which knows no farthest image
            command.append("metric=cosine")
        with tempfile.TemporaryDirectory() as folder:
            command += ["--json", str(Path(folder) / "metrics.json")]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                said = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
                refused.append(f"{method}: {said[-1].removeprefix('error: ')}")
                print(f"warning: {refused[-1]}", file=sys.stderr)
                continue
            results.append(json.loads((Path(folder) / "metrics.json").read_text()))
        print(table(results[-1:], header=len(results) == 1), flush=True)
    if not results:
        raise InputError(refused[0])
    return results


def table(results: Sequence[dict[str, Any]], *, header: bool = True) -> str:
    """Lay out results as text; rates in per cent."""
    rates = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")
    lines = []
    if header:
        titles = " ".join(f"{name:>7}" for name in (*rates, "fit s", "rank s", "GB"))
        lines.append(f"{'method':<20} {titles}")
    for result in results:
        cells = [f"{100 * result[name]:7.2f}" if name in result else f"{'-':>7}" for name in rates]
        cells += [f"{result[name]:7.2f}" for name in ("seconds_fit", "seconds_rank")]
        cells.append(f"{'-':>7}" if result["peak_GB"] is None else f"{result['peak_GB']:7.2f}")
        lines.append(f"{result['method']:<20} {' '.join(cells)}")
    return "\n".join(lines)


def numbered(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Number the cameras, alike in both; they may have names."""
    if query is None or gallery is None:
        return None, None
    numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
    return numbers[: len(query)], numbers[len(query) :]


def check_kinds(*sets: FeatureSet) -> None:
    """Refuse features of different weights, and ids that are numbers here and names there."""
    if len(models := {found.model for found in sets if found.model}) > 1:
        raise InputError(
            f"The files are of different weights ({', '.join(sorted(models))}): their features "
            "cannot be compared. Extract both with the same."
        )
    for name in ("pids", "camids"):
        arrays = [each for each in (getattr(found, name) for found in sets) if each is not None]
        if len({array.dtype.kind in "biuf" for array in arrays}) == 2:
            raise InputError(
                f"The {name} are numbers in one file and names in the other: none would match. "
                "Write both alike."
            )


def on(device: str, features: Any) -> torch.Tensor:
    """Put features on a device in float32."""
    try:
        if np.iscomplexobj(features):
            raise TypeError("complex numbers have no order")
        features = np.ascontiguousarray(features, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Features must be numbers: {error}") from error
    try:
        return torch.from_numpy(features).to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
