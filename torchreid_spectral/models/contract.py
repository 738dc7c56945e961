"""What a backbone must give in training: torchreid's pair of its triplet loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import ClassScores
from torchreid_spectral.models.heads import SUPERVISIONS, SpectralHead

__all__ = ["output_and_feature"]


def output_and_feature(
    result: Any,  # noqa: ANN401
    heads: Sequence[SpectralHead],
    backbone: type,
) -> tuple[Any, Any]:
    """Check that a backbone gave its classifiers' outputs and its feature.

    What its heads alone gave may be two as well, X and X'.

    Args:
        result: Of the backbone in training.
        heads: In the places of its classifiers.
        backbone: Whose name the error says.

    Returns:
        The outputs and the feature.

    Raises:
        InputError: If it gave something else.
    """
    if isinstance(result, (tuple, list)) and len(result) == 2:
        outputs, features = result
        if "forward" in vars(heads[0]):  # the engine has cut the heads off, to go in chunks
            return outputs, features
        one = _one_output(heads)
        if isinstance(outputs, Tensor):
            fits = one and outputs.shape[1] == len(heads[0].prototypes)
        else:
            fits = not one and not isinstance(outputs, ClassScores)
        if fits:
            return outputs, features
    raise InputError(
        f"{backbone.__name__} must give its classifier's output and its feature in training, as "
        "torchreid's models do that are built with loss='triplet'. It gave "
        f"{_described(result)}: return (y, v)."
    )


def _one_output(heads: Sequence[SpectralHead]) -> bool:
    """Say whether the outputs are one tensor: of one head, and of one branch."""
    head, *others = heads
    branches = SUPERVISIONS[head.supervision] if head.training else ("plain",)
    shuffled = "walked" in branches and head.walk.group_shuffling
    return not (others or head.gives_scores or shuffled or len(branches) > 1)


def _described(result: Any) -> str:  # noqa: ANN401
    """Say what kind of thing this is, as a user would find it in the code."""
    if isinstance(result, Tensor):
        return f"a tensor {tuple(result.shape)}"
    if isinstance(result, ClassScores) or not isinstance(result, (tuple, list)):
        return f"a {type(result).__name__}"
    return f"{type(result).__name__} of {', '.join(map(_described, result))}"
