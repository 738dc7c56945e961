r"""The soft normalised cut of the batch graph as a training term.

Source: Z. Zhang's talk, 2018, after J. Shi and J. Malik, *Normalized Cuts and Image Segmentation*,
TPAMI 2000; as a loss on soft assignments M. Tang et al., *Normalized Cut Loss for
Weakly-Supervised CNN Segmentation*, CVPR 2018.

===================  ======================================  ==========
Talk                 Here                                    Shape
===================  ======================================  ==========
:math:`S`            affinity of the batch, no gradient      ``(B, B)``
:math:`p_c`          probability of class c for each image   ``(B,)``
===================  ======================================  ==========
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import affinity_matrix
from torchreid_spectral.functional._precision import at_least_float32, full_precision
from torchreid_spectral.functional.cut import cut_ratios
from torchreid_spectral.functional.transition import log_softmax_transition
from torchreid_spectral.losses.class_scores import ClassScores
from torchreid_spectral.losses.identity import check_scale
from torchreid_spectral.losses.metric import MetricLoss
from torchreid_spectral.losses.targets import checked_targets

__all__ = ["NormalizedCutLoss"]


class NormalizedCutLoss(MetricLoss):
    r"""Let the classifier cut the batch graph where its edges are weak.

    .. math:: \operatorname{mean}_c \frac{p_c^T S (1 - p_c)}{p_c^T S 1}, \quad
              S = \exp((\cos - 1) / \sigma), \quad p = \operatorname{softmax}(scale \cdot \cos)

    Note:
        The mean runs over the identities of the batch. Those of the training set that are not in
        it have no image to cut off: their terms are all near one and say nothing.

    Args:
        temperature: :math:`\sigma` > 0, of the graph.
        scale: Of the cosines before the softmax, > 0.
        detach: Hold the graph fixed, so that the assignment alone is trained.

    Raises:
        ValueError: If an option is out of range.
    """

    needs_scores = True

    def __init__(self, temperature: float = 0.1, scale: float = 15.0, detach: bool = True) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature, self.scale, self.detach = temperature, check_scale(scale), detach

    def forward(
        self,
        features: Float[Tensor, "B D"],
        targets: Int[Tensor, " B"],
        scores: ClassScores | Float[Tensor, "B I"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss of a batch, in float32 at least, autocast or not.

        Args:
            features: X or X', the nodes.
            targets: Identity of each image; says only which classes are in the batch.
            scores: Cosines of the same nodes with each identity's weight.

        Returns:
            The loss, in [0, 1].

        Raises:
            InputError: If there are no scores, or not one identity an image.
        """
        if scores is None:
            raise InputError("normalized_cut needs the classifier's scores, got none.")
        cosine = at_least_float32(scores if isinstance(scores, Tensor) else scores.cosine)
        nodes = at_least_float32(features.detach() if self.detach else features)
        targets = checked_targets(targets, len(features))
        if not len(targets):
            return features.sum() * 0
        classes = targets.unique()
        if classes[0] < 0:
            raise InputError(f"targets must be >= 0, got {int(classes[0])}.")
        with full_precision(features):
            logs = log_softmax_transition(cosine, temperature=1 / self.scale)
            logs = logs[:, classes]
            members = (logs - logs.detach().amax(dim=0)).exp()
            affinity = affinity_matrix(nodes, self.temperature)
            return cut_ratios(affinity, logs.exp(), members).mean()
