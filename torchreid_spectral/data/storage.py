"""Generated datasets on disk: written once, whole or not at all.

A dataset lies in ``<root>/<name>``, or, where one of another spec lives there, in a subfolder
named by the first 8 hexadecimal digits of the spec's SHA-256. ``spec.json`` is written last and
vouches for the rest. Everything is written to a temporary directory and renamed into place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["SPEC_FILE", "Store"]

SPEC_FILE = "spec.json"
_STALE_SECONDS = 600.0  # a temporary directory untouched for so long has lost its writer


@dataclass(frozen=True)
class Store:
    """Where datasets of one kind live, and how a complete one is told from a torn one.

    Attributes:
        name: Folder below the root.
        spec_type: A dataclass of plain numbers with ``num_images`` and ``to_json``.
        parts: What :meth:`generate`'s writer puts into the folder, beside ``spec.json``.
        pictures: Glob pattern of the pictures.
    """

    name: str
    spec_type: type[Any]
    parts: tuple[str, ...]
    pictures: str

    @property
    def prefix(self) -> str:
        """How the names of temporary directories begin."""
        return f".{self.name}-"

    def read_spec(self, folder: Path) -> Any:  # noqa: ANN401 (of type spec_type)
        """Read the spec of a dataset.

        Args:
            folder: Where it may be.

        Returns:
            The spec, or ``None`` if the folder holds no complete dataset.
        """
        names = [field.name for field in fields(self.spec_type)]
        try:
            stored = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
            spec = self.spec_type(**{name: stored[name] for name in names})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        count = sum(1 for part in self.parts for _ in (folder / part).glob(self.pictures))
        return spec if count == spec.num_images else None

    def generate(self, root: Path, spec: Any, write: Callable[[Path], None]) -> Path:  # noqa: ANN401
        """Write the dataset once below ``root`` and return its folder.

        An unfinished dataset is removed and redone; processes that generate at the same time do
        the work twice and keep one result.

        Args:
            root: Directory of datasets; made if absent.
            spec: What to write.
            write: Writes all parts and ``spec.json`` into the folder that it is given.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the folder exists and holds files of another origin.
        """  # noqa: DOC502
        folder = self._choose_folder(root, spec)
        if self.read_spec(folder) == spec:
            return folder
        self._discard(folder, root)
        root.mkdir(parents=True, exist_ok=True)
        self._sweep(root)
        temporary = Path(tempfile.mkdtemp(prefix=self.prefix, dir=root))
        try:
            # a subfolder, because mkdtemp's own permissions shut other users out
            write(temporary / "data")
            return self._publish(temporary / "data", root, spec)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _choose_folder(self, root: Path, spec: Any) -> Path:  # noqa: ANN401
        """Return the folder of the spec: the plain one unless another spec lives there."""
        base = root / self.name
        variant = base / hashlib.sha256(spec.to_json().encode()).hexdigest()[:8]
        stored = self.read_spec(base)
        if stored is None:
            # a broken dataset is cleared, but not under the feet of complete variants inside it
            return variant if any(base.glob(f"*/{SPEC_FILE}")) else base
        return base if stored == spec else variant

    def _discard(self, folder: Path, root: Path) -> None:
        """Remove an unfinished dataset, if that is what the folder holds.

        Raises:
            FileExistsError: If the folder holds anything that :meth:`generate` does not write.
        """
        # existence first: a folder that appears between the two questions is complete
        if not folder.exists() or self.read_spec(folder) is not None:
            return
        ours = {*(part.split("/")[0] for part in self.parts), SPEC_FILE}
        foreign = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.name not in ours and not entry.name.startswith(self.prefix)
        )
        if foreign:
            raise FileExistsError(
                f"{folder} must be absent or a synthetic dataset, but it has no valid {SPEC_FILE} "
                f"and holds {foreign[:3]}; move it away or choose another root"
            )
        trash = Path(tempfile.mkdtemp(prefix=self.prefix, dir=root))
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(trash / "data")
        shutil.rmtree(trash)

    def _sweep(self, parent: Path) -> None:
        """Remove temporary directories whose writer was killed."""
        for leftover in parent.glob(f"{self.prefix}*"):
            try:
                newest = max(p.stat().st_mtime for p in (leftover, *leftover.glob("*/*")))
            except OSError:  # its writer has just finished
                continue
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)

    def _publish(self, finished: Path, root: Path, spec: Any) -> Path:  # noqa: ANN401
        """Rename a finished dataset into place, unless another process was faster."""
        while True:
            folder = self._choose_folder(root, spec)
            if self.read_spec(folder) == spec:
                return folder
            self._discard(folder, root)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                finished.rename(folder)
            except OSError:
                if self.read_spec(folder) is None:
                    raise
            else:
                return folder
