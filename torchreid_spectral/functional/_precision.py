"""The one place that decides in which precision graph quantities are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AMP_DTYPES",
    "as_given",
    "at_least_float32",
    "denormals_as_zero",
    "full_precision",
    "mixed_precision",
]

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtypes of mixed precision by the names that options have."""

_VECTORISED = ("sqrt", "exp", "log", "log2", "log10", "log1p", "expm1", "sin", "cos", "tan",
               "tanh", "asin", "acos", "atan", "erf", "erfc", "erfinv", "trunc")  # fmt: skip


def _call_vectorised_once() -> None:
    """Call once, on one element, each function that PyTorch leaves to oneMKL's vector library.

    Some of its versions choose a function's kernel in the first call and give a less exact one to
    a second thread that makes it at the same moment (PyTorch's issue 188792): Adam's first root,
    and with it a whole training, then differed in one process of four. One element stays in one
    thread.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for name in _VECTORISED:
            getattr(torch, name)(one)


_call_vectorised_once()

_products: Any = torch.backends.cuda.matmul
# PyTorch 2.9 named the setting anew, and mixing both names is an error there.
_SETTING, _EXACT = (
    ("fp32_precision", "ieee")
    if hasattr(_products, "fp32_precision")
    else (
        "allow_tf32",
        False,
    )
)


def mixed_precision(device: str, amp: str, *, enabled: bool = True) -> AbstractContextManager[Any]:
    """Give autocast as options name it.

    Args:
        device: Its type, such as ``cuda``.
        amp: ``off``, or a name of :data:`AMP_DTYPES`.
        enabled: Or a block inside that is computed in full.

    Returns:
        A context for the block.
    """
    if amp == "off":
        return nullcontext()
    return torch.autocast(device, dtype=AMP_DTYPES[amp], enabled=enabled)


@contextmanager
def denormals_as_zero(*, enabled: bool = True) -> Iterator[None]:
    """Let this thread's CPU arithmetic take numbers below the smallest normal one as zero.

    Processors compute with denormal numbers many times more slowly. Weight decay makes them of
    weights that a loss has no use for, and so does every product with such weights. OpenMP's
    threads take over the setting of the thread that starts them: enter before the first
    parallel computation, or their share stays slow (and as exact as it was).

    Args:
        enabled: Or a block inside that is computed as PyTorch would.

    Yields:
        Nothing. The setting is put back at the end.
    """
    if not enabled or _flushes_denormals() or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _flushes_denormals() -> bool:
    """Say whether denormal results are zero already; PyTorch has no way to ask."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return not bool(smallest / 2)


def as_given(result: Tensor, x: Tensor) -> Tensor:
    """Give a result in the dtype of what it was computed of, unless that holds whole numbers.

    Args:
        result: Of floating point.
        x: What was given.

    Returns:
        The result.
    """
    return result.to(x.dtype) if x.is_floating_point() else result


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in its own dtype where that is wider.

    Args:
        x: Any floating-point tensor.

    Returns:
        ``x`` itself where it is float32 or float64, else a float32 copy.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """Switch autocast off around the block, and TF32 products where ``x`` is on a GPU.

    Without it autocast turns float32 products back into half precision: at a temperature of
    0.02 a transition matrix is then off by 0.03 while its rows still sum to one. TF32 keeps ten
    bits of the factors, which the division by the temperature magnifies likewise.

    Args:
        x: A tensor on the device that the block computes on.

    Yields:
        Nothing.
    """
    with torch.autocast(x.device.type, enabled=False):
        if not x.is_cuda:
            yield
            return
        with _exact_products():
            yield


@contextmanager
def _exact_products() -> Iterator[None]:
    """Take PyTorch's float32 products from TF32 to float32; its setting is put back."""
    before = getattr(_products, _SETTING)
    if before == _EXACT:
        yield
        return
    setattr(_products, _SETTING, _EXACT)
    try:
        yield
    finally:
        setattr(_products, _SETTING, before)
