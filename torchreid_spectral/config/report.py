"""From a config and an engine to the report of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from torchreid_spectral import registry
from torchreid_spectral._files import write_whole
from torchreid_spectral.config.build import build_rerank
from torchreid_spectral.engine import ReportingMixin, distributed
from torchreid_spectral.engine.step import unwrapped
from torchreid_spectral.inference import SpectralReID
from torchreid_spectral.inference.weights import latest_weights
from torchreid_spectral.report.history import read_history, seconds_a_step
from torchreid_spectral.report.run import Batch, RunReport, Tested, batch_features, write_report

__all__ = ["start_report"]

logger = logging.getLogger(__name__)
BEFORE, EARLY = "report/batch_before.npz", "report/batch_early.npz"
EARLY_SHARE = 10  # early: after this part of the epochs


def start_report(cfg: CfgNode, engine: ReportingMixin) -> Callable[[], Path | None]:
    """Look at the model before the training, for a report after it; never fails.

    Args:
        cfg: The effective config.
        engine: Before its ``run``.

    Returns:
        What to call after ``run``: it writes ``report.html`` and gives its path, or ``None`` where
        there is nothing to report, or something failed (which is logged).
    """
    if not cfg.report.html:
        return lambda: None
    if distributed.rank() > 0:  # one writer
        return lambda: None
    folder = Path(cfg.data.save_dir)
    if not cfg.test.evaluate and _takes_images(cfg):
        _watch_batch(cfg, engine, folder)

    def finish() -> Path | None:
        if not engine.tested:
            return None
        return _safely("report.html", lambda: write_report(_gather(cfg, engine, folder), folder))

    return finish


def _safely(what: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        return make()
    except Exception as error:  # a report must never cost a training
        logger.warning("%s failed: %s: %s", what, type(error).__name__, error)
        return None


def _watch_batch(cfg: CfgNode, engine: ReportingMixin, folder: Path) -> None:
    """Keep a batch's features as they are now, and have them kept early in training."""
    early = max(1, cfg.train.max_epoch // EARLY_SHARE)
    epochs = engine.progress.epoch if hasattr(engine, "progress") else 0  # set where it goes on
    begun = epochs or cfg.train.start_epoch or getattr(engine.train_loader, "position", 0)
    if not begun:
        _safely("an earlier run's batch", lambda: (folder / EARLY).unlink(missing_ok=True))
        _safely("the batch before training", lambda: _keep_batch(cfg, engine, folder / BEFORE, 0))

    def after_epoch(epoch: int) -> None:
        if epoch == early < cfg.train.max_epoch:
            _safely("the batch early in training",
                    lambda: _keep_batch(cfg, engine, folder / EARLY, epoch))  # fmt: skip

    engine.after_epoch = after_epoch


def _keep_batch(cfg: CfgNode, engine: ReportingMixin, path: Path, epoch: int) -> None:
    features, labels = _batch(cfg, engine)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, features=features.numpy(), labels=labels, epoch=epoch)

    write_whole(path, write)


def _batch(cfg: CfgNode, engine: ReportingMixin) -> tuple[Tensor, Any]:
    rows = _shown(engine.datamanager.train_loader.dataset.train)
    size, pixels = _input(cfg)
    return batch_features(_network(engine), rows, size, pixels)


def _input(cfg: CfgNode) -> tuple[tuple[int, int], tuple[Any, Any]]:
    return (cfg.data.height, cfg.data.width), (cfg.data.norm_mean, cfg.data.norm_std)


def _takes_images(cfg: CfgNode) -> bool:
    """Say whether the model can be shown images one by one: attention between frames cannot."""
    return all(block["over"] != "frames" for block in cfg.model.attention)


def _network(engine: ReportingMixin) -> torch.nn.Module:
    if engine.average is not None:  # what is tested
        averaged: torch.nn.Module = engine.average.module
        return averaged
    return unwrapped(engine._models[engine.get_model_names()[0]])


def _epochs(record: Mapping[str, Any], trained: int) -> dict[str, int]:
    """Give the epochs of a run; nothing where weights of elsewhere were tested.

    Args:
        record: Of the engine; has the epochs of a run whose report is drawn again.
        trained: By this engine.

    Returns:
        A fact, or none.
    """
    epochs = record.get("epochs", trained)
    return {"epochs": epochs} if epochs else {}


def _gather(cfg: CfgNode, engine: ReportingMixin, folder: Path) -> RunReport:
    history = read_history(folder)
    size, pixels = _input(cfg)
    made = engine.provenance
    seconds = seconds_a_step(history)
    tests = cfg.test.evaluate or not hasattr(engine, "progress")
    trained = 0 if tests else engine.progress.epoch
    facts = {
        "model": cfg.model.name,
        "loss": cfg.loss.name,
        "post-processing": build_rerank(cfg).label if cfg.test.rerank else "none",
        "input": f"{size[0]} x {size[1]}",
        **({"tracklets": "shown by their first frame"} if cfg.data.type == "video" else {}),
        "seed": cfg.train.seed,
        **_epochs(engine.record, trained),
        "seconds a step": "not measured" if seconds is None else f"{seconds:.3f}",
        "commit": made["commit"] or "not known",
        **{name: value for name, value in made["versions"].items() if value},
    }
    baseline = None
    if cfg.report.baseline and cfg.data.type == "video":
        facts["baseline in the embedding"] = "not drawn: it would see one frame a tracklet"
    elif cfg.report.baseline:
        baseline = ("baseline", _extractor(cfg.report.baseline))
    walked = cfg.model.name.startswith(registry.PREFIX) and cfg.spectral.supervision == "both"
    return RunReport(
        title=f"{cfg.model.name} · {folder.name}",
        tested={name: _tested(*found) for name, found in engine.tested.items()},
        history=history,
        facts=facts,
        model=_network(engine) if _takes_images(cfg) else None,
        input_size=size,
        pixels=pixels,
        batch=_safely("the batch", lambda: _batches(cfg, engine, folder)),
        baseline=baseline,
        method="+ random walk and deep supervision" if walked else "this model",
    )


def _batches(cfg: CfgNode, engine: ReportingMixin, folder: Path) -> Batch | None:
    panels = {}
    for path in (folder / BEFORE, folder / EARLY):
        if path.is_file():
            with np.load(path, allow_pickle=False) as saved:
                epoch = int(saved["epoch"])
                title = f"early: after epoch {epoch}" if epoch else "before training"
                panels[title] = torch.from_numpy(saved["features"])
    if not panels:
        return None
    features, labels = _batch(cfg, engine)
    return Batch(labels, panels | {"after training": features})


def _shown(rows: Any) -> list[Any]:  # noqa: ANN401
    """Let a tracklet be shown by its first frame."""
    return [(row[0] if isinstance(row[0], str) else row[0][0], *row[1:]) for row in rows]


def _tested(features: Tensor, query: Any, gallery: Any, *rest: Any) -> Tested:  # noqa: ANN401
    return Tested(features, _shown(query), _shown(gallery), *rest)


def _extractor(folder: str) -> Callable[[list[str]], Tensor]:
    def extract(paths: list[str]) -> Tensor:
        weights = latest_weights(Path(folder).expanduser())
        return torch.from_numpy(SpectralReID(weights).features(paths))

    return extract
