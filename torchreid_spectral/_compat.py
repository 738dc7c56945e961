"""The only file that knows torchreid's two layouts, its private names, and what breaks in it.

torchreid exists twice under one import name: GitHub's 1.4.0 with ``torchreid.models`` and PyPI's
0.2.5 with ``torchreid.reid.models``. Everything else in this package asks :func:`load` for the
root that holds ``models``, ``data``, ``engine`` and so on. Nothing is changed in torchreid before
:func:`prepare`, which ``register()`` calls.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.utils.model_zoo

from torchreid_spectral._checkpoint_files import (
    load_checkpoint,
    load_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from torchreid_spectral.data.images import read_image
from torchreid_spectral.errors import InputError

__all__ = [
    "aliases_installed",
    "dataset_tables",
    "load",
    "load_checkpoint",
    "load_weights",
    "model_factory",
    "place_constants",
    "prepare",
    "replace_everywhere",
    "resume_from_checkpoint",
    "save_checkpoint",
    "submodule",
]

_SUBPACKAGES = ("data", "engine", "losses", "metrics", "models", "optim", "utils")


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """Import torchreid, whichever layout it has, and make torchvision importable if need be.

    Returns:
        The module that has ``models``, ``data``, ``engine``, ``losses``, ``metrics``, ``optim``
        and ``utils`` as attributes.

    Raises:
        InputError: If torchreid is not installed, or is another package of that name.
        ModuleNotFoundError: If torchreid is there but misses a package of its own.
    """
    _mend_torchvision()
    try:
        with warnings.catch_warnings():
            # its evaluator, which this package does not use
            warnings.filterwarnings("ignore", "Cython evaluation", UserWarning)
            torchreid = importlib.import_module("torchreid")
    except ModuleNotFoundError as error:
        if error.name != "torchreid":
            raise
        raise InputError(
            "torchreid is not installed. Run: pip install torchreid==0.2.5 "
            "(or install github.com/KaiyangZhou/deep-person-reid)"
        ) from error
    root = getattr(torchreid, "reid", torchreid)
    missing = [name for name in _SUBPACKAGES if not hasattr(root, name)]
    if missing:
        raise InputError(
            f"The installed torchreid ({getattr(torchreid, '__file__', '?')}) has no {missing}: "
            "neither GitHub's 1.4.0 nor PyPI's 0.2.5. Run: pip install torchreid==0.2.5"
        )
    return root


def prepare() -> ModuleType:
    """Make both layouts behave alike and mend what today's PyTorch breaks; idempotent.

    Returns:
        The root module, as :func:`load`.
    """
    root = load()
    _alias_layout(root)
    tools = importlib.import_module(root.__name__ + ".utils.torchtools")
    replace_everywhere(tools.load_checkpoint, load_checkpoint)
    replace_everywhere(tools.save_checkpoint, save_checkpoint)
    replace_everywhere(tools.resume_from_checkpoint, resume_from_checkpoint)
    # torchreid's own reads a broken file again and again, for ever
    replace_everywhere(submodule("utils.tools").read_image, read_image)
    replace_everywhere(torch.utils.model_zoo, SimpleNamespace(load_url=_load_url))
    return root


def aliases_installed() -> bool:
    """Say whether ``import torchreid.models`` works, by layout or by :func:`prepare`.

    Returns:
        Whether it does.
    """
    return "torchreid.models" in sys.modules


def model_factory() -> dict[str, Callable[..., Any]]:
    """Reach torchreid's module-level table of models.

    Returns:
        The live dictionary, name to builder.
    """
    # A module-private name: inside a class body the two underscores would be mangled.
    factory: dict[str, Callable[..., Any]] = load().models.build_model.__globals__[
        "__model_factory"
    ]
    return factory


def dataset_tables() -> dict[str, dict[str, type]]:
    """Reach torchreid's tables of datasets.

    Returns:
        ``image`` and ``video``: the live dictionaries, name to class.
    """
    names = load().data.register_image_dataset.__globals__
    return {"image": names["__image_datasets"], "video": names["__video_datasets"]}


def submodule(name: str) -> ModuleType:
    """Import a module of torchreid by its name in the GitHub layout.

    Args:
        name: For instance ``data.sampler``.

    Returns:
        The module.
    """
    return importlib.import_module(f"{load().__name__}.{name}")


def place_constants(network: torch.nn.Module, *, use_gpu: bool) -> None:
    """Tell a model on which device to make its constants: HACNN's goes by an attribute.

    Args:
        network: Any model of torchreid or of this package; others are left alone.
        use_gpu: Whether its weights are on a GPU.
    """
    if hasattr(network, "use_gpu"):
        vars(network)["use_gpu"] = use_gpu


def replace_everywhere(original: object, replacement: object) -> int:
    """Put ``replacement`` wherever a module of torchreid holds ``original`` under its name.

    torchreid imports functions by name into its modules, so that setting one attribute would
    reach only some of their callers.

    Args:
        original: What to look for, compared by identity.
        replacement: What to put in its place.

    Returns:
        How many attributes were set.
    """
    found = 0
    if original is replacement:
        return found
    for name, module in list(sys.modules.items()):
        if name != "torchreid" and not name.startswith("torchreid."):
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)
                found += 1
    return found


def _load_url(url: str, **kwargs: Any) -> Any:  # noqa: ANN401
    """Download weights as torchreid's models do, but never unpickle more than tensors."""
    sys.stdout.write(f"Downloading weights from {url}\n")
    options = {"map_location": "cpu"} | kwargs | {"weights_only": True}
    return torch.hub.load_state_dict_from_url(url, **options)


def _alias_layout(root: ModuleType) -> None:
    """Let ``torchreid.utils`` and all below it be the modules of ``torchreid.reid.utils``."""
    if root.__name__ == "torchreid":
        return
    prefix = root.__name__ + "."
    top = sys.modules["torchreid"]
    for name, module in list(sys.modules.items()):
        if name.startswith(prefix):
            sys.modules.setdefault("torchreid." + name.removeprefix(prefix), module)
    for name in _SUBPACKAGES:
        setattr(top, name, getattr(root, name))


def _mend_torchvision() -> None:
    """Declare the operators that torchvision misses where its compiled part cannot load.

    A torchvision wheel for CUDA next to a CPU-only PyTorch fails on import with "operator
    torchvision::nms does not exist", though torchreid needs only its Python transforms.
    """
    if _KEPT_ALIVE or "torchvision" in sys.modules or _torchvision_library_loads():
        return
    library = torch.library.Library("torchvision", "DEF")  # noqa: TOR901 (kept alive below)
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)


_KEPT_ALIVE: list[torch.library.Library] = []


def _torchvision_library_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True  # not installed: torchreid's own import error will say so
    libraries = [
        path
        for folder in spec.submodule_search_locations
        for path in sorted(Path(folder).glob("_C*"))
        if path.suffix in {".so", ".pyd", ".dylib"}
    ]
    try:
        for path in libraries:
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return bool(libraries)
