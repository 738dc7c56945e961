"""pytorch-metric-learning with this package's distances; imported where a loss needs it."""

from __future__ import annotations

from torch import Tensor

from torchreid_spectral.errors import require_extra
from torchreid_spectral.functional.distance import METRICS

__all__ = ["Distance", "SquaredContrastive", "distances", "losses", "miners", "reducers"]

_PURPOSE = "This metric loss"
distances = require_extra("pytorch_metric_learning.distances", "losses", _PURPOSE)
losses = require_extra("pytorch_metric_learning.losses", "losses", _PURPOSE)
miners = require_extra("pytorch_metric_learning.miners", "losses", _PURPOSE)
reducers = require_extra("pytorch_metric_learning.reducers", "losses", _PURPOSE)


class Distance(distances.BaseDistance):  # type: ignore[misc, name-defined]
    """A distance of :mod:`torchreid_spectral.functional`, by name, for the library's losses.

    Args:
        metric: A key of ``functional.distance.METRICS``.
    """

    def __init__(self, metric: str = "euclidean") -> None:
        super().__init__(normalize_embeddings=False)
        self.metric = metric

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the distances of all pairs.

        Args:
            query_emb: Features.
            ref_emb: Other features; the same if not given.

        Returns:
            Distances.
        """
        if self.metric != "cosine":  # else close features far from the origin cancel
            middle = query_emb.detach().mean(dim=0)
            query_emb = query_emb - middle
            ref_emb = None if ref_emb is None else ref_emb - middle
        return METRICS[self.metric](query_emb, query_emb if ref_emb is None else ref_emb)


class SquaredContrastive(losses.ContrastiveLoss):  # type: ignore[misc, name-defined]
    """The library's contrastive loss with both terms squared, as the paper has them."""

    def get_per_pair_loss(self, pair_dists: Tensor, pos_or_neg: str) -> Tensor:
        """Square what the library computes.

        Args:
            pair_dists: Distances.
            pos_or_neg: ``pos`` or ``neg``.

        Returns:
            Losses of the pairs.
        """
        term: Tensor = super().get_per_pair_loss(pair_dists, pos_or_neg)
        return term.square()
