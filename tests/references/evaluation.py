"""Exact fractions and loops over images, for evaluation (Zheng 2015, Philbin 2007, Ye 2021, NIST).

A list holds the gallery indices of one query, nearest first; gallery images of the query's own
identity and camera are passed over.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np


def full_lists(distances: np.ndarray) -> list[list[int]]:
    """Order the whole gallery for every query, equal distances by the lower index."""
    return [sorted(range(len(row)), key=lambda g, row=row: (row[g], g)) for row in distances]


def evaluate(
    lists: Iterable[Sequence[int]],
    q_pids: Sequence[Any],
    g_pids: Sequence[Any],
    q_camids: Sequence[Any],
    g_camids: Sequence[Any],
    max_rank: int,
) -> list[dict[str, Any] | None]:
    """Evaluate every query; None where the gallery has no positive from another camera."""
    found = []
    for pid, camid, ranked in zip(q_pids, q_camids, lists):
        positives = {g for g in range(len(g_pids)) if g_pids[g] == pid and g_camids[g] != camid}
        kept = [g for g in ranked if g_pids[g] != pid or g_camids[g] != camid]
        right = [g in positives for g in kept]
        found.append(_query(right, len(positives), max_rank) if positives else None)
    return found


def _query(right: list[bool], num_positives: int, max_rank: int) -> dict[str, Any]:
    return {
        "average_precision": float(average_precision(right, num_positives)),
        "trapezoidal": float(trapezoidal(right, num_positives)),
        "inverse_penalty": float(inverse_penalty(right, num_positives)),
        "cmc": [float(any(right[:k])) for k in range(1, max_rank + 1)],
    }


def average_precision(right: list[bool], num_positives: int) -> Fraction:
    """Precision at every positive, summed, over the number of positives there are."""
    total = Fraction(0)
    for place, hit in enumerate(right, start=1):
        if hit:
            total += Fraction(sum(right[:place]), place)
    return total / num_positives


def trapezoidal(right: list[bool], num_positives: int) -> Fraction:
    """Area below the precision-recall line, which starts at (recall 0, precision 1)."""
    area, recall, precision = Fraction(0), Fraction(0), Fraction(1)
    for place in range(1, len(right) + 1):
        hits = sum(right[:place])
        new_recall, new_precision = Fraction(hits, num_positives), Fraction(hits, place)
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def inverse_penalty(right: list[bool], num_positives: int) -> Fraction:
    """Positives over the rank of the hardest one, which is infinite if the list ends before."""
    if sum(right) < num_positives:
        return Fraction(0)
    hardest = max(place for place, hit in enumerate(right, start=1) if hit)
    return Fraction(num_positives, hardest)


def mean(found: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Average over the queries that count."""
    valid = [each for each in found if each is not None]
    names = ("average_precision", "trapezoidal", "inverse_penalty")
    means = {name: sum(each[name] for each in valid) / len(valid) for name in names}
    cmc = [sum(column) / len(valid) for column in zip(*(each["cmc"] for each in valid))]
    return {**means, "cmc": cmc, "valid": len(valid)}


def tpr_at_fpr(
    distances: np.ndarray,
    q_pids: Sequence[Any],
    g_pids: Sequence[Any],
    q_camids: Sequence[Any],
    g_camids: Sequence[Any],
    fpr: Fraction,
) -> Fraction:
    """Try every threshold; the best share of genuine pairs that keeps impostors to the rate."""
    genuine, impostors = [], []
    for q, row in enumerate(distances.tolist()):
        for g, distance in enumerate(row):
            if q_pids[q] != g_pids[g]:
                impostors.append(distance)
            elif q_camids[q] != g_camids[g]:
                genuine.append(distance)
    best = Fraction(0)
    for threshold in {*genuine, *impostors, float("inf")}:
        accepted = sum(distance < threshold for distance in impostors)
        if Fraction(accepted, len(impostors)) <= fpr:
            share = Fraction(sum(distance < threshold for distance in genuine), len(genuine))
            best = max(best, share)
    return best


def dropped(
    q_pids: Sequence[Any], g_pids: Sequence[Any], q_camids: Sequence[Any], g_camids: Sequence[Any]
) -> list[str]:
    """Say of every query why it is left out, or that it is not."""
    reasons = []
    for pid, camid in zip(q_pids, q_camids):
        cameras = [other for each, other in zip(g_pids, g_camids) if each == pid]
        if not cameras:
            reasons.append("absent")
        else:
            reasons.append("same camera" if all(c == camid for c in cameras) else "")
    return reasons
