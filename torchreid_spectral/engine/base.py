"""torchreid's engines with a loop that loses nothing and tests that return their figures.

:class:`ReportingMixin` goes before any of torchreid's engines. Its parts: the step
(:mod:`~.step`), the loop (:mod:`~.loop`), the tests (:mod:`~.testing`), checkpoints
(:mod:`~.checkpoints`) and what they hold (:mod:`~.progress`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from torchreid_spectral import _compat
from torchreid_spectral._locks import alone_in_run
from torchreid_spectral.data.images import ImageReader
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.faults import StopSignals
from torchreid_spectral.engine.loop import say
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.results import TestResult, provenance
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.engine.testing import METRIC_NAMES, TestMixin
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.rerank import Reranker

__all__ = ["METRIC_NAMES", "ReportingMixin"]


class ReportingMixin(TestMixin):
    """Goes before a torchreid engine: ``class Engine(ReportingMixin, ImageSoftmaxEngine)``.

    Args:
        *args: Of the torchreid engine.
        reranker: Post-processing of the final test; where ``run`` or ``test`` are asked to
            re-rank and there is none, k-reciprocal as in torchreid.
        reranker_name: Name of its view in the results.
        inductive: Re-rank each query as if it were alone.
        record: What to save beside the metrics: effective config, seed and the like.
        whitening: Fitted on the training set's features before each test, and applied to the
            test's; none if not given.
        picture_queries: How many queries to draw with their ranked lists; 0 for no picture.
        progress: Show progress bars on a terminal.
        options: How to train; torchreid's way by default.
        reader: Gives images, from a cache for instance.
        augment: What a batch of training images goes through on the device; nothing if not given.
        **kwargs: Of the torchreid engine.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        reranker: Reranker | None = None,
        reranker_name: str = "reranked",
        inductive: bool = False,
        whitening: Whitening | None = None,
        record: Mapping[str, Any] | None = None,
        picture_queries: int = 0,
        progress: bool = True,
        options: TrainingOptions | None = None,
        reader: ImageReader | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reranker, self.reranker_name, self.inductive = reranker, reranker_name, inductive
        self.whitening = whitening
        self.record = dict(record or {})
        self.provenance = {**provenance(), **self.record}  # as it was at the start
        self.picture_queries, self.progress_bars = picture_queries, progress
        self.options = options or TrainingOptions()
        self._reader, self.augment = reader, augment
        self._started = time.perf_counter()
        self.tested: dict[str, Any] = {}  # of the last test, for the report
        self.max_epoch = 0  # until run() knows it
        self._take_loaders()

    def run(
        self,
        save_dir: str = "log",
        max_epoch: int = 0,
        start_epoch: int = 0,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: Any = None,  # noqa: ANN401
        start_eval: int = 0,
        eval_freq: int = -1,
        test_only: bool = False,
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        use_metric_cuhk03: bool = False,
        ranks: Sequence[int] = (1, 5, 10, 20),
        rerank: bool = False,
    ) -> TestResult | None:
        """Train and test as torchreid's ``run`` does; the state is saved after every epoch.

        Args:
            save_dir: Where checkpoints, logs and ``metrics.json`` go.
            max_epoch: Epochs to train.
            start_epoch: Epochs that a checkpoint of torchreid's has trained already.
            print_freq: Steps between lines of the log.
            fixbase_epoch: Epochs in which only ``open_layers`` are trained.
            open_layers: Their names.
            start_eval: First epoch to test after.
            eval_freq: Epochs between tests; -1 for the final test alone.
            test_only: Test and do not train.
            dist_metric: ``euclidean`` (squared, as torchreid's) or ``cosine``.
            normalize_feature: Normalise features before they are compared.
            visrank: Let torchreid draw ranked lists; in tests only.
            visrank_topk: How long those are.
            use_metric_cuhk03: CUHK03's protocol of one image of each identity.
            ranks: Ranks to show.
            rerank: Post-process the final test.

        Returns:
            The final test's metrics; ``None`` if no test was run.

        Raises:
            ValueError: If ``visrank`` is asked for in training, as torchreid does.
            InputError: If another run is training in ``save_dir``.
        """  # noqa: DOC502
        if visrank and not test_only:
            raise ValueError("visrank can be set to True only if test_only=True")
        tests = {
            "dist_metric": dist_metric,
            "normalize_feature": normalize_feature,
            "visrank": visrank,
            "visrank_topk": visrank_topk,
            "use_metric_cuhk03": use_metric_cuhk03,
            "ranks": ranks,
        }
        self.result, self._training = None, not test_only
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.epoch = max(max_epoch - 1, 0)  # what it is where nothing is left to train
        self._take_loaders()  # the user may have given others since
        self._started = time.perf_counter()
        try:
            with ExitStack() as held, StopSignals() as self.stop, self.arithmetic():
                if not test_only:
                    distributed.first_result(lambda: held.enter_context(alone_in_run(save_dir)))
                    how = {"print_freq": print_freq, "fixbase_epoch": fixbase_epoch,
                           "open_layers": open_layers, "start_eval": start_eval,
                           "eval_freq": eval_freq}  # fmt: skip
                    self._fit(save_dir, start_epoch, tests, **how)
                self._final_rerank = rerank
                if test_only or max_epoch > 0:
                    self._final_test(save_dir, tests)
        finally:
            self._training = self._final_rerank = False
            self.stop = None
            if self.writer is not None:
                self.writer.close()
                self.writer = None
        return self.result

    def _final_test(self, save_dir: str, tests: dict[str, Any]) -> None:
        if self._training:
            say("=> Final test")
        result = self.test(save_dir=save_dir, **tests)
        if self._training:
            self.save_model(self.epoch, result, save_dir)
            if not self.progress.finished:
                self._note_test(result)

    def save_model(
        self, epoch: int, rank1: TestResult | float, save_dir: str, is_best: bool = False
    ) -> None:
        """Save a checkpoint as torchreid does, also where there is no scheduler.

        Under ``train.ema_decay`` it holds the averaged weights, which ``rank1`` is of.

        Args:
            epoch: Zero-based epoch.
            rank1: Result of the test.
            save_dir: Folder.
            is_best: Whether to copy it as the best one.
        """
        if distributed.rank() > 0:
            return
        for name in self.get_model_names():
            scheduler = self._scheds[name]
            average = self.average
            tested = unwrapped(self._models[name]) if average is None else average.module
            state = {
                "state_dict": tested.state_dict(),
                "epoch": epoch + 1,
                "rank1": float(rank1),
                "optimizer": self._optims[name].state_dict(),
            }
            if scheduler is not None:
                state["scheduler"] = scheduler.state_dict()
            _compat.save_checkpoint(state, str(Path(save_dir) / name), is_best=is_best)
