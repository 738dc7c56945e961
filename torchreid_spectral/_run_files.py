"""Names of what a run leaves in its folder, ``data.save_dir``."""

from __future__ import annotations

from pathlib import Path

__all__ = ["AVERAGED", "CHECKPOINTS", "METRICS", "METRICS_OF_TRAINING", "STATE", "WEIGHTS",
           "last_weights", "training_metrics"]  # fmt: skip

CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints ``last``, ``previous`` and ``best``."""
WEIGHTS, AVERAGED, STATE = ".safetensors", ".ema.safetensors", ".state.pt"
"""Ends of the names of a checkpoint's files."""

METRICS, METRICS_OF_TRAINING = "metrics.json", "metrics_training.json"
"""Of the last test; where that was no training's, the training's are in the second."""


def last_weights(folder: Path, end: str = WEIGHTS) -> Path:
    """Name a file of the last checkpoint.

    Args:
        folder: ``data.save_dir``.
        end: Of the file's name.

    Returns:
        A path, which may be missing.
    """
    return folder / CHECKPOINTS / f"last{end}"


def training_metrics(folder: Path) -> Path:
    """Find the figures that a training ended with.

    Args:
        folder: Its ``data.save_dir``.

    Returns:
        A path, which may be missing.
    """
    kept = folder / METRICS_OF_TRAINING
    return kept if kept.is_file() else folder / METRICS
