"""From a config to objects: the only module that knows both sides.

The ``*_kwargs`` functions hand library classes plain arguments, so that these never see a config.
The keys of torchreid are mapped as torchreid's own script maps them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from torchreid_spectral import _compat, registry
from torchreid_spectral.config.losses import (
    LOSS_NAMES,
    build_criterion,
    build_distillation,
    check_losses,
)
from torchreid_spectral.data.cache import CACHES, ImageCache
from torchreid_spectral.data.datasets import synthetic_defaults
from torchreid_spectral.data.folder_datasets import FolderOptions, folder_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
from torchreid_spectral.data.transforms import PAD_CROP, crop_defaults
from torchreid_spectral.engine import distributed, image, stock
from torchreid_spectral.engine.base import METRIC_NAMES
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.schedulers import warmup_defaults
from torchreid_spectral.engine.video import VideoSpectralEngine
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.functional import WHITENINGS
from torchreid_spectral.layers.frame_pooling import POOLINGS, FramePooling
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

logger = logging.getLogger(__name__)

__all__ = [
    "active_defaults",
    "build_datamanager",
    "build_engine",
    "build_optimizer",
    "build_rerank",
    "build_scheduler",
    "build_whitening",
    "check_config",
    "run_kwargs",
    "training_options",
]

SAMPLE_METHODS = ("evenly", "random", "all")
# What torchreid's build_transforms knows; it passes over any other word.
TRANSFORMS = (
    "random_flip",
    "random_crop",
    PAD_CROP,
    "random_patch",
    "color_jitter",
    "random_erase",
)


def check_config(cfg: CfgNode) -> None:
    """Check names and combinations before anything is loaded.

    Args:
        cfg: The effective config.

    Raises:
        InputError: If something does not fit.
        UnknownNameError: If a model, loss, re-ranker or distance is not known.
    """
    schedulers = _compat.submodule("optim.lr_scheduler").AVAI_SCH
    samplers = _compat.submodule("data.sampler").AVAI_SAMPLERS
    for kind, name, known in (
        ("model", cfg.model.name, {*_compat.model_factory(), *registry.list_models()}),
        ("loss.name", cfg.loss.name, LOSS_NAMES),
        ("re-ranker", cfg.rerank.method, RERANKERS),
        ("test.whitening", cfg.test.whitening, ("none", *WHITENINGS)),
        ("test.dist_metric", cfg.test.dist_metric, METRIC_NAMES),
        ("data.type", cfg.data.type, ("image", "video")),
        ("video.pooling_method", cfg.video.pooling_method, POOLINGS),
        ("video.sample_method", cfg.video.sample_method, SAMPLE_METHODS),
        ("train.optim", cfg.train.optim, _compat.submodule("optim.optimizer").AVAI_OPTIMS),
        ("train.lr_scheduler", cfg.train.lr_scheduler, schedulers),
        ("sampler.train_sampler", cfg.sampler.train_sampler, samplers),
        ("sampler.train_sampler_t", cfg.sampler.train_sampler_t, samplers),
        ("data.cache", cfg.data.cache, CACHES),
        *(("transform", name, TRANSFORMS) for name in cfg.data.transforms),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    spectral_model = cfg.model.name.startswith(registry.PREFIX)
    if cfg.model.attention and not spectral_model:
        raise InputError(
            f"model.attention is for spectral models, got model.name {cfg.model.name}. Use "
            f"{registry.PREFIX}{cfg.model.name}; with spectral.supervision plain it has no walk."
        )
    _model_options(cfg)
    if cfg.loss.name == "triplet" and cfg.loss.triplet.weight_x == 0 and cfg.train.fixbase_epoch:
        raise InputError(
            "train.fixbase_epoch trains the classifier alone, but loss.triplet.weight_x is 0 and "
            "leaves it out of the loss. Set train.fixbase_epoch 0 or a weight_x above 0."
        )
    if cfg.data.type == "video" and cfg.video.sample_method == "all":
        if max(cfg.train.batch_size, cfg.test.batch_size) > 1:
            raise InputError(
                "video.sample_method all gives tracklets of different lengths, which make no "
                f"batch: got train.batch_size {cfg.train.batch_size} and test.batch_size "
                f"{cfg.test.batch_size}. Use evenly with a video.seq_len, or batches of 1."
            )
    try:  # what is checked by the objects themselves
        SyntheticSpec(**cfg.synthetic)
        SyntheticVideoSpec(**cfg.synthetic_video)
        FramePooling(cfg.video.pooling_method, cfg.video.frame_temperature)
        build_rerank(cfg)
        build_whitening(cfg)
        training_options(cfg)
        check_losses(cfg)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    if cfg.test.rerank and build_rerank(cfg).metric != METRIC_NAMES[cfg.test.dist_metric]:
        raise InputError(
            f"rerank.method {cfg.rerank.method} compares by cosine: set test.dist_metric cosine, "
            f"got {cfg.test.dist_metric}, so that both views differ by the walk alone."
        )
    if spectral_model and cfg.loss.name == "triplet" and cfg.loss.triplet.weight_x == 0:
        logger.warning(
            "loss.triplet.weight_x is 0: only the backbone's features are trained and the walk "
            "has no effect. Set it above 0 to train the spectral head."
        )
    processes = distributed.started_by_torchrun()
    if processes > 1 and not cfg.test.evaluate:
        share, rest = divmod(cfg.train.batch_size, processes)
        if rest or share % cfg.sampler.num_instances:
            raise InputError(
                f"Each of {processes} processes takes whole identities: train.batch_size must be "
                f"a multiple of {processes} x sampler.num_instances {cfg.sampler.num_instances}, "
                f"got {cfg.train.batch_size}."
            )
    if cfg.train.patience and cfg.test.eval_freq <= 0:
        raise InputError(
            "train.patience counts the tests during training: set test.eval_freq too, got "
            f"{cfg.test.eval_freq}."
        )
    if cfg.test.visrank and not cfg.test.evaluate:
        raise InputError("test.visrank draws in tests only: set test.evaluate True with it.")


@contextmanager
def active_defaults(cfg: CfgNode) -> Iterator[None]:
    """Make the config's own groups the defaults of what torchreid builds inside the block.

    Args:
        cfg: The effective config.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(registry.model_defaults(**_model_options(cfg)))
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


def build_datamanager(cfg: CfgNode) -> Any:  # noqa: ANN401 (torchreid's)
    """Build torchreid's data manager.

    Args:
        cfg: The effective config.

    Returns:
        ``ImageDataManager`` or ``VideoDataManager``.
    """
    data = _compat.load().data
    shared = {
        "root": cfg.data.root,
        "sources": cfg.data.sources,
        "targets": cfg.data.targets,
        "height": cfg.data.height,
        "width": cfg.data.width,
        "transforms": cfg.data.transforms,
        "norm_mean": cfg.data.norm_mean,
        "norm_std": cfg.data.norm_std,
        "use_gpu": cfg.use_gpu,
        "split_id": cfg.data.split_id,
        "combineall": cfg.data.combineall,
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        "workers": cfg.data.workers,
        "num_instances": cfg.sampler.num_instances,
        "num_cams": cfg.sampler.num_cams,
        "num_datasets": cfg.sampler.num_datasets,
        "train_sampler": cfg.sampler.train_sampler,
    }
    if cfg.data.type == "video":
        return data.VideoDataManager(
            **shared, seq_len=cfg.video.seq_len, sample_method=cfg.video.sample_method
        )
    return data.ImageDataManager(
        **shared,
        k_tfm=cfg.data.k_tfm,
        load_train_targets=cfg.data.load_train_targets,
        train_sampler_t=cfg.sampler.train_sampler_t,
        cuhk03_labeled=cfg.cuhk03.labeled_images,
        cuhk03_classic_split=cfg.cuhk03.classic_split,
        market1501_500k=cfg.market1501.use_500k_distractors,
    )


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
        "reader": _cache(cfg, datamanager),
        **reporting,
    }
    video = cfg.data.type == "video"
    if cfg.loss.name not in ("softmax", "triplet"):
        spectral = cfg.model.name.startswith(registry.PREFIX)
        own: Any = image.ImageSpectralEngine if spectral else image.ImageMetricEngine
        own = VideoSpectralEngine if video else own
        losses = {"criterion": build_criterion(cfg), "distillation": build_distillation(cfg)}
        return own(datamanager, model, **parts, **losses)
    parts["label_smooth"] = cfg.loss.softmax.label_smooth
    if video:
        parts |= _pooling(cfg)
    if cfg.loss.name == "softmax":
        kind: Any = (
            stock.VideoSoftmaxReportingEngine if video else stock.ImageSoftmaxReportingEngine
        )
        return kind(datamanager, model, **parts)
    kind = stock.VideoTripletReportingEngine if video else stock.ImageTripletReportingEngine
    return kind(
        datamanager,
        model,
        margin=cfg.loss.triplet.margin,
        weight_t=cfg.loss.triplet.weight_t,
        weight_x=cfg.loss.triplet.weight_x,
        **parts,
    )


def _cache(cfg: CfgNode, datamanager: Any) -> ImageCache | None:  # noqa: ANN401
    if cfg.data.cache == "none":
        return None
    loaders = [datamanager.train_loader]
    loaders += [part for parts in datamanager.test_loader.values() for part in parts.values()]
    found = [item[0] for loader in loaders for item in loader.dataset.data]
    paths = [path for each in found for path in ([each] if isinstance(each, str) else each)]
    folder = Path(cfg.data.root) / ".torchreid_spectral_cache"
    return ImageCache(
        paths, cfg.data.height, cfg.data.width, folder if cfg.data.cache == "disk" else None
    )


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


def _model_options(cfg: CfgNode) -> dict[str, Any]:
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
    for name in cfg.train.open_layers if cfg.train.fixbase_epoch else ():
        if name not in known:
            raise UnknownNameError(f"layer of {cfg.model.name} in train.open_layers", name, known)


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
