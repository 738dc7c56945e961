"""How a dataset is spread over identities and cameras, as one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["draw_distribution"]

_COLOURS = {"train": "#0072b2", "query": "#d55e00", "gallery": "#009e73", "no split": "#595959"}
_HATCHES = {"train": "", "query": "///", "gallery": "...", "no split": ""}


def draw_distribution(
    path: Path,
    per_identity: Mapping[str, Mapping[str, int]],
    per_camera: Mapping[str, Mapping[str, int]],
    *,
    num_instances: int | None = None,
    noun: str = "images",
) -> None:
    """Draw two panels: how many identities have how many images, and images of each camera.

    Args:
        path: Where the PNG or SVG goes; the folder is made if missing.
        per_identity: Identity to split to count.
        per_camera: Camera to split to count.
        num_instances: K, drawn as a line.
        noun: What is counted.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    splits = [s for s in _COLOURS if any(s in row for row in per_camera.values())]
    for index, split in enumerate(splits):
        sizes = Counter(row[split] for row in per_identity.values() if split in row)
        width = 0.8 / len(splits)
        style = {"color": _COLOURS[split], "hatch": _HATCHES[split], "edgecolor": "white"}
        shift = (index - (len(splits) - 1) / 2) * width
        left.bar([x + shift for x in sizes], list(sizes.values()), width, label=split, **style)
        heights = [row.get(split, 0) for row in per_camera.values()]
        right.bar([x + shift for x in range(len(heights))], heights, width, label=split, **style)
    if num_instances:
        left.axvline(num_instances - 0.5, color="black", linestyle="--", linewidth=1)
        left.annotate(f"K = {num_instances}", (num_instances - 0.5, 1.02), ha="center",
                      xycoords=("data", "axes fraction"))  # fmt: skip
    left.set(xlabel=f"{noun} of an identity", ylabel="identities")
    right.set(xlabel="camera", ylabel=noun)
    right.set_xticks(range(len(per_camera)), list(per_camera), rotation=45 if len(per_camera) > 8
                     else 0)  # fmt: skip
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=len(splits))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
