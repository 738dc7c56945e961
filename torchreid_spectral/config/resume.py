"""Going on from this package's checkpoints; those of torchreid are its own business."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from torchreid_spectral._run_files import CHECKPOINTS, last_weights
from torchreid_spectral.config.assemble import is_own, require_file, to_dict
from torchreid_spectral.config.merging import leaves
from torchreid_spectral.engine import ReportingMixin, distributed
from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder, aside
from torchreid_spectral.engine.loop import say
from torchreid_spectral.errors import InputError

__all__ = ["changes", "resume_own"]

IDENTITY = ("train.seed", "data.type", "data.sources", "model.name", "loss.name", "loss.id")
"""Keys that one run does not change: with others it is another run."""


def resume_own(cfg: CfgNode, engine: ReportingMixin) -> None:
    """Go on from this program's checkpoints: the last one, or a named one.

    The first process reads it for all of them: on other machines its folder may not be there.

    Args:
        cfg: The effective config.
        engine: Before its ``run``; gets the state.

    Raises:
        InputError: If the checkpoint is missing or does not fit.
    """  # noqa: DOC502
    given = cfg.model.resume
    folder = Path(cfg.data.save_dir) / CHECKPOINTS
    last = last_weights(Path(cfg.data.save_dir))
    if not given and not cfg.test.evaluate and last.is_file():
        say(f"{folder} holds the checkpoints of an earlier run: {aside(folder).name} is where "
            "they go. To go on from them instead: model.resume auto.")  # fmt: skip
    if given != "auto" and not is_own(given):
        return
    checkpoint = distributed.first_result(lambda: _read_own(cfg))
    if checkpoint is None and cfg.test.evaluate and not cfg.model.load_weights:
        raise InputError(
            f"No checkpoint in {cfg.data.save_dir}: there is nothing to test. Name the run's "
            "data.save_dir, or weights with model.load_weights."
        )
    if checkpoint is None:
        say(f"No checkpoint in {cfg.data.save_dir}: starting afresh.")
        return
    changed = changes(checkpoint.state.get("config", {}), to_dict(cfg))
    other = [f"{key} {changed[key]}" for key in IDENTITY if key in changed]
    if other and given == "auto" and checkpoint.state.get("config"):
        raise InputError(
            f"The checkpoint in {cfg.data.save_dir} is of another run: {', '.join(other)}. Choose "
            "another data.save_dir, or name the checkpoint in model.resume to go on from it."
        )
    if changed:
        lines = (f"{key} {change}" for key, change in changed.items())
        say(f"The config has changed since the checkpoint: {', '.join(lines)}")
    if cfg.test.evaluate:
        engine.take_weights(checkpoint)
        epochs = checkpoint.state["progress"]["epoch"]
        say(f"Testing the weights after {epochs} epochs.")
        return
    engine.resume(checkpoint)
    steps = checkpoint.state["loader"][0]["position"]
    say(f"Resumed in epoch {engine.progress.epoch + 1} after {steps} of its steps.")


def _read_own(cfg: CfgNode) -> Checkpoint | None:
    """Load the checkpoint that ``model.resume`` asks for; None where there is none yet."""
    if cfg.model.resume == "auto":
        return CheckpointFolder(Path(cfg.data.save_dir) / CHECKPOINTS).latest()
    path = Path(cfg.model.resume).expanduser()
    require_file("model.resume", str(path))
    return CheckpointFolder(path.parent).load(path.name.split(".")[0])


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """List what differs between two configs; where a run lies and goes on from may.

    Args:
        before: Nested plain data.
        now: The same.

    Returns:
        Key to what it was and is.
    """
    old, new = dict(leaves(before)), dict(leaves(now))
    keys = sorted({*old, *new} - {"model.resume", "data.save_dir"})
    pairs = {key: (old.get(key), new.get(key)) for key in keys}
    return {key: f"{was} -> {now_is}" for key, (was, now_is) in pairs.items() if was != now_is}
