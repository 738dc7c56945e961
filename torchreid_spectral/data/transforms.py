"""Image transforms that torchreid has not, and their way into its closed list of words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torchreid_spectral import _compat
from torchreid_spectral._active import Active
from torchreid_spectral.errors import InputError

__all__ = ["PAD_CROP", "crop_defaults", "patch_transforms"]

PAD_CROP = "random_pad_crop"
_padding = Active(10)


@contextmanager
def crop_defaults(padding: int) -> Iterator[None]:
    """Set the padding of ``random_pad_crop`` inside the block; torchreid has no place for it.

    Args:
        padding: Pixels at each side.

    Yields:
        Nothing.

    Raises:
        InputError: If it is negative.
    """
    if padding < 0:
        raise InputError(f"data.crop_padding must be >= 0 pixels, got {padding}.")
    with _padding.held(padding):
        yield


def patch_transforms() -> None:
    """Let torchreid's ``build_transforms`` know ``random_pad_crop``; idempotent.

    Source: H. Luo et al., *Bag of Tricks and a Strong Baseline for Deep Person Re-identification*,
    CVPRW 2019: after resizing and flipping, black pixels at each side (10 at 256 x 128) and a crop
    of the old size at a random place. torchreid's ``random_crop`` enlarges by an eighth instead.
    """
    from torchvision.transforms import RandomCrop  # after torchreid, which makes it importable

    module = _compat.submodule("data.transforms")
    original = module.build_transforms
    if getattr(original, "knows_pad_crop", False):
        return

    @wraps(original)
    def build_transforms(
        height: int,
        width: int,
        transforms: str | Sequence[str] | None = "random_flip",
        *args: Any,  # noqa: ANN401 (torchreid's)
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, Any]:
        words = [transforms] if isinstance(transforms, str) else list(transforms or [])
        train, test = original(height, width, words, *args, **kwargs)
        if PAD_CROP in (word.lower() for word in words):
            crop = RandomCrop((height, width), padding=_padding.value)
            train.transforms.insert(_place(train.transforms), crop)
        return train, test

    build_transforms.knows_pad_crop = True  # type: ignore[attr-defined]
    _compat.replace_everywhere(original, build_transforms)


def _place(steps: Sequence[Any]) -> int:
    """Give the place after resizing and flipping."""
    names = [type(step).__name__ for step in steps]
    return 1 + max(i for i, name in enumerate(names) if name in {"Resize", "RandomHorizontalFlip"})
