r"""The distance up to which two images are taken for the same person.

Among all pairs of a labelled set let :math:`F(t)` be the share of pairs of *different* people
with a distance of at most t: the false-match rate. The threshold for a rate r is

.. math:: t_r = \max \{ t : F(t) \le r \}

taken half-way between the last distance let through and the next one, so that rounding does not
move a pair across it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchreid_spectral._files import write_text
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional.distance import METRICS, PREPARED_METRICS, prepared_rows
from torchreid_spectral.rerank._inputs import as_features

__all__ = ["Calibration", "Labels", "calibrate", "pair_distances", "plain"]

logger = logging.getLogger(__name__)

Labels = Sequence[Any] | NDArray[Any] | torch.Tensor
MAX_IMAGES = 20_000
_ROWS = 256  # compared with all others at once


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it was measured on.

    Args:
        threshold: Up to this distance two images are taken for the same person.
        false_match_rate: Share of pairs of different people within it, measured.
        true_match_rate: Share of pairs of the same person within it, measured.
        requested_rate: False-match rate that was asked for.
        same_pairs: Pairs of the same person.
        different_pairs: Pairs of different people.
        metric: Distance it holds for.
        model: Fingerprint of the weights it holds for; empty where not known.
        amp: Precision that the features were computed in; empty where not known.
    """

    threshold: float
    false_match_rate: float
    true_match_rate: float
    requested_rate: float
    same_pairs: int
    different_pairs: int
    metric: str = "cosine"
    model: str = ""
    amp: str = ""

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Args:
            path: The file.
        """
        text = json.dumps(asdict(self), indent=2) + "\n"
        file = Path(path).expanduser()
        write_text(file, text)

    @classmethod
    def open(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The calibration.

        Raises:
            InputError: If it cannot be read.
        """
        try:
            return cls(**json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a saved calibration: {error}") from error

    @classmethod
    def beside(cls, weights: str | Path, model: str, metric: str) -> Calibration | None:
        """Open ``calibration.json`` beside weights, if it is there and of these weights.

        After more training the old one is still there, and the new weights must open all the
        same: it is passed over with a warning.

        Args:
            weights: A file, or the folder of a run.
            model: Fingerprint of the weights.
            metric: Distance that features are compared by.

        Returns:
            The calibration, or ``None``.
        """
        weights = Path(weights).expanduser()
        file = (weights if weights.is_dir() else weights.parent) / "calibration.json"
        if not file.is_file():
            return None
        try:
            found = cls.open(file)
            found.require_model(model, metric)
        except InputError as error:
            logger.warning("%s is not used: %s", file, error)
            return None
        return found

    def require_model(self, model: str, metric: str) -> None:
        """Check which weights and distance the calibration is of.

        Args:
            model: Fingerprint of the weights.
            metric: Distance that features are compared by.

        Raises:
            InputError: If it was made with others.
        """
        if self.metric != metric:
            raise InputError(
                f"The threshold was calibrated for the distance {self.metric}, features are "
                f"compared by {metric}: calibrate anew."
            )
        if self.model not in ("", model):
            raise InputError(
                f"The calibration was made with the weights {self.model}, these are {model}: "
                "calibrate anew."
            )


def pair_distances(
    features: NDArray[Any],
    ids: Labels,
    camids: Labels | None = None,
    *,
    metric: str = "cosine",
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the distances of all pairs of a labelled set.

    Args:
        features: ``(N, D)``, compared in float32.
        ids: ``(N,)`` identity of each.
        camids: ``(N,)`` camera of each; pairs of one camera are left out then,
            unless there is only one.
        metric: A name of ``functional.distance.METRICS``.

    Returns:
        Distances of pairs of the same identity, and of pairs of different ones.

    Raises:
        InputError: If lengths differ, features are not finite in float32, or there are more than
            20,000 images.
        UnknownNameError: If there is no such metric.
    """
    if metric not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)
    for name, values in (("ids", ids), ("camids", camids)):
        if values is not None and len(values) != len(features):
            raise InputError(f"{name} must have one entry an image: {len(values)} for "
                             f"{len(features)}.")  # fmt: skip
    ids, camids = plain(ids), None if camids is None else plain(camids)
    known = [row for row, name in enumerate(ids) if not _is_nobody(name)]
    if len(known) < len(ids):
        features, ids = np.asarray(features)[known], [ids[row] for row in known]
        camids = None if camids is None else [camids[row] for row in known]
    features = np.asarray(features, dtype=np.float32)
    if features.size:
        features = as_features("features", features).numpy()
    if len(features) > MAX_IMAGES:
        raise InputError(
            f"{len(features)} images are {len(features) ** 2 // 2:,} pairs: calibrate on at most "
            f"{MAX_IMAGES} of them, drawn at random."
        )
    numbers: dict[Any, int] = {}
    people = np.array([numbers.setdefault(name, len(numbers)) for name in ids])
    cameras = None if camids is None else np.asarray(camids)
    if cameras is not None and len({str(camera) for camera in cameras}) == 1:
        cameras = None
    compare = PREPARED_METRICS[metric] if metric == "cosine" else METRICS[metric]
    tensor = prepared_rows(torch.from_numpy(features), metric)
    same, different = [], []
    for first in range(0, len(features), _ROWS):
        rows, others = slice(first, first + _ROWS), slice(first, None)
        block = compare(tensor[rows], tensor[others]).numpy()
        counted = np.triu(np.ones(block.shape, dtype=bool), k=1)  # each pair once
        if cameras is not None:
            counted &= cameras[rows, None] != cameras[None, others]
        alike = people[rows, None] == people[None, others]
        same.append(block[alike & counted])
        different.append(block[~alike & counted])
    nothing = np.empty(0, dtype=np.float32)
    return np.concatenate([nothing, *same]), np.concatenate([nothing, *different])


def plain(values: Labels) -> list[Any]:
    """Give labels one by one as they are: an array of them all would make NaN a word.

    A table's empty cell, NaN, is None: not known.

    Args:
        values: A list, array, tensor or column of a table; its index does not matter.

    Returns:
        Python's own numbers and words.
    """
    each: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    each = [value.item() if isinstance(value, (np.generic, torch.Tensor)) else value
            for value in each]  # fmt: skip
    return [None if isinstance(value, float) and math.isnan(value) else value for value in each]


def _is_nobody(name: Any) -> bool:  # noqa: ANN401
    number = isinstance(name, (int, float, np.number))
    return name is None or (number and not bool(name >= 0))  # NaN too: a table's empty cell


def calibrate(
    features: NDArray[Any],
    ids: Labels,
    camids: Labels | None = None,
    *,
    false_match_rate: float = 0.001,
    metric: str = "cosine",
    model: str = "",
    amp: str = "",
) -> Calibration:
    """Find the threshold with a wanted false-match rate.

    Args:
        features: ``(N, D)`` of a labelled set that was not trained on.
        ids: ``(N,)`` identity of each.
        camids: ``(N,)`` camera of each; pairs of one camera are left out then,
            unless there is only one.
        false_match_rate: r, in (0, 1).
        metric: A name of ``functional.distance.METRICS``.
        model: Fingerprint of the weights.
        amp: Precision that the features were computed in, if known.

    Returns:
        The threshold and the rates measured with it.

    Raises:
        InputError: If the rate is out of range, or the set has too few pairs to measure it.
    """
    if not 0 < false_match_rate < 1:
        raise InputError(f"false_match_rate must be in (0, 1), got {false_match_rate}.")
    same, different = pair_distances(features, ids, camids, metric=metric)
    needed = int(np.ceil(1 / false_match_rate))
    if len(same) == 0 or len(different) < needed:
        raise InputError(
            f"A false-match rate of {false_match_rate} takes at least {needed} pairs of different "
            f"people and one of the same; the set has {len(different)} and {len(same)}."
        )
    same, different = same.astype(np.float64), different.astype(np.float64)
    ordered = np.sort(different)
    count = int(np.floor(false_match_rate * len(ordered) + 1e-9))  # 0.29 of 100 are 29
    # Equal distances are let through together or not at all.
    while count > 0 and ordered[count - 1] == ordered[min(count, len(ordered) - 1)]:
        count -= 1
    if count == 0 and ordered[0] <= 0:  # images of two people that are one: not even they pass
        threshold = float(np.nextafter(np.float32(ordered[0]), np.float32(-np.inf)))
        logger.warning("Images of different people are equal: look for wrong identities.")
    else:
        below = ordered[count - 1] if count else 0.0
        threshold = float((below + ordered[count]) / 2)
    return Calibration(
        threshold,
        float(np.mean(different <= threshold)),
        float(np.mean(same <= threshold)),
        false_match_rate,
        len(same),
        len(different),
        metric,
        model,
        amp,
    )
