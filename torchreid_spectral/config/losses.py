"""From the groups ``loss`` and ``distill`` of a config to losses; a part of ``config.build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from yacs.config import CfgNode

from torchreid_spectral import _compat, registry
from torchreid_spectral.config.defaults import get_default_config
from torchreid_spectral.config.merging import leaves
from torchreid_spectral.engine.distillation import Distillation, load_teacher
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.losses import CombinedLoss, DarkRankLoss
from torchreid_spectral.losses.registry import (
    ID_LOSSES,
    METRIC_LOSSES,
    build_id_loss,
    build_metric_loss,
)

__all__ = [
    "LOSS_NAMES",
    "STOCK",
    "build_criterion",
    "build_distillation",
    "check_losses",
    "chosen_losses",
]

STOCK = ("softmax", "triplet")
"""Values of ``loss.name`` that torchreid's own engines train by."""
LOSS_NAMES = (*STOCK, *sorted({"spectral", *ID_LOSSES, *METRIC_LOSSES} - set(STOCK)))
"""Values of ``loss.name``: torchreid's own losses, ``spectral``, or one loss alone."""


def chosen_losses(cfg: CfgNode) -> tuple[str, list[str]]:
    """Say which losses train the model in this package's engines.

    Args:
        cfg: The effective config.

    Returns:
        Name of the identity loss, empty for none, and those of the metric losses.
    """
    if cfg.loss.name in ("spectral", *STOCK):
        return cfg.loss.id, list(cfg.loss.metric)
    alone = cfg.loss.name
    return (alone, []) if alone in ID_LOSSES else ("", [alone])


def check_losses(cfg: CfgNode) -> None:
    """Check the groups ``loss`` and ``distill``; the teacher's file is not looked at.

    Args:
        cfg: The effective config.

    Raises:
        InputError: If something does not fit.
        UnknownNameError: If a loss or the teacher is not known.
    """
    teacher = cfg.distill.teacher
    if bool(teacher) != bool(cfg.distill.weights):
        raise InputError(
            "distill.teacher (a model's name) and distill.weights (its checkpoint) go together, "
            f"got {teacher!r} and {cfg.distill.weights!r}."
        )
    models = {*_compat.model_factory(), *registry.list_models()}
    if teacher and teacher not in models:
        raise UnknownNameError("distill.teacher", teacher, models)
    if teacher and cfg.data.type == "video" and not teacher.startswith(registry.PREFIX):
        raise InputError(
            f"On data.type video the teacher must take tracklets, got distill.teacher {teacher}. "
            f"Use {registry.PREFIX}{teacher}, which loads the same weights."
        )
    if teacher and cfg.loss.name in STOCK:
        raise InputError(
            f"distill.teacher does not teach under torchreid's own loss.name {cfg.loss.name}. "
            "Use loss.name spectral, or any other loss."
        )
    if teacher and cfg.train.chunk_size:
        raise InputError(
            "distill.teacher needs the images of the whole batch, which train.chunk_size "
            f"{cfg.train.chunk_size} cuts. Set it to 0."
        )
    id_loss, metrics = chosen_losses(cfg)
    for kind, name, known in (
        ("identity loss", id_loss or "am_softmax", ID_LOSSES),
        *(("metric loss", name, METRIC_LOSSES) for name in metrics),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    _check_used(cfg)
    build_criterion(cfg)
    _dark_rank(cfg)
    if cfg.loss.name not in STOCK:
        _check_model(cfg, id_loss, metrics)


def _check_used(cfg: CfgNode) -> None:
    """Refuse losses that were asked for and would not be trained by."""
    if cfg.loss.name == "spectral" or cfg.test.evaluate:
        return
    keys, stock = ["id", "metric"], cfg.loss.name in STOCK
    if stock or cfg.loss.name in ID_LOSSES:
        keys += ["metric_weights"]
    if stock or cfg.loss.name in METRIC_LOSSES:
        keys += ["weight", "weight_walked"]
    if stock:
        keys += [f"softmax.{key}" for key in ("scale", "normalized")]
        keys += [f"triplet.{key}" for key in ("soft_margin", "metric", "normalize")]
    now, usual = dict(leaves(cfg.loss)), dict(leaves(get_default_config().loss))
    for key in keys:
        if now[key] != usual[key]:
            raise InputError(
                f"loss.{key} {now[key]} has no effect under loss.name {cfg.loss.name}: set "
                f"loss.name spectral, or leave loss.{key} at {usual[key]}."
            )


def build_criterion(cfg: CfgNode) -> CombinedLoss:
    """Build the training losses.

    Args:
        cfg: The effective config.

    Returns:
        Their weighted sum.

    Raises:
        InputError: If names and weights of metric losses do not match.
    """
    id_loss, metrics = chosen_losses(cfg)
    weights = list(cfg.loss.metric_weights) or [1.0] * len(metrics)
    if len(weights) != len(metrics) or len({*metrics}) != len(metrics):
        raise InputError(
            f"loss.metric_weights takes one weight for each of loss.metric {metrics}, each named "
            f"once, got {weights}."
        )
    return CombinedLoss(
        build_id_loss(id_loss, **_options(cfg, id_loss)) if id_loss else None,
        weight=cfg.loss.weight,
        weight_walked=cfg.loss.weight_walked,
        metric_losses={name: build_metric_loss(name, **_options(cfg, name)) for name in metrics},
        metric_weights=dict(zip(metrics, weights)),
        metric_on=cfg.loss.metric_on,
    )


def build_distillation(cfg: CfgNode) -> Distillation | None:
    """Build the teacher and its loss.

    Args:
        cfg: The effective config.

    Returns:
        Both, or ``None`` where ``distill.teacher`` is empty.
    """
    if not cfg.distill.teacher:
        return None
    name, weights = cfg.distill.teacher, cfg.distill.weights
    teacher = load_teacher(name, weights, use_gpu=cfg.use_gpu, **_options_of(name, weights))
    return Distillation(teacher, _dark_rank(cfg), cfg.distill.weight)


def _options_of(name: str, weights: str) -> dict[str, Any]:
    """Give the options that a spectral teacher was trained with, where its run says so."""
    from torchreid_spectral.config.inference import inference_settings
    from torchreid_spectral.inference.weights import read_config

    path = Path(weights).expanduser()
    found = read_config(path) if name.startswith(registry.PREFIX) and path.is_file() else None
    if not found or found.get("model", {}).get("name") != name:
        return {}
    options: dict[str, Any] = inference_settings(found)["options"]
    return options


def _dark_rank(cfg: CfgNode) -> nn.Module:
    group = cfg.distill
    return DarkRankLoss(group.kind, group.scale, group.power, group.list_length)


def _options(cfg: CfgNode, name: str) -> dict[str, Any]:
    """Give a loss its group, less what belongs to torchreid's loss of that name."""
    options = dict(cfg.loss[name])
    if name == "softmax":
        options["label_smoothing"] = 0.1 if options.pop("label_smooth") else 0.0
    if name == "triplet":
        options = {key: options[key] for key in options.keys() - {"weight_t", "weight_x"}}
    return options


def _check_model(cfg: CfgNode, id_loss: str, metrics: list[str]) -> None:
    name = cfg.model.name
    spectral = name.startswith(registry.PREFIX)
    twin = f"{registry.PREFIX}{name.removeprefix(registry.PREFIX)}"
    if cfg.data.type == "video" and not spectral:
        raise InputError(
            f"On data.type video loss.name {cfg.loss.name} trains spectral models, got model.name "
            f"{name}. Use {twin}; with spectral.supervision plain it has no walk."
        )
    if not spectral and (cfg.loss.name == "spectral" or id_loss or "normalized_cut" in metrics):
        raise InputError(
            f"loss.name {cfg.loss.name} needs the cosine classifier of models named spectral_*, "
            f"got model.name {name}. Use model.name {twin} (with spectral.supervision plain "
            "where there shall be no walk), or loss.name softmax."
        )
    branches = {"plain": {"plain", "both", "plain_twice"}, "walked": {"walked", "both"}}
    branches["both"] = {"both"}
    if metrics and spectral and cfg.spectral.supervision not in branches[cfg.loss.metric_on]:
        raise InputError(
            f"loss.metric_on {cfg.loss.metric_on} does not fit spectral.supervision "
            f"{cfg.spectral.supervision}: the model does not give those features. Set the "
            "latter to both."
        )
    lone = {"plain": "weight", "walked": "weight_walked"}.get(cfg.spectral.supervision)
    if spectral and id_loss and lone and cfg.loss[lone] == 0:
        raise InputError(
            f"loss.{lone} 0.0 leaves the identity loss {id_loss} nothing to train: with "
            f"spectral.supervision {cfg.spectral.supervision} no other features are classified. "
            f"Set loss.{lone} above 0, or spectral.supervision both."
        )
    trained_by_metrics = "normalized_cut" in metrics or cfg.spectral.learn_temperature
    if cfg.train.fixbase_epoch and not id_loss and not trained_by_metrics:
        if all(name.startswith("classifier") for name in cfg.train.open_layers):
            raise InputError(
                "train.fixbase_epoch trains the classifier alone, which no loss but an identity "
                f"loss uses, got {metrics}. Set train.fixbase_epoch 0, or name layers of the "
                "backbone in train.open_layers."
            )
    if metrics and not spectral and cfg.loss.metric_on != "plain":
        raise InputError(
            f"loss.metric_on {cfg.loss.metric_on} needs a walk: {name} has none. Use model.name "
            f"{twin}, or loss.metric_on plain."
        )
