"""What the check of a user's images says: counts, tables, and what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torchreid_spectral.data.folder import SPLITS, Item, natural

__all__ = ["Finding", "Report", "counts_of", "table_of"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: A word for programs.
        severity: ``error`` (exit status 1) or ``warning``.
        count: How many cases.
        message: What, and what to do.
        examples: A few cases.
        counted: Whether the message goes on from the count.
    """

    code: str
    severity: str
    count: int
    message: str
    examples: tuple[str, ...] = ()
    counted: bool = True

    @property
    def text(self) -> str:
        """The message, after its count where cases are counted."""
        return f"{self.count} {self.message}" if self.counted else self.message


@dataclass
class Report:
    """All that :func:`check` says.

    Attributes:
        root: What was checked.
        kind: ``image`` or ``video``.
        counts: Items, identities and cameras of each split.
        per_identity: Items of each identity, by split.
        per_camera: Items of each camera, by split.
        findings: What is wrong, errors first.
        proposal: A split where none is given and one can be made.
    """

    root: str
    kind: str
    counts: dict[str, dict[str, int]]
    per_identity: dict[str, dict[str, int]]
    per_camera: dict[str, dict[str, int]]
    findings: list[Finding] = field(default_factory=list)
    proposal: list[Item] | None = None

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong or only warned of, else 1."""
        return int(any(finding.severity == "error" for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values for JSON.

        Returns:
            Everything, the proposal as counts alone.
        """
        content = asdict(self) | {"exit_code": self.exit_code}
        content["proposal"] = None if self.proposal is None else counts_of(self.proposal)
        return content


def counts_of(items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Count what each split holds.

    Args:
        items: Images or tracklets.

    Returns:
        Split to items, files, identities and cameras.
    """
    counts = {}
    for split in (*SPLITS, ""):
        part = [item for item in items if item.split == split]
        if part:
            counts[split or "no split"] = {
                "items": len(part),
                "files": sum(len(item.files) for item in part),
                "identities": len({item.pid for item in part}),
                "cameras": len({item.camid for item in part}),
            }
    return counts


def table_of(items: Iterable[Item], name: str) -> dict[str, dict[str, int]]:
    """Count items by identity or camera, and by split.

    Args:
        items: Images or tracklets.
        name: ``pid`` or ``camid``.

    Returns:
        Identity or camera to split to count.
    """
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        table[getattr(item, name)][item.split or "no split"] += 1
    return {key: dict(table[key]) for key in sorted(table, key=natural)}
