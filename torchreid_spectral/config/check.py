"""What a config must fulfil, checked before anything is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from yacs.config import CfgNode

from torchreid_spectral import _compat, registry
from torchreid_spectral.config.batches import check_batches
from torchreid_spectral.config.build import (
    build_rerank,
    build_whitening,
    model_options,
    training_options,
)
from torchreid_spectral.config.data import AUGMENT
from torchreid_spectral.config.hints import tell_baseline, tell_unused
from torchreid_spectral.config.losses import LOSS_NAMES, STOCK, check_losses
from torchreid_spectral.data.cache import CACHES
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
from torchreid_spectral.data.transforms import PAD_CROP
from torchreid_spectral.engine.base import METRIC_NAMES
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.evaluation import COVARIANCES
from torchreid_spectral.functional import WHITENINGS
from torchreid_spectral.inference.weights import latest_weights
from torchreid_spectral.layers.frame_pooling import POOLINGS, FramePooling
from torchreid_spectral.models.heads import SpectralHead
from torchreid_spectral.models.options import SpectralOptions
from torchreid_spectral.models.stages import build_block, check_blocks
from torchreid_spectral.rerank import CAMERA_NORMALIZATIONS, RERANKERS

logger = logging.getLogger(__name__)

__all__ = ["check_config"]

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
    """Check names and combinations.

    Args:
        cfg: The effective config.

    Raises:
        InputError: If something does not fit.
        UnknownNameError: If a model, loss, re-ranker or distance is not known.
    """  # noqa: DOC502
    _check_names(cfg)
    _check_model(cfg)
    _check_video(cfg)
    _check_objects(cfg)
    _check_test(cfg)
    _check_numbers(cfg)
    check_batches(cfg)
    _check_training(cfg)
    tell_unused(cfg)
    tell_baseline(cfg)


def _check_names(cfg: CfgNode) -> None:
    for key in ("sources", "targets"):
        names = list(cfg.data[key])
        if not names:
            raise InputError(f"data.{key} must name a dataset at least, got [].")
        if len({*names}) < len(names):
            raise InputError(
                f"data.{key} names a dataset twice, got {names}: it would be tested twice, or its "
                "people counted as others the second time. Name each once."
            )
    if cfg.train.compile:
        from torch import _dynamo  # takes a second

        backends = _dynamo.list_backends(exclude_tags=())
        if cfg.train.compile not in backends:
            raise UnknownNameError("train.compile", cfg.train.compile, backends)
    schedulers = _compat.submodule("optim.lr_scheduler").AVAI_SCH
    samplers = _compat.submodule("data.sampler").AVAI_SAMPLERS
    for kind, name, known in (
        ("model", cfg.model.name, {*_compat.model_factory(), *registry.list_models()}),
        ("loss.name", cfg.loss.name, LOSS_NAMES),
        ("re-ranker", cfg.rerank.method, RERANKERS),
        ("rerank.camera_normalization", cfg.rerank.camera_normalization, CAMERA_NORMALIZATIONS),
        ("test.whitening", cfg.test.whitening, ("none", *WHITENINGS)),
        ("test.whitening_covariance", cfg.test.whitening_covariance, COVARIANCES),
        ("test.dist_metric", cfg.test.dist_metric, METRIC_NAMES),
        ("data.type", cfg.data.type, ("image", "video")),
        ("video.pooling_method", cfg.video.pooling_method, POOLINGS),
        ("video.sample_method", cfg.video.sample_method, SAMPLE_METHODS),
        ("train.optim", cfg.train.optim, _compat.submodule("optim.optimizer").AVAI_OPTIMS),
        ("train.lr_scheduler", cfg.train.lr_scheduler, schedulers),
        ("sampler.train_sampler", cfg.sampler.train_sampler, samplers),
        ("sampler.train_sampler_t", cfg.sampler.train_sampler_t, samplers),
        ("data.cache", cfg.data.cache, CACHES),
        ("data.augment", cfg.data.augment, AUGMENT),
        *(("transform", name, TRANSFORMS) for name in cfg.data.transforms),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)


def _check_model(cfg: CfgNode) -> None:
    """Check what depends on the kind of model, and the freeze of its layers."""
    spectral = cfg.model.name.startswith(registry.PREFIX)
    if cfg.model.attention and not spectral:
        raise InputError(
            f"model.attention is for spectral models, got model.name {cfg.model.name}. Use "
            f"{registry.PREFIX}{cfg.model.name}; with spectral.supervision plain it has no walk."
        )
    check_blocks(cfg.model.attention)
    if cfg.loss.name != "triplet" or cfg.loss.triplet.weight_x != 0:
        return
    if cfg.train.fixbase_epoch:
        raise InputError(
            "train.fixbase_epoch trains the classifier alone, but loss.triplet.weight_x is 0 and "
            "leaves it out of the loss. Set train.fixbase_epoch 0 or a weight_x above 0."
        )
    if spectral:
        logger.warning(
            "loss.triplet.weight_x is 0: only the backbone's features are trained and the walk "
            "has no effect. Set it above 0 to train the spectral head."
        )


def _check_video(cfg: CfgNode) -> None:
    if cfg.data.type == "video" and cfg.video.seq_len < 1:
        raise InputError(f"video.seq_len must be >= 1, got {cfg.video.seq_len}.")
    if cfg.data.type != "video" or cfg.video.sample_method != "all":
        return
    trained = 1 if cfg.test.evaluate else cfg.train.batch_size
    if max(trained, cfg.test.batch_size) > 1:
        remedy = "" if cfg.model.name.startswith(registry.PREFIX) else ", or train in batches of 1"
        raise InputError(
            "video.sample_method all gives tracklets of different lengths, which make no "
            f"batch: got train.batch_size {cfg.train.batch_size} and test.batch_size "
            f"{cfg.test.batch_size}. Use evenly with a video.seq_len{remedy}; a test alone takes "
            "test.batch_size 1."
        )


def _check_objects(cfg: CfgNode) -> None:
    """Let the objects themselves check their options, without drawing of the run's numbers."""
    try:
        with torch.random.fork_rng(devices=[]):
            _build_parts(cfg)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def _build_parts(cfg: CfgNode) -> None:
    options = SpectralOptions.of(**model_options(cfg))
    width = 32 * max(1, options.heads)  # the model's is not known yet; group norm has 32
    SpectralHead(width, 2, walk=options.walk(width), **options.head())
    for block in cfg.model.attention:
        chosen = {key: value for key, value in block.items() if key != "after"}
        build_block(8 * max(1, int(block.get("heads", 1))), **chosen)
    SyntheticSpec(**cfg.synthetic)
    SyntheticVideoSpec(**cfg.synthetic_video)
    FramePooling(cfg.video.pooling_method, cfg.video.frame_temperature)
    build_rerank(cfg)
    build_whitening(cfg)
    training_options(cfg)
    check_losses(cfg)


def _check_test(cfg: CfgNode) -> None:
    if cfg.test.rerank and build_rerank(cfg).metric != METRIC_NAMES[cfg.test.dist_metric]:
        raise InputError(
            f"rerank.method {cfg.rerank.method} compares by cosine: set test.dist_metric cosine, "
            f"got {cfg.test.dist_metric}, so that both views differ by the walk alone."
        )
    ranks = cfg.test.ranks
    if not ranks or not all(isinstance(rank, int) and rank >= 1 for rank in ranks):
        raise InputError(f"test.ranks must be whole numbers >= 1, got {list(ranks)}.")
    if cfg.test.evaluate and not (cfg.model.load_weights or cfg.model.resume):
        _refuse_other_weights(cfg)
    mixing = cfg.rerank.camera_normalization != "none" or (
        cfg.rerank.method == "graph_walk" and cfg.rerank.graph_walk.cross_camera != 1
    )
    own = "folder" in {name.removesuffix("_video") for name in cfg.data.targets}
    if own and cfg.folder.one_camera and cfg.test.rerank and mixing:
        raise InputError(
            "folder.one_camera True gives the queries a camera of their own, so that all matches "
            "count: re-rankers that look at cameras would be misled. Set "
            "rerank.camera_normalization none and rerank.graph_walk.cross_camera 1.0."
        )
    if cfg.test.visrank and not cfg.test.evaluate:
        raise InputError("test.visrank draws in tests only: set test.evaluate True with it.")


def _refuse_other_weights(cfg: CfgNode) -> None:
    """Tell that random weights will be tested; refuse where a run's results would be lost."""
    folder = Path(cfg.data.save_dir)
    weights = "ImageNet's" if cfg.model.pretrained else "random"
    remedy = (
        "name those of a run with model.load_weights, or go on from its data.save_dir with "
        "model.resume auto."
    )
    try:
        latest_weights(folder.expanduser())
    except InputError:
        if not cfg.model.pretrained:
            logger.warning("test.evaluate True tests random weights: %s", remedy)
        return
    raise InputError(
        f"test.evaluate True would test {weights} weights and write their results over those of "
        f"the run in data.save_dir {folder}: {remedy}"
    )


def _check_numbers(cfg: CfgNode) -> None:
    """Check what torchreid divides by, or hands to NumPy, without looking at it."""
    for key, value, least in (
        ("train.print_freq", cfg.train.print_freq, 1),
        ("train.batch_size", cfg.train.batch_size, 1),
        ("test.batch_size", cfg.test.batch_size, 1),
        ("sampler.num_instances", cfg.sampler.num_instances, 1),
        ("train.seed", cfg.train.seed, 0),
        ("data.height", cfg.data.height, 1),
        ("data.width", cfg.data.width, 1),
        ("train.max_epoch", cfg.train.max_epoch, 0 if cfg.test.evaluate else 1),
        ("train.start_epoch", cfg.train.start_epoch, 0),
    ):
        if value < least:
            raise InputError(f"{key} must be >= {least}, got {value}.")
    if cfg.train.seed >= 2**32:  # NumPy's limit
        raise InputError(f"train.seed must be below 2**32, got {cfg.train.seed}.")
    if cfg.train.start_epoch >= cfg.train.max_epoch and not cfg.test.evaluate:
        raise InputError(
            f"train.start_epoch {cfg.train.start_epoch} leaves nothing to train: it must be below "
            f"train.max_epoch {cfg.train.max_epoch}."
        )
    if cfg.data.k_tfm != 1:
        raise InputError(
            "data.k_tfm gives several views of an image at once, on which no loss.name trains: "
            f"it must be 1, got {cfg.data.k_tfm}."
        )
    for key in ("norm_mean", "norm_std"):
        if len(cfg.data[key]) != 3:
            raise InputError(f"data.{key} must have three values, got {list(cfg.data[key])}.")
    if min(cfg.data.norm_std) <= 0:
        raise InputError(f"data.norm_std must be above 0, got {list(cfg.data.norm_std)}.")
    steps = list(cfg.train.stepsize)
    if cfg.train.lr_scheduler == "single_step" and (not steps or steps[-1] < 1):
        raise InputError(
            "train.lr_scheduler single_step lowers the rate every so many epochs: train.stepsize "
            f"must end with a number >= 1, got {steps}."
        )


def _check_training(cfg: CfgNode) -> None:
    samples = [block["after"] for block in cfg.model.attention if block["over"] == "samples"]
    if cfg.train.chunk_size and samples:
        raise InputError(
            f"train.chunk_size {cfg.train.chunk_size} would cut the graph of the attention over "
            f"samples after {', '.join(samples)}: only the heads' graph spans the whole batch. "
            "Set train.chunk_size 0, or attend over pixels or channels."
        )
    frames = [block["after"] for block in cfg.model.attention if block["over"] == "frames"]
    cut = cfg.train.chunk_size or cfg.video.sample_method == "all"
    if frames and cut and cfg.loss.name in STOCK:
        raise InputError(
            f"torchreid's own loss.name {cfg.loss.name} hands single frames to the model: the "
            f"attention over frames after {', '.join(frames)} would go over other tracklets under "
            "train.chunk_size or video.sample_method all. Use loss.name spectral, or leave those "
            "out."
        )
    if cfg.train.patience and cfg.test.eval_freq <= 0:
        raise InputError(
            "train.patience counts the tests during training: set test.eval_freq too, got "
            f"{cfg.test.eval_freq}."
        )
