"""Names to builders, and their way into torchreid's own registries.

``register()`` is the one place where something in torchreid changes: layouts are made alike,
checkpoints load again (:mod:`~torchreid_spectral._compat`), and models, losses, engines, the
embedded dataset, the sampler and the scheduler become known under their names.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torchreid_spectral._active import Active
from torchreid_spectral.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = [
    "build_model",
    "list_losses",
    "list_models",
    "list_rerankers",
    "model_defaults",
    "model_options",
    "register",
    "register_backbone",
    "show_messages",
]

PREFIX = "spectral_"
_ENGINES = ("ImageMetricEngine", "ImageSpectralEngine", "VideoSpectralEngine")
_registered = False
_model_options: Active[dict[str, Any]] = Active({})


def register(overwrite: bool = False) -> None:
    """Make the plugin known to torchreid; calling it again changes nothing.

    After it ``torchreid.models.build_model("spectral_resnet50", ...)`` works in any script, in
    both of torchreid's layouts.

    Args:
        overwrite: Replace entries of the same names that something else has put there.

    Raises:
        ValueError: If a name is taken by something else and ``overwrite`` is not set.
        InputError: If torchreid is not installed.
    """  # noqa: DOC502
    global _registered
    if _registered and not overwrite:
        return
    from torchreid_spectral import _compat

    root = _compat.prepare()
    from torchreid_spectral import engine, losses
    from torchreid_spectral.data.datasets import IMAGE_DATASETS, VIDEO_DATASETS
    from torchreid_spectral.data.pickling import patch_pickling
    from torchreid_spectral.data.samplers import patch_samplers
    from torchreid_spectral.data.transforms import patch_transforms
    from torchreid_spectral.engine.schedulers import patch_schedulers
    from torchreid_spectral.evaluation.ranking import evaluate_rank_padded

    tables = _compat.dataset_tables()
    _put(tables["image"], IMAGE_DATASETS, "dataset", overwrite)
    _put(tables["video"], VIDEO_DATASETS, "dataset", overwrite)
    factory = _compat.model_factory()
    _put(factory, {name: _builder(name) for name in list_models()}, "model", overwrite)
    for target, source, names in (
        (root.losses, losses, tuple(losses.__all__)),
        (root.engine, engine, _ENGINES),
    ):
        _put(vars(target), {name: getattr(source, name) for name in names}, "name", overwrite)
    patch_pickling()
    patch_samplers()
    patch_transforms()
    patch_schedulers()
    _compat.replace_everywhere(root.metrics.evaluate_rank, evaluate_rank_padded)
    show_messages()
    _registered = True


def register_backbone(
    name: str, builder: Callable[..., nn.Module], *, overwrite: bool = False
) -> None:
    """Put a backbone of one's own into torchreid's table of models, and its spectral twin.

    Args:
        name: It is built by; the twin is ``spectral_<name>``.
        builder: Called as torchreid's are, with ``num_classes``, ``loss``, ``pretrained`` and
            ``use_gpu``. The model has a linear ``classifier``; in eval mode it gives the feature
            ``(B, D)``, in training with ``loss="triplet"`` the classifier's output and the
            feature.
        overwrite: Replace a model of that name.

    Raises:
        InputError: If the name is taken, or is a twin's.
    """
    from torchreid_spectral import _compat

    if name.startswith(PREFIX):
        raise InputError(f"A backbone's name must not begin with {PREFIX}, got {name!r}.")
    register()
    factory, twin = _compat.model_factory(), PREFIX + name
    if name in factory and not overwrite:
        raise InputError(
            f"There is a model {name!r} already: take another name, or overwrite=True."
        )
    factory.update({name: builder, twin: _builder(twin)})


def build_model(
    name: str,
    num_classes: int,
    loss: str = "softmax",
    pretrained: bool = True,
    use_gpu: bool = False,
    **options: Any,  # noqa: ANN401 (see models.make_spectral)
) -> nn.Module:
    """Build a spectral model, or a plain one of torchreid.

    Args:
        name: ``spectral_<torchreid model>`` or a model of torchreid.
        num_classes: Training identities.
        loss: ``softmax``, ``triplet``, ``spectral`` or any name of :func:`list_losses`; which
            outputs training gives, see :class:`~torchreid_spectral.models.SpectralNet`.
        pretrained: Start from torchreid's ImageNet weights, which it downloads (and says so).
        use_gpu: As in torchreid; a few models place constants by it.
        **options: Of :func:`~torchreid_spectral.models.make_spectral`, above the active ones.

    Returns:
        The model, in training mode.

    Raises:
        UnknownNameError: If there is no such model.
        InputError: If there is no such option, or options are given for a plain model.
    """
    from torchreid_spectral import _compat

    factory = _compat.model_factory()
    backbone_name = name.removeprefix(PREFIX)
    if backbone_name not in factory:
        raise UnknownNameError("model", name, {*factory, *list_models()})
    loss = _contract(loss, spectral=backbone_name != name)
    arguments = {"num_classes": num_classes, "pretrained": pretrained, "use_gpu": use_gpu}
    if backbone_name == name:
        if options:
            raise InputError(f"{name} takes no options: {sorted(options)} are of spectral models.")
        plain: nn.Module = factory[name](loss=loss, **arguments)
        return plain
    from torchreid_spectral.models import make_spectral

    merged = _model_options.value | options
    _check_options(merged)
    # The backbone gives its features in training only under the triplet contract.
    backbone = factory[backbone_name](loss="triplet", **arguments | {"use_gpu": False})
    model: nn.Module = make_spectral(backbone, contract=loss, **merged)  # runs it on the CPU
    _compat.place_constants(model, use_gpu=use_gpu)
    return model


def list_models() -> list[str]:
    """List the spectral models: one for each image model of the installed torchreid.

    Returns:
        Names, sorted.
    """
    from torchreid_spectral import _compat

    return sorted(PREFIX + name for name in _compat.model_factory() if not name.startswith(PREFIX))


def list_losses() -> list[str]:
    """List the identity, metric and distillation losses that configs select by name.

    Returns:
        Names, sorted.
    """
    from torchreid_spectral.losses.registry import (
        DISTILLATION_LOSSES,
        ID_LOSSES,
        METRIC_LOSSES,
    )

    return sorted({*ID_LOSSES, *METRIC_LOSSES, *DISTILLATION_LOSSES})


def list_rerankers() -> list[str]:
    """List the re-rankers.

    Returns:
        Names, sorted.
    """
    from torchreid_spectral.rerank import RERANKERS

    return sorted(RERANKERS)


@contextmanager
def model_defaults(**options: Any) -> Iterator[None]:  # noqa: ANN401
    """Set what spectral models are built with inside the block, where the caller names nothing.

    torchreid's ``build_model`` passes four arguments on; the rest of the active config reaches
    the model this way.

    Args:
        **options: Of :func:`~torchreid_spectral.models.make_spectral`.

    Yields:
        Nothing.

    Raises:
        InputError: If there is no such option.
    """  # noqa: DOC502
    _check_options(options)
    with _model_options.held(_model_options.value | options):
        yield


def model_options() -> dict[str, Any]:
    """Describe the options of spectral models.

    Returns:
        Name to default, as of :class:`~torchreid_spectral.models.SpectralOptions`.
    """
    from torchreid_spectral.models import SpectralOptions

    return SpectralOptions.defaults()


def _contract(loss: str, *, spectral: bool) -> str:
    """Say what a model must give in training for a loss: see SpectralNet's ``contract``."""
    if loss in ("softmax", "triplet") or loss not in {"spectral", *list_losses()}:
        return loss  # what is unknown is refused where the model is built
    return "spectral" if spectral else "triplet"


def show_messages(handler: logging.Handler | None = None) -> None:
    """Show this package's messages, unless the user logs or they are shown already.

    Args:
        handler: Where; standard output by default, as torchreid's.
    """
    logger = logging.getLogger("torchreid_spectral")
    if logger.handlers or logging.getLogger().handlers:
        return
    logger.addHandler(handler or _StandardOutput())
    logger.setLevel(logging.INFO)


class _StandardOutput(logging.Handler):
    """Writes to what ``sys.stdout`` is at that moment: torchreid's scripts replace it.

    Where the user has set up logging since, their handlers are given the messages, not this one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        try:
            sys.stdout.write(self.format(record) + "\n")
        except Exception:  # as logging's own handlers do: a message must not end a run
            self.handleError(record)


def _check_options(options: dict[str, Any]) -> None:
    from torchreid_spectral.models import SpectralOptions

    SpectralOptions.of(**options)


def _builder(name: str) -> Callable[..., nn.Module]:
    return partial(build_model, name)


def _put(table: Any, entries: dict[str, Any], kind: str, overwrite: bool) -> None:  # noqa: ANN401
    """Add entries to a table of torchreid, all or none."""
    taken = [name for name in entries if name in table and not _is_ours(table[name])]
    if taken and not overwrite:
        raise ValueError(
            f"torchreid already has a {kind} {taken[0]!r} that is not this plugin's: "
            "rename it, or call register(overwrite=True) to replace it."
        )
    table.update(entries)


def _is_ours(entry: Any) -> bool:  # noqa: ANN401
    entry = entry.func if isinstance(entry, partial) else entry
    return str(getattr(entry, "__module__", "")).startswith("torchreid_spectral")
