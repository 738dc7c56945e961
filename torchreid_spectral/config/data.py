"""From the group ``data`` of a config to torchreid's data manager; a part of ``config.build``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from torchreid_spectral import _compat
from torchreid_spectral.data.cache import ImageCache
from torchreid_spectral.data.device_transforms import DeviceTransforms
from torchreid_spectral.engine import distributed
from torchreid_spectral.errors import InputError

logger = logging.getLogger(__name__)

__all__ = [
    "AUGMENT",
    "build_cache",
    "build_datamanager",
    "image_dataset_options",
    "leave_augmentation",
]

AUGMENT = ("loader", "device")


def build_datamanager(cfg: CfgNode) -> Any:  # noqa: ANN401 (torchreid's)
    """Build torchreid's data manager.

    Args:
        cfg: The effective config.

    Returns:
        ``ImageDataManager`` or ``VideoDataManager``.
    """
    data = _compat.load().data
    shared = {
        "root": cfg.data.root,
        "sources": cfg.data.sources,
        "targets": cfg.data.targets,
        "height": cfg.data.height,
        "width": cfg.data.width,
        "transforms": cfg.data.transforms,
        "norm_mean": cfg.data.norm_mean,
        "norm_std": cfg.data.norm_std,
        "use_gpu": cfg.use_gpu,
        "split_id": cfg.data.split_id,
        "combineall": cfg.data.combineall,
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        "workers": cfg.data.workers,
        "num_instances": cfg.sampler.num_instances,
        "num_cams": cfg.sampler.num_cams,
        "num_datasets": cfg.sampler.num_datasets,
        "train_sampler": cfg.sampler.train_sampler,
    }
    if cfg.data.type == "video":
        return data.VideoDataManager(
            **shared, seq_len=cfg.video.seq_len, sample_method=cfg.video.sample_method
        )
    return data.ImageDataManager(
        **shared,
        k_tfm=cfg.data.k_tfm,
        load_train_targets=cfg.data.load_train_targets,
        train_sampler_t=cfg.sampler.train_sampler_t,
        **image_dataset_options(cfg),
    )


def image_dataset_options(cfg: CfgNode) -> dict[str, Any]:
    """Collect what image datasets of torchreid are told of their protocol.

    Args:
        cfg: The effective config.

    Returns:
        Arguments that every one of them takes, beside ``split_id``.
    """
    return {
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }


def build_cache(cfg: CfgNode, datamanager: Any) -> ImageCache | None:  # noqa: ANN401
    """Build the cache of decoded images.

    Args:
        cfg: The effective config.
        datamanager: Of :func:`build_datamanager`.

    Returns:
        The cache, still empty; None for ``data.cache none``.
    """
    if cfg.data.cache == "none":
        return None
    loaders = [datamanager.train_loader]
    loaders += [part for parts in datamanager.test_loader.values() for part in parts.values()]
    found = [item[0] for loader in loaders for item in loader.dataset.data]
    paths = [path for each in found for path in ([each] if isinstance(each, str) else each)]
    folder = Path(cfg.data.root).expanduser() / ".torchreid_spectral_cache"
    processes = distributed.started_by_torchrun()
    if cfg.data.cache == "ram" and processes > 1:
        size = 3 * len(set(paths)) * cfg.data.height * cfg.data.width
        logger.warning(
            "data.cache ram is held by each of %d processes: %.1f GB in all on one machine. "
            "data.cache disk is shared by them.", processes, processes * size / 1e9,
        )  # fmt: skip
    return ImageCache(
        paths, cfg.data.height, cfg.data.width, folder if cfg.data.cache == "disk" else None
    )


def leave_augmentation(cfg: CfgNode, datamanager: Any) -> DeviceTransforms | None:  # noqa: ANN401
    """Leave the random part of the training transforms to the device.

    Args:
        cfg: The effective config.
        datamanager: Of :func:`build_datamanager`; its training loader then gives bytes.

    Returns:
        That part; None for ``data.augment loader``.

    Raises:
        InputError: If a transform has no version for batches.
    """
    if cfg.data.augment == "loader":
        return None
    if cfg.data.k_tfm > 1:
        raise InputError(
            f"data.augment device gives one view of an image: set data.k_tfm 1, got "
            f"{cfg.data.k_tfm}."
        )
    augment = DeviceTransforms(datamanager.transform_tr)
    datamanager.train_loader.dataset.transform = augment.loader
    return augment
