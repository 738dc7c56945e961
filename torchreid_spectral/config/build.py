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
from torchreid_spectral.config.data import build_datamanager
from torchreid_spectral.data.datasets import synthetic_defaults
from torchreid_spectral.data.folder_datasets import FolderOptions, folder_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
from torchreid_spectral.data.transforms import crop_defaults
from torchreid_spectral.engine.base import METRIC_NAMES
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.schedulers import warmup_defaults
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.layers import SpectralAttention
from torchreid_spectral.layers.pooling import PartPool
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

__all__ = [
    "active_defaults",
    "build_datamanager",
    "build_optimizer",
    "build_rerank",
    "build_scheduler",
    "build_whitening",
    "model_options",
    "pooling_options",
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
    _spare_from_decay(optimizer, model)
    return optimizer


def _spare_from_decay(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Keep weight decay off learned temperatures and powers: it would pull them to 1 and to 0."""
    spared = set()
    for module in model.modules():
        if isinstance(module, SpectralAttention) and module.learn_temperature:
            spared.add(module.log_temperature)
        if isinstance(module, PartPool) and module.p is not None:
            spared.add(module.p)
    for group in list(optimizer.param_groups):
        found = [parameter for parameter in group["params"] if parameter in spared]
        if found:
            group["params"] = [each for each in group["params"] if each not in spared]
            optimizer.add_param_group({**group, "params": found, "weight_decay": 0.0})


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
    if cfg.rerank.camera_normalization != "none":  # one's own re-rankers need not know it
        options["camera_normalization"] = cfg.rerank.camera_normalization
    if cfg.rerank.chunk_size:
        options["chunk_size"] = cfg.rerank.chunk_size
    if "metric" in inspect.signature(RERANKERS[method]).parameters:
        options["metric"] = METRIC_NAMES[cfg.test.dist_metric]
    return build_reranker(method, **options)


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
        covariance=cfg.test.whitening_covariance,
    )


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
    options |= pooling_options(cfg)
    return options


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


def pooling_options(cfg: CfgNode) -> dict[str, Any]:
    """Collect how frames of tracklets are pooled.

    Args:
        cfg: The effective config.

    Returns:
        Options of models and of torchreid's video engines.
    """
    return {
        "pooling_method": cfg.video.pooling_method,
        "frame_temperature": cfg.video.frame_temperature,
    }
