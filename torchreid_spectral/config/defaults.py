"""All config keys with their defaults: torchreid's, unchanged, and this plugin's.

torchreid's own YAML files are valid here. A key that is not listed is an error that names the
nearest ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from torchreid_spectral.rerank import RERANKERS, default_options

__all__ = ["get_default_config"]

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
    # DarkRank: a teacher model ('' for none) and its checkpoint; soft or hard. A spectral teacher
    # has the options of its run where that is known, else the student's.
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
        "flush_denormals": True,
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
    # whitening of the test features, fitted on the training set's: none, pca, zca or iterative,
    # of the total covariance or that within identities; eps is added to each variance, in shares
    # of their mean.
    "test": {
        "flip": False,
        "whitening": "none",
        "whitening_covariance": "within",
        "whitening_eps": 1.0,
        "whitening_iterations": 5,
    },
    # test.rerank switches it on. Each method has its options in a group of its name, with the
    # defaults of its class; chunk_size 0 is the method's own; inductive answers each query alone;
    # search: exact, faiss_flat, faiss_ivf or faiss_hnsw; camera_normalization: none, center or
    # standardize, takes each camera's mean (and deviation) over the gallery out of the features.
    "rerank": {
        "method": "k_reciprocal",
        "search": "exact",
        "chunk_size": 0,
        "inductive": False,
        "camera_normalization": "none",
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


def get_default_config() -> CfgNode:
    """Give a fresh config with all defaults.

    Returns:
        A yacs node.
    """
    return CfgNode(_merged(copy.deepcopy(_TORCHREID), _SPECTRAL))


def _merged(base: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in more.items():
        if isinstance(value, Mapping):
            base[name] = _merged(base.get(name, {}), value)
        else:
            base[name] = value
    return base
