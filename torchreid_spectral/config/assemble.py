"""A whole run from a config: backends, data, model, optimiser, schedule, engine.

What torchreid would stop at with an assertion, or pass over, is a clear message here.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from torchreid_spectral import _compat, registry
from torchreid_spectral._run_files import STATE, WEIGHTS
from torchreid_spectral.config import build, engines
from torchreid_spectral.data.catalog import missing_message
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.loop import say
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional._precision import denormals_as_zero
from torchreid_spectral.layers.pooling import PartPool
from torchreid_spectral.models import SpectralNet
from torchreid_spectral.models.feature_weights import missing_weights

__all__ = [
    "arithmetic",
    "assemble",
    "is_own",
    "load_weights",
    "require_file",
    "set_backends",
    "to_dict",
]

logger = logging.getLogger(__name__)


def set_backends(cfg: CfgNode) -> None:
    """Choose what PyTorch's backends may do, and say so.

    Args:
        cfg: The effective config.
    """
    if cfg.train.deterministic:
        # CUDA's own libraries need this too; what still differs on a GPU raises an error.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if not cfg.use_gpu:
        say(
            f"CPU, {torch.get_num_threads()} threads, oneDNN {torch.backends.mkldnn.enabled}, "
            f"deterministic {cfg.train.deterministic}"
        )
    else:
        torch.backends.cudnn.benchmark = not cfg.train.deterministic
        torch.backends.cudnn.deterministic = cfg.train.deterministic
        say(
            f"cuDNN benchmark {torch.backends.cudnn.benchmark}, deterministic "
            f"{cfg.train.deterministic}, TF32 matmul {torch.backends.cuda.matmul.allow_tf32}, "
            f"TF32 convolutions {torch.backends.cudnn.allow_tf32}"
        )


def arithmetic(cfg: CfgNode) -> AbstractContextManager[None]:
    """Give the context for a whole run, from before its model is built.

    The engine has the same around training and tests; by then PyTorch's threads may have started
    without it.

    Args:
        cfg: The effective config.

    Returns:
        To enter once; inside, the engine's own does nothing more.
    """
    return denormals_as_zero(enabled=cfg.train.flush_denormals and not cfg.use_gpu)


def assemble(cfg: CfgNode, *, commit: str | None = None) -> Any:  # noqa: ANN401
    """Build all that a run needs, drawing random numbers in torchreid's order.

    Args:
        cfg: The effective config; ``train.start_epoch`` is set where a checkpoint of torchreid's
            is resumed.
        commit: Of the program, kept with the metrics.

    Returns:
        The engine, whose ``run`` takes :func:`~torchreid_spectral.config.engines.run_kwargs`.

    Raises:
        InputError: If data, weights or options are missing or do not fit.
    """
    try:
        return _assembled(cfg, commit)
    except InputError:
        raise
    except (AssertionError, ValueError) as error:  # torchreid's checks of its options
        rule = traceback.extract_tb(error.__traceback__)[-1].line
        raise InputError(str(error) or f"torchreid refused the config: {rule}") from error


def _assembled(cfg: CfgNode, commit: str | None) -> Any:  # noqa: ANN401
    """Do what :func:`assemble` does."""
    torchreid = _compat.load()
    datamanager = _load_data(cfg)
    say(f"Building model: {cfg.model.name}")
    model = _build_network(cfg, datamanager.num_train_pids)
    size = (1, 3, cfg.data.height, cfg.data.width)
    with _told_of_thin_maps(model, cfg):
        num_params, flops = torchreid.utils.compute_model_complexity(model, size)
    say(f"Model complexity: params={num_params:,} flops={flops:,}")
    if cfg.model.load_weights:
        require_file("model.load_weights", cfg.model.load_weights)
        load_weights(model, cfg.model.load_weights, whole=cfg.test.evaluate)
    if cfg.use_gpu:
        model = _to_gpu(model, one=_one_gpu(cfg))
    optimizer = build.build_optimizer(cfg, model)
    scheduler = build.build_scheduler(cfg, optimizer)
    if cfg.model.resume and cfg.model.resume != "auto" and not is_own(cfg.model.resume):
        require_file("model.resume", cfg.model.resume)
        cfg.train.start_epoch = _compat.resume_from_checkpoint(
            cfg.model.resume, model, optimizer, scheduler
        )
    say(f"Building {cfg.loss.name}-engine for {cfg.data.type}-reid")
    record = {"config": to_dict(cfg), "seed": cfg.train.seed, "commit": commit}
    return engines.build_engine(cfg, datamanager, model, optimizer, scheduler, record=record)


def _load_data(cfg: CfgNode) -> Any:  # noqa: ANN401
    """Build the data manager; what torchreid misses in a dataset becomes one clear message."""
    try:
        return build.build_datamanager(cfg)
    except (RuntimeError, OSError, IndexError) as error:
        if isinstance(error, RuntimeError) and "is not found" not in str(error):
            raise
        names = [*cfg.data.sources, *cfg.data.targets]
        folders = {name: _folder_of(name, cfg.data.type) for name in names}
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)):
            raise InputError(
                f"data.root {cfg.data.root} cannot be used: {error}. Name a folder that can be "
                "read, and written to by the embedded dataset (--root)."
            ) from error
        guilty = [name for name, folder in folders.items() if f"/{folder}" in str(error)]
        name = (guilty or names)[0]
        raise InputError(
            missing_message(name, cfg.data.root, folders[name], f"torchreid: {error}")
        ) from error


def _folder_of(name: str, kind: str) -> str:
    """Give the folder that torchreid reads a dataset from."""
    return str(getattr(_compat.dataset_tables()[kind][name], "dataset_dir", None) or name)


def _build_network(cfg: CfgNode, num_classes: int) -> nn.Module:
    """Build the model; a failed download of its first weights becomes a clear message."""
    try:
        return registry.build_model(
            cfg.model.name,
            num_classes,
            loss=cfg.loss.name,
            pretrained=cfg.model.pretrained,
            use_gpu=False,  # it is run on the CPU before _to_gpu
        )
    except OSError as error:
        raise InputError(
            f"The ImageNet weights of {cfg.model.name} could not be downloaded ({error}). Start "
            "from a file with model.pretrained False model.load_weights FILE, or from random "
            "weights with model.pretrained False."
        ) from error
    except ValueError as error:  # an option of the group spectral is out of range
        raise InputError(str(error)) from error


def _to_gpu(model: nn.Module, *, one: bool) -> nn.Module:
    """Wrap as torchreid does, unless the model must stay on one GPU.

    Args:
        model: A spectral one stays on one GPU, so that its graph is whole.
        one: So does what DataParallel's threads would compute in fp16 or on the first GPU alone.

    Returns:
        The model on the GPU or GPUs.
    """
    _compat.place_constants(model, use_gpu=True)
    if distributed.world_size() > 1:
        return model.cuda()
    count = torch.cuda.device_count()
    devices = list(range(count))
    spectral = isinstance(model, SpectralNet)
    if (spectral or one) and count > 1:
        why = "The graph spans the whole batch" if spectral else "train.amp bf16 or train.compile"
        say(
            f"{why}: using 1 of {count} GPUs. For all of them: torchrun "
            f"--nproc_per_node={count} tools/main.py ..."
        )
        devices = [0]
    return torch.nn.DataParallel(model, device_ids=devices).cuda()


def load_weights(model: nn.Module, path: str, *, whole: bool = False) -> None:
    """Load what fits; stop where nothing does, while torchreid would go on with random weights.

    Args:
        model: Changed in place.
        path: A checkpoint.
        whole: Whether all that makes the test feature must be there, as nothing is trained.

    Raises:
        InputError: If no weight of the backbone is of the model's shape, or one is missing.
    """
    given, own = _compat.load_weights(path), model.state_dict()
    named = [name for name in own if name in given and "classifier" not in name]
    if not named:
        raise InputError(
            f"model.load_weights {path} holds no weight of {type(model).__name__}: it has "
            f"{sorted(given)[:3]}, the model {sorted(own)[:3]}."
        )
    fitting = [name for name in named if given[name].shape == own[name].shape]
    if sum(own[name].dim() > 1 for name in fitting) == 0:  # counters and norms fit anything
        raise InputError(
            f"model.load_weights {path} is of a {type(model).__name__} of other widths: of "
            f"{len(named)} weights of its name {len(fitting)} fit, and none of a layer. Name its "
            "own model in model.name."
        )
    lost = missing_weights(model, given) if whole else []
    if lost:
        raise InputError(
            f"model.load_weights {path} lacks {len(lost)} weights that the test feature is made "
            f"by, such as {lost[0]}: they would be random. Give the options that "
            "the file was trained with, such as spectral.test_feature."
        )
    _compat.load().utils.load_pretrained_weights(model, path)


def require_file(key: str, path: str) -> None:
    """Stop where torchreid would only warn and go on with other weights.

    Args:
        key: Config key that names the file.
        path: The file.

    Raises:
        InputError: If it is not there.
    """
    if not Path(path).expanduser().is_file():
        raise InputError(f"{key} names a file that does not exist: {path}")


def to_dict(node: Any) -> Any:  # noqa: ANN401
    """Turn a config into plain dictionaries.

    Args:
        node: A group.

    Returns:
        The same, nested.
    """
    return {
        name: to_dict(value) if hasattr(value, "items") else value for name, value in node.items()
    }


@contextmanager
def _told_of_thin_maps(model: Any, cfg: CfgNode) -> Iterator[None]:  # noqa: ANN401
    """Say, after a forward pass, where stripes are more than the rows of what they divide."""
    pool = next((part for part in model.modules() if isinstance(part, PartPool)), PartPool())
    heights: list[int] = []
    handle = pool.register_forward_pre_hook(lambda _, maps: heights.append(maps[0].shape[2]))
    yield
    handle.remove()
    if heights and max(pool.rows) > heights[0]:
        logger.warning(
            "spectral.stripes %d are more than the %d rows of the last map at data.height %d: "
            "stripes are of the same rows. Lower it.", max(pool.rows), heights[0], cfg.data.height,
        )  # fmt: skip


def _one_gpu(cfg: CfgNode) -> bool:
    """Say whether something is asked for that DataParallel's copies would compute otherwise."""
    cut = bool(cfg.train.chunk_size) and not cfg.test.evaluate
    return cfg.train.amp == "bf16" or bool(cfg.train.compile) or cut


def is_own(path: str) -> bool:
    """Tell this package's checkpoints from torchreid's by their names.

    Args:
        path: Of a checkpoint.

    Returns:
        Whether it is this package's.
    """
    return path.endswith((WEIGHTS, STATE))
