"""What a test leaves behind: lines of the log, ``metrics.json`` and pictures of answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from torchreid_spectral import _compat
from torchreid_spectral._files import write_bytes
from torchreid_spectral._run_files import METRICS, METRICS_OF_TRAINING
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.loop import say
from torchreid_spectral.engine.results import PLAIN, TestResult, write_json
from torchreid_spectral.evaluation import RankingMetrics
from torchreid_spectral.models.whitened import FILE, read_whitening, save_whitening
from torchreid_spectral.report.ranked_lists import draw_ranked_lists, folders_of_pictures
from torchreid_spectral.rerank import Reranker

if TYPE_CHECKING:  # they import this module
    from torchreid_spectral.engine.testing import TestMixin

__all__ = ["Answers", "draw", "junk_of", "log_metrics", "save_metrics", "tell_skipped"]

logger = logging.getLogger(__name__)


class Answers(NamedTuple):
    """What a dataset's queries were answered with."""

    dataset: str
    """Its name."""
    images: Sequence[Sequence[Any]]
    """torchreid's items of query and of gallery, those of nobody with identity -1."""
    views: Mapping[str, Reranker]
    """Post-processings by name, fitted to the gallery."""
    query: Tensor
    """Features, ``(Q, D)``."""
    inductive: bool = False
    """Whether each query is answered as if it were alone."""

    @property
    def asked(self) -> dict[str, Any]:
        """What re-rankers are told beside the features, as in the test."""
        cameras = np.array([row[2] for row in self.images[0]])
        return {"camids": cameras, "inductive": self.inductive}


def draw(engine: TestMixin, answers: Answers, folder: str, visrank_topk: int) -> None:
    """Draw ranked lists, torchreid's and ours, as far as they are asked for; never fails.

    Args:
        engine: With :class:`~torchreid_spectral.engine.testing.TestMixin`.
        answers: Of one dataset.
        folder: To draw to.
        visrank_topk: Answers of each of torchreid's pictures; 0 draws none.
    """
    try:
        _draw(engine, answers, folder, visrank_topk)
    except Exception as error:  # a picture must never cost a training
        logger.warning("The ranked lists of %s failed: %s: %s", answers.dataset,
                       type(error).__name__, error)  # fmt: skip


def _draw(engine: TestMixin, answers: Answers, folder: str, visrank_topk: int) -> None:
    dataset, images, views, query, _ = answers
    if visrank_topk and any(map(_unspeakable, (row[0] for part in images for row in part))):
        logger.warning(
            "test.visrank draws nothing of %s: the name of a file is no text, and OpenCV, which "
            "draws, would end the program at it. Rename it.", dataset,
        )  # fmt: skip
    elif visrank_topk:
        distances = views[list(views)[-1]].distance_matrix(query, **answers.asked).numpy()
        for name, rows in folders_of_pictures([row[0] for row in images[0]]).items():
            _compat.load().utils.visualize_ranked_results(
                distances[rows],
                ([images[0][row] for row in rows], images[1]),
                engine.datamanager.data_type,
                width=engine.datamanager.width,
                height=engine.datamanager.height,
                save_dir=str(Path(folder) / f"visrank_{dataset}" / name),
                topk=visrank_topk,
            )
    if engine.picture_queries and folder:
        path = Path(folder) / f"ranked_lists_{dataset}.png"
        draw_ranked_lists(path, views, query, *images, num_queries=engine.picture_queries,
                          inductive=answers.inductive)  # fmt: skip
        logger.info("Ranked lists drawn to %s", path)


def _unspeakable(path: Any) -> bool:  # noqa: ANN401 (of a tracklet several)
    """Say whether the operating system's bytes of a name are no UTF-8."""
    names = (path,) if isinstance(path, str) else path
    return any("\udc80" <= letter <= "\udcff" for name in names for letter in str(name))


def save_metrics(engine: TestMixin, result: TestResult, folder: str, ranks: Sequence[int]) -> None:
    """Write ``metrics.json``: a result with what it was made by; and the whitening beside it.

    A test in the folder of a training leaves that's own in ``metrics_training.json``.

    Args:
        engine: After its test.
        result: Of the test.
        folder: To write to.
        ranks: Of the CMC curve.
    """
    training = engine._training
    metrics = {
        "metrics": result.as_dict(ranks),
        "weights_sha256": engine.tested_weights,
        "epochs": engine.epoch + 1 if training else 0,
        "stopped_early": bool(training and engine.progress.finished),
        "seconds": dict(result.seconds) | {"total": time.perf_counter() - engine._started},
        **engine.provenance,
    }
    path, kept = Path(folder) / METRICS, Path(folder) / METRICS_OF_TRAINING
    if not training and _is_of_training(path):
        write_bytes(kept, path.read_bytes())
        logger.info("The metrics of the training are kept in %s", kept)
    if engine.whitening is not None:
        save_whitening(Path(folder), *engine.whitening.fitted, engine.tested_weights)
    elif read_whitening(Path(folder), engine.tested_weights) is not None:
        (Path(folder) / FILE).unlink()  # the features of these weights are without it again
    write_json(metrics, path)
    if training:
        kept.unlink(missing_ok=True)
    logger.info("Metrics saved to %s", path)


def _is_of_training(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def log_metrics(dataset: str, view: str, metrics: RankingMetrics, ranks: Sequence[int]) -> None:
    """Say mAP and CMC curve of a dataset's post-processing as torchreid prints them."""
    title = "without post-processing" if view == PLAIN else f"with {view}"
    lines = [f"** Results on {dataset}, {title} **", f"mAP: {metrics.mAP:.1%}", "CMC curve"]
    lines += [f"Rank-{k:<3}: {metrics.rank(k):.1%}" for k in ranks]
    say("\n".join(lines))  # not logged: figures are shown whatever the user logs


def tell_skipped(engine: TestMixin) -> None:
    """Say which images and how many steps were passed over so far, in all processes."""
    loaders = [part for parts in engine.test_loader.values() for part in parts.values()]
    skipped: dict[str, int] = {}
    for of_process in distributed.all_objects(
        [loader.skipped for loader in (engine.train_loader, *loaders)]
    ):
        for found in of_process:
            skipped |= found
    if distributed.rank() > 0:
        return
    for line in list(skipped)[:20]:
        logger.warning("Passed over: %s.", line)
    if skipped:
        logger.warning("%d broken images were passed over.", len(skipped))
    guard = getattr(engine, "guard", None)  # of training
    if guard is not None and guard.skipped:
        logger.warning("%d training steps that were not finite were passed over.", guard.skipped)


def junk_of(loader: Any) -> set[int]:  # noqa: ANN401
    """Give the identities that are nobody, such as Market-1501's distractors."""
    dataset = getattr(loader, "dataset", None)
    dataset = getattr(dataset, "dataset", dataset)
    return set(getattr(dataset, "_junk_pids", ()))
