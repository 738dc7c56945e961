"""Features of earlier batches as extra nodes of the graph.

Source of the idea: X. Wang, H. Zhang, W. Huang, M. Scott, *Cross-Batch Memory for Embedding
Learning*, CVPR 2020: features drift slowly, so that those of the last steps may stand beside the
current ones. Here they are nodes that a walker of the batch can step to: a GPU that holds a small
batch gets a large graph.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["NodeMemory"]


class NodeMemory(nn.Module):
    """A ring of the latest features, empty at the start, without gradient.

    It is part of the state dict, so that a resumed run goes on exactly as it would have; a model
    without memory loads such a checkpoint as torchreid loads any other that has more.

    Args:
        size: M, most features kept.
        dim: D, their width.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    nodes: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory must be >= 1 nodes, got {size}.")
        _keep_out_of_graphs()
        self.size, self.written = size, 0
        self.register_buffer("nodes", torch.zeros(size, dim))

    def read(self) -> Float[Tensor, "M D"]:
        """Give what is kept.

        Returns:
            A copy, so that writing does not disturb a backward pass; up to ``size`` rows.

        Raises:
            RuntimeError: If a backward pass asks: it computes anew what was not kept.
        """
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "A memory of nodes does not go together with activation checkpointing: the "
                "forward pass that is repeated would find the batch itself in the memory. "
                "Checkpoint the backbone without its head, or set spectral.memory 0."
            )
        return self.nodes[: min(self.written, self.size)].clone()

    @torch.no_grad()
    def write(self, features: Float[Tensor, "B D"]) -> None:
        """Keep the features of a batch in the place of the oldest.

        Args:
            features: X; of a batch larger than the memory its end. Rows that are not finite are
                not kept: they would spoil the walk of many batches.
        """
        rows = features.detach().to(self.nodes)
        rows = rows[rows.isfinite().all(dim=1)]
        kept = rows[-self.size :]
        start = self.written + len(rows) - len(kept)
        places = torch.arange(start, start + len(kept), device=kept.device) % self.size
        self.nodes[places] = kept
        self.written += len(rows)

    def get_extra_state(self) -> Tensor:
        """Give how many features were written, as a tensor: torchreid asks states for a size.

        Returns:
            A whole number.
        """
        return torch.tensor(self.written)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over how many features were written; none where these were not taken over.

        A checkpoint of another size or width has features that do not fit, which torchreid
        passes over.

        Args:
            state: Of :meth:`get_extra_state`.
        """
        self.written = int(state) if bool(self.nodes.any()) else 0

    def extra_repr(self) -> str:
        """Show the settings.

        Returns:
            One line for ``repr``.
        """
        return f"size={self.size}, dim={self.nodes.shape[1]}"


@cache
def _keep_out_of_graphs() -> None:
    """Let ``torch.compile`` leave the memory alone: its count would be compiled anew each step."""
    for name in ("read", "write"):
        setattr(NodeMemory, name, torch.compiler.disable(getattr(NodeMemory, name)))
