"""Files, command lines and saved configs over the defaults: unknown keys and types are refused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from torchreid_spectral.config.defaults import get_default_config
from torchreid_spectral.errors import InputError, UnknownNameError

__all__ = ["leaves", "merge_file", "merge_options", "merged_config"]

_MAY_BE_INFINITE = ("spectral.steps",)
_OF_LISTS: dict[str, type] = {"loss.metric": str, "loss.metric_weights": float}
"""Kinds of the values of lists that are empty by default."""


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
    saved = config.get("test")
    if isinstance(saved, Mapping) and "whitening" in saved and "whitening_covariance" not in saved:
        cfg.test.whitening_covariance = "total"  # there was no other
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
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise InputError(f"--config-file {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config-file {path} is not readable YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"--config-file {path} must hold keys and values at its top level.")
    if twice := _given_twice(yaml.compose(text, yaml.SafeLoader)):
        raise InputError(
            f"--config-file {path} gives {twice[0]} twice, in lines {twice[1]} and {twice[2]}: "
            "the first would be lost. Put what they hold together."
        )
    for key, value in leaves(content):
        _set(cfg, key, value)


def _given_twice(node: yaml.Node | None, prefix: str = "") -> tuple[str, int, int] | None:
    """Find a key that a YAML file gives twice, and its lines: the reader keeps the last."""
    if not isinstance(node, yaml.MappingNode):
        return None
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in seen and key.value != "<<":  # merges, of which there may be several
            return name, seen[name], line
        seen[name] = line
        if found := _given_twice(value, f"{name}."):
            return found
    return None


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
    if isinstance(default, float) and isinstance(value, float) and not math.isfinite(value):
        if not (key.endswith(".steps") and value > 0):
            raise InputError(f"Config key {key} takes a finite number, got {value!r}.")
    if isinstance(default, list) and isinstance(value, list):
        value = _elements(key, value, default)
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


def _elements(key: str, values: list[Any], default: list[Any]) -> list[Any]:
    """Check that the values of a list are of the kind of its defaults, numbers or names."""
    kind = _OF_LISTS.get(key, type(default[0]) if default else None)
    if kind not in (int, float, str):
        return values
    if kind is float:
        values = [_number(each) if isinstance(each, str) else each for each in values]
        values = [float(each) if type(each) is int else each for each in values]
    for each in values:
        if type(each) is not kind or (isinstance(each, float) and not math.isfinite(each)):
            rule = {int: "whole numbers", float: "finite numbers", str: "names"}[kind]
            raise InputError(f"Config key {key} takes a list of {rule}, got {values!r}.")
    return values


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
