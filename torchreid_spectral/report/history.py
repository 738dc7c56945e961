"""What a training wrote on its way: the scalars of its TensorBoard files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "read_history", "seconds_a_step"]


@dataclass(frozen=True)
class Curve:
    """One scalar over the training.

    Args:
        steps: ``(N,)`` ascending; each once, the latest value where a run was resumed.
        values: ``(N,)``.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_history(folder: Path) -> dict[str, Curve]:
    """Read all scalars of a log folder.

    Args:
        folder: The ``data.save_dir`` of a run.

    Returns:
        Tag, such as ``Train/loss``, to its curve; empty where there are no TensorBoard files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = [EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 1}).Reload()
             for path in sorted(folder.glob("events.out.tfevents.*"))]  # fmt: skip
    latest: dict[str, dict[int, float]] = {}
    for events in sorted(files, key=_begun):
        tags = events.Tags()["scalars"]
        if any(tag.startswith("Train/") and events.Scalars(tag)[0].step == 0 for tag in tags):
            latest = {}  # a new training in the folder of an old one
        for tag in tags:
            found = events.Scalars(tag)
            # What a resumed run came to again, or had not come to: its checkpoint was earlier.
            before = {step: value for step, value in latest.get(tag, {}).items()
                      if step < found[0].step}  # fmt: skip
            latest[tag] = before | {event.step: event.value for event in found}
    return {tag: _curve(points) for tag, points in latest.items()}


def seconds_a_step(history: dict[str, Curve]) -> float | None:
    """Give the mean time of a training step, loading included.

    torchreid writes the mean since the epoch's start; its median over the run is taken, so that a
    slow first step does not count.

    Args:
        history: Of :func:`read_history`.

    Returns:
        Seconds, or ``None`` where nothing was trained.
    """
    curve = history.get("Train/time")
    return None if curve is None or len(curve.values) == 0 else float(np.median(curve.values))


def _begun(events: Any) -> float:  # noqa: ANN401 (TensorBoard's)
    """Give when a file was begun; one without events says nothing."""
    try:
        return float(events.FirstEventTimestamp())
    except ValueError:
        return 0.0


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    return Curve(np.array(steps, dtype=np.int64), np.array([points[step] for step in steps]))
