"""A frozen teacher beside the student that is trained.

Paper: Y. Chen, N. Wang, Z. Zhang, *DarkRank: Accelerating Deep Metric Learning via Cross Sample
Similarities Transfer*, AAAI 2018.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral import _compat, registry
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import DarkRankLoss
from torchreid_spectral.models.feature_weights import makes_the_feature, missing_weights

logger = logging.getLogger(__name__)

__all__ = ["Distillation", "load_teacher"]


class Distillation:
    """A teacher and the loss by which a student learns from it.

    Args:
        teacher: A trained model of torchreid or of this package; it is frozen and put into eval
            mode, in place.
        loss: Called with the features of both; :class:`DarkRankLoss` by default.
        weight: Of the loss beside the student's own, >= 0.

    Raises:
        InputError: If the weight is negative.
    """

    def __init__(
        self, teacher: nn.Module, loss: nn.Module | None = None, weight: float = 1.0
    ) -> None:
        if not weight >= 0:
            raise InputError(f"distill.weight must be >= 0, got {weight}.")
        self.teacher = teacher.eval().requires_grad_(False)
        self.criterion = DarkRankLoss() if loss is None else loss
        self.weight = weight

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Let the teacher look at a batch.

        Args:
            images: ``(B, 3, H, W)``.

        Returns:
            Its features ``(B, E)``.
        """
        device = next(iter(self.teacher.parameters())).device
        if device != images.device:
            self.teacher.to(images.device)
        # a teacher of torchreid may flatten maps by view, which channels_last ones do not allow
        features: Tensor = self.teacher(images.contiguous())
        return features

    def loss(self, student: Any, taught: Tensor) -> Tensor:  # noqa: ANN401
        """Compare the student's features with the teacher's.

        Args:
            student: Features ``(B, D)``, or several to be put side by side.
            taught: Of :meth:`features`.

        Returns:
            The loss, before its weight.
        """
        parts = student if isinstance(student, (tuple, list)) else (student,)
        value: Tensor = self.criterion(torch.cat([part.flatten(1) for part in parts], 1), taught)
        return value


def load_teacher(
    name: str,
    path: str | Path,
    *,
    use_gpu: bool = False,
    **options: Any,  # noqa: ANN401
) -> nn.Module:
    """Build a teacher and load its weights, weights only; every weight of its feature must fit.

    What ``options`` leaves open of a spectral teacher is as the active options of spectral models
    say, as the student's is.

    Args:
        name: Any model of torchreid or of this package.
        path: Its checkpoint.
        use_gpu: As in torchreid; a few models place constants by it.
        **options: Of a spectral teacher, see :class:`~torchreid_spectral.models.SpectralOptions`.

    Returns:
        The teacher, frozen and in eval mode.

    Raises:
        InputError: If the file is missing, not a safe checkpoint, or of another model.
    """
    if not Path(path).expanduser().is_file():
        raise InputError(f"distill.weights names a file that does not exist: {path}")
    given = _compat.load_weights(path)
    teacher = registry.build_model(name, 1, pretrained=False, use_gpu=use_gpu, **options)
    needed = [key for key in teacher.state_dict() if makes_the_feature(teacher, key)]
    wrong = missing_weights(teacher, given)
    if wrong:
        raise InputError(
            f"distill.weights {path} does not fit distill.teacher {name}: {len(wrong)} of "
            f"{len(needed)} weights are missing or of another shape, such as {wrong[0]}. Name the "
            "model that the file was trained with, and its spectral options."
        )
    teacher.load_state_dict({key: given[key] for key in needed}, strict=False)
    logger.info("Teacher %s loaded from %s", name, path)
    return teacher.eval().requires_grad_(False)
