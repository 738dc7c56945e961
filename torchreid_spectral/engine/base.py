"""torchreid's engine loop with results that are returned, saved and post-processed.

The loop itself stays torchreid's: :class:`ReportingMixin` goes before any of its engines and
replaces how features are ranked, not how a network is trained. torchreid prints its metrics and
knows one re-ranker; here ``test`` and ``run`` return them, for the plain distance and for any
re-ranker, and ``metrics.json`` holds them with the effective config.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from torchreid_spectral import _compat
from torchreid_spectral.engine.results import PLAIN, TestResult, provenance, write_json
from torchreid_spectral.engine.step import StepMixin
from torchreid_spectral.evaluation import QueryResults, RankingMetrics, evaluate_queries
from torchreid_spectral.report.ranked_lists import draw_ranked_lists
from torchreid_spectral.rerank import KReciprocal, NoReranking, Reranker

__all__ = ["METRIC_NAMES", "ReportingMixin"]

logger = logging.getLogger(__name__)

METRIC_NAMES = {"euclidean": "squared_euclidean", "cosine": "cosine"}
"""torchreid's names of distances to ours: its "euclidean" is the squared one."""


class ReportingMixin(StepMixin):
    """Goes before a torchreid engine: ``class Engine(ReportingMixin, ImageSoftmaxEngine)``.

    Args:
        *args: Of the torchreid engine.
        reranker: Post-processing of the final test; where ``run`` or ``test`` are asked to
            re-rank and there is none, k-reciprocal as in torchreid.
        reranker_name: Name of its view in the results.
        record: What to save beside the metrics: effective config, seed and the like.
        picture_queries: How many queries to draw with their ranked lists; 0 for no picture.
        progress: Show progress bars on a terminal.
        **kwargs: Of the torchreid engine.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        reranker: Reranker | None = None,
        reranker_name: str = "reranked",
        record: Mapping[str, Any] | None = None,
        picture_queries: int = 0,
        progress: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reranker, self.reranker_name = reranker, reranker_name
        self.record = dict(record or {})
        self.picture_queries, self.progress = picture_queries, progress
        self.result: TestResult | None = None
        self._rerank = self._training = False
        self._started = time.perf_counter()

    def run(
        self,
        save_dir: str = "log",
        max_epoch: int = 0,
        start_epoch: int = 0,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> TestResult | None:
        """Train and test as torchreid's ``run`` does; each test's metrics are saved.

        Args:
            save_dir: Where checkpoints, logs and ``metrics.json`` go.
            max_epoch: Epochs to train.
            start_epoch: Epochs that a checkpoint has trained already.
            *args: Of torchreid's ``run``.
            **kwargs: Of torchreid's ``run``; ``rerank`` applies to the final test too.

        Returns:
            The final test's metrics; ``None`` if no test was run.
        """
        engine: Any = self
        self._rerank = bool(kwargs.pop("rerank", False))
        self._training = not kwargs.get("test_only", False)
        engine.epoch = max(max_epoch - 1, 0)  # what it is where nothing is left to train
        self._started = time.perf_counter()
        try:
            super().run(save_dir, max_epoch, start_epoch, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._training = False
        return self.result

    def _save_metrics(self, result: TestResult, save_dir: str, ranks: Sequence[int]) -> None:
        engine: Any = self
        metrics = {
            "metrics": result.as_dict(ranks),
            "epochs": engine.epoch + 1 if self._training else 0,
            "seconds": dict(result.seconds) | {"total": time.perf_counter() - self._started},
            **provenance(),
            **self.record,
        }
        path = Path(save_dir) / "metrics.json"
        write_json(metrics, path)
        logger.info("Metrics saved to %s", path)

    def train(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Train one epoch under a progress bar.

        Args:
            *args: Of torchreid's ``train``.
            **kwargs: Of torchreid's ``train``.
        """
        engine: Any = self
        loader = engine.train_loader
        title = f"epoch {engine.epoch + 1}/{engine.max_epoch}"
        engine.train_loader = _Bar(loader, title, shown=self.progress)
        try:
            super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            engine.train_loader = loader

    def test(self, *args: Any, **kwargs: Any) -> TestResult:  # noqa: ANN401
        """Test on all target datasets and save ``metrics.json`` where a ``save_dir`` is given.

        Post-processing is applied in the final test, or where ``rerank`` asks for it.

        Args:
            *args: Of torchreid's ``test``.
            **kwargs: Of torchreid's ``test``.

        Returns:
            The metrics; as a number they are rank-1 of the last dataset.
        """
        engine: Any = self
        final = not self._training or engine.epoch + 1 == engine.max_epoch
        kwargs["rerank"] = bool(kwargs.get("rerank")) or (self._rerank and final)
        if self._training:  # whatever fails in the test, the trained weights are safe
            self.save_model(engine.epoch, float("nan"), kwargs.get("save_dir", "log"))
        self._collected: dict[str, dict[str, RankingMetrics]] = {}
        self._seconds: dict[str, float] = {}
        super().test(*args, **kwargs)  # type: ignore[misc]
        self.result = TestResult(self._collected, self._seconds)
        if kwargs.get("save_dir"):
            self._save_metrics(
                self.result, kwargs["save_dir"], kwargs.get("ranks", (1, 5, 10, 20))
            )
        return self.result

    @torch.no_grad()
    def _evaluate(
        self,
        dataset_name: str = "",
        query_loader: Any = None,  # noqa: ANN401
        gallery_loader: Any = None,  # noqa: ANN401
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "",
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> tuple[float, float]:
        started = time.perf_counter()
        query = self._extract(query_loader, "query")
        gallery = self._extract(gallery_loader, "gallery")
        self._seconds[f"{dataset_name}/features"] = time.perf_counter() - started
        if normalize_feature:
            query[0], gallery[0] = normalize(query[0], dim=1), normalize(gallery[0], dim=1)
        views: dict[str, Reranker] = {PLAIN: NoReranking(metric=METRIC_NAMES[dist_metric])}
        if rerank and self.reranker is not None:
            views[self.reranker_name] = self.reranker
        elif rerank:  # what the flag means in torchreid
            views["k_reciprocal"] = KReciprocal(metric=METRIC_NAMES[dist_metric])
        self._collected[dataset_name] = collected = {}
        for view, method in views.items():
            started = time.perf_counter()
            method.fit(gallery[0], gallery[2])
            collected[view] = _measure(
                method, query, gallery, max(50, *ranks), use_metric_cuhk03
            )
            self._seconds[f"{dataset_name}/{view}"] = time.perf_counter() - started
            _log_metrics(dataset_name, view, collected[view], ranks)
        self._draw(dataset_name, views, query[0], visrank, visrank_topk, save_dir)
        plain = collected[PLAIN]
        return plain.rank(1), plain.mAP

    def _extract(self, loader: Any, title: str) -> list[Any]:  # noqa: ANN401
        """Give features (N, D), identities (N,) and cameras (N,) of a loader."""
        engine: Any = self
        features, pids, camids = [], [], []
        for batch in _Bar(loader, title, shown=self.progress):
            images, pid, camid = engine.parse_data_for_eval(batch)
            if engine.use_gpu:
                images = images.cuda(non_blocking=True)
            features.append(engine.extract_features(images).float().cpu())
            pids.append(np.asarray(pid))
            camids.append(np.asarray(camid))
        return [torch.cat(features), np.concatenate(pids), np.concatenate(camids)]

    def _draw(
        self,
        dataset_name: str,
        views: Mapping[str, Reranker],
        query: Tensor,
        visrank: bool,
        topk: int,
        save_dir: str,
    ) -> None:
        engine: Any = self
        images = engine.datamanager.fetch_test_loaders(dataset_name)
        if visrank:
            _compat.load().utils.visualize_ranked_results(
                views[list(views)[-1]].distance_matrix(query).numpy(),
                images,
                engine.datamanager.data_type,
                width=engine.datamanager.width,
                height=engine.datamanager.height,
                save_dir=str(Path(save_dir) / f"visrank_{dataset_name}"),
                topk=topk,
            )
        if self.picture_queries and engine.datamanager.data_type == "image":
            path = Path(save_dir) / f"ranked_lists_{dataset_name}.png"
            draw_ranked_lists(path, views, query, *images, num_queries=self.picture_queries)
            logger.info("Ranked lists drawn to %s", path)

    def save_model(
        self, epoch: int, rank1: TestResult | float, save_dir: str, is_best: bool = False
    ) -> None:
        """Save a checkpoint as torchreid does, also where there is no scheduler.

        Args:
            epoch: Zero-based epoch.
            rank1: Result of the test.
            save_dir: Folder.
            is_best: Whether to copy it as the best one.
        """
        engine: Any = self
        for name in engine.get_model_names():
            scheduler = engine._scheds[name]
            model = engine._models[name]
            network = model.module if isinstance(model, torch.nn.DataParallel) else model
            state = {
                "state_dict": network.state_dict(),
                "epoch": epoch + 1,
                "rank1": float(rank1),
                "optimizer": engine._optims[name].state_dict(),
            }
            if scheduler is not None:
                state["scheduler"] = scheduler.state_dict()
            _compat.save_checkpoint(state, str(Path(save_dir) / name), is_best=is_best)


class _Bar:
    """A loader under a progress bar that is shown on terminals only."""

    def __init__(self, loader: Any, title: str, *, shown: bool) -> None:  # noqa: ANN401
        self.loader, self.title, self.shown = loader, title, shown

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # None: shown on a terminal, silent in a log file.
        hidden = None if self.shown else True
        yield from tqdm(self.loader, desc=self.title, disable=hidden, leave=False)


def _measure(
    method: Reranker,
    query: Sequence[Any],
    gallery: Sequence[Any],
    max_rank: int,
    use_metric_cuhk03: bool,
) -> RankingMetrics:
    """Evaluate a chunk of queries at a time, so that no Q x G matrix is held."""
    features, pids, camids = query
    return QueryResults.mean(
        [
            evaluate_queries(
                block.numpy(),
                pids[rows],
                gallery[1],
                camids[rows],
                gallery[2],
                max_rank,
                use_metric_cuhk03,
            )
            for rows, block in method.iter_distances(features)
        ]
    )


def _log_metrics(
    dataset_name: str, view: str, metrics: RankingMetrics, ranks: Sequence[int]
) -> None:
    title = "without post-processing" if view == PLAIN else f"with {view}"
    lines = [f"** Results on {dataset_name}, {title} **", f"mAP: {metrics.mAP:.1%}", "CMC curve"]
    lines += [f"Rank-{k:<3}: {metrics.rank(k):.1%}" for k in ranks]
    if metrics.num_valid < metrics.num_queries:
        lines.append(
            f"({metrics.num_queries - metrics.num_valid} of {metrics.num_queries} queries left "
            "out: no gallery image of that identity from another camera)"
        )
    logger.info("%s", "\n".join(lines))
