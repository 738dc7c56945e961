"""All config keys with their defaults: torchreid's, unchanged, and this plugin's.

torchreid's own YAML files are valid here. A key that is not listed is an error that names the
nearest ones.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.rerank import RERANKERS, default_options

__all__ = ["get_default_config", "merge_file", "merge_options", "merged_config"]

# Keys and values of torchreid's scripts/default_config.py.
_TORCHREID: dict[str, Any] = {
    "use_gpu": True,
    "model": {"name": "resnet50", "pretrained": True, "load_weights": "", "resume": ""},
    "data": {
        "type": "image",
        "root": "reid-data",
        "sources": ["market1501"],
        "targets": ["market1501"],
        "workers": 4,
        "split_id": 0,
        "height": 256,
        "width": 128,
        "combineall": False,
        "transforms": ["random_flip"],
        "k_tfm": 1,
        "norm_mean": [0.485, 0.456, 0.406],
        "norm_std": [0.229, 0.224, 0.225],
        "save_dir": "log",
        "load_train_targets": False,
    },
    "market1501": {"use_500k_distractors": False},
    "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
    "sampler": {
        "train_sampler": "RandomSampler",
        "train_sampler_t": "RandomSampler",
        "num_instances": 4,
        "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": {
        "optim": "adam",
        "lr": 0.0003,
        "weight_decay": 5e-4,
        "max_epoch": 60,
        "start_epoch": 0,
        "batch_size": 32,
        "fixbase_epoch": 0,
        "open_layers": ["classifier"],
        "staged_lr": False,
        "new_layers": ["classifier"],
        "base_lr_mult": 0.1,
        "lr_scheduler": "single_step",
        "stepsize": [20],
        "gamma": 0.1,
        "print_freq": 20,
        "seed": 1,
    },
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.99},
    "adam": {"beta1": 0.9, "beta2": 0.999},
    "loss": {
        "name": "softmax",
        "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
    },
    "test": {
        "batch_size": 100,
        "dist_metric": "euclidean",
        "normalize_feature": False,
        "ranks": [1, 5, 10, 20],
        "evaluate": False,
        "eval_freq": -1,
        "start_eval": 0,
        "rerank": False,
        "visrank": False,
        "visrank_topk": 10,
    },
}

_ANNEALED = {"margin": 4, "base": 1000.0, "gamma": 0.12, "power": 1.0, "minimum": 5.0}

_SPECTRAL: dict[str, Any] = {
    # Blocks after stages of a spectral model's backbone: [{after: layer3, over: pixels, heads: 4}]
    "model": {"attention": []},
    # The walk and the head of spectral_* models; top_k 0 keeps all, last_stride 0 torchreid's,
    # steps inf is the closed form, memory counts features of earlier batches.
    "spectral": {
        "temperature": 0.1,
        "learn_temperature": False,
        "similarity": "cosine",
        "heads": 1,
        "group_shuffling": False,
        "steps": 1,
        "restart": 0.0,
        "self_loops": True,
        "top_k": 0,
        "mutual": False,
        "normalization": "rows",
        "detach_transition": False,
        "memory": 0,
        "pooling": "avg",
        "stripes": 0,
        "global_part": True,
        "supervision": "both",
        "neck": "bottleneck",
        "bottleneck_dim": 512,
        "head_norm": "bn",
        "activation": "prelu",
        "scale": 15.0,
        "last_stride": 1,
        "test_feature": "pooled",
        "walked_feature": "pooled",
    },
    "loss": {
        # loss.name spectral: an identity loss ('' for none) on X and X', any number of metric
        # losses on X (plain), X' (walked) or both, with their weights (none: all 1).
        "id": "am_softmax",
        "weight": 1.0,
        "weight_walked": 1.0,
        "metric": [],
        "metric_weights": [],
        "metric_on": "plain",
        # Options of each, whether named by id and metric or alone by loss.name.
        "softmax": {"scale": 15.0, "normalized": True},
        "am_softmax": {"margin": 0.3, "scale": 15.0},
        "arcface": {"margin": 0.5, "scale": 30.0},
        "circle": {"margin": 0.25, "scale": 64.0},
        "a_softmax": dict(_ANNEALED),
        "l_softmax": dict(_ANNEALED),
        "contrastive": {"margin": 1.0, "normalize": True},
        "triplet": {"soft_margin": False, "metric": "euclidean", "normalize": False},
        "quadruplet": {
            "margin": 1.0,
            "margin_pairs": 0.5,
            "adaptive": True,
            "normalize": True,
        },
        "nca": {"scale": 20.0},
        "circle_pairs": {"margin": 0.25, "scale": 64.0},
        "normalized_cut": {"temperature": 0.1, "scale": 15.0, "detach": True},
        "escape": {"temperature": 0.1},
    },
    # DarkRank: a teacher model ('' for none) and its checkpoint; soft or hard.
    "distill": {
        "teacher": "",
        "weights": "",
        "weight": 1.0,
        "kind": "soft",
        "scale": 3.0,
        "power": 3.0,
        "list_length": 4,
    },
    # chunk_size, clip_norm, ema_decay, patience, checkpoint_every (steps), graph_every: 0 is off.
    "train": {
        "warmup_epochs": 20,
        "warmup_factor": 0.01,
        "amp": "off",
        "channels_last": False,
        "compile": "",
        "deterministic": False,
        "chunk_size": 0,
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "on_nan": "stop",
        "checkpoint_every": 0,
        "keep": "mAP",
        "patience": 0,
        "graph_every": 0,
        "sync_bn": False,
    },
    # cache none, ram or disk: of decoded and resized images; timeout: seconds to wait for a batch.
    # crop_padding: black pixels at each side before random_pad_crop, of data.transforms, crops.
    # augment device: data.transforms of whole batches on the GPU, with the same distributions.
    "data": {
        "on_error": "raise",
        "persistent_workers": False,
        "timeout": 0.0,
        "cache": "none",
        "augment": "loader",
        "crop_padding": 10,
    },
    # whitening of the test features, fitted on the training set's: none, pca, zca or iterative;
    # eps is added to each variance, in shares of their mean.
    "test": {
        "flip": False,
        "whitening": "none",
        "whitening_eps": 1e-3,
        "whitening_iterations": 5,
    },
    # test.rerank switches it on. Each method has its options in a group of its name, with the
    # defaults of its class; chunk_size 0 is the method's own; inductive answers each query alone;
    # search: exact, faiss_flat, faiss_ivf or faiss_hnsw.
    "rerank": {
        "method": "k_reciprocal",
        "search": "exact",
        "chunk_size": 0,
        "inductive": False,
        **{name: default_options(name) for name in RERANKERS},
    },
    # The dataset folder: a user's own images, see data/folder.py; path counts from data.root.
    "folder": {"path": "", "train_share": 0.5, "seed": 0, "one_camera": False},
    # Of video.pooling_method attention, beside torchreid's avg and max.
    "video": {"frame_temperature": 0.1},
    # The embedded datasets synthetic_pedestrians and synthetic_pedestrians_video.
    "synthetic": {
        "num_train_ids": 100,
        "num_test_ids": 100,
        "num_cameras": 4,
        "images_per_id": 16,
        "height": 128,
        "width": 64,
        "seed": 0,
    },
    "synthetic_video": {
        "num_train_ids": 60,
        "num_test_ids": 60,
        "num_cameras": 4,
        "tracklets_per_id": 8,
        "min_frames": 3,
        "max_frames": 8,
        "height": 128,
        "width": 64,
        "seed": 0,
    },
    # Queries drawn with their ranked lists in a picture of their own, 0 for none; report.html, and
    # the baseline's log folder for its embedding picture.
    "report": {"ranked_lists": 0, "html": True, "baseline": ""},
}

_MAY_BE_INFINITE = ("spectral.steps",)
# Keys of version 0.1.0's first configs, which go on working.
_MOVED = {
    "loss.spectral.id": "loss.id",
    "loss.spectral.metric": "loss.metric",
    "loss.spectral.weight": "loss.weight",
    "loss.spectral.weight_walked": "loss.weight_walked",
    "loss.spectral.weight_metric": "loss.metric_weights",
    "rerank.k": "rerank.local_blurring.k",
    "rerank.temperature": "rerank.local_blurring.temperature",
    "rerank.steps": "rerank.local_blurring.steps",
    "rerank.k1": "rerank.k_reciprocal.k1",
    "rerank.k2": "rerank.k_reciprocal.k2",
    "rerank.lambda_value": "rerank.k_reciprocal.lambda_value",
}


def get_default_config() -> CfgNode:
    """Give a fresh config with all defaults.

    Returns:
        A yacs node.
    """
    return CfgNode(_merged(copy.deepcopy(_TORCHREID), _SPECTRAL))


def merged_config(config: Mapping[str, Any]) -> CfgNode:
    """Give a saved config over today's defaults.

    Args:
        config: Plain data, as ``metrics.json`` holds it; keys that are no longer known are passed
            over.

    Returns:
        A yacs node.
    """
    cfg = get_default_config()
    known = dict(_leaves(cfg))
    for key, value in _leaves(config):
        if _MOVED.get(key, key) in known:
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
    for key, value in _leaves(content):
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
    known = dict(_leaves(cfg))
    key = _MOVED.get(key, key)
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


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _merged(base: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in more.items():
        if isinstance(value, Mapping):
            base[name] = _merged(base.get(name, {}), value)
        else:
            base[name] = value
    return base
