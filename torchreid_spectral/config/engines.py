"""From a config to the engine that trains and tests, and to the arguments of its ``run``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from torchreid_spectral import registry
from torchreid_spectral.config.build import (
    build_rerank,
    build_whitening,
    pooling_options,
    training_options,
)
from torchreid_spectral.config.data import build_cache, leave_augmentation
from torchreid_spectral.config.losses import STOCK, build_criterion, build_distillation
from torchreid_spectral.engine import image, stock
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.engine.video import VideoSpectralEngine
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.models.spectral_net import check_open_layers

__all__ = ["build_engine", "run_kwargs"]


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
    reranker = build_rerank(cfg)
    parts = {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "use_gpu": cfg.use_gpu,
        "reranker": reranker if cfg.test.rerank else None,
        "reranker_name": reranker.label,
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
        parts |= pooling_options(cfg)
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


def _check_open_layers(cfg: CfgNode, model: nn.Module) -> None:
    """Name the layers that torchreid would stop at with an assertion, when training begins."""
    if cfg.train.fixbase_epoch and not cfg.train.open_layers:
        raise InputError(
            f"train.fixbase_epoch {cfg.train.fixbase_epoch} trains train.open_layers alone, and "
            "these are none: name some, such as classifier, or set it to 0."
        )
    network = unwrapped(model)
    known = [name for name, _ in network.named_children()]
    used = {"open_layers": cfg.train.fixbase_epoch, "new_layers": cfg.train.staged_lr}
    for key in used:
        for name in cfg.train[key] if used[key] else ():
            if name not in known:
                raise UnknownNameError(f"layer of {cfg.model.name} in train.{key}", name, known)
    if cfg.train.fixbase_epoch:
        check_open_layers(network, cfg.train.open_layers)
