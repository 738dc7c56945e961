"""What a search and a comparison of two images give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchreid_spectral.inference.calibration import Calibration

__all__ = ["Comparison", "Hit"]


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Args:
        rank: From 1, nearest first.
        path: Of the image.
        id: Its identity, or ``None`` where the gallery has none.
        distance: To the query, after re-ranking if any: comparable within one query alone then.
    """

    rank: int
    path: str
    id: Any
    distance: float


@dataclass(frozen=True)
class Comparison:
    """How far two images are from each other, and what that means.

    Args:
        distance: Of their features.
        same: Whether they are taken for the same person; ``None`` where not calibrated.
        calibration: What says so, with its false-match rate; or ``None``.
    """

    distance: float
    same: bool | None
    calibration: Calibration | None

    def __str__(self) -> str:
        if self.calibration is None:
            return f"distance {self.distance:.4f}; not calibrated"
        answer = "same person" if self.same else "different people"
        return (
            f"distance {self.distance:.4f}, threshold {self.calibration.threshold:.4f}: {answer} "
            f"(false-match rate {self.calibration.false_match_rate:.3g}, measured on "
            f"{self.calibration.different_pairs:,} pairs)"
        )
