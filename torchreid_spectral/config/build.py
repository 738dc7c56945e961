"""From a config to objects: with the rest of this package the only code that knows both sides.

The ``*_kwargs`` functions hand library classes plain arguments, so that these never see a config.
The keys of torchreid are mapped as torchreid's own script maps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from torchreid_spectral import _compat, registry
from torchreid_spectral.config.data import build_cache, build_datamanager, leave_augmentation
from torchreid_spectral.config.losses import STOCK, build_criterion, build_distillation
from torchreid_spectral.data.datasets import synthetic_defaults
from torchreid_spectral.data.folder_datasets import FolderOptions, folder_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
from torchreid_spectral.data.transforms import crop_defaults
from torchreid_spectral.engine import image, stock
from torchreid_spectral.engine.base import METRIC_NAMES
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.schedulers import warmup_defaults
from torchreid_spectral.engine.video import VideoSpectralEngine
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

__all__ = [
    "active_defaults",
    "build_datamanager",
    "build_engine",
    "build_optimizer",
    "build_rerank",
    "build_scheduler",
    "build_whitening",
    "model_options",
    "run_kwargs",
    "training_options",
]


@contextmanager
def active_defaults(cfg: CfgNode) -> Iterator[None]:
    """Make the config's own groups the defaults of what torchreid builds inside the block.

    Args:
        cfg: The effective config.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(registry.model_defaults(**model_options(cfg)))
        specs = SyntheticSpec(**cfg.synthetic), SyntheticVideoSpec(**cfg.synthetic_video)
        stack.enter_context(synthetic_defaults(*specs))
        stack.enter_context(crop_defaults(cfg.data.crop_padding))
        stack.enter_context(folder_defaults(FolderOptions(**cfg.folder)))
        stack.enter_context(
            warmup_defaults(
                warmup_epochs=cfg.train.warmup_epochs, warmup_factor=cfg.train.warmup_factor
            )
        )
        yield


def training_options(cfg: CfgNode) -> TrainingOptions:
    """Collect what the loop, the step and the loaders are told.

    Args:
        cfg: The effective config.

    Returns:
        The options.
    """
    names = [field.name for field in fields(TrainingOptions)]
    groups = {**cfg.data, **cfg.train, "test_flip": cfg.test.flip}
    return TrainingOptions(**{name: groups[name] for name in names})


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build torchreid's optimiser.

    Args:
        cfg: The effective config.
        model: What to train.

    Returns:
        The optimiser.
    """
    optimizer: torch.optim.Optimizer = _compat.load().optim.build_optimizer(
        model,
        optim=cfg.train.optim,
        lr=cfg.train.lr,
        weight_decay=cfg.train.weight_decay,
        momentum=cfg.sgd.momentum,
        sgd_dampening=cfg.sgd.dampening,
        sgd_nesterov=cfg.sgd.nesterov,
        rmsprop_alpha=cfg.rmsprop.alpha,
        adam_beta1=cfg.adam.beta1,
        adam_beta2=cfg.adam.beta2,
        staged_lr=cfg.train.staged_lr,
        new_layers=cfg.train.new_layers,
        base_lr_mult=cfg.train.base_lr_mult,
    )
    return optimizer


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:  # noqa: ANN401
    """Build the learning-rate schedule.

    Args:
        cfg: The effective config.
        optimizer: What to schedule.

    Returns:
        The scheduler.
    """
    return _compat.load().optim.build_lr_scheduler(
        optimizer,
        lr_scheduler=cfg.train.lr_scheduler,
        stepsize=cfg.train.stepsize,
        gamma=cfg.train.gamma,
        max_epoch=cfg.train.max_epoch,
    )


def build_rerank(cfg: CfgNode) -> Reranker:
    """Build the configured re-ranker.

    Args:
        cfg: The effective config.

    Returns:
        The re-ranker, with the options of its group.
    """
    method = cfg.rerank.method
    options = dict(cfg.rerank[method], search=cfg.rerank.search)
    if cfg.rerank.chunk_size:
        options["chunk_size"] = cfg.rerank.chunk_size
    if "metric" in inspect.signature(RERANKERS[method]).parameters:
        options["metric"] = METRIC_NAMES[cfg.test.dist_metric]
    return build_reranker(cfg.rerank.method, **options)


def build_whitening(cfg: CfgNode) -> Whitening | None:
    """Build the configured whitening of the test features.

    Args:
        cfg: The effective config.

    Returns:
        The whitening, to be fitted by the engine; None for none.
    """
    if cfg.test.whitening == "none":
        return None
    return Whitening(
        cfg.test.whitening,
        eps=cfg.test.whitening_eps,
        iterations=cfg.test.whitening_iterations,
    )


def build_engine(
    cfg: CfgNode,
    datamanager: Any,  # noqa: ANN401
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,  # noqa: ANN401
    **reporting: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Build the engine: torchreid's for its losses, ours for ``loss.name spectral``.

    Args:
        cfg: The effective config.
        datamanager: Of :func:`build_datamanager`.
        model: What to train.
        optimizer: Of :func:`build_optimizer`.
        scheduler: Of :func:`build_scheduler`.
        **reporting: See :class:`~torchreid_spectral.engine.base.ReportingMixin`.

    Returns:
        An engine with torchreid's interface that returns and saves its metrics.
    """
    _check_open_layers(cfg, model)
    parts = {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "use_gpu": cfg.use_gpu,
        "reranker": build_rerank(cfg) if cfg.test.rerank else None,
        "reranker_name": cfg.rerank.method,
        "inductive": cfg.rerank.inductive,
        "whitening": build_whitening(cfg),
        "picture_queries": cfg.report.ranked_lists,
        "options": training_options(cfg),
        "reader": build_cache(cfg, datamanager),
        "augment": leave_augmentation(cfg, datamanager),
        **reporting,
    }
    if cfg.loss.name in STOCK:
        return _stock_engine(cfg, datamanager, model, parts)
    spectral = cfg.model.name.startswith(registry.PREFIX)
    kind: Any = image.ImageSpectralEngine if spectral else image.ImageMetricEngine
    if cfg.data.type == "video":
        kind = VideoSpectralEngine
    losses = {"criterion": build_criterion(cfg), "distillation": build_distillation(cfg)}
    return kind(datamanager, model, **parts, **losses)


def _stock_engine(
    cfg: CfgNode,
    datamanager: Any,  # noqa: ANN401
    model: nn.Module,
    parts: dict[str, Any],
) -> Any:  # noqa: ANN401
    """Build one of torchreid's own engines, with the margins and weights of its losses."""
    video = cfg.data.type == "video"
    parts = {**parts, "label_smooth": cfg.loss.softmax.label_smooth}
    if video:
        parts |= _pooling(cfg)
    if cfg.loss.name == "softmax":
        kind: Any = stock.ImageSoftmaxReportingEngine
        if video:
            kind = stock.VideoSoftmaxReportingEngine
        return kind(datamanager, model, **parts)
    kind = stock.VideoTripletReportingEngine if video else stock.ImageTripletReportingEngine
    options = {name: cfg.loss.triplet[name] for name in ("margin", "weight_t", "weight_x")}
    return kind(datamanager, model, **options, **parts)


def run_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Give the arguments of the engine's ``run``.

    Args:
        cfg: The effective config.

    Returns:
        Keyword arguments.
    """
    return {
        "save_dir": cfg.data.save_dir,
        "max_epoch": cfg.train.max_epoch,
        "start_epoch": cfg.train.start_epoch,
        "fixbase_epoch": cfg.train.fixbase_epoch,
        "open_layers": cfg.train.open_layers,
        "start_eval": cfg.test.start_eval,
        "eval_freq": cfg.test.eval_freq,
        "test_only": cfg.test.evaluate,
        "print_freq": cfg.train.print_freq,
        "dist_metric": cfg.test.dist_metric,
        "normalize_feature": cfg.test.normalize_feature,
        "visrank": cfg.test.visrank,
        "visrank_topk": cfg.test.visrank_topk,
        "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
        "ranks": cfg.test.ranks,
        "rerank": cfg.test.rerank,
    }


def model_options(cfg: CfgNode) -> dict[str, Any]:
    """Collect the options of spectral models.

    Args:
        cfg: The effective config.

    Returns:
        Of :class:`~torchreid_spectral.models.SpectralOptions`.

    Raises:
        InputError: If attention over frames is asked for where there are none.
    """  # noqa: DOC502
    options = dict(cfg.spectral)
    options["top_k"] = options["top_k"] or None
    options["last_stride"] = options["last_stride"] or None
    options["attention"] = tuple(_with_frames(block, cfg) for block in cfg.model.attention)
    options |= _pooling(cfg)
    return options


def _check_open_layers(cfg: CfgNode, model: nn.Module) -> None:
    """Name the layers that torchreid would stop at with an assertion, when training begins."""
    network = model.module if isinstance(model, nn.DataParallel) else model
    known = [name for name, _ in network.named_children()]
    used = {"open_layers": cfg.train.fixbase_epoch, "new_layers": cfg.train.staged_lr}
    for key in used:
        for name in cfg.train[key] if used[key] else ():
            if name not in known:
                raise UnknownNameError(f"layer of {cfg.model.name} in train.{key}", name, known)


def _with_frames(block: Any, cfg: CfgNode) -> Any:  # noqa: ANN401
    """Tell a block over frames how many the tracklets of the data have."""
    if not isinstance(block, dict) or block.get("over") != "frames" or "frames" in block:
        return block
    if cfg.data.type != "video":
        raise InputError(
            f"model.attention over frames needs tracklets: set data.type video, got "
            f"{cfg.data.type}, or give the block frames: LENGTH."
        )
    return {**block, "frames": cfg.video.seq_len}


def _pooling(cfg: CfgNode) -> dict[str, Any]:
    return {
        "pooling_method": cfg.video.pooling_method,
        "frame_temperature": cfg.video.frame_temperature,
    }
