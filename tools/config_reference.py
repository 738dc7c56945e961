"""Write docs/config.md from the defaults and their comments.

Example:
    python tools/config_reference.py
    python tools/config_reference.py --check
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral.config import defaults
from torchreid_spectral.config.merging import leaves

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
HEAD = """# Config reference

All keys with their defaults, written from `torchreid_spectral/config/defaults.py` by
`python tools/config_reference.py`; a test fails when this page is stale. The last column
says whose a key is; torchreid's have torchreid's meaning. On the command line: `KEY VALUE` pairs
after the options; a wrong key or type is answered with the nearest right ones.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0, or 1 where ``--check`` finds a stale page.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say if it is stale")
    text = reference()
    if parser.parse_args(argv).check:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print("docs/config.md is stale: run python tools/config_reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """Lay the page out: a table a group."""
    notes, theirs = comments(), dict(leaves(defaults._TORCHREID))
    groups: dict[str, list[str]] = {}
    for key, value in leaves(defaults.get_default_config()):
        group = key.partition(".")[0] if "." in key else "general"
        origin = "torchreid" if key in theirs else "this plugin"
        groups.setdefault(group, []).append(f"| `{key}` | `{shown(value)}` | {origin} |")
    parts = [HEAD]
    for group, rows in sorted(groups.items()):
        said = dict.fromkeys(  # one note of several keys is said once
            note for key, note in notes if key == group or key.startswith(f"{group}.")
        )
        table = ["| key | default | of |", "|---|---|---|", *rows]
        lines = [f"## {group}", "", *(f"{note}\n" for note in said), *table]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def comments() -> list[tuple[str, str]]:
    """Find the comment above each key of the plugin's defaults, by line."""
    source = inspect.getsource(defaults)
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for key, line in keys(node.value):
                above = []
                while line >= 2 and lines[line - 2].strip().startswith("#"):
                    line -= 1
                    above.insert(0, lines[line - 1].strip().removeprefix("#").strip())
                if above:
                    note = " ".join(above)
                    found.append((key, note if note.endswith(".") else f"{note}."))
    return found


def keys(node: ast.Dict, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Give the keys of a literal dictionary with their lines."""
    for name, value in zip(node.keys, node.values):
        if isinstance(name, ast.Constant):
            yield f"{prefix}{name.value}", name.lineno
            if isinstance(value, ast.Dict):
                yield from keys(value, f"{prefix}{name.value}.")


def shown(value: Any) -> str:
    """Write a default as YAML would."""
    return "''" if value == "" else str(value).replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main())
