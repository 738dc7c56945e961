"""Run any torchreid script, unedited, with the plugin registered.

``python -m torchreid_spectral [--set NAME=VALUE ...] SCRIPT [ARGS ...]``

``--set`` gives options of spectral models that the script has no place for, such as
``--set temperature=0.05``.
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torchreid_spectral._worker import SCRIPT_VARIABLE
from torchreid_spectral.errors import InputError
from torchreid_spectral.registry import model_defaults, register

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Register the plugin and run the script in this process.

    Args:
        argv: Command line without the program's name. Given none, the process's own: then the
            script stays its main module until the end, as threads and ``atexit`` need it.

    Returns:
        Exit status: 2 where the command line is wrong, else the script's own way out. What the
        script raises is not caught.
    """
    line = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="python -m torchreid_spectral", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of spectral models, e.g. temperature=0.05; may be repeated",
    )
    parser.add_argument("script", help="any script of torchreid, e.g. scripts/main.py")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="what the script takes")
    given = parser.parse_args(line)
    with ExitStack() as held:
        try:
            script = _existing(given.script)
            options = dict(_option(text) for text in given.set)
            register()
            held.enter_context(model_defaults(**options))
        except InputError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        _run(script, _tail(line, given.args), restore=argv is not None)
    return 0


def _tail(line: Sequence[str], args: Sequence[str]) -> list[str]:
    """Give all that stands behind the script: argparse drops a ``--`` at its beginning."""
    behind = len(line) - len(args)
    dropped = behind > 1 and line[behind - 1] == "--" and not line[behind - 2].startswith("--")
    return [*(["--"] if dropped else []), *args]


def _existing(script: str) -> Path:
    if not Path(script).is_file():
        raise InputError(f"There is no script {script!r}.")
    return Path(script)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, got {text!r}.")
    if value == "inf":
        return name, math.inf
    if value == "0" and name in ("top_k", "last_stride"):  # all, and torchreid's, as in a config
        return name, None
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


class _WorkerSpec(ModuleSpec):
    """What a spawned worker imports as its main module; a script is in no package."""

    parent = ""  # relative imports ask for it


def _run(script: Path, args: Sequence[str], *, restore: bool) -> None:
    """Run as ``python SCRIPT ARGS`` would: its folder first on the path, its own argv."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [str(script), *args]
    sys.path.insert(0, str(script.resolve().parent))
    module, place = ModuleType("__main__"), os.path.abspath(script)
    module.__file__ = place
    # It registers, then imports the script.
    module.__spec__ = _WorkerSpec("torchreid_spectral._worker", None)
    os.environ[SCRIPT_VARIABLE] = str(script.resolve())
    with io.open_code(place) as file:
        code = compile(file.read(), place, "exec", dont_inherit=True)
    sys.modules["__main__"] = module
    try:
        exec(code, vars(module))
    finally:
        if restore:
            sys.argv, sys.path[:], sys.modules["__main__"] = before
            del os.environ[SCRIPT_VARIABLE]


if __name__ == "__main__":
    raise SystemExit(main())
