"""Which identities to train on, which images to ask with, and what can be found at all."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from torchreid_spectral.data.folder import Item
from torchreid_spectral.errors import InputError

__all__ = ["REASONS", "camera_advice", "propose_split", "unmatched"]

REASONS = {
    "absent": "the gallery has no image of that identity",
    "same_camera": "the gallery has that identity only from the query's own camera, which does "
    "not count",
}
"""Why a query has no valid match."""


def unmatched(items: Iterable[Item], *, one_camera: bool = False) -> list[tuple[Item, str]]:
    """Find queries that no protocol can answer: a match is the same person in another camera.

    Args:
        items: With splits.
        one_camera: Whether a match in the query's own camera counts.

    Returns:
        Each such query with a key of :data:`REASONS`.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    items = list(items)
    for item in items:
        if item.split == "gallery":
            seen[item.pid].add(item.camid)
    found = []
    for item in items:
        if item.split == "query":
            cameras = seen[item.pid]
            if not cameras:
                found.append((item, "absent"))
            elif not one_camera and cameras == {item.camid}:
                found.append((item, "same_camera"))
    return found


def propose_split(
    items: Sequence[Item],
    *,
    train_share: float = 0.5,
    seed: int = 0,
    one_camera: bool = False,
    distractors: str = "",
) -> list[Item]:
    """Divide a collection without splits, so that every query has a valid match.

    Identities are drawn into training and test, none into both; where one joins or leaves the
    collection, at most one other changes sides with it. Of a test identity one image a
    camera becomes a query, as long as another camera keeps one in the gallery. Identities that
    cannot be asked for (seen by one camera, or in one image) are trained on.

    Args:
        items: What splits they have is not looked at.
        train_share: Share of the identities to train on.
        seed: Of the draw.
        one_camera: Whether a match in the query's own camera counts.
        distractors: Identity that is nobody: all its images are put into the gallery.

    Returns:
        The items with splits.

    Raises:
        InputError: If the share is out of range, or too few identities can be tested.
    """
    if not 0 < train_share < 1:
        raise InputError(f"folder.train_share must be in (0, 1), got {train_share}.")
    items = list(items)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        if not distractors or item.pid != distractors:
            groups[item.pid].append(place)
    queries = {pid: _queries(group, items, one_camera) for pid, group in groups.items()}
    testable = [pid for pid in groups if queries[pid]]
    wanted = max(1, round(len(groups) * (1 - train_share)))
    if not testable or len(groups) < 3:
        raise InputError(
            f"No split can be proposed: of {len(groups)} identities {len(testable)} are seen by "
            "two cameras with an image to spare, and training needs two more. "
            + camera_advice(items)
        )
    # By a hash of each name: one person more or less moves hardly anybody else.
    testable.sort(key=lambda pid: _hash(f"{seed}:{pid}"))
    chosen = testable[: min(wanted, len(testable), len(groups) - 2)]
    test = {pid: queries[pid] for pid in chosen} | ({distractors: set()} if distractors else {})
    return [
        item._replace(
            split=("query" if place in test[item.pid] else "gallery")
            if item.pid in test
            else "train"
        )
        for place, item in enumerate(items)
    ]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()  # any bytes


def _queries(group: Sequence[int], items: Sequence[Item], one_camera: bool) -> set[int]:
    """Take the place of one item a camera as long as each one taken keeps a match."""
    left = Counter(items[place].camid for place in group)
    if one_camera:
        return {group[0]} if len(group) > 1 else set()
    taken: dict[str, int] = {}
    for place in group:
        camid = items[place].camid
        if camid in taken:
            continue
        left[camid] -= 1
        kept = {camera for camera, count in left.items() if count}
        if all(kept - {camera} for camera in {*taken, camid}):
            taken[camid] = place
        else:
            left[camid] += 1
    return set(taken.values())


def camera_advice(items: Iterable[Item]) -> str:
    """Say what to do where cameras are the matter.

    Args:
        items: All of them.

    Returns:
        One sentence.
    """
    cameras = {item.camid for item in items}
    if len(cameras) > 1:
        return "Check that the file names or the CSV say which camera took each image."
    return (
        f"All carry camera {next(iter(cameras), '')!r}: say in the file names or the CSV which "
        "camera took each image, or, if there really is only one, set folder.one_camera True "
        "(check_data.py --one-camera)."
    )
