"""The report of one run: written after training or test, and never at their cost.

Whatever fails in a figure is logged and said in its place; the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchreid_spectral._files import write_text
from torchreid_spectral.data.images import decode
from torchreid_spectral.evaluation import evaluate_queries
from torchreid_spectral.functional import cosine_similarity
from torchreid_spectral.inference.calibration import calibrate, pair_distances
from torchreid_spectral.inference.images import to_tensor
from torchreid_spectral.report import activation, embedding, figures, lists
from torchreid_spectral.report.material import Batch, RunReport, Tested
from torchreid_spectral.report.page import Section, data_url, description, render, text_table
from torchreid_spectral.rerank._joint import JointReranker

__all__ = ["Batch", "RunReport", "Tested", "batch_features", "write_report"]

logger = logging.getLogger(__name__)
MAX_QUERIES, MAX_PAIRS_OF, PEOPLE, IMAGES = 1000, 1500, 12, 12


def write_report(report: RunReport, folder: Path) -> Path:
    """Write ``report.html``, and its figures as SVG and PNG below ``report/``.

    Args:
        report: What it is made of.
        folder: The run's folder.

    Returns:
        The page's path.
    """
    sections: list[Section] = []
    several = len(report.tested) > 1
    out = folder / "report"

    def attempt(key: str, title: str, text: str, make: Callable[[], str | None]) -> None:
        try:
            body = make()
        except Exception as error:  # a figure must never cost a training
            logger.warning("The report's section %s failed: %s: %s", key,
                           type(error).__name__, error)  # fmt: skip
            sections.append(Section(key, title, f"This figure could not be drawn: {error}", ""))
            return
        if body:
            sections.append(Section(key, title, text, body))

    for name, tested in report.tested.items():
        _dataset_sections(report, name, tested, out, attempt, f"{name}-" if several else "")
    if report.history:
        attempt("training", "Training", "What was logged at each step: means since the epoch "
                "began, as torchreid logs them, hence the saw teeth.",
                lambda: figures.save(figures.curves(report.history), out, "training",
                                     "training curves",
                                     narrow=figures.curves(report.history, 1)))  # fmt: skip
    attempt("batch", "Batch affinity", "Cosine similarity of the same training images, sorted by "
            "identity: training should leave bright blocks on the diagonal only.",
            lambda: _affinity(report, out))  # fmt: skip
    attempt("facts", "How it was made", "", lambda: description(report.facts))
    page = render(report.title, ", ".join(report.tested), sections)
    path = folder / "report.html"
    write_text(path, page)
    logger.info("Report written to %s", path)
    return path


@torch.no_grad()
def batch_features(
    model: nn.Module,
    rows: Sequence[Any],
    size: tuple[int, int],
    pixels: tuple[Sequence[float], Sequence[float]],
) -> tuple[Tensor, NDArray[Any]]:
    """Extract features of a fixed sample of training images, 8 identities x 8 images.

    Nothing is drawn at random and the model's mode is kept, so a training is not changed.

    Args:
        model: On any device.
        rows: ``(path, pid, camid, ...)`` of the training images.
        size: H and W of the input.
        pixels: Mean and standard deviation of the pixels.

    Returns:
        Features ``(B, D)`` and identities ``(B,)``, sorted by identity.
    """
    pids = np.array([row[1] for row in rows])
    chosen = embedding.choose_people(pids, 8, 8)
    images = torch.stack([to_tensor(rows[i][0], *size, *pixels) for i in chosen])
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return model(images.to(device)).float().cpu(), pids[chosen]
    finally:
        model.train(training)


def _dataset_sections(
    report: RunReport,
    name: str,
    tested: Tested,
    out: Path,
    attempt: Callable[[str, str, str, Callable[[], str | None]], None],
    prefix: str,
) -> None:
    """Add the sections of one test set."""
    suffix = f" ({name})" if prefix else ""
    attempt(f"{prefix}results", f"Results{suffix}",
            "Shares in %, before and after post-processing.",
            lambda: _results(tested, out, prefix))  # fmt: skip
    attempt(f"{prefix}embedding", f"Embedding{suffix}",
            "Gallery images of the same people in the plane (t-SNE): each colour and shape is one "
            "identity, alike in all panels.",
            lambda: _embedding(report, tested, out, prefix))  # fmt: skip
    attempt(f"{prefix}lists", f"Ranked lists{suffix}",
            "Queries with the lowest and highest average precision by the last list of each. Blue "
            "solid frame and ✓: right; orange dashed frame and ✗: wrong; ▲ and ▼: places won and "
            "lost by post-processing; new: was not among the first 200. Images of the query's "
            "identity by its own camera do not count and are left out.",
            lambda: _lists(tested))  # fmt: skip
    attempt(f"{prefix}distances", f"Distances{suffix}",
            "Pairs of gallery images from different cameras, and the threshold at which one pair "
            "in a thousand of different people passes; the share of pairs of the same person "
            "that pass it is written beside it.",
            lambda: _distances(tested, out, prefix))  # fmt: skip
    attempt(f"{prefix}activation", f"Activation{suffix}",
            "Right of each query the energy of its last feature map, scaled from the least (dark "
            "blue) to the most (yellow): where the network looks.",
            lambda: _activation(report, tested))  # fmt: skip


def _results(tested: Tested, out: Path, prefix: str) -> str:
    numbers = {
        view: {"mAP": m.mAP, **{f"rank-{k}": m.rank(k) for k in (1, 5, 10, 20)}}
        for view, m in tested.metrics.items()
    }
    heads = ["", *next(iter(numbers.values()))]
    rows = [[figures.view_name(view), *(f"{100 * v:.1f}" for v in values.values())]
            for view, values in numbers.items()]  # fmt: skip
    drawn = figures.save(figures.bars(numbers), out, f"{prefix}bars", "bars of mAP and CMC")
    curve = figures.cmc({view: m.cmc for view, m in tested.metrics.items()})
    drawn += figures.save(curve, out, f"{prefix}cmc", "CMC curves")
    return f'{text_table(heads, rows)}<div class="row">{drawn}</div>'


def _embedding(report: RunReport, tested: Tested, out: Path, prefix: str) -> str:
    pids = np.array([row[1] for row in tested.gallery])
    chosen = embedding.choose_people(pids, PEOPLE, IMAGES)
    plain = next(iter(tested.views.values())).gallery[chosen]
    alone = report.baseline is None
    panels = {report.method.removeprefix("+ ") if alone else report.method:
              embedding.cosine_matrix(plain)}  # fmt: skip
    if report.baseline is not None:
        title, extract = report.baseline
        features = extract([str(tested.gallery[row][0]) for row in chosen])
        panels = {title: embedding.cosine_matrix(features), **panels}
    for view, method in list(tested.views.items())[1:]:
        cameras = np.array([tested.gallery[row][2] for row in chosen])
        asked: dict[str, Any] = {"camids": cameras, "inductive": tested.inductive}
        whole = np.asarray(method.distance_matrix(plain, **asked))[:, chosen]
        panels[f"+ {figures.view_name(view)}"] = whole - whole.min()
    names = list(panels)
    if report.baseline is not None or len(names) > 1:
        names = embedding.titles(names[0], names[1:])
    points = {name: (embedding.embed(matrix), pids[chosen])
              for name, matrix in zip(names, panels.values())}  # fmt: skip
    return figures.save(figures.scatter(points), out, f"{prefix}embedding", "t-SNE embedding",
                        narrow=figures.scatter(points, 1))  # fmt: skip


def _lists(tested: Tested) -> str:
    rows = np.unique(np.linspace(0, len(tested.query) - 1, MAX_QUERIES).astype(int))
    query = [tested.query[row] for row in rows]
    note = ""
    if len(rows) < len(tested.query):
        note = f"<p>Of {len(tested.query):,} queries {len(rows):,}, evenly spaced.</p>"
    precision = {view: _precision(tested, view, rows) for view in tested.views}
    orders = {}
    chosen = lists.choose_queries(precision[list(precision)[-1]], 3)
    depth = min(len(tested.gallery), 200)
    for view, method in tested.views.items():
        asked, options = _asked(tested, view, rows)
        found = method.rank(tested.features[asked], top_k=depth, **options)[0]
        found = found[np.isin(asked, rows)]
        orders[view] = {row: found[row].tolist() for kind in chosen.values() for row in kind}
    return note + lists.ranked_lists(chosen, precision, orders, query, tested.gallery)


def _asked(tested: Tested, view: str, rows: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Say which queries a re-ranker must be given to answer some as in the test, and how."""
    joint = isinstance(tested.views[view], JointReranker) and not tested.inductive
    asked = np.arange(len(tested.query)) if joint else rows
    cameras = np.array([row[2] for row in tested.query])[asked]
    return asked, {"camids": cameras, "inductive": tested.inductive}


def _precision(tested: Tested, view: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Give the average precision of some queries."""
    asked, options = _asked(tested, view, rows)
    shown = np.isin(asked, rows)
    ids = [np.array([row[column] for row in part]) for column in (1, 2)
           for part in ([tested.query[row] for row in asked], tested.gallery)]  # fmt: skip
    parts = []
    for at, block in tested.views[view].iter_distances(tested.features[asked], **options):
        kept = shown[at]
        of_block = ids[0][at][kept], ids[1], ids[2][at][kept], ids[3]
        if kept.any():
            parts.append(evaluate_queries(block.numpy()[kept], *of_block, 10).average_precision)
    return np.concatenate(parts)


def _distances(tested: Tested, out: Path, prefix: str) -> str | None:
    pids = np.array([row[1] for row in tested.gallery])
    cameras = np.array([row[2] for row in tested.gallery])
    chosen = embedding.choose_people(pids, max(2, MAX_PAIRS_OF // 8), 8)[:MAX_PAIRS_OF]
    method = next(iter(tested.views.values()))
    metric = getattr(method, "metric", "cosine")
    features = np.asarray(method.gallery[chosen])
    same, different = pair_distances(features, pids[chosen], cameras[chosen], metric=metric)
    if len(same) == 0 or len(different) == 0:
        return None
    known = None
    if len(different) >= 1000:
        known = calibrate(features, pids[chosen], cameras[chosen], metric=metric)
    figure = figures.histogram(same, different, known, metric.replace("_", " "))
    return figures.save(figure, out, f"{prefix}distances", "histogram of distances")


def _activation(report: RunReport, tested: Tested) -> str | None:
    if report.model is None:
        return None
    places = np.unique(np.linspace(0, len(tested.query) - 1, 6).astype(int))
    paths = [tested.query[place][0] for place in places]
    device = next(report.model.parameters()).device
    images = torch.stack([to_tensor(path, *report.input_size, *report.pixels) for path in paths])
    maps = activation.activation_maps(report.model, images.to(device))
    body = _overlays(paths, maps, report.input_size)
    rows = activation.attention_rows(report.model, images.to(device))
    if rows is not None:
        body += ("<p>Where the marked pixel attends to, in the last attention between pixels; "
                 "the largest weight is yellow, none is dark blue:</p>")  # fmt: skip
        body += _overlays(paths, rows[0], report.input_size, rows[1])
    return body


def _overlays(
    paths: Sequence[Any],
    maps: Tensor,
    size: tuple[int, int],
    mark: tuple[int, int] | None = None,
) -> str:
    parts = []
    for path, heat in zip(paths, maps):
        picture = decode(path).resize((size[1], size[0]))
        mixed = activation.overlay(picture, heat.numpy(), mark)
        parts.append(
            f'<div><img alt="image" src="{data_url(picture)}"> '
            f'<img alt="activation" src="{data_url(mixed)}"></div>'
        )
    return f'<div class="maps">{"".join(parts)}</div>'


def _affinity(report: RunReport, out: Path) -> str | None:
    if report.batch is None:
        return None
    panels = {
        title: np.asarray(cosine_similarity(features, features))
        for title, features in report.batch.features.items()
    }
    labels = [int(label) for label in report.batch.labels]
    return figures.save(figures.affinity(panels, labels), out, "affinity", "batch affinity",
                        narrow=figures.affinity(panels, labels, 1))  # fmt: skip
