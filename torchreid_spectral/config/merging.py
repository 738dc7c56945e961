"""Files, command lines and saved configs over the defaults: unknown keys and types are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from torchreid_spectral.config.defaults import get_default_config
from torchreid_spectral.errors import InputError, UnknownNameError

__all__ = ["leaves", "merge_file", "merge_options", "merged_config"]

_MAY_BE_INFINITE = ("spectral.steps",)


def merged_config(config: Mapping[str, Any]) -> CfgNode:
    """Give a saved config over today's defaults.

    Args:
        config: Plain data, as ``metrics.json`` holds it; keys that are no longer known are passed
            over.

    Returns:
        A yacs node.
    """
    cfg = get_default_config()
    known = dict(leaves(cfg))
    for key, value in leaves(config):
        if key in known:
            _set(cfg, key, value)
    return cfg


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merge a YAML file into a config.

    Args:
        cfg: Changed in place.
        path: The file.

    Raises:
        InputError: If the file cannot be read, or a key or the type of a value is wrong.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--config-file {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config-file {path} is not readable YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"--config-file {path} must hold keys and values at its top level.")
    for key, value in leaves(content):
        _set(cfg, key, value)


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge ``KEY VALUE`` pairs of a command line into a config.

    Args:
        cfg: Changed in place.
        options: For instance ``["train.lr", "0.01"]``.

    Raises:
        InputError: If a value is missing, or a key or the type of a value is wrong.
    """
    if len(options) % 2:
        raise InputError(f"Config options come in pairs KEY VALUE; {options[-1]!r} has no value.")
    for key, text in zip(options[::2], options[1::2]):
        _set(cfg, key, _decoded(text))


def _decoded(text: str) -> Any:  # noqa: ANN401
    """Read a value as Python or, where that fails, a list as YAML: ``[{after: layer3}]``."""
    value = CfgNode._decode_cfg_value(text)
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
    return value


def _set(cfg: CfgNode, key: str, value: Any) -> None:  # noqa: ANN401
    known = dict(leaves(cfg))
    if key not in known:
        raise UnknownNameError("config key", key, known)
    default = known[key]
    if default == "off" and value is False:  # what YAML reads it as
        value = "off"
    if key in _MAY_BE_INFINITE and value in ("inf", float("inf")):
        default = value = float("inf")
    elif key in _MAY_BE_INFINITE and isinstance(default, float):
        default = 1  # it was set to inf before
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if key == "loss.metric_weights" and isinstance(value, (int, float)):
        value = [value]
    if isinstance(default, list) and isinstance(value, (str, tuple)):
        value = list(value) if isinstance(value, tuple) else [value] if value else []
    if isinstance(default, float) and isinstance(value, str):
        value = _number(value)  # YAML reads 5e-4 as text
    if type(value) is not type(default):
        raise InputError(
            f"Config key {key} takes {type(default).__name__} (default {default!r}), got "
            f"{value!r}."
        )
    *path, last = key.split(".")
    node = cfg
    for name in path:
        node = node[name]
    node[last] = value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List what a config holds.

    Args:
        node: Nested groups.
        prefix: Before the names, such as ``train.``.

    Yields:
        Dotted key and value.
    """
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
