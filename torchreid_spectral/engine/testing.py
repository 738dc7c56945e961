"""Tests whose figures are returned, saved and post-processed.

torchreid prints its metrics and knows one re-ranker; here ``test`` returns them, for the plain
distance and for any re-ranker, and ``metrics.json`` holds them with the effective config.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from torchreid_spectral.engine import distributed, outcome
from torchreid_spectral.engine.bar import Bar
from torchreid_spectral.engine.feeding import copied_ahead, fetched_later
from torchreid_spectral.engine.loop import LoopMixin
from torchreid_spectral.engine.results import PLAIN, TestResult
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.engine.whitening import fit_whitening
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.evaluation import RankingMetrics, Whitening, diagnose, evaluate_blocks
from torchreid_spectral.models.feature_weights import feature_digest
from torchreid_spectral.rerank import KReciprocal, NoReranking, Reranker

__all__ = ["METRIC_NAMES", "TestMixin"]

logger = logging.getLogger(__name__)

METRIC_NAMES = {"euclidean": "squared_euclidean", "cosine": "cosine"}
"""torchreid's names of distances to ours: its "euclidean" is the squared one."""


class TestMixin(LoopMixin):
    """Tests; see :class:`~torchreid_spectral.engine.base.ReportingMixin`."""

    __test__ = False  # not a test of pytest's

    tested: dict[str, Any]
    tested_weights = ""
    reranker: Reranker | None = None
    whitening: Whitening | None = None
    reranker_name = "reranked"
    inductive = False
    picture_queries = 0
    result: TestResult | None = None
    _final_rerank = _training = False
    _started = 0.0

    def test(
        self,
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "",
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> TestResult:
        """Test on all target datasets and save ``metrics.json`` where a ``save_dir`` is given.

        Post-processing is applied in the final test, or where ``rerank`` asks for it.

        Args:
            dist_metric: ``euclidean`` (squared, as torchreid's) or ``cosine``.
            normalize_feature: Normalise features before they are compared.
            visrank: Let torchreid draw ranked lists.
            visrank_topk: How long those are.
            save_dir: Where ``metrics.json`` goes; nowhere if empty.
            use_metric_cuhk03: CUHK03's protocol of one image of each identity.
            ranks: Ranks to show.
            rerank: Post-process.

        Returns:
            The metrics; as a number they are rank-1 of the last dataset.

        Raises:
            UnknownNameError: If there is no such distance.
        """
        if dist_metric not in METRIC_NAMES:
            raise UnknownNameError("dist_metric", dist_metric, METRIC_NAMES)
        self._take_loaders()
        if self._training:  # whatever fails in the test, the trained weights are safe
            self.save_model(self.epoch, float("nan"), save_dir)
        self._check_precision()
        distributed.share_buffers(unwrapped(self.model))  # of its own images each process has
        if self.average is not None:  # not the average's counter, which stays on the CPU
            distributed.share_buffers(self.average.module)
        self.tested = {}  # the features and galleries of the test before go first
        self._collected: dict[str, dict[str, RankingMetrics]] = {}
        self._seconds: dict[str, float] = {}
        with self._averaged_weights(), self.arithmetic():
            if self.whitening is not None:
                fit_whitening(self, self.whitening)
            super().test(
                dist_metric=dist_metric, normalize_feature=normalize_feature, visrank=visrank,
                visrank_topk=visrank_topk, save_dir=save_dir, use_metric_cuhk03=use_metric_cuhk03,
                ranks=ranks, rerank=rerank or self._final_rerank,
            )  # fmt: skip
            self.tested_weights = feature_digest(unwrapped(self.model))
        self.result = TestResult(*distributed.first_object((self._collected, self._seconds)))
        if save_dir and distributed.rank() == 0:
            outcome.save_metrics(self, self.result, save_dir, ranks)
        outcome.tell_skipped(self)
        return self.result

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Let the moving average of the weights be the model inside the block, if there is one."""
        if self.average is None or not int(self.average.n_averaged):
            yield
            return
        name = self.get_model_names()[0]
        trained = self.model
        self.model = self._models[name] = self.average.module
        try:
            yield
        finally:
            self.model = self._models[name] = trained

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
        query, gallery = self._both(dataset_name, query_loader, gallery_loader)
        if distributed.rank() > 0:  # the first process evaluates
            return 0.0, 0.0
        for part in (query, gallery):
            if self.whitening is not None:
                part[0] = self.whitening.transform(part[0])
            if normalize_feature:
                part[0] = normalize(part[0], dim=1)
        _check_queries(dataset_name, query, gallery)
        views = self._views(dist_metric, rerank)
        self._collected[dataset_name] = collected = {}
        for view, method in views.items():
            started = time.perf_counter()
            method.fit(gallery[0], gallery[2])
            collected[view] = _measure(
                method, query, gallery, max(50, *ranks), use_metric_cuhk03, self.inductive
            )
            self._seconds[f"{dataset_name}/{view}"] = time.perf_counter() - started
            outcome.log_metrics(dataset_name, view, collected[view], ranks)
        images = [
            [loader.dataset.data[index] for index in part[3]]
            for loader, part in ((query_loader, query), (gallery_loader, gallery))
        ]
        junk = outcome.junk_of(gallery_loader)
        images[1] = [(row[0], -1, *row[2:]) if row[1] in junk else row for row in images[1]]
        self.tested[dataset_name] = (query[0], *images, views, collected, self.inductive)
        answers = outcome.Answers(dataset_name, images, views, query[0], self.inductive)
        outcome.draw(self, answers, save_dir, visrank_topk if visrank else 0)
        plain = collected[PLAIN]
        return plain.rank(1), plain.mAP

    def _both(self, dataset_name: str, query: Any, gallery: Any) -> list[list[Any]]:  # noqa: ANN401
        """Extract from both loaders, and say how fast."""
        started = time.perf_counter()
        parts = [self._extract(query, "query"), self._extract(gallery, "gallery")]
        seconds = time.perf_counter() - started
        count = sum(len(part[1]) for part in parts)
        self._seconds[f"{dataset_name}/features"] = seconds
        logger.info("%d images through the network, %.0f images/s", count, count / seconds)
        return parts

    def _views(self, dist_metric: str, rerank: bool) -> dict[str, Reranker]:
        """Give the post-processings to evaluate by name: none, and one where it is asked for."""
        views: dict[str, Reranker] = {PLAIN: NoReranking(metric=METRIC_NAMES[dist_metric])}
        if rerank and self.reranker is not None:
            views[self.reranker_name] = copy.deepcopy(self.reranker)  # one for each dataset
        elif rerank:  # what the flag means in torchreid
            views["k_reciprocal"] = KReciprocal(metric=METRIC_NAMES[dist_metric])
        return views

    def _extract(self, loader: Any, title: str) -> list[Any]:  # noqa: ANN401
        """Give features (N, D), identities, cameras and places (N,) of a loader."""
        rows: list[list[Any]] = []  # each process takes its share of the images
        bar = Bar(loader, title, shown=self.progress_bars)
        for batch, images in copied_ahead(
            bar, lambda batch: self.parse_data_for_eval(batch)[0], use_gpu=self.use_gpu
        ):
            if self.stop is not None and self.stop.received:
                self._interrupted(self.stop.received)
            _, pids, camids = self.parse_data_for_eval(batch)
            rows.append([fetched_later(self._features(images)), np.asarray(pids),
                         np.asarray(camids), np.asarray(batch["index"])])  # fmt: skip
            if len(rows) > 1:  # fetched only when the next batch is under way
                rows[-2][0] = rows[-2][0]()
        if rows:
            rows[-1][0] = rows[-1][0]()
        own = [[row[part] for row in rows] for part in range(4)]
        return _in_order(distributed.all_objects(own))

    def _features(self, images: Tensor) -> Tensor:
        """Compute test features in float32, of the images or as the mean with their mirrors."""
        with self._autocast():
            features = self.extract_features(images).float()
            if self.options.test_flip:
                features = (features + self.extract_features(images.flip(-1)).float()) / 2
        return features


def _check_queries(dataset_name: str, query: Sequence[Any], gallery: Sequence[Any]) -> None:
    """Stop where no query has an answer in the gallery, and tell where some have none."""
    diagnosis = diagnose(query[1], gallery[1], query[2], gallery[2])
    if not diagnosis.num_valid:
        raise InputError(f"{dataset_name}: {diagnosis}")
    if diagnosis.num_valid < diagnosis.num_queries:
        logger.info("%s", diagnosis)


def _in_order(shares: Sequence[Sequence[Sequence[Any]]]) -> list[Any]:
    """Put what the processes have extracted into the order of the dataset."""
    features = torch.cat([block for share in shares for block in share[0]])
    others = [
        np.concatenate([block for share in shares for block in share[part]]) for part in (1, 2, 3)
    ]
    order = np.argsort(others[2], kind="stable")
    return [features[torch.from_numpy(order)], *(values[order] for values in others)]


def _measure(
    method: Reranker,
    query: Sequence[Any],
    gallery: Sequence[Any],
    max_rank: int,
    use_metric_cuhk03: bool,
    inductive: bool,
) -> RankingMetrics:
    """Evaluate a chunk of queries at a time, so that no Q x G matrix is held."""
    features, pids, camids = query[:3]
    blocks = method.iter_distances(features, camids=camids, inductive=inductive)
    ids = (pids, gallery[1], camids, gallery[2])
    return evaluate_blocks(blocks, *ids, max_rank, use_metric_cuhk03)
