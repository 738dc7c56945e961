"""A user's own images: found in a folder or a table, with identity, camera and split.

Three layouts are known, each with or without the folders ``train``, ``query`` and ``gallery`` (or
other datasets' names of them) above it:

=========  ====================================  ==========================================
Layout     Images                                Tracklets
=========  ====================================  ==========================================
tree       ``<pid>/<camid>_*.jpg``               ``<pid>/<camid>_*/*.jpg``, a folder each, or
                                                 ``<pid>/<camid>_<tracklet>_<frame>.jpg``
names      ``0001_c1s1_000151_00.jpg``           ``0001C1T0001F001.jpg``
table      ``path,pid,camid[,split]``            ``path`` is a folder of frames, or a column
                                                 ``tracklet`` groups the rows
=========  ====================================  ==========================================

Identities and cameras may be any words in a tree or a table.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torchreid_spectral._files import walk
from torchreid_spectral.data.images import PICTURE_SUFFIXES
from torchreid_spectral.errors import InputError

__all__ = ["NOBODY", "SPLITS", "Item", "Scan", "natural", "scan"]

SPLITS = ("train", "query", "gallery")
_NAMES = {
    "train": "train bounding_box_train bbox_train image_train training",
    "query": "query image_query probe",
    "gallery": "gallery test bounding_box_test bbox_test image_test testing",
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names.split()}
_NOT_READ = frozenset({".gif", ".heic", ".heif", ".avif", ".jp2", ".tga", ".psd", ".dng", ".raw"})
NOBODY = "0000"
_MARKET = re.compile(r"(-?\d+)_c(\d+)(s\d+_\d+)?")
_MARS = re.compile(r"(\d{4}|00-1)C(\d+)T(\d+)F(\d+)")
EXPECTED = (
    "Expected <pid>/<camid>_*.jpg, Market-1501's names 0001_c1s1_000151_00.jpg, or a CSV with the "
    "columns path,pid,camid[,split]; on data.type video <pid>/<camid>_*/*.jpg, MARS's names "
    "0001C1T0001F001.jpg, or a CSV whose paths are folders of frames"
)


class Item(NamedTuple):
    """An image, or a tracklet with all its frames in order."""

    path: str | tuple[str, ...]
    pid: str
    camid: str
    split: str  # of SPLITS, or "" where none is given

    @property
    def files(self) -> tuple[str, ...]:
        """The file, or the files of all frames."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass
class Scan:
    """What was found.

    Attributes:
        root: Where it was looked for.
        kind: ``image`` or ``video``.
        items: Sorted by split, identity, camera and path.
        ignored: Files whose names say neither identity nor camera, rows and tracklets that are
            broken, and what lies beside the folders of the splits.
        distractors: Identity of Market-1501's distractors, 0000 in the gallery, in file names or
            in a table with splits; they are nobody. Empty where there are none, or where 0000 is
            trained on or asked for.
        example: Layout to a file of it, where a folder was read.
    """

    root: Path
    kind: str
    items: list[Item] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    distractors: str = ""
    example: dict[str, str] = field(default_factory=dict)  # a file of each layout of a folder

    @property
    def has_split(self) -> bool:
        """Whether every item says which split it is in."""
        return bool(self.items) and all(item.split for item in self.items)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Give a sort key that puts ``c2`` before ``c10``.

    Args:
        text: Any.

    Returns:
        The key.
    """
    parts = re.findall(r"\d+|\D+", text)
    key = [(1, int(part), "") if part.isdecimal() else (2, 0, part) for part in parts]
    return (*key, (0, 0, text))  # 1 and 01 are two


def scan(root: str | Path, kind: str = "image") -> Scan:
    """Find images or tracklets with their labels; no image is opened.

    Args:
        root: Folder, or a CSV file. Of a folder with one CSV at its top that is taken.
        kind: ``image`` or ``video``.

    Returns:
        What was found.

    Raises:
        InputError: If there is nothing there, or not a single name could be read.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise InputError(f"{root} does not exist. {EXPECTED}.")
    found = Scan(root, kind)
    tables = [root] if root.is_file() else sorted(root.glob("*.csv"))
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables[:4])
        raise InputError(f"{root} holds several CSV files ({names}): name one of "
                         "them (folder.path).")  # fmt: skip
    if tables:
        _read_table(tables[0], found)
    else:
        _read_folder(root, found)
    if not found.items:
        examples = f", such as {', '.join(found.ignored[:3])}" if found.ignored else ""
        raise InputError(
            f"No {kind} in {root} has an identity and a camera ({len(found.ignored)} files were "
            f"passed over{examples}). {EXPECTED}. Where the camera is not known, begin all names "
            "with c1_ and set folder.one_camera True."
        )
    if len(found.example) > 1:
        one, other = found.example.values()
        raise InputError(
            f"{root} names people in two ways, {one} in the file's name and {other} by its "
            "folder: one person would be two, and so one camera. Use one of them."
        )
    if any(item.pid == found.distractors and item.split in ("train", "query")
           for item in found.items):  # fmt: skip
        found.distractors = ""  # a person like others, counted from 0
    found.items.sort(key=lambda i: (i.split, natural(i.pid), natural(i.camid), i.files))
    return found


def _pictures(folder: Path, ignored: list[str] | None = None) -> Iterator[Path]:
    def unlisted(error: OSError) -> None:
        if ignored is not None:
            ignored.append(f"{error.filename}: the folder cannot be listed ({error.strerror})")

    for path in sorted(walk(folder, unlisted), key=lambda path: natural(str(path))):
        if _is_picture(path):
            yield path
        elif ignored is not None and path.suffix.lower() in _NOT_READ:
            ignored.append(f"{path}: {path.suffix} is not read; convert it to .png or .jpg")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def _read_folder(root: Path, found: Scan) -> None:
    folders = sorted(path for path in root.iterdir()
                     if path.is_dir() and not path.name.startswith("."))  # fmt: skip
    parts = {p: _SPLIT_OF[p.name.lower()] for p in folders if p.name.lower() in _SPLIT_OF}
    if parts:
        others = [path for path in folders if path not in parts and next(_pictures(path), None)]
        others += [path for path in sorted(root.iterdir()) if path.is_file() and _is_picture(path)]
        found.ignored += [f"{path}: beside the folders of the splits" for path in others]
    else:
        _refuse_nested_splits(folders)
    frames: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for part, split in parts.items() if parts else {root: ""}.items():
        for path in _pictures(part, found.ignored):
            label = _label(path.relative_to(part), found)
            if label is None:
                found.ignored.append(str(path))
            elif label[0] in ("-1", "00-1"):
                continue  # junk detections, which every protocol leaves out
            else:
                frames[(split, *label)].append(str(path))
    if found.kind == "video":
        for (split, pid, camid, _), paths in frames.items():
            found.items.append(Item(tuple(paths), pid, camid, split))
    else:
        for (split, pid, camid, _), paths in frames.items():
            found.items += [Item(path, pid, camid, split) for path in paths]


def _refuse_nested_splits(folders: Iterable[Path]) -> None:
    """Refuse a root whose splits lie one folder below: their images would be mixed.

    Raises:
        InputError: If a folder has folders of two splits.
    """
    for folder in folders:
        try:
            names = sorted(path.name for path in folder.iterdir()
                           if path.name.lower() in _SPLIT_OF and path.is_dir())  # fmt: skip
        except OSError:  # told where it is listed
            continue
        if len({_SPLIT_OF[name.lower()] for name in names}) > 1:
            raise InputError(
                f"{folder} holds the splits {', '.join(names)}, one folder below {folder.parent}: "
                f"name {folder} itself, so that they are kept apart."
            )


def _label(path: Path, found: Scan) -> tuple[str, str, str] | None:
    """Read identity, camera and tracklet off a path below its split's folder."""
    folders, stem = path.parts[:-1], path.stem
    video = found.kind == "video"
    match = (_MARS if video else _MARKET).match(stem)
    # below a person's folder 1_c5.jpg is a picture by camera 1; only a full name says otherwise
    if match is not None and (match[3] or not folders or _is_full(match, stem)):
        pid, camid = match[1].lstrip("0") or "0", match[2]
        if pid == "0":
            found.distractors = "0"
        else:
            found.example.setdefault("names", str(path))
        return pid, camid, match[3] if video else ""
    if video and len(folders) == 2 and "_" in folders[1]:
        found.example.setdefault("tree", str(path))
        return folders[0], folders[1].split("_")[0], folders[1]
    if len(folders) == 1 and stem.count("_") >= 1 + video and not stem.startswith("_"):
        found.example.setdefault("tree", str(path))
        return folders[0], stem.split("_")[0], stem.rsplit("_", 1)[0] if video else ""
    return None


def _is_full(match: re.Match[str], stem: str) -> bool:
    """Tell names such as DukeMTMC-reID's and VeRi's, ``0001_c2_f0046180``."""
    return len(match[1]) >= 4 and stem[match.end() :].startswith("_")


def _read_table(table: Path, found: Scan) -> None:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table} cannot be read as a CSV in UTF-8: {error}.") from error
    with io.StringIO(text, newline="") as file:
        rows = csv.DictReader(file)
        try:
            _read_rows(rows, table, found)
        except csv.Error as error:
            raise InputError(
                f"{table} line {rows.line_num} cannot be read as a CSV: {error}. Is there a quote "
                "that is not closed?"
            ) from error
    if found.has_split and any(item.pid == NOBODY for item in found.items):
        found.distractors = NOBODY


def _read_rows(rows: csv.DictReader[str], table: Path, found: Scan) -> None:
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    missing = [name for name in ("path", "pid", "camid") if name not in columns]
    if missing:
        raise InputError(
            f"{table} must have the columns path,pid,camid[,split][,tracklet] in its first "
            f"line, got {','.join(columns) or 'nothing'}: {', '.join(missing)} missing."
        )
    rows.fieldnames = columns
    _collect(_rows(rows, table, found), found)


def _rows(rows: Iterable[dict[str, str]], table: Path, found: Scan) -> Iterator[tuple[str, Item]]:
    """Yield tracklet and item of each row that is whole; the others are noted."""
    for number, row in enumerate(rows, start=2):
        values = {name: (value or "").strip() for name, value in row.items() if name}
        split = values.get("split", "").lower()
        if not all(values[name] for name in ("path", "pid", "camid")):
            found.ignored.append(f"{table.name} line {number}: a value is missing")
        elif split and split not in _SPLIT_OF:
            found.ignored.append(
                f"{table.name} line {number}: split must be train, query or gallery, got {split!r}"
            )
        elif values["pid"] != "-1":
            path = str(table.parent / os.path.expanduser(values["path"]))  # ~name.jpg is a file
            item = Item(path, values["pid"], values["camid"], _SPLIT_OF.get(split, ""))
            yield values.get("tracklet", ""), item


def _collect(rows: Iterator[tuple[str, Item]], found: Scan) -> None:
    if found.kind == "image":
        found.items += [item for _, item in rows]
        return
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for tracklet, item in rows:
        path = str(item.path)
        key = (item.split, item.pid, item.camid, tracklet or path)
        folder = Path(path)
        groups[key] += map(str, _pictures(folder, found.ignored)) if folder.is_dir() else [path]
    for (split, pid, camid, name), paths in groups.items():
        if paths:
            found.items.append(Item(tuple(paths), pid, camid, split))
        else:
            found.ignored.append(f"{name}: a tracklet without pictures")
