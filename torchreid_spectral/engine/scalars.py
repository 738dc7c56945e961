"""What a training run writes for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from torchreid_spectral.functional import affinity_matrix, normalized_cut

if TYPE_CHECKING:  # they import this module
    from torchreid_spectral.engine.loop import LoopMixin

__all__ = ["write_step"]


def write_step(
    writer: SummaryWriter,
    engine: LoopMixin,
    losses: Any,  # noqa: ANN401
    seconds: Any,  # noqa: ANN401
    waiting: Any,  # noqa: ANN401
) -> None:
    """Write the scalars of a step under torchreid's names, and those of the graph.

    Args:
        writer: Of the run.
        engine: In training.
        losses: Running averages of what the losses log: parts, accuracies, escape probability.
        seconds: Running average of a step.
        waiting: Running average of the wait for data.
    """
    step = engine.epoch * engine.num_batches + engine.batch_idx
    values = {name: meter.avg for name, meter in losses.meters.items()}
    values |= {"time": seconds.avg, "data": waiting.avg, "lr": engine.get_current_lr()}
    values["images_per_second"] = engine.train_loader.batch_size / max(seconds.avg, 1e-9)
    for name, value in values.items():
        writer.add_scalar(f"Train/{name}", value, step)
    every = engine.options.graph_every
    if every and step % every == 0 and engine.last_features is not None:
        _write_graph(writer, engine.last_features, getattr(engine, "network", None), step)


@torch.no_grad()
def _write_graph(
    writer: SummaryWriter, nodes: tuple[Any, Tensor], network: nn.Module | None, step: int
) -> None:
    """Write the batch's affinity matrix, sorted by identity, and figures of the graph."""
    features, labels = nodes
    parts = features if isinstance(features, (tuple, list)) else (features,)
    order = labels.argsort(stable=True)
    heads: Any = getattr(network, "heads", [])
    temperature = float(torch.as_tensor(heads[0].walk.temperature)) if heads else 0.1
    affinity = affinity_matrix(parts[0].flatten(1)[order].float(), temperature)
    writer.add_scalar("Graph/ncut", normalized_cut(affinity, labels[order]), step)
    writer.add_image("Graph/affinity", affinity[None].clamp(0, 1), step)
    for number, head in enumerate(heads):
        walk = head.walk
        if getattr(walk, "learn_temperature", False):
            writer.add_scalar(f"Graph/temperature_{number}", float(walk.temperature), step)
