"""What a training run is told beside torchreid's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchreid_spectral.data.items import ON_ERROR
from torchreid_spectral.errors import InputError

__all__ = ["TrainingOptions"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "amp": ("off", "bf16", "fp16"),
    "on_nan": ("stop", "skip"),
    "keep": ("mAP", "rank-1"),
    "on_error": ON_ERROR,
}
_NOT_NEGATIVE = (
    "chunk_size",
    "clip_norm",
    "patience",
    "checkpoint_every",
    "timeout",
    "graph_every",
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the loop, the step and the loaders; the defaults train as torchreid does.

    Attributes:
        amp: ``off``, ``bf16`` or ``fp16``; losses and the graph stay in float32.
        channels_last: Memory format of images and weights.
        compile: Backend of ``torch.compile``, such as ``inductor``; empty for none.
        chunk_size: Images that go through the backbone at a time; 0 for the whole batch. The
            graph and the losses span the whole batch all the same.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        ema_decay: Of a moving average of the weights, which is then tested; 0 for none.
        on_nan: ``stop`` or ``skip`` a step whose loss or gradient is not finite.
        checkpoint_every: Steps between checkpoints within an epoch; 0 for one an epoch.
        keep: Which figure of the tests makes the best checkpoint.
        patience: Tests without a better figure after which training stops; 0 for never.
        graph_every: Steps between pictures of the affinity matrix in TensorBoard; 0 for none.
        flush_denormals: Take numbers below 1e-38 as zero on a CPU, which is faster with
            trained weights; what is learned differs by rounding.
        sync_bn: BatchNorm over all processes.
        test_flip: Test with the mean feature of each image and its mirror image.
        on_error: ``raise`` or ``skip`` a broken image.
        persistent_workers: Keep the loader's workers between epochs.
        timeout: Seconds to wait for a batch; 0 for ever.

    Raises:
        InputError: If a value is out of range.
    """

    amp: str = "off"
    channels_last: bool = False
    compile: str = ""
    chunk_size: int = 0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    on_nan: str = "stop"
    checkpoint_every: int = 0
    keep: str = "mAP"
    patience: int = 0
    graph_every: int = 0
    flush_denormals: bool = True
    sync_bn: bool = False
    test_flip: bool = False
    on_error: str = "raise"
    persistent_workers: bool = False
    timeout: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be >= 0, got {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")
