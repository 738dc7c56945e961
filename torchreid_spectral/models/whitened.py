"""Whitening as a part of a model: who has its weights then has the features of its test.

A run that was tested with whitening leaves it in a file of its own (the training knows nothing of
it); opened for inference, exported or searched with, the model whitens by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from torchreid_spectral._files import write_bytes
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import whiten

__all__ = ["FILE", "PREFIX", "AffineWhitening", "add_whitening", "read_whitening",
           "save_whitening", "whitening_among"]  # fmt: skip

FILE = "whitening.safetensors"
"""In the folder of a run."""
PREFIX = "whitening."
"""Of its names among a model's weights."""
_OF = "weights_sha256"


class AffineWhitening(nn.Module):
    r"""Compute :math:`M (x - \mu)`, see :mod:`torchreid_spectral.functional.whitening`.

    Args:
        mean: :math:`\mu`.
        matrix: :math:`M`.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Float[Tensor, " D"], matrix: Float[Tensor, "D D"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("matrix", matrix.detach().float().clone())

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Whiten features.

        Args:
            features: Of any floating dtype.

        Returns:
            float32, also under autocast.
        """
        return whiten(features.float(), self.mean, self.matrix)


def add_whitening(
    model: nn.Module, mean: Float[Tensor, " D"], matrix: Float[Tensor, "D D"]
) -> None:
    """Let a model whiten what it gives in eval mode.

    Args:
        model: Gives ``(B, D)`` then. Its state dict has two names more.
        mean: Of a fitted :class:`~torchreid_spectral.evaluation.Whitening`.
        matrix: The same.
    """
    model.add_module(PREFIX.removesuffix("."), AffineWhitening(mean, matrix))
    model.register_forward_hook(_whitened)


def _whitened(model: Any, _: Any, outputs: Any) -> Any:  # noqa: ANN401 (a forward hook)
    return outputs if model.training else model.whitening(outputs)


def save_whitening(
    folder: Path, mean: Float[Tensor, " D"], matrix: Float[Tensor, "D D"], digest: str
) -> None:
    """Leave a test's whitening in the folder of its run.

    Args:
        folder: Of the run.
        mean: Of a fitted :class:`~torchreid_spectral.evaluation.Whitening`.
        matrix: The same.
        digest: :func:`~torchreid_spectral.models.feature_weights.feature_digest` of the weights
            whose features it was fitted on.
    """
    content = {"mean": mean.detach().cpu().float().contiguous(),
               "matrix": matrix.detach().cpu().float().contiguous()}  # fmt: skip
    write_bytes(folder / FILE, save(content, {_OF: digest}))


def read_whitening(folder: Path, digest: str) -> tuple[Tensor, Tensor] | None:
    """Read what :func:`save_whitening` has left.

    Args:
        folder: Of the run.
        digest: Of the weights.

    Returns:
        Mean and matrix, or ``None`` where there are none, or those of other weights.

    Raises:
        InputError: If the file is broken.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(_OF) != digest:
                return None
            return file.get_tensor("mean"), file.get_tensor("matrix")
    except SafetensorError as error:
        raise InputError(f"{path} is broken ({error}). Remove it, or test anew.") from error


def whitening_among(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Take the whitening out of the weights of an exported model.

    Args:
        weights: By name.

    Returns:
        Mean and matrix, or ``None`` where there are none.
    """
    names = [f"{PREFIX}mean", f"{PREFIX}matrix"]
    if not weights.keys() >= {*names}:
        return None
    mean, matrix = (weights[name] for name in names)
    return mean, matrix
