"""From the config of a finished run to what its weights are opened with, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torchreid_spectral import registry
from torchreid_spectral.config.build import model_options
from torchreid_spectral.config.merging import merged_config
from torchreid_spectral.engine.base import METRIC_NAMES
from torchreid_spectral.errors import InputError

__all__ = ["config_with", "inference_settings"]

_GROUPS = {"attention": "model", "pooling_method": "video", "frame_temperature": "video"}
"""Where a config has options of spectral models that are not in its group ``spectral``."""


def inference_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a trained model is opened with.

    Args:
        config: An effective config as plain data, as ``metrics.json`` holds it; keys that this
            version does not know are passed over.

    Returns:
        Fields of :class:`~torchreid_spectral.inference.Settings`.
    """
    cfg = merged_config(config)
    spectral = cfg.model.name.startswith(registry.PREFIX)
    return {
        "model_name": cfg.model.name,
        "height": cfg.data.height,
        "width": cfg.data.width,
        "options": model_options(cfg) if spectral else {},
        "mean": tuple(cfg.data.norm_mean),
        "std": tuple(cfg.data.norm_std),
        "metric": METRIC_NAMES[cfg.test.dist_metric],
        "normalize": cfg.test.normalize_feature,
        "flip": cfg.test.flip,
        "whitening": cfg.test.whitening != "none",
    }


def config_with(config: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write settings into a config, so that :func:`inference_settings` of it gives them.

    Args:
        config: Of the run as plain data, if known.
        settings: Fields of :class:`~torchreid_spectral.inference.Settings`.

    Returns:
        A config of its own.

    Raises:
        InputError: If a config has no word for the distance.
    """
    found = copy.deepcopy(dict(config or {}))
    whitened = found.get("test", {}).get("whitening", "none")
    if settings["whitening"] != (whitened != "none"):
        whitened = "zca" if settings["whitening"] else "none"
    distances = {name: key for key, name in METRIC_NAMES.items()}
    if settings["metric"] not in distances:
        raise InputError(
            f"A config has no distance {settings['metric']}: open the weights with metric "
            f"{' or '.join(distances)}. The squared one orders alike."
        )
    for group, values in {
        "model": {"name": settings["model_name"]},
        "data": {
            "height": settings["height"],
            "width": settings["width"],
            "norm_mean": list(settings["mean"]),
            "norm_std": list(settings["std"]),
        },
        "test": {
            "dist_metric": distances[settings["metric"]],
            "normalize_feature": settings["normalize"],
            "flip": settings["flip"],
            "whitening": whitened,
        },
    }.items():
        found[group] = {**found.get(group, {}), **values}
    for name, value in settings["options"].items():
        group = _GROUPS.get(name, "spectral")
        given = list(value) if isinstance(value, tuple) else value
        found[group] = {**found.get(group, {}), name: 0 if given is None else given}
    return found
