"""What the figures of a run lie in, in its folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["METRICS", "METRICS_OF_TRAINING", "training_metrics"]

METRICS, METRICS_OF_TRAINING = "metrics.json", "metrics_training.json"
"""Of the last test; where that was no training's, the training's are in the second."""


def training_metrics(folder: Path) -> Path:
    """Find the figures that a training ended with.

    Args:
        folder: Its ``data.save_dir``.

    Returns:
        A path, which may be missing.
    """
    kept = folder / METRICS_OF_TRAINING
    return kept if kept.is_file() else folder / METRICS
