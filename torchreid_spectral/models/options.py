"""What a spectral model is built with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from torchreid_spectral._kinds import fits
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.layers import SpectralAttention
from torchreid_spectral.models.parts import POOLINGS

__all__ = ["TEST_FEATURES", "SpectralOptions"]

TEST_FEATURES = ("pooled", "bottleneck")
"""What a model gives in eval mode: X, or X through the bottleneck of the head."""

_WALK = (
    "temperature",
    "learn_temperature",
    "similarity",
    "heads",
    "group_shuffling",
    "steps",
    "restart",
    "self_loops",
    "top_k",
    "mutual",
    "normalization",
    "detach_transition",
    "memory",
)
_HEAD = (
    "supervision",
    "neck",
    "bottleneck_dim",
    "head_norm",
    "activation",
    "scale",
    "walked_feature",
)


@dataclass(frozen=True, kw_only=True)
class SpectralOptions:
    """Options of :func:`~torchreid_spectral.models.make_spectral`; a config's group ``spectral``.

    Args:
        test_feature: A name of :data:`TEST_FEATURES`.
        last_stride: Stride of a ResNet's last stage, 1 in the paper; ``None`` leaves it.
        pooling: Of the last map, ``avg`` or ``gem``, see
            :func:`~torchreid_spectral.models.parts.set_pooling`, as the next two.
        stripes: Horizontal parts with a walk and a classifier each; 0 for none.
        global_part: Whether the whole map is a part beside the stripes.
        temperature: See :class:`~torchreid_spectral.layers.SpectralAttention`, as all up to
            ``memory``.
        learn_temperature: Learn the temperature.
        similarity: Of two samples.
        heads: Slices of the feature, each with a graph of its own.
        group_shuffling: Every slice's graph walks the whole feature; each result is classified.
        steps: Length of the walk.
        restart: Share of the start in each step.
        self_loops: Whether a sample attends to itself.
        top_k: Attend only to the most similar samples.
        mutual: Only where each is among the other's ``top_k``.
        normalization: ``rows`` or ``symmetric``.
        detach_transition: No gradient through the graph.
        memory: Features of earlier batches in the graph.
        supervision: See :class:`~torchreid_spectral.models.SpectralHead`, as all up to
            ``walked_feature``.
        neck: ``bottleneck`` or ``bnneck``.
        bottleneck_dim: Width of the bottleneck, 0 for none.
        head_norm: ``bn``, ``ln``, ``gn``, ``in`` or ``none``.
        activation: Of the bottleneck.
        scale: Of the cosines.
        walked_feature: ``pooled`` or ``bottleneck``.
        attention: Blocks after stages of the backbone, see
            :func:`~torchreid_spectral.models.stages.insert_attention`.
        pooling_method: Of the frames of tracklets, see
            :class:`~torchreid_spectral.layers.FramePooling`; in a config ``video.pooling_method``.
        frame_temperature: Of pooling by ``attention``; in a config ``video.frame_temperature``.

    Raises:
        ValueError: If ``test_feature`` is not known.
    """

    test_feature: str = "pooled"
    last_stride: int | None = 1
    pooling: str = "avg"
    stripes: int = 0
    global_part: bool = True
    temperature: float = 0.1
    learn_temperature: bool = False
    similarity: str = "cosine"
    heads: int = 1
    group_shuffling: bool = False
    steps: int | float = 1
    restart: float = 0.0
    self_loops: bool = True
    top_k: int | None = None
    mutual: bool = False
    normalization: str = "rows"
    detach_transition: bool = False
    memory: int = 0
    supervision: str = "both"
    neck: str = "bottleneck"
    bottleneck_dim: int = 512
    head_norm: str = "bn"
    activation: str = "prelu"
    scale: float = 15.0
    walked_feature: str = "pooled"
    attention: Sequence[Any] = ()
    pooling_method: str = "avg"
    frame_temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.test_feature not in TEST_FEATURES:
            raise ValueError(
                f"test_feature must be one of {TEST_FEATURES}, got {self.test_feature!r}."
            )
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {list(POOLINGS)}, got {self.pooling!r}.")
        if self.stripes < 0:
            raise ValueError(f"stripes must be >= 0, got {self.stripes}.")

    @classmethod
    def of(cls, **options: Any) -> SpectralOptions:  # noqa: ANN401
        """Build the options, with an answer to a wrong name or kind of value.

        Args:
            **options: By name.

        Returns:
            The options.

        Raises:
            InputError: If a value is of another kind, such as text in the place of a number.
            UnknownNameError: If there is no such option.
        """  # noqa: DOC502
        known = cls.defaults()
        for name in options:
            if name not in known:
                raise UnknownNameError("option of a spectral model", name, known)
        plain = {name: value.item() if isinstance(value, np.generic) else value
                 for name, value in options.items()}  # fmt: skip
        for each in fields(cls):
            if each.name in plain:
                _check_kind(each.name, plain[each.name], str(each.type))
        return cls(**plain)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """List the options.

        Returns:
            Name to default.
        """
        return {field.name: field.default for field in fields(cls)}

    def walk(self, dim: int) -> SpectralAttention:
        """Build the walk of one head.

        Args:
            dim: D, width of the pooled feature.

        Returns:
            The layer, for the feature that is walked.
        """
        if self.walked_feature == "bottleneck" and self.neck == "bottleneck":
            dim = self.bottleneck_dim or dim
        return SpectralAttention(dim, **{name: getattr(self, name) for name in _WALK})

    def head(self) -> dict[str, Any]:
        """Give the options of a head.

        Returns:
            Arguments of :class:`~torchreid_spectral.models.SpectralHead`.
        """
        return {name: getattr(self, name) for name in _HEAD}


def _check_kind(name: str, value: Any, wanted: str) -> None:  # noqa: ANN401
    if wanted.startswith("Sequence"):  # looked at where its blocks are built
        return
    if not fits(value, wanted) or value != value:
        rule = {"bool": "True or False", "float": "a number", "str": "text"}.get(wanted, wanted)
        raise InputError(f"{name} takes {rule}, got {value!r}.")
