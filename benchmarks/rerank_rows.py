"""What one process of ``benchmarks/rerank.py`` does: one method or peer on one size, timed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchreid_spectral.evaluation import evaluate_blocks, evaluate_rank
from torchreid_spectral.rerank import RERANKERS, build_reranker
from torchreid_spectral.rerank._memory import peak_memory

Array = NDArray[Any]
Data = dict[str, Array]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do one row.

    Args:
        task: ``row``, ``features`` or ``size``, ``options``, ``top_k``, ``save``, ``device``.

    Returns:
        Seconds, peak memory of the process in GB, and metrics where identities are known.
    """
    data = features(task)
    held = peak()
    if task["row"] in RERANKERS:
        result = rerank(task, data)
    else:
        result = PEERS[task["row"]](task, data)
    return result | {"peak_GB": result.get("peak_GB", peak()), "held_before_GB": held}


def peak() -> float:
    """Give the most memory the process has held, in GB; NaN where the system does not say."""
    held = peak_memory()
    return float("nan") if held is None else held / 1e9


def features(task: dict[str, Any]) -> Data:
    """Read real features, or draw clustered ones."""
    if task.get("features"):
        with np.load(task["features"], allow_pickle=False) as file:
            names = ("qf", "gf", "q_pids", "g_pids", "q_camids", "g_camids")
            data = {name: file[name] for name in names}
        return data | {name: data[name].astype(np.float32) for name in ("qf", "gf")}
    queries, gallery, width = task["size"]
    generator = torch.Generator().manual_seed(0)
    identities = max(1, gallery // 20)
    centers = torch.randn(identities, width, generator=generator)
    data = {}
    for letter, count in (("q", queries), ("g", gallery)):
        pids = torch.randint(identities, (count,), generator=generator)
        rows = centers[pids]
        for part in rows.split(65536):  # as much noise as signal: cosine 0.5 within an identity
            part += torch.randn(part.shape, generator=generator)
            part /= part.norm(dim=1, keepdim=True)
        data[f"{letter}f"], data[f"{letter}_pids"] = rows.numpy(), pids.numpy()
        data[f"{letter}_camids"] = torch.randint(6, (count,), generator=generator).numpy()
    return data


def rerank(task: dict[str, Any], data: Data) -> dict[str, Any]:
    """Fit and rank with a method of this package."""
    device = task["device"]
    query, gallery = (torch.from_numpy(data[name]).to(device) for name in ("qf", "gf"))
    if device != "cpu":  # the first call to a GPU starts it
        build_reranker("none").fit(gallery[:256]).rank(query[:16])
    method = build_reranker(task["row"], progress=False, **task["options"])
    cameras = {"camids": data["q_camids"]}
    fit = timed(device, lambda: method.fit(gallery, data["g_camids"]))
    rank = timed(device, lambda: method.rank(query, task["top_k"], **cameras))
    result = {"seconds_fit": fit, "seconds_rank": rank, "seconds": fit + rank, "peak_GB": peak()}
    if device != "cpu":
        result["peak_device_GB"] = torch.cuda.max_memory_allocated() / 1e9
    if method.search_recall is not None:
        result["search_recall"] = method.search_recall
    if task["save"]:
        np.save(task["save"], method.distance_matrix(data["qf"], **cameras))
    if task["metrics"]:
        distances = method.iter_distances(query, **cameras)
        blocks = ((rows, block.cpu().numpy()) for rows, block in distances)
        found = evaluate_blocks(blocks, *ids(data))
        result |= {"mAP": found.mAP, "rank-1": found.rank(1)}
    return result


def timed(device: str, call: Callable[[], Any]) -> float:
    """Give the seconds of a call."""
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ids(data: Data) -> list[Array]:
    """Give identities and cameras in the order that evaluations take them."""
    return [data[name] for name in ("q_pids", "g_pids", "q_camids", "g_camids")]


def bare_search(task: dict[str, Any], data: Data) -> dict[str, Any]:
    """Time the cosine top-k alone, a block of queries at a time: what no method can undercut."""
    query, gallery = (torch.from_numpy(data[name]).to(task["device"]) for name in ("qf", "gf"))

    def search() -> None:
        right = torch.nn.functional.normalize(gallery, dim=1).T
        for block in torch.nn.functional.normalize(query, dim=1).split(512):
            (block @ right).topk(task["top_k"])

    return {"seconds": timed(task["device"], search)}


def torchreid_re_ranking(task: dict[str, Any], data: Data) -> dict[str, Any]:
    """Run torchreid's k-reciprocal as its engine does, on squared Euclidean distances."""
    torchreid = _torchreid()
    query, gallery = torch.from_numpy(data["qf"]), torch.from_numpy(data["gf"])
    distance = torchreid.metrics.compute_distance_matrix
    started = time.perf_counter()
    parts = [distance(*pair).numpy() for pair in ((query, gallery), (query, query))]
    found = torchreid.utils.re_ranking(*parts, distance(gallery, gallery).numpy())
    result = {"seconds": time.perf_counter() - started, "peak_GB": peak()}
    if task["save"]:
        np.save(task["save"], found)
    if task["metrics"]:
        cmc, mean_ap = evaluate_rank(found, *ids(data))
        result |= {"mAP": float(mean_ap), "rank-1": float(cmc[0])}
    return result


def evaluation(task: dict[str, Any], data: Data) -> dict[str, Any]:
    """Time an evaluator on the plain cosine distances."""
    distances = build_reranker("none").fit(data["gf"]).distance_matrix(data["qf"])
    function = {
        "evaluate_rank": lambda: evaluate_rank,
        "torchreid_python": _torchreid_evaluator,
        "torchreid_cython": _compiled,
    }[task["row"]]()  # imports are not what is measured
    if task["row"] != "torchreid_python":  # which takes minutes
        function(distances, *ids(data), 50)
    started = time.perf_counter()
    cmc, mean_ap = function(distances, *ids(data), 50)[:2]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mAP": float(mean_ap), "rank-1": float(cmc[0])}


def _torchreid() -> Any:
    from torchreid_spectral import _compat

    return _compat.prepare()


def _torchreid_evaluator() -> Callable[..., Any]:
    return _torchreid().metrics.rank.eval_market1501


def _compiled() -> Callable[..., Any]:
    """Load the compiled evaluator alone: its package imports much that is not needed."""
    found = importlib.util.find_spec("pyppbox_torchreid")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("torchreid_cython needs: pip install --no-deps pyppbox-torchreid")
    folder = Path(found.submodule_search_locations[0]) / "metrics" / "rank_cylib"
    library = next(iter(folder.glob("rank_cy.*")))
    spec = importlib.util.spec_from_file_location("rank_cy", library)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    def evaluate(distances: Array, *rest: Any) -> tuple[Array, float]:
        kinds = [np.ascontiguousarray(each, dtype=np.int64) for each in rest[:4]]
        cmc, mean_ap = module.evaluate_cy(distances, *kinds, rest[4])
        return np.asarray(cmc), mean_ap

    return evaluate


PEERS: dict[str, Callable[[dict[str, Any], Data], dict[str, Any]]] = {
    "bare_search": bare_search,
    "torchreid_re_ranking": torchreid_re_ranking,
    "evaluate_rank": evaluation,
    "torchreid_python": evaluation,
    "torchreid_cython": evaluation,
}
