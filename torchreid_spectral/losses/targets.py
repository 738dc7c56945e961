"""The labels of a batch, checked before a loss counts with them."""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError

__all__ = ["checked_targets"]


def checked_targets(targets: Tensor, count: int) -> Tensor:
    """Give the identities of a batch as int64.

    Their values are left to the loss: on a GPU a look at them would wait for it.

    Args:
        targets: Identity of each image ``(B,)``, whole numbers of any kind.
        count: B, images of the batch.

    Returns:
        The same ``(B,)``.

    Raises:
        InputError: If there is not one whole number an image.
    """
    kind = targets.dtype
    whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
    if targets.shape != (count,) or not whole:
        raise InputError(
            f"targets must be ({count},) whole numbers, one an image, got {tuple(targets.shape)} "
            f"of {kind}."
        )
    return targets.long()
