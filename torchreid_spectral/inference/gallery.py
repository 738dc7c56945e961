"""A gallery: features with the paths, identities and cameras of their images, on disk or in RAM.

==========================  =============================================================
File                        Holds
==========================  =============================================================
``index.json``              model fingerprint, metric, names of the shards
``features-00000.*``        one shard: ``.safetensors`` with ``features`` (N, D), and
                            ``.json`` with the paths, ids and cameras of its rows
==========================  =============================================================
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from torchreid_spectral._locks import alone_in
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference.images import is_path
from torchreid_spectral.inference.shards import (
    FORMAT,
    SHARD,
    read_shard,
    write_manifest,
    write_shard,
)

__all__ = ["Gallery"]

_saving = threading.Lock()
_NUMBERED = re.compile(r"image (\d+)")


@dataclass
class Gallery:
    """Features of images that can be searched.

    Args:
        features: ``(G, D)`` float32.
        paths: Where each image lies, as it was given: relative ones start at the working folder.
        ids: Identity of each, or ``None`` where not known.
        camids: Camera of each, or ``None``. To change them assign a new list: a re-ranker that is
            prepared does not look into it again.
        model: Fingerprint of the weights.
        metric: Distance of the features.
        skipped: Files that could not be read, with the reason.
        amp: Precision that the features were computed in.
    """

    features: NDArray[np.float32]
    paths: list[str]
    ids: list[Any] | None = None
    camids: list[Any] | None = None
    model: str = ""
    metric: str = "cosine"
    skipped: dict[str, str] = field(default_factory=dict)
    amp: str = "off"

    def __post_init__(self) -> None:
        for name in ("paths", "ids", "camids"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.features):
                raise InputError(
                    f"{name} must have one entry a feature: {len(values)} for "
                    f"{len(self.features)}."
                )

    def __len__(self) -> int:
        return len(self.paths)

    def new_rows(self, items: Sequence[Any]) -> list[int]:
        """Find what is not there yet: a file that is, under another spelling, is known.

        Args:
            items: Images, which are all new, or paths.

        Returns:
            Positions among ``items``; of a path that is given twice, the first.
        """
        known, rows = {_resolved(path) for path in self.paths}, []
        for row, item in enumerate(items):
            if is_path(item):
                place = _resolved(item)
                if place in known:
                    continue
                known.add(place)
            rows.append(row)
        return rows

    def next_number(self) -> int:
        """Give a number that names no image here: those without a path are ``image N``.

        Returns:
            At least the number of images.
        """
        named = (_NUMBERED.fullmatch(path) for path in self.paths)
        return max([len(self) - 1, *(int(found[1]) for found in named if found)]) + 1

    def extend(self, other: Gallery) -> int:
        """Add what is new; paths that are there already are passed over.

        Args:
            other: A gallery of the same model.

        Returns:
            How many were added.

        Raises:
            InputError: If it is of other weights, or only one of the two has ids or cameras.
        """
        self.require_model(other.model)
        rows = self.new_rows(other.paths)
        labels = [(name, getattr(self, name), getattr(other, name)) for name in ("ids", "camids")]
        for name, mine, theirs in labels:  # before anything is changed
            if (mine is None) != (theirs is None):
                raise InputError(f"Give {name} for all images of a gallery or for none.")
        features = np.concatenate([self.features, other.features[rows]])
        for _, mine, theirs in [("paths", self.paths, other.paths), *labels]:
            if mine is not None:
                mine.extend(theirs[row] for row in rows)
        self.features = features  # last: see `consistent`
        added = {other.paths[row] for row in rows}  # some were broken, and have been mended
        known = self.skipped | other.skipped
        self.skipped = {file: why for file, why in known.items() if file not in added}
        return len(rows)

    def without(self, items: Sequence[Any]) -> Gallery:
        """Give the gallery without some images; this one stays as it is for who searches it.

        Args:
            items: Paths, under whatever spelling; what is not there is passed over. Images without
                a path go by their names, such as ``image 3``.

        Returns:
            Another gallery.
        """
        whole, gone = self.consistent(), {_resolved(str(item)) for item in items}
        rows = [row for row, path in enumerate(whole.paths) if _resolved(path) not in gone]
        paths, ids, camids = (
            values if values is None else [values[row] for row in rows]
            for values in (whole.paths, whole.ids, whole.camids)
        )
        skipped = {file: why for file, why in whole.skipped.items() if _resolved(file) not in gone}
        about = whole.model, whole.metric, skipped, whole.amp
        return Gallery(whole.features[rows], paths or [], ids, camids, *about)

    def consistent(self) -> Gallery:
        """Give the rows that are there now, while another thread may be adding more.

        :meth:`extend` puts the features in place last: every row of them has its labels.

        Returns:
            A gallery that later additions do not change.
        """
        features = self.features
        paths, ids, camids = (
            values if values is None else values[: len(features)]
            for values in (self.paths, self.ids, self.camids)
        )
        about = self.model, self.metric, dict(self.skipped), self.amp
        return Gallery(features, paths or [], ids, camids, *about)

    def require_model(self, model: str) -> None:
        """Check that features of other weights are not mixed with these.

        Args:
            model: Fingerprint of the other weights.

        Raises:
            InputError: If it differs.
        """
        if self.model and model and self.model != model:
            raise InputError(
                f"The gallery was made by the weights {self.model}, these are {model}: their "
                "features cannot be compared. Open those weights, or index the images anew."
            )

    def save(self, folder: str | Path) -> None:
        """Write the gallery as one shard.

        Args:
            folder: Made if missing; a gallery that is there is replaced, once the new one is
                written whole.
        """
        root = Path(folder).expanduser()
        # Another's shard must not go before its manifest is written, thread or process.
        with _saving, alone_in(root, "", wait=True):
            earlier = [path for path in root.glob("features-*.*") if SHARD.fullmatch(path.name)]
            # Never the number of the one before: who is reading that must not find this one.
            number = (max((int(path.name[9:14]) for path in earlier), default=-1) + 1) % 100_000
            name = write_shard(root, number, self.consistent())
            write_manifest(root, [name], self.model, self.metric)  # until here the earlier opens
            for path in earlier:
                path.unlink(missing_ok=True)

    @classmethod
    def open(cls, folder: str | Path) -> Gallery:
        """Read a gallery of :meth:`save` or ``tools/extract.py``.

        Args:
            folder: Where it lies.

        Returns:
            The gallery.

        Raises:
            InputError: If it is missing, unfinished, broken, or of several networks.
            PermissionError: If it may not be read.
        """
        root, earlier = Path(folder).expanduser(), None
        while True:
            try:
                manifest = json.loads((root / "index.json").read_text(encoding="utf-8"))
                shards = _shards(root, manifest)
                features = np.concatenate([shard.features for shard in shards])
                break
            except PermissionError:
                raise
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                found = _manifest_text(root)
                if found is not None and found != earlier:  # perhaps replaced in between
                    earlier = found
                    continue
                raise InputError(
                    f"{root} is not a finished gallery ({error}). Make one with "
                    "SpectralReID.index and save, or tools/extract.py."
                ) from error
        if any(shard.model != manifest["model"] for shard in shards):
            raise InputError(f"The shards of {root} are of different weights: extract it anew.")
        paths, ids, camids = (
            _joined([getattr(shard, name) for shard in shards])
            for name in ("paths", "ids", "camids")
        )
        skipped = {file: why for shard in shards for file, why in shard.skipped.items()}
        precisions = sorted({shard.amp for shard in shards})
        about = manifest["model"], manifest["metric"], skipped, "+".join(precisions)
        return cls(features, paths or [], ids, camids, *about)


def _shards(root: Path, manifest: dict[str, Any]) -> list[Gallery]:
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']!r}, this version reads {FORMAT}")
    parts = (read_shard(root, name) for name in manifest["shards"])
    return [Gallery(features, **content) for features, content in parts]


def _manifest_text(root: Path) -> str | None:
    try:
        return (root / "index.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _resolved(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _joined(parts: Sequence[list[Any] | None]) -> list[Any] | None:
    found = [part for part in parts if part is not None]
    return [value for part in found for value in part] if len(found) == len(parts) else None
