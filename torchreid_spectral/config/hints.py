"""What is allowed in a config and probably not meant: told before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from yacs.config import CfgNode

from torchreid_spectral import registry
from torchreid_spectral.config.batches import OF_IDENTITIES
from torchreid_spectral.config.defaults import get_default_config
from torchreid_spectral.config.losses import STOCK, chosen_losses
from torchreid_spectral.config.merging import leaves
from torchreid_spectral.engine import distributed
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference.weights import latest_weights
from torchreid_spectral.rerank import RERANKERS

logger = logging.getLogger(__name__)

__all__ = ["tell_baseline", "tell_unused"]


def tell_unused(cfg: CfgNode) -> None:
    """Say which options were set that change nothing here.

    Args:
        cfg: The effective config.
    """
    defaults = dict(leaves(get_default_config()))
    of_spectral = _keys(defaults, "spectral.")
    stock = cfg.loss.name in STOCK
    used = _used_losses(cfg)
    alone = {name for name in cfg.loss if isinstance(cfg.loss[name], CfgNode)} - used
    cases = (
        *((True, _keys(defaults, f"loss.{name}."), f"a config that trains by {name}")
          for name in sorted(alone)),
        (stock or not chosen_losses(cfg)[1], ["loss.metric_on"], "a metric loss"),
        (cfg.sampler.train_sampler not in OF_IDENTITIES, ["sampler.num_instances"],
         f"sampler.train_sampler {' and '.join(OF_IDENTITIES)}"),
        (cfg.sampler.train_sampler != "RandomDomainSampler", ["sampler.num_cams"],
         "sampler.train_sampler RandomDomainSampler"),
        (cfg.sampler.train_sampler != "RandomDatasetSampler", ["sampler.num_datasets"],
         "sampler.train_sampler RandomDatasetSampler"),
        (True, ["data.load_train_targets", "sampler.train_sampler_t"],
         "engines that train on target data too; none here does"),
        (not cfg.train.lr_scheduler.startswith("warmup"),
         ["train.warmup_epochs", "train.warmup_factor"], "train.lr_scheduler warmup_*"),
        ("random_pad_crop" not in cfg.data.transforms, ["data.crop_padding"],
         "data.transforms random_pad_crop"),
        (not cfg.train.staged_lr, ["train.new_layers", "train.base_lr_mult"],
         "train.staged_lr True"),
        (not cfg.train.fixbase_epoch, ["train.open_layers"], "train.fixbase_epoch above 0"),
        (cfg.data.type == "image", _keys(defaults, "video."), "data.type video"),
        (cfg.test.whitening == "none", _keys(defaults, "test.whitening_"), "a test.whitening"),
        (not cfg.distill.teacher, _keys(defaults, "distill."), "a distill.teacher"),
        *((cfg.test.rerank and cfg.rerank.method != name, _keys(defaults, f"rerank.{name}."),
           f"rerank.method {name}") for name in RERANKERS),
        (not cfg.model.name.startswith(registry.PREFIX), of_spectral, "models named spectral_*"),
        (cfg.spectral.neck == "bnneck", ["spectral.bottleneck_dim", "spectral.activation"],
         "spectral.neck bottleneck"),
        (not cfg.spectral.stripes, ["spectral.global_part"], "spectral.stripes above 0"),
        (not stock, ["spectral.scale"], "loss.name softmax and triplet"),
        (stock, ["train.graph_every"], "losses of this package"),
        (not cfg.test.rerank, _keys(defaults, "rerank."), "test.rerank True"),
        (distributed.started_by_torchrun() == 1, ["train.sync_bn"], "several processes"),
    )  # fmt: skip
    now = dict(leaves(cfg))
    for applies, keys, what in cases:
        unused = [key for key in keys if applies and now[key] != defaults[key]]
        if unused and not distributed.number_by_torchrun():
            logger.warning("Without effect here: %s (only for %s).", ", ".join(unused), what)


def _keys(known: Iterable[str], group: str) -> list[str]:
    return [key for key in known if key.startswith(group)]


def _used_losses(cfg: CfgNode) -> set[str]:
    """Name the losses whose options count."""
    if cfg.loss.name in STOCK:
        return {"softmax", cfg.loss.name}
    identity, metrics = chosen_losses(cfg)
    return {identity, *metrics, *(["dark_rank"] if cfg.distill.teacher else [])}


def tell_baseline(cfg: CfgNode) -> None:
    """Say early where a report could not draw its baseline; it may be trained in the meantime.

    Args:
        cfg: The effective config.
    """
    if not (cfg.report.html and cfg.report.baseline) or distributed.number_by_torchrun():
        return
    try:
        latest_weights(Path(cfg.report.baseline).expanduser())
    except InputError as error:
        logger.warning("report.baseline is not there yet: %s", error)
