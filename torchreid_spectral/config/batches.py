"""What a config's training batches must be: whole identities, enough for the graph, divisible."""

from __future__ import annotations

import logging

from yacs.config import CfgNode

from torchreid_spectral import registry
from torchreid_spectral.config.losses import STOCK, chosen_losses
from torchreid_spectral.engine import distributed
from torchreid_spectral.errors import InputError

__all__ = ["OF_IDENTITIES", "check_batches"]

logger = logging.getLogger(__name__)

OF_IDENTITIES = ("RandomIdentitySampler", "IdentityOnceSampler")


def check_batches(cfg: CfgNode) -> None:
    """Check the batches of training; where nothing is trained, do nothing.

    Args:
        cfg: The effective config.

    Raises:
        InputError: If the sampler or several processes cannot make them, or their first step
            would fail.
    """  # noqa: DOC502
    if cfg.test.evaluate:
        return
    of_identities = cfg.sampler.train_sampler in OF_IDENTITIES
    _check_division(cfg, of_identities=of_identities)
    _check_enough(cfg, of_identities=of_identities)
    if of_identities:
        _tell_instances(cfg)
    else:
        _tell_sampler(cfg)


def _check_division(cfg: CfgNode, *, of_identities: bool) -> None:
    instances = cfg.sampler.num_instances
    if of_identities and (cfg.train.batch_size % instances or cfg.train.batch_size < instances):
        raise InputError(
            f"{cfg.sampler.train_sampler} takes whole identities: train.batch_size must be a "
            f"multiple of sampler.num_instances {instances}, got {cfg.train.batch_size}."
        )
    processes = distributed.started_by_torchrun()
    each, unit, what = processes, "images", f"{processes}"
    if of_identities:
        each, unit = processes * instances, "identities"
        what = f"{processes} x sampler.num_instances {instances}"
    if processes > 1 and cfg.train.batch_size % each:
        raise InputError(
            f"Each of {processes} processes takes whole {unit}: train.batch_size must be a "
            f"multiple of {what}, got {cfg.train.batch_size}."
        )


def _check_enough(cfg: CfgNode, *, of_identities: bool) -> None:
    if cfg.train.batch_size == 1 and cfg.model.name.startswith(registry.PREFIX):
        raise InputError(
            f"train.batch_size 1 makes a graph of one image, in which {cfg.model.name} has nobody "
            "to walk to. Set it to several identities x sampler.num_instances."
        )
    one = of_identities and cfg.train.batch_size == cfg.sampler.num_instances
    if one and cfg.loss.name == "triplet" and cfg.loss.triplet.weight_t > 0:
        raise InputError(
            f"train.batch_size {cfg.train.batch_size} with sampler.num_instances "
            f"{cfg.sampler.num_instances} is one identity a batch, and torchreid's loss.name "
            "triplet needs two. Raise train.batch_size, or use loss.name spectral with "
            "loss.metric triplet."
        )


def _tell_instances(cfg: CfgNode) -> None:
    """Say where no image of a batch has another of its identity."""
    if cfg.sampler.num_instances > 1 or distributed.number_by_torchrun():
        return
    metrics = cfg.loss.name == "triplet" or (cfg.loss.name not in STOCK and chosen_losses(cfg)[1])
    if _walks(cfg) or metrics:
        logger.warning(
            "sampler.num_instances 1 gives each identity of a batch one image: the walk finds "
            "no other, and losses of pairs no positive one. Set it to 4 or more."
        )


def _walks(cfg: CfgNode) -> bool:
    spectral = cfg.model.name.startswith(registry.PREFIX)
    return spectral and not cfg.spectral.supervision.startswith("plain")


def _tell_sampler(cfg: CfgNode) -> None:
    """Say where batches hold few images of each identity, on which the walk lives."""
    if _walks(cfg) and not distributed.number_by_torchrun():
        logger.warning(
            "sampler.train_sampler %s draws images whatever their identity: with few of each in a "
            "batch the walk mixes people. Use IdentityOnceSampler with sampler.num_instances 8.",
            cfg.sampler.train_sampler,
        )
