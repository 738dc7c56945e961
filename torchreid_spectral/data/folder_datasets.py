"""A user's own images as torchreid knows them: ``data.sources folder``, for images and video."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torchreid_spectral import _compat
from torchreid_spectral._active import Active
from torchreid_spectral.data.folder import Item, natural, scan
from torchreid_spectral.data.splits import REASONS, camera_advice, propose_split, unmatched
from torchreid_spectral.errors import InputError

__all__ = [
    "Folder",
    "FolderDataset",
    "FolderOptions",
    "FolderVideoDataset",
    "folder_defaults",
    "numeric",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderOptions:
    """How a user's images are read; a config's group ``folder``.

    Args:
        path: Folder or CSV file, absolute or below ``data.root``; that itself if empty.
        train_share: Share of the identities to train on where no split is given.
        seed: Of the draw of that split.
        one_camera: Let matches in the query's own camera count.
    """

    path: str = ""
    train_share: float = 0.5
    seed: int = 0
    one_camera: bool = False


_options = Active(FolderOptions())


@contextmanager
def folder_defaults(options: FolderOptions) -> Iterator[None]:
    """Set how the dataset ``folder`` is read inside the block.

    Args:
        options: See the class.

    Yields:
        Nothing.
    """
    with _options.held(options):
        yield


class Folder:
    """Goes before torchreid's ``ImageDataset`` or ``VideoDataset``.

    Args:
        root: torchreid's ``data.root``.
        mode: ``train``, ``query`` or ``gallery``.
        **kwargs: What torchreid hands to every dataset.

    Attributes:
        identities: Number of an item to its identity as the data names it.

    Raises:
        InputError: If there is nothing to train on or to ask for, and why.
    """  # noqa: DOC502

    name = "folder"
    kind = "image"

    def __init__(self, root: str = "", mode: str = "train", **kwargs: Any) -> None:  # noqa: ANN401
        place = Path(root).expanduser() / _options.value.path
        found = scan(place, self.kind)
        items = found.items
        if mode == "train" and found.ignored:
            logger.warning(
                "%s: %d files or rows are passed over, such as %s. More: python "
                "tools/check_data.py %s", place, len(found.ignored), found.ignored[0], place
            )  # fmt: skip
        without = [item for item in items if not item.split]
        if without and len(without) < len(items):
            raise InputError(
                f"{len(without)} of {len(items)} items of {place} are in no split, such as "
                f"{without[0].path}: name the split of all of them, or of none."
            )
        if not found.has_split:
            items = propose_split(
                items,
                train_share=_options.value.train_share,
                seed=_options.value.seed,
                one_camera=_options.value.one_camera,
                distractors=found.distractors,
            )
            if mode == "train":
                logger.info("%s has no splits: %s", place, _describe(items))
        _check_files(items, place)
        if mode != "train":
            _check_queries(items, place)
        numbered = _numbered(items, found.distractors, _options.value.one_camera)
        parts = numbered.parts
        self._junk_pids = [numbered.pids[found.distractors]] if found.distractors else []
        numbers = numbered.labels if mode == "train" else numbered.pids
        self.identities = {number: word for word, number in numbers.items()}
        if not parts[0] and mode == "train":
            raise InputError(
                f"{place} has no training images, only {_describe(items)}. Use it as a target "
                "(-t folder) with another source, or add a folder train."
            )
        if kwargs.get("combineall"):
            _check_combined(parts, place)
        # torchreid looks at the first of each; what a mode does not use may be a stand-in
        parts = [part or parts[0] or parts[2] for part in parts]
        super().__init__(*parts, mode=mode, **kwargs)  # type: ignore[call-arg]


class _Numbered(NamedTuple):
    """Own data as torchreid wants it: with numbers."""

    parts: list[list[Any]]
    """Train, query and gallery."""
    labels: dict[str, int]
    """Identity to its label in training."""
    pids: dict[str, int]
    """Identity to its number in query and gallery."""


class FolderDataset(Folder, _compat.load().data.ImageDataset):  # type: ignore[misc]
    """Images of a user, see :mod:`~torchreid_spectral.data.folder`."""


class FolderVideoDataset(Folder, _compat.load().data.VideoDataset):  # type: ignore[misc]
    """Tracklets of a user, see :mod:`~torchreid_spectral.data.folder`."""

    kind = "video"


def _describe(items: Sequence[Item]) -> str:
    counts = Counter(item.split for item in items)
    parts = [
        f"{counts[split]} {split} of {len({i.pid for i in items if i.split == split})} identities"
        for split in ("train", "query", "gallery")
        if counts[split]
    ]
    return ", ".join(parts)


def _check_files(items: Sequence[Item], place: Path) -> None:
    missing = [file for item in items for file in item.files if not Path(file).is_file()]
    if missing:
        raise InputError(
            f"{place} names {len(missing)} files that do not exist, such as {missing[0]}: mend or "
            "remove links that lead nowhere; paths in a CSV count from its folder."
        )


def _check_queries(items: Sequence[Item], place: Path) -> None:
    """Answer what torchreid's "all query identities do not appear in gallery" leaves open."""
    queries = [item for item in items if item.split == "query"]
    gallery = any(item.split == "gallery" for item in items)
    if not queries or not gallery:
        raise InputError(
            f"{place} has {_describe(items)}: a test needs both query and gallery. Add them, or "
            "take all splits away to have one proposed."
        )
    lost = unmatched(items, one_camera=_options.value.one_camera)
    if not lost:
        return
    why = "; ".join(
        f"of {count}, {REASONS[reason]}" for reason, count in Counter(r for _, r in lost).items()
    )
    if len(lost) == len(queries):
        raise InputError(
            f"None of the {len(queries)} queries in {place} has a valid match: {why}. "
            f"{camera_advice(items)} More: python tools/check_data.py {place}"
        )
    logger.warning("%d of %d queries have no valid match: %s.", len(lost), len(queries), why)


def _check_combined(parts: Sequence[Sequence[Any]], place: Path) -> None:
    """Stop where torchreid's ``combineall`` would fail or count people twice."""
    queries, gallery = ({row[1] for row in part} for part in parts[1:])
    if not queries or not queries <= gallery:
        raise InputError(
            f"data.combineall trains on query and gallery of {place} too, which needs both and "
            f"every identity of the query in the gallery; {len(queries)} are in the query, "
            f"{len(queries - gallery)} of them not in the gallery. Set data.combineall False, or "
            "move all images to train."
        )


def numeric(words: Collection[str]) -> bool:
    """Say whether names of people are numbers, each of one person.

    Args:
        words: The names.

    Returns:
        Whether they are: no two of equal value, none beyond 64 bits.
    """
    numbers = {int(word) for word in words if word.isdecimal() and int(word) < 2**63}
    return len(numbers) == len(words)


def _numbered(items: Sequence[Item], distractors: str, one_camera: bool) -> _Numbered:
    """Number identities and cameras."""
    # Those of training first, from 0 on: torchreid adds their number to those of the next source.
    seen = {i.camid for i in items if i.split == "train" and i.pid != distractors}
    order = sorted({i.camid for i in items}, key=lambda camid: (camid not in seen, natural(camid)))
    cameras = {camid: number for number, camid in enumerate(order)}
    words = sorted({i.pid for i in items}, key=natural)
    numbers = numeric(words)
    pids = {word: int(word) if numbers else n for n, word in enumerate(words, start=1)}
    people = {i.pid for i in items if i.split == "train" and i.pid != distractors}
    labels = {pid: label for label, pid in enumerate(sorted(people, key=natural))}
    own = len(cameras) if one_camera else None  # of queries alone, so that all matches count
    train = [
        (i.path, labels[i.pid], cameras[i.camid])
        for i in items
        if i.split == "train" and i.pid in labels
    ]
    query = [
        (i.path, pids[i.pid], cameras[i.camid] if own is None else own)
        for i in items
        if i.split == "query"
    ]
    gallery = [(i.path, pids[i.pid], cameras[i.camid]) for i in items if i.split == "gallery"]
    return _Numbered([train, query, gallery], labels, pids)
