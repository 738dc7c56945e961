r"""The spectral head: bottleneck and cosine classifier, shared by X and X' = T X.

Sources: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019; Z. Zhang's talk, 2018.

===============================  ==========================================  ============
Paper                            Here                                        Shape
===============================  ==========================================  ============
:math:`X`, pooled feature        ``features``                                ``(B, D)``
:math:`X' = T X`                 ``walk(features)``                          ``(B, D)``
FC, BN, PReLU, L2-normalise      ``bottleneck``, ``embed``                   ``(2B, E)``
cosine classifier                ``classify``                                ``(2B, I)``
===============================  ==========================================  ============
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchreid_spectral.functional import cosine_similarity, escape_probability
from torchreid_spectral.layers import SpectralAttention
from torchreid_spectral.losses import ClassScores
from torchreid_spectral.models.necks import build_neck

__all__ = ["SUPERVISIONS", "WALKED_FEATURES", "SpectralHead"]

SUPERVISIONS = {
    "both": ("plain", "walked"),
    "walked": ("walked",),
    "plain": ("plain",),
    "plain_twice": ("plain", "plain"),
}
"""Which features the classifier sees, by name: X before and X' after the walk.

``plain_twice`` is a control: the loss scale of ``both`` without its walk.
"""


WALKED_FEATURES = ("pooled", "bottleneck")
"""What a head walks: X, or X through the bottleneck."""


class SpectralHead(nn.Module):
    """Classify the features of a batch before and after one random walk among them.

    It stands where torchreid's backbones have their ``classifier``, and is called by them in
    training. X and X' are stacked on the batch axis, so that the BatchNorm sees both.

    Args:
        dim: D, width of the feature.
        num_classes: I, training identities.
        walk: The layer that gives X' from X; the paper's by default.
        supervision: Which of X and X' are classified, a key of :data:`SUPERVISIONS`.
        neck: What stands before the classifier, see :mod:`~torchreid_spectral.models.necks`, as
            the next three.
        bottleneck_dim: E, width of the bottleneck; 0 for none: X itself is classified.
        head_norm: Normalisation of the neck.
        activation: Of the bottleneck.
        scale: What the cosines are multiplied with before they are given out.
        walked_feature: What is walked, a name of :data:`WALKED_FEATURES`: the pooled feature X as
            in the paper, or what the bottleneck makes of it, Z. With Z the graph is that of the
            space in which the classifier compares, and the bottleneck sees Z alone.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        walk: SpectralAttention | None = None,
        supervision: str = "both",
        neck: str = "bottleneck",
        bottleneck_dim: int = 512,
        head_norm: str = "bn",
        activation: str = "prelu",
        scale: float = 15.0,
        walked_feature: str = "pooled",
    ) -> None:
        super().__init__()
        if supervision not in SUPERVISIONS:
            raise ValueError(
                f"supervision must be one of {list(SUPERVISIONS)}, got {supervision!r}."
            )
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        if walked_feature not in WALKED_FEATURES:
            raise ValueError(
                f"walked_feature must be one of {list(WALKED_FEATURES)}, got {walked_feature!r}."
            )
        self.supervision, self.scale = supervision, scale
        self.walked_feature = walked_feature
        self.gives_scores = False  # set by the model whose losses need more than logits
        self.seen: Tensor | None = None  # nodes of the last batch's graph, for what is logged
        self.walk = SpectralAttention() if walk is None else walk
        self.bottleneck, width = build_neck(
            dim,
            neck=neck,
            bottleneck_dim=bottleneck_dim,
            norm=head_norm,
            activation=activation,
        )
        self.prototypes = nn.Parameter(torch.empty(num_classes, width))
        nn.init.normal_(self.prototypes, std=0.01)

    def embed(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Map features through the bottleneck.

        Args:
            features: X or X'.

        Returns:
            What the classifier compares by cosine; not normalised.
        """
        return self.bottleneck(features)

    def classify(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B I"]:
        """Compute the scaled cosine with each identity's weight, in float32 at least.

        Args:
            embedding: Output of :meth:`embed`.

        Returns:
            ``scale`` times the cosines.
        """
        wide = torch.promote_types(embedding.dtype, torch.float32)
        return self.scale * cosine_similarity(embedding.to(wide), self.prototypes.to(wide))

    def forward(
        self, features: Float[Tensor, "B D"]
    ) -> Tensor | tuple[Tensor, ...] | tuple[ClassScores, ...]:
        """Classify the batch, walked as ``supervision`` says; in eval mode never walked.

        Args:
            features: X.

        Returns:
            ``(B, I)`` outputs: a tuple for X and X' (with group shuffling for the X' of each
            group), or one tensor where only one is classified; where ``gives_scores`` is set, a
            tuple of :class:`ClassScores`, unscaled.
        """
        late = self.walked_feature == "bottleneck"
        start = self.embed(features) if late else features
        branches = SUPERVISIONS[self.supervision] if self.training else ("plain",)
        nodes: list[Tensor] = []
        for branch in branches:
            nodes += self.walk.walks(start) if branch == "walked" else (start,)
        if self.training:
            self.seen = start.detach()
        embeddings = nodes if late else self.embed(torch.cat(nodes)).chunk(len(nodes))
        if self.gives_scores:
            return tuple(
                ClassScores.of(embedding, self.prototypes, node)
                for embedding, node in zip(embeddings, nodes)
            )
        outputs = tuple(self.classify(embedding) for embedding in embeddings)
        return outputs[0] if len(outputs) == 1 else outputs

    @torch.no_grad()
    def escape(self, labels: Int[Tensor, " B"]) -> Tensor:
        """Compute how likely a step on the graph of the last training batch leaves its identity.

        Args:
            labels: Identity of each image of that batch.

        Returns:
            The escape probability, a mean over the graphs where the walk has several.

        Raises:
            RuntimeError: If there was no training batch yet.
        """
        if self.seen is None:
            raise RuntimeError("escape() needs a training batch: call the head in training first.")
        # Beside a self loop all else may underflow; of the k best it is one.
        loops = None if self.walk.top_k or len(self.seen) == 1 else False
        graph = self.walk.transition(self.seen, self_loops=loops)
        graphs = graph if graph.dim() == 3 else graph[None]
        return torch.stack([escape_probability(one, labels) for one in graphs]).mean()

    def extra_repr(self) -> str:
        """Show the settings.

        Returns:
            One line for ``repr``.
        """
        return (
            f"num_classes={self.prototypes.shape[0]}, embedding={self.prototypes.shape[1]}, "
            f"supervision={self.supervision}, scale={self.scale}"
        )
