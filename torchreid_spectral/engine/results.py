"""What a test gives back, and how it is saved."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from torchreid_spectral._files import write_text
from torchreid_spectral.evaluation import RankingMetrics

__all__ = ["PLAIN", "TestResult", "commit_of", "commit_of_tool", "provenance", "write_json"]

logger = logging.getLogger(__name__)

PLAIN = "none"
_VERSIONS_OF = ("torchreid-spectral", "torch", "torchvision", "torchreid", "numpy")


class TestResult(float):
    """Metrics of each test set, without and with post-processing.

    It is a number too, that which torchreid's ``test`` gives: rank-1 of the last dataset without
    post-processing, NaN where there is none.

    Args:
        datasets: Dataset to view to metrics; the view ``none`` is the plain distance.
        seconds: What took how long.
    """

    __test__ = False  # not a test of pytest's

    datasets: Mapping[str, Mapping[str, RankingMetrics]]
    seconds: Mapping[str, float]

    def __new__(
        cls,
        datasets: Mapping[str, Mapping[str, RankingMetrics]],
        seconds: Mapping[str, float] | None = None,
    ) -> TestResult:
        """Take the number from the last dataset."""
        last = list(datasets.values())[-1:]
        made = super().__new__(cls, last[0][PLAIN].rank(1) if last else math.nan)
        made.datasets, made.seconds = datasets, dict(seconds or {})
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Let pickle and copy rebuild it."""
        return self.datasets, self.seconds

    def figure(self, name: str) -> float:
        """Give one figure to compare tests by: its mean over the datasets, plain distance.

        Args:
            name: ``mAP`` or ``rank-1``.

        Returns:
            A share in [0, 1].
        """
        views = [metrics[PLAIN] for metrics in self.datasets.values()]
        return sum(view.mAP if name == "mAP" else view.rank(1) for view in views) / len(views)

    def as_dict(self, ranks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, Any]:
        """Give plain numbers.

        Args:
            ranks: Ranks of the CMC to give.

        Returns:
            ``{dataset: {view: {"mAP": ..., "rank-1": ..., ...}}}``, shares in [0, 1].
        """
        return {
            name: {view: _numbers(metrics, ranks) for view, metrics in views.items()}
            for name, views in self.datasets.items()
        }


def _numbers(metrics: RankingMetrics, ranks: Sequence[int]) -> dict[str, float | int]:
    return {
        "mAP": metrics.mAP,
        **{f"rank-{k}": metrics.rank(k) for k in sorted({1, *ranks})},
        "mINP": metrics.mINP,
        "mAP_trapezoidal": metrics.mAP_trapezoidal,
        "queries": metrics.num_queries,
        "valid_queries": metrics.num_valid,
    }


def provenance() -> dict[str, Any]:
    """Say with what a result was made.

    Returns:
        Versions, commit of the source if it is a git checkout, Python, machine kind, GPU if
        there is one, and threads of the CPU.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {name: _version(name) for name in _VERSIONS_OF},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "commit": commit_of(__file__),
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file, whole or not at all.

    Args:
        content: What to write.
        path: Where; the folder is made if missing.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def _finite(node: Any) -> Any:  # noqa: ANN401 (plain data)
    """Write what JSON has no number for as configs spell it: ``inf``; NaN becomes ``null``."""
    if isinstance(node, Mapping):
        return {name: _finite(value) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None if math.isnan(node) else str(node)
    return node


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit_of(file: str) -> str | None:
    """Name the commit that a file is part of, with ``-dirty`` where its checkout was changed.

    Args:
        file: A source file.

    Returns:
        The commit, or ``None`` for a file that git does not track, such as an installed one.
    """
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        for command in (["git", "ls-files", "--error-unmatch", Path(file).name], describe):
            result = subprocess.run(
                command,
                cwd=Path(file).parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def commit_of_tool(tool: str, package: str) -> str | None:
    """Name the commit of a checkout whose tool runs, if the package that runs is the same.

    ``tools/*.py`` import what is installed, and that may be an older state of their checkout.

    Args:
        tool: A file in a folder of the checkout.
        package: Folder of the package that is imported.

    Returns:
        The commit, or ``None`` where the package is another one, which is told.
    """
    own = Path(tool).resolve().parents[1] / Path(package).name
    if not own.is_dir():
        return commit_of(str(Path(package, "__init__.py")))
    if _sources(own) != _sources(Path(package)):
        logger.warning(
            "%s runs, which differs from the checkout %s: results name no commit. Install the "
            "checkout again (pip install .), or once for all with pip install -e .",
            package, own.parent,
        )  # fmt: skip
        return None
    return commit_of(tool)


def _sources(package: Path) -> dict[Path, bytes]:
    return {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}
