r"""Several configs under equal seeds: means, spreads and paired differences.

With the figure :math:`x_s` of a config and :math:`b_s` of the first config under seed s of n:

.. math::
    \bar d = \tfrac1n \sum_s (x_s - b_s), \qquad
    s_d^2 = \tfrac{1}{n-1} \sum_s (x_s - b_s - \bar d)^2, \qquad
    \bar d \pm t_{0.975, n-1} \, s_d / \sqrt n

The last is the 95 % interval of Student's t for the mean difference. Equal seeds share data order
and initial weights where the models are alike, so the pairs differ by less than the runs do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from torchreid_spectral._run_files import training_metrics
from torchreid_spectral.errors import InputError
from torchreid_spectral.report.history import read_history, seconds_a_step

__all__ = [
    "SHOWN",
    "Run",
    "Spread",
    "comparison_table",
    "load_run",
    "paired_difference",
    "percent",
    "seeds_of",
    "summarise",
]

SHOWN = ("mAP", "rank-1")
MADE_BY = ("commit", "threads", "gpu")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        seed: ``train.seed``.
        metrics: Dataset to view to figure to value.
        seconds_a_step: Of training; ``None`` where nothing was trained.
        made_by: ``commit``, ``threads`` and ``gpu`` of the run, as far as they are known.
    """

    seed: int
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds_a_step: float | None
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Mean and spread over seeds.

    Args:
        mean: Mean.
        std: Standard deviation of the sample; NaN for one seed.
        half_width: Half of the mean's 95 % interval; NaN for one seed.
        values: One a seed.
    """

    mean: float
    std: float
    half_width: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute it.

        Args:
            values: One a seed, at least one.

        Returns:
            Mean and spread.
        """
        array, count = np.asarray(values, dtype=np.float64), len(values)
        if count == 1:
            return cls(float(array[0]), math.nan, math.nan, tuple(values))
        std = float(array.std(ddof=1))
        half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
        return cls(float(array.mean()), std, half, tuple(values))


def load_run(folder: Path) -> Run:
    """Read a finished run's figures.

    Args:
        folder: Its ``data.save_dir``.

    Returns:
        The run.

    Raises:
        InputError: If it has no readable ``metrics.json``.
    """
    path = training_metrics(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Run(
            content["config"]["train"]["seed"],
            content["metrics"],
            seconds_a_step(read_history(folder)),
            {name: content[name] for name in MADE_BY if content.get(name) is not None},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no result of tools/main.py ({error!r}).") from error


def paired_difference(base: Mapping[int, float], other: Mapping[int, float]) -> Spread:
    """Compare two configs seed by seed.

    Args:
        base: Seed to figure.
        other: The same of the other config.

    Returns:
        Other minus base, over the seeds that both have.

    Raises:
        InputError: If they share no seed.
    """
    shared = sorted(base.keys() & other.keys())
    if not shared:
        raise InputError(f"The runs share no seed: {sorted(base)} and {sorted(other)}.")
    return Spread.of([other[seed] - base[seed] for seed in shared])


def summarise(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Compute means, spreads and differences to the first config.

    Args:
        runs: Config name to its runs, at least one each.

    Returns:
        ``{"seeds": ..., "baseline": name, "seconds_a_step": {name: ...}, "datasets": {dataset:
        {view: {name: {figure: {"mean", "std", "half_width", "by_seed", "difference"}}}}}}`` with
        ``commit``, ``threads`` and ``gpu`` of the runs, several where they differ. A difference
        has ``seeds``, those that both configs have, in the place of the last two. A view that
        only some configs have lists only these, and its differences are to the first of them.
    """
    names = list(runs)
    datasets: dict[str, Any] = {}
    for dataset, view in _views(runs):
        having = {
            name: {run.seed: run.metrics[dataset][view] for run in runs[name]
                   if view in run.metrics.get(dataset, {})}
            for name in names
        }  # fmt: skip
        having = {name: by_seed for name, by_seed in having.items() if by_seed}
        base = next(iter(having.values()))
        datasets.setdefault(dataset, {})[view] = {
            name: _figures(base, by_seed, is_base=by_seed is base)
            for name, by_seed in having.items()
        }
    times = {name: [r.seconds_a_step for r in runs[name] if r.seconds_a_step] for name in names}
    return {
        "seeds": {name: sorted(run.seed for run in runs[name]) for name in names},
        "baseline": names[0],
        "seconds_a_step": {name: float(np.mean(t)) if t else None for name, t in times.items()},
        "datasets": datasets,
        **_made_by([run for each in runs.values() for run in each]),
    }


def _made_by(runs: Sequence[Run]) -> dict[str, str]:
    known = {name: {str(run.made_by[name]) for run in runs if name in run.made_by}
             for name in MADE_BY}  # fmt: skip
    return {name: ", ".join(sorted(values)) for name, values in known.items() if values}


def comparison_table(summary: Mapping[str, Any]) -> str:
    """Lay the summary out as text: figures in %, ``mean ± std``, differences in points.

    Args:
        summary: Of :func:`summarise`.

    Returns:
        One table a dataset and view.
    """
    parts = []
    for dataset, views in summary["datasets"].items():
        for view, rows in views.items():
            title = "without post-processing" if view == "none" else f"with {view}"
            parts.append(f"{dataset}, {title}\n" + _rows(rows, summary))
    return "\n\n".join(parts)


def _rows(rows: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    width = max(len("config"), *map(len, rows))
    heads = [*SHOWN, *(f"difference {name}" for name in SHOWN), "s/step", "seeds"]
    lines = [f"{'config':{width}}" + "".join(f"{head:>20}" for head in heads)]
    for name, figures in rows.items():
        cells = [percent(figures[figure]) for figure in SHOWN]
        cells += [percent(figures[figure]["difference"], sign="+") for figure in SHOWN]
        seconds = summary["seconds_a_step"][name]
        cells += ["" if seconds is None else f"{seconds:.3f}", seeds_of(figures["mAP"])]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def seeds_of(figure: Mapping[str, Any]) -> str:
    """Count the runs of a figure, and those of them that its difference is of, if these are fewer.

    Args:
        figure: Of :func:`summarise`.

    Returns:
        Such as ``3`` or ``3 (2 paired)``.
    """
    runs, difference = len(figure["by_seed"]), figure["difference"]
    paired = runs if difference is None else len(difference["seeds"])
    return f"{runs}" if paired == runs else f"{runs} ({paired} paired)"


def percent(spread: Mapping[str, Any] | None, sign: str = "") -> str:
    """Write a share in %, with its standard deviation where there are several runs.

    Args:
        spread: ``mean`` and ``std``; nothing gives a dash.
        sign: ``+`` for differences.

    Returns:
        Such as ``63.29 ± 0.22``.
    """
    if spread is None:
        return "-"
    mean = f"{100 * spread['mean']:{sign}.2f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.2f}"


def _views(runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """List datasets and views in the order of their first appearance."""
    found = {
        (dataset, view): None
        for of_config in runs.values()
        for run in of_config
        for dataset, views in run.metrics.items()
        for view in views
    }
    return list(found)


def _figures(
    base: Mapping[int, Mapping[str, float]],
    by_seed: Mapping[int, Mapping[str, float]],
    *,
    is_base: bool,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    runs = [*by_seed.values(), *base.values()]
    for figure in next(iter(by_seed.values())):
        if figure != "mAP" and not figure.startswith("rank-"):
            continue
        if not all(figure in run for run in runs):  # test.ranks of another run did not ask for it
            continue
        values = {seed: figures[figure] for seed, figures in sorted(by_seed.items())}
        result[figure] = _plain(Spread.of(list(values.values())))
        result[figure]["by_seed"] = {str(seed): value for seed, value in values.items()}
        others = {seed: figures[figure] for seed, figures in base.items()}
        shared = [] if is_base else sorted(others.keys() & values.keys())
        result[figure]["difference"] = None
        if shared:
            difference = _plain(paired_difference(others, values))
            result[figure]["difference"] = difference | {"seeds": shared}
    return result


def _plain(spread: Spread) -> dict[str, Any]:
    """Give what JSON can hold: it knows no NaN."""
    return {
        "mean": spread.mean,
        "std": None if math.isnan(spread.std) else spread.std,
        "half_width": None if math.isnan(spread.half_width) else spread.half_width,
    }
