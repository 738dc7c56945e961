"""What a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from torchreid_spectral.evaluation import RankingMetrics
from torchreid_spectral.report.history import Curve
from torchreid_spectral.rerank import Reranker

__all__ = ["Batch", "RunReport", "Tested"]


@dataclass(frozen=True)
class Tested:
    """One tested dataset.

    Args:
        features: ``(Q, D)`` of the queries.
        query: ``(path, pid, camid, ...)`` of each query.
        gallery: The same for the gallery.
        views: Name to fitted re-ranker; ``none`` first.
        metrics: Name to metrics.
        inductive: Whether each query is answered as if it were alone.
    """

    __test__ = False  # not a test of pytest's

    features: Tensor
    query: Sequence[Any]
    gallery: Sequence[Any]
    views: Mapping[str, Reranker]
    metrics: Mapping[str, RankingMetrics]
    inductive: bool = False


@dataclass(frozen=True)
class Batch:
    """Images of some training identities, sorted by identity, seen early and late.

    Args:
        labels: ``(B,)``.
        features: When (``before training``) to ``(B, D)``, in the order of time.
    """

    labels: NDArray[Any]
    features: Mapping[str, Tensor]


@dataclass
class RunReport:
    """What a report is made of.

    Args:
        title: Heading.
        tested: Dataset to what was tested.
        history: Scalars of the training.
        facts: Names and values for the last section.
        model: For activation maps, or ``None``.
        input_size: H and W of its input.
        pixels: Mean and standard deviation of the pixels.
        batch: Training images early and late, or ``None``.
        baseline: Title and extractor (paths to ``(N, D)``) of a baseline, for the talk's picture.
        method: Title of this model in that picture.
    """

    title: str
    tested: Mapping[str, Tested]
    history: Mapping[str, Curve] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    model: nn.Module | None = None
    input_size: tuple[int, int] = (256, 128)
    pixels: tuple[Sequence[float], Sequence[float]] = (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    batch: Batch | None = None
    baseline: tuple[str, Callable[[list[str]], Tensor]] | None = None
    method: str = "this model"
