"""Open trained weights with what they need: architecture, options and input size.

These are looked for in the file's own metadata (as ``tools/export.py`` writes), in the state
beside a checkpoint (``last.state.pt``), and in the ``metrics.json`` of the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral._run_files import AVERAGED, STATE, WEIGHTS, last_weights
from torchreid_spectral._run_files import METRICS as METRICS_FILE
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional.distance import METRICS
from torchreid_spectral.models import SpectralOptions
from torchreid_spectral.models.feature_weights import (
    feature_digest,
    missing_weights,
    update_digest,
)
from torchreid_spectral.models.whitened import (
    FILE,
    add_whitening,
    read_whitening,
    whitening_among,
)

__all__ = ["Settings", "fingerprint", "latest_weights", "open_model", "read_config",
           "read_metrics"]  # fmt: skip


logger = logging.getLogger(__name__)

OF_THE_FEATURE = ("test_feature", "last_stride", "pooling", "stripes", "global_part", "attention",
                  "pooling_method", "frame_temperature")  # fmt: skip
"""Options by which equal weights give other test features."""


@dataclass(frozen=True)
class Settings:
    """What a model is built and fed with.

    Args:
        model_name: Such as ``spectral_osnet_x0_25``.
        height: Of the input in pixels.
        width: Of the input in pixels.
        options: Of the spectral model.
        mean: Of the pixels in [0, 1], by channel.
        std: The same.
        metric: Distance of features.
        normalize: Whether features are scaled to unit length.
        flip: Whether a feature is the mean of the image's and its mirror image's.
        whitening: Whether features are whitened as in the weights' last test, by what that left
            beside them or ``tools/export.py`` put among them.

    Raises:
        InputError: If the input has no size.
        UnknownNameError: If there is no such distance.
    """  # noqa: DOC502

    model_name: str
    height: int = 256
    width: int = 128
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    metric: str = "cosine"
    normalize: bool = False
    flip: bool = False
    whitening: bool = False

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.metric not in METRICS:
            raise UnknownNameError("metric", self.metric, METRICS)


def open_model(path: str | Path, **given: Any) -> tuple[nn.Module, Settings]:  # noqa: ANN401
    """Build the model of a checkpoint and load its weights.

    Args:
        path: ``.safetensors``, torchreid's ``model.pth.tar-N``, or a run's folder.
        **given: Fields of :class:`Settings`, above what is found beside the weights.

    Returns:
        The model in eval mode on the CPU, and its settings.

    Raises:
        InputError: If the file is missing or foreign, nothing says what model it is of, or the
            model takes tracklets only.
    """
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    ts.register()
    path = Path(path).expanduser()
    path = latest_weights(path) if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"There are no weights {str(path)!r}. Give a file of tools/main.py.")
    settings = _settings(path, given)
    if any(block.get("over") == "frames" for block in settings.options.get("attention", ())):
        raise InputError(
            f"{path} attends between the frames of tracklets: single images have none, and a "
            "batch of them would be taken for one tracklet. Open a run without model.attention "
            "over frames, or test tracklets with tools/main.py and test.evaluate True."
        )
    model = ts.build_model(
        settings.model_name, 1, loss="softmax", pretrained=False, **settings.options
    )
    weights = _compat.load_weights(path)
    _load(model, weights, path)
    if given.get("whitening") is not False:
        settings = _whitened(model, settings, path, weights, asked=given.get("whitening"))
    return model.eval(), settings


def _whitened(
    model: nn.Module,
    settings: Settings,
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    asked: bool | None,
) -> Settings:
    """Let a model whiten where the last test of its weights did, and say where it cannot."""
    found = whitening_among(weights) or _whitening_beside(path, feature_digest(model))
    if found is not None:
        add_whitening(model, *found)
    elif asked:
        raise InputError(
            f"There is no {FILE} of these weights beside {path}: test them with test.whitening, "
            "or open them without."
        )
    elif settings.whitening:
        logger.warning(
            "The run was tested with test.whitening, and there is no %s of these weights beside "
            "%s: features are without it, and its metrics are not theirs.", FILE, path,
        )  # fmt: skip
    return replace(settings, whitening=found is not None)


def _whitening_beside(path: Path, digest: str) -> tuple[Tensor, Tensor] | None:
    for folder in list(path.resolve().parents)[:2]:
        found = read_whitening(folder, digest)
        if found is not None:
            return found
    return None


def read_config(path: Path) -> dict[str, Any] | None:
    """Find the effective config that weights were trained with.

    Args:
        path: The weights.

    Returns:
        The config as plain data, or ``None``.

    Raises:
        InputError: If the file is broken.
    """
    from torchreid_spectral import _compat

    found: Any = None
    if path.suffix == WEIGHTS:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                found = json.loads((file.metadata() or {}).get("config", "null"))
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
        name = path.name.removesuffix(AVERAGED).removesuffix(WEIGHTS)
        state = path.with_name(f"{name}{STATE}")
        if found is None and state.is_file():
            found = _find_config(_compat.load_checkpoint(state))
    for folder in list(path.resolve().parents)[:3]:
        if found is None:
            found = _find_config(read_metrics(folder))
    return found if isinstance(found, dict) else None


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read what a run's last test left.

    Args:
        folder: Its ``data.save_dir``.

    Returns:
        The content of ``metrics.json``; empty where there is none.

    Raises:
        InputError: If the file is broken.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is broken ({error}). Remove it, or test anew.") from error
    return content if isinstance(content, dict) else {}


def latest_weights(folder: Path) -> Path:
    """Find the last weights of a run, those that its tests were of.

    Args:
        folder: Its ``data.save_dir``.

    Returns:
        ``checkpoints/last.safetensors`` (``last.ema.safetensors`` under ``train.ema_decay``), or
        torchreid's ``model.pth.tar-N`` of the largest N.

    Raises:
        InputError: If there are none.
    """
    last = last_weights(folder)
    if last.is_file():
        averaged = last_weights(folder, AVERAGED)
        return averaged if averaged.is_file() and _is_listed(averaged) else last
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("*/model.pth.tar-*")
             if path.name.rpartition("-")[2].isdigit()}  # fmt: skip
    if not found:
        raise InputError(f"{folder} holds no weights: neither {last} nor model/model.pth.tar-N.")
    return found[max(found)]


def _is_listed(averaged: Path) -> bool:
    """Say whether the last save wrote it; without an average an earlier run's may lie there."""
    from torchreid_spectral import _compat

    state = averaged.with_name(averaged.name.removesuffix(AVERAGED) + STATE)
    content = _compat.load_checkpoint(state) if state.is_file() else {}
    return AVERAGED in content.get("sha256", {})


def fingerprint(model: nn.Module, settings: Settings) -> str:
    """Name the weights and their input, so that features of others are not mixed with theirs.

    Args:
        model: The model.
        settings: Its input's size and pixels, and what is made of its features.

    Returns:
        Sixteen hexadecimal digits.
    """
    s = settings
    digest = hashlib.sha256(repr((s.height, s.width, *s.mean, *s.std, s.normalize)).encode())
    defaults = SpectralOptions.defaults()
    chosen = [(name, s.options[name]) for name in OF_THE_FEATURE if
              s.options.get(name, defaults[name]) != defaults[name]]  # fmt: skip
    if s.flip:
        chosen.append(("flip", True))
    if chosen:
        digest.update(repr(chosen).encode())
    update_digest(digest, model.state_dict())
    return digest.hexdigest()[:16]


def _settings(path: Path, given: Mapping[str, Any]) -> Settings:
    from torchreid_spectral.config.inference import inference_settings

    known = Settings.__dataclass_fields__.keys()
    if given.keys() - known:
        raise InputError(f"{sorted(given.keys() - known)} are no settings: {sorted(known)} are.")
    config = read_config(path)
    if config is not None:
        return replace(Settings(**inference_settings(config)), **given)
    if "model_name" not in given:
        raise InputError(
            f"Nothing beside {path} says what model it is of: no metadata in the file, no "
            "metrics.json in its run's folder. Give model_name, height and width, such as "
            "model_name='spectral_osnet_x0_25', height=256, width=128."
        )
    return Settings(**given)


def _find_config(content: Any) -> Any:  # noqa: ANN401 (whatever was saved)
    if not isinstance(content, dict):
        return None
    for holder in (content, content.get("provenance"), content.get("record")):
        if isinstance(holder, dict) and isinstance(holder.get("config"), dict):
            return holder["config"]
    return None


def _load(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load all weights; of the classifier only what the test feature is made by."""
    own = model.state_dict()
    if not weights.keys() & own.keys():
        weights = {name.removeprefix("model."): value for name, value in weights.items()}
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape
    }
    missing = missing_weights(model, fitting)
    if missing:
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {len(missing)} of {len(own)} weights "
            f"are missing or of another shape, such as {missing[0]}. Give the model_name and "
            "options that it was trained with."
        )
    # What no test uses is zero, so that the same file always gives the same fingerprint.
    unused = {name: torch.zeros_like(value) for name, value in own.items() if name not in fitting}
    model.load_state_dict({**unused, **fitting})
