"""One training step, in hooks that an engine fills in.

torchreid's engines write forward, loss, backward and the optimiser's step in one method each;
here the step is written once and an engine says only what its losses are, so that mixed precision,
accumulation and several processes work for all of them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["StepMixin"]


class StepMixin:
    """Goes before a torchreid engine and gives it ``forward_backward``.

    An engine overrides :meth:`compute_losses`, and :meth:`forward` where its losses need more
    than the model's outputs.
    """

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401
        """Give what :meth:`compute_losses` takes: tensors, or nested tuples of them.

        Args:
            images: ``(B, 3, H, W)`` on the model's device.

        Returns:
            The model's outputs in training.
        """
        engine: Any = self
        return engine.model(images)

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

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """Take one training step.

        Args:
            data: A batch of torchreid's loader.

        Returns:
            The scalars of :meth:`compute_losses`.
        """
        engine: Any = self
        images, targets = engine.parse_data_for_train(data)
        if engine.use_gpu:
            images, targets = images.cuda(non_blocking=True), targets.cuda(non_blocking=True)
        loss, parts = self.compute_losses(self.forward(images), targets)
        engine.optimizer.zero_grad()
        loss.backward()
        engine.optimizer.step()
        return {name: float(value) for name, value in parts.items()}
