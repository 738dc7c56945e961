"""One training step, in hooks that an engine fills in.

torchreid's engines write forward, loss, backward and the optimiser's step in one method each;
here the step is written once and an engine says only what its losses are, so that mixed precision,
accumulation and several processes work for all of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.chunks import chunked_backward
from torchreid_spectral.engine.faults import NotFinite
from torchreid_spectral.engine.host import TorchreidEngine
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.trees import leaves, map_tensors
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional._precision import (
    at_least_float32,
    denormals_as_zero,
    mixed_precision,
)
from torchreid_spectral.models.layout import flattening

__all__ = ["StepMixin", "unwrapped"]

logger = logging.getLogger(__name__)

_NO_COPIES = (
    "train.{} does not go together with DataParallel on {} GPUs: start with torchrun, or wrap the "
    "model with device_ids=[0]."
)


class StepMixin(TorchreidEngine):
    """Goes before a torchreid engine and gives it ``forward_backward``.

    An engine overrides :meth:`compute_losses`, and :meth:`forward` where its losses need more
    than the model's outputs.
    """

    options = TrainingOptions()
    augment: Callable[[Tensor], Tensor] | None = None
    average: AveragedModel | None = None
    _parallel: nn.Module | None = None
    _before: Mapping[str, Tensor] = {}

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401
        """Give what :meth:`compute_losses` takes: tensors, or nested tuples of them.

        Args:
            images: ``(B, 3, H, W)`` on the model's device.

        Returns:
            The model's outputs in training.
        """
        return (self._parallel or self.model)(images)

    def compute_losses(
        self,
        outputs: Any,  # noqa: ANN401
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute what is minimised, and what is logged.

        Args:
            outputs: Of :meth:`forward`, for the whole batch of all processes.
            targets: ``(B,)`` identity of each image.

        Returns:
            The loss, and named scalars to log, accuracies in %.

        Raises:
            NotImplementedError: If the engine does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_losses.")

    def prepare_step(self) -> None:
        """Set up precision, compilation and processes, once before training.

        Raises:
            InputError: If options do not go together.
        """
        if hasattr(self, "scaler"):
            return
        self._check_options()
        options, network = self.options, unwrapped(self.model)
        self.guard = NotFinite(options.on_nan)
        device = "cuda" if self.use_gpu else "cpu"
        self.scaler = torch.amp.GradScaler(device, enabled=options.amp == "fp16")
        if options.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.ema_decay:
            self.average = AveragedModel(
                network, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay), use_buffers=True
            )
        if options.compile:
            network.compile(backend=options.compile)
        if distributed.world_size() == 1:
            return
        if options.sync_bn:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        distributed.span_walks(network)
        if options.chunk_size:
            distributed.share_parameters(network)
        else:
            self._parallel = DistributedDataParallel(network, find_unused_parameters=True)

    def arithmetic(self) -> AbstractContextManager[None]:
        """Give the context that training and tests compute in."""
        return denormals_as_zero(enabled=self.options.flush_denormals and not self.use_gpu)

    def _check_options(self) -> None:
        options = self.options
        if options.chunk_size and getattr(self, "distillation", None) is not None:
            raise InputError(
                "train.chunk_size does not go together with a teacher: its features are of the "
                "whole batch. Set train.chunk_size 0."
            )
        if options.sync_bn and not self.use_gpu:
            raise InputError("train.sync_bn needs a GPU: PyTorch has no SyncBatchNorm for CPUs.")
        copies = len(getattr(self.model, "device_ids", ()))
        if copies > 1 and options.chunk_size:  # chunks go through the model on its first GPU
            raise InputError(_NO_COPIES.format("chunk_size", copies))
        _check_layout(unwrapped(self.model), options)
        self._check_precision()

    def _check_precision(self) -> None:
        """Refuse what would be computed otherwise than asked, or not at all."""
        options = self.options
        if options.amp == "fp16" and not self.use_gpu:
            raise InputError("train.amp fp16 needs a GPU; on a CPU use bf16 or off.")
        if options.amp == "bf16" and self.use_gpu and not _knows_bfloat16():
            logger.warning(
                "This GPU has no bfloat16 of its own: train.amp bf16 is emulated and slow. "
                "Use fp16, or off."
            )
        copies = len(getattr(self.model, "device_ids", ()))
        for key, forbidden in (("amp bf16", options.amp == "bf16"), ("compile", options.compile)):
            if copies > 1 and forbidden:  # its threads fall back to fp16, and to the first GPU
                raise InputError(_NO_COPIES.format(key, copies))

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """Take one training step.

        Args:
            data: A batch of torchreid's loader.

        Returns:
            The scalars of :meth:`compute_losses`.
        """
        self.prepare_step()
        images, targets = self.parse_data_for_train(data)
        if self.use_gpu:
            images, targets = images.cuda(non_blocking=True), targets.cuda(non_blocking=True)
        if self.augment is not None:
            images = self.augment(images)
        if self.options.channels_last:
            images = _channels_last(images)
        if self.options.on_nan == "skip":  # BatchNorm has seen the batch before the loss is known
            self._before = _without_parameters(unwrapped(self.model))
        self.optimizer.zero_grad()
        loss, parts = self._backward(images, distributed.gather(targets))
        return self._update(loss, parts, data)

    def _backward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss and add its gradients."""
        logged: dict[str, Tensor] = {}

        def whole_loss(outputs: Any) -> Tensor:  # noqa: ANN401
            outputs = map_tensors(at_least_float32, outputs)
            outputs = map_tensors(distributed.gather, outputs)
            for head in getattr(unwrapped(self.model), "heads", ()):  # for what is logged
                head.seen = distributed.gather(head.seen)
            with self._autocast(enabled=False):
                loss, parts = self.compute_losses(outputs, targets)
            logged.update(parts)
            if distributed.world_size() > 1:  # every output takes part, for the reducer
                loss = loss + 0.0 * sum(leaf.sum() for leaf in leaves(outputs))
            return loss

        if self.options.chunk_size:
            distributed.share_buffers(unwrapped(self.model))  # as DistributedDataParallel does
            with self._autocast():
                loss = chunked_backward(
                    unwrapped(self.model),
                    images,
                    whole_loss,
                    chunk_size=self.options.chunk_size,
                    scale=self.scaler.scale,
                )
            distributed.average_gradients(unwrapped(self.model))
        else:
            with self._autocast():
                outputs = self.forward(images)
            loss = whole_loss(outputs)
            self.scaler.scale(loss).backward()
        return loss.detach(), logged

    def _update(
        self, loss: Tensor, parts: dict[str, Tensor], data: dict[str, Any]
    ) -> dict[str, float]:
        """Take the optimiser's step if all is finite; the device is waited for once."""
        network = unwrapped(self.model)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        scalars = torch.stack([_scalar(value, loss) for value in (loss, norm, *parts.values())])
        loss_value, norm_value, *shown = scalars.tolist()
        checked = {"loss": loss_value}
        if self.scaler.is_enabled():  # passes over such gradients by itself
            self.guard.let_overflow(norm_value, data)
        else:
            checked["norm of the gradient"] = norm_value
        if self.guard.allows(checked, data):
            if self.options.clip_norm:
                nn.utils.clip_grads_with_norm_(network.parameters(), self.options.clip_norm, norm)
            self.scaler.step(self.optimizer)
            if math.isfinite(norm_value):  # else the scaler has passed over the step
                if self.average is not None:
                    self.average.update_parameters(network)
                self._note_step()
        else:
            network.load_state_dict(self._before, strict=False)
        self.scaler.update()
        return dict(zip(parts, shown))

    def _note_step(self) -> None:
        """Count a step that was taken, where something is phased in by steps."""

    def _autocast(self, enabled: bool = True) -> Any:  # noqa: ANN401
        device = "cuda" if self.use_gpu else "cpu"
        return mixed_precision(device, self.options.amp, enabled=enabled)


def _knows_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def unwrapped(model: nn.Module) -> nn.Module:
    """Take a model out of its parallel wrapper.

    Args:
        model: A model of torchreid, wrapped or not.

    Returns:
        The model itself.
    """
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        inner: nn.Module = model.module
        return inner
    return model


def _check_layout(network: nn.Module, options: Any) -> None:  # noqa: ANN401
    """Refuse channels_last where torchreid flattens maps by ``view``."""
    kind = flattening(network)
    if options.channels_last and kind is not None:
        raise InputError(
            f"train.channels_last does not go together with {kind}, whose forward in "
            "torchreid flattens maps of another layout. Set train.channels_last False."
        )


def _channels_last(images: Tensor) -> Tensor:
    """Lay out images, or the frames of tracklets, with their channels last."""
    frames = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return frames.unflatten(0, images.shape[:-3])


def _without_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Copy what changes in a step beside the weights: statistics of BatchNorm, a memory."""
    weights = {name for name, _ in network.named_parameters()}
    return {
        name: value.clone() for name, value in network.state_dict().items() if name not in weights
    }


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, device=like.device).detach().float().reshape(())
