"""What the options of SpectralAttention must fulfil, alone and together."""

from __future__ import annotations

import math
from typing import Any

from torchreid_spectral.functional.transition import NORMALIZATIONS
from torchreid_spectral.layers.axes import AXES

__all__ = ["check_options"]


def check_options(*, similarities: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
    """Check the options of a layer.

    Args:
        similarities: Names that ``similarity`` may have.
        **options: Of :class:`~torchreid_spectral.layers.SpectralAttention`.

    Raises:
        ValueError: If one is out of range, or two do not go together.
    """
    for name, choices in (
        ("over", AXES),
        ("similarity", similarities),
        ("normalization", NORMALIZATIONS),
    ):
        if options[name] not in choices:
            raise ValueError(f"{name} must be one of {list(choices)}, got {options[name]!r}.")
    _check_walk(options["temperature"], options["steps"], options["restart"])
    _check_widths(**options)
    _check_graph(**options)
    _check_axis(**options)


def _check_walk(temperature: float, steps: float, restart: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    if not steps >= 0:
        raise ValueError(f"steps must be >= 0, got {steps}.")
    if not math.isinf(steps) and steps != int(steps):
        raise ValueError(f"steps must be a whole number or inf, got {steps}.")
    if not 0 <= restart <= 1:
        raise ValueError(f"restart must be in [0, 1], got {restart}.")
    if math.isinf(steps) and restart == 0:
        raise ValueError("steps=inf needs a restart in (0, 1], got 0.0: else no unique limit.")


def _check_widths(
    *,
    dim: int | None,
    inner_dim: int | None,
    heads: int,
    over: str,
    query: str,
    key: str,
    value: str,
    output: str,
    **_: Any,  # noqa: ANN401
) -> None:
    width = dim if inner_dim is None else inner_dim
    if inner_dim is not None and inner_dim < 1:
        raise ValueError(f"inner_dim must be >= 1, got {inner_dim}.")
    if heads < 1:
        raise ValueError(f"heads must be >= 1, got {heads}.")
    for kind in (query, key, value):
        cut = dim if kind == "identity" else width
        if over != "channels" and cut is not None and cut % heads:
            raise ValueError(f"heads must divide the feature width {cut}, got {heads}.")
    if query != key and width != dim:
        raise ValueError(f"query and key must be of one width, got {query} and {key} projections.")
    if value == "linear" and width != dim and output not in ("linear", "norm"):
        raise ValueError(
            f"inner_dim {width} of the values needs output 'linear' or 'norm' to come back to "
            f"dim {dim}, got {output!r}."
        )


def _check_graph(
    *,
    top_k: int | None,
    mutual: bool,
    normalization: str,
    query: str,
    key: str,
    memory: int,
    heads: int,
    group_shuffling: bool,
    self_loops: bool,
    learn_temperature: bool,
    detach_transition: bool,
    **_: Any,  # noqa: ANN401
) -> None:
    if learn_temperature and detach_transition:
        raise ValueError(
            "learn_temperature=True learns through the graph, which detach_transition=True cuts "
            "off: choose one."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}.")
    if memory < 0:
        raise ValueError(f"memory must be >= 0, got {memory}.")
    if mutual and top_k is None:
        raise ValueError("mutual=True needs top_k, got None: it keeps mutual neighbours only.")
    if normalization == "symmetric" and top_k is not None and not mutual:
        raise ValueError("normalization='symmetric' with top_k needs mutual=True, got False.")
    if normalization == "symmetric" and (query, key) != ("identity", "identity"):
        raise ValueError(
            "normalization='symmetric' needs a symmetric similarity: query and key 'identity', "
            f"got {query!r} and {key!r}."
        )
    if memory and (mutual or normalization == "symmetric" or not self_loops):
        raise ValueError(
            f"memory={memory} does not go with mutual=True, normalization='symmetric' or "
            "self_loops=False: kept nodes have no row of their own."
        )
    if group_shuffling and heads < 2:
        raise ValueError(f"group_shuffling needs heads >= 2, got {heads}.")


def _check_axis(
    *,
    over: str,
    dim: int | None,
    memory: int,
    similarity: str,
    alone_in_eval: bool,
    query: str,
    key: str,
    value: str,
    group_shuffling: bool,
    frames: int | None,
    **_: Any,  # noqa: ANN401
) -> None:
    if over != "samples" and (memory or alone_in_eval):
        name = "memory" if memory else "alone_in_eval"
        raise ValueError(f"{name} is for over='samples', got over={over!r}.")
    if memory and dim is None:
        raise ValueError("dim must be given with a memory, got None.")
    if similarity == "appearance_and_position" and over != "pixels":
        raise ValueError(
            f"similarity='appearance_and_position' is for over='pixels', whose nodes have places, "
            f"got over={over!r}."
        )
    if over == "channels" and "linear" in (query, key, value):
        raise ValueError(
            "over='channels' takes no projections, which would mix the nodes: query, key and "
            f"value 'identity', got {query!r}, {key!r}, {value!r}."
        )
    if group_shuffling and over not in ("samples", "frames"):
        raise ValueError(f"group_shuffling is for samples and frames, got over={over!r}.")
    if frames is not None and (frames < 1 or over != "frames"):
        raise ValueError(f"frames is for over='frames' and >= 1, got {frames} and {over!r}.")
