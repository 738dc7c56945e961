"""Tensors that say they are on a GPU and are computed on the CPU: what is where, without a GPU.

Inside :func:`pretended_gpu` ``.cuda()``, ``.to("cuda")`` and ``device="cuda"`` give tensors whose
device is ``cuda:0``. As on a real one, an operator refuses tensors of both devices (but for
numbers), a CPU tensor takes no indices from the GPU, and NumPy takes nothing from it.
Nothing is differentiated: PyTorch's autograd asks the driver.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten
# Of these two devices may meet: copies, and indices from the CPU.
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default,
             _aten._index_put_impl_.default)  # fmt: skip
_MEETING = (*_INDEXING, _aten.copy_.default, _aten._to_copy.default, _aten.lift_fresh.default)


class GPUTensor(Tensor):
    """Holds a CPU tensor under the device of a GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "GPUTensor":
        """Take size, strides and type over."""
        own = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=GPU,
        )  # fmt: skip
        own.held = held
        return own

    def __repr__(self) -> str:  # type: ignore[override]
        """Say where it pretends to be."""
        return f"on {GPU}: {self.held}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave the class of results to the operators."""
        if (own := _PYTHON.get(getattr(func, "__name__", ""))) and isinstance(args[0], GPUTensor):
            return own(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU."""
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call an operator on what is held, and say where its result is."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    theirs = [tensor for tensor in tensors if isinstance(tensor, GPUTensor)]
    others = [tuple(each.shape) for each in tensors
              if not isinstance(each, GPUTensor) and each.dim()]  # fmt: skip
    if theirs and others and func not in _MEETING:
        raise RuntimeError(f"{func}: {GPU} and the CPU, whose tensors are of shapes {others}")
    first_on_gpu = bool(args) and isinstance(args[0], GPUTensor)
    if func in _INDEXING and theirs and not first_on_gpu:
        raise RuntimeError(f"{func}: indices on {GPU} of a tensor on the CPU")
    device, on_gpu = kwargs.get("device"), bool(theirs)
    if device is not None:
        on_gpu = torch.device(device).type == "cuda"
        kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
    elif func in _INDEXING:
        on_gpu = first_on_gpu
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    written = [place for place, each in enumerate(func._schema.arguments)
               if each.alias_info and each.alias_info.is_write]  # fmt: skip
    if written == [0] and len(func._schema.returns) == 1:
        return args[0]
    return tree_map(_on_gpu, found) if on_gpu else found


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GPUTensor) else value


def _on_gpu(value: Any) -> Any:
    return GPUTensor(value) if type(value) is Tensor else value


# What PyTorch's own Python bindings do with the help of a driver.


def _getitem(x: Tensor, key: Any) -> Tensor:
    keys = [*key] if isinstance(key, tuple) else [key]
    if any(each is Ellipsis for each in keys):
        place = next(number for number, each in enumerate(keys) if each is Ellipsis)
        takes = sum(each.dim() if _is_mask(each) else each is not None for each in keys) - 1
        keys[place : place + 1] = [slice(None)] * (x.dim() - takes)
    dim, indices = 0, []
    for each in keys:
        if each is None:
            x = x.unsqueeze(dim)
        elif isinstance(each, slice):
            x = _aten.slice.Tensor(x, dim, each.start, each.stop, each.step or 1)
        elif not isinstance(each, int) and torch.as_tensor(each).dim():
            each = each if isinstance(each, Tensor) else torch.as_tensor(each)
            indices.append(each)
            dim += each.dim() if _is_mask(each) else 1
            continue
        else:
            x = x.select(dim, int(each))
            continue
        indices.append(None)
        dim += 1
    return _aten.index.Tensor(x, indices) if any(each is not None for each in indices) else x


def _setitem(x: Tensor, key: Any, value: Any) -> None:
    keys = key if isinstance(key, tuple) else (key,)
    value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=x.dtype)
    if any(isinstance(each, Tensor) and each.dim() for each in keys):
        indices = [each if isinstance(each, Tensor) else None for each in keys]
        value = value if value.dim() else value.to(x.device)
        _aten.index_put_.default(x, indices, value.to(x.dtype))
    else:
        _copy(_getitem(x, key), value)


def _is_mask(key: Any) -> bool:
    return isinstance(key, Tensor) and key.dtype == torch.bool


def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return _computed(_aten.copy_.default, (x, source), {})


def _contiguous(x: Tensor, memory_format: Any = torch.contiguous_format) -> Tensor:
    return _aten.clone.default(x, memory_format=memory_format)


def _new_tensor(x: Tensor, data: Any, dtype: torch.dtype | None = None) -> Tensor:
    return torch.tensor(data, dtype=dtype or x.dtype).to(GPU)


_PYTHON: dict[str, Callable[..., Any]] = {
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "__invert__": _aten.bitwise_not.default,
    "contiguous": _contiguous,
    "copy_": _copy,
    "new_tensor": _new_tensor,
}


class _Operators(TorchDispatchMode):
    """Takes over what has a device and no tensor, such as ``torch.arange``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Gives the one GPU its number, which a driver would be asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if name == "cuda":
            return args[0].to(GPU)
        if name in _PYTHON and args and isinstance(args[0], GPUTensor):
            return _PYTHON[name](*args, **(kwargs or {}))
        named = {key: _numbered(value) for key, value in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor) and named.get("device") == GPU:
            return func(*args, **{**named, "device": "cpu"}).to(GPU)
        return func(*map(_numbered, args), **named)


def _numbered(value: Any) -> Any:
    without = value == "cuda" if isinstance(value, str) else value == torch.device("cuda")
    return GPU if isinstance(value, (str, torch.device)) and without else value


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Pretend, without gradients, that there is a GPU of 8 GiB."""
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    memory = (8 * 2**30, 8 * 2**30)
    try:
        with (
            mock.patch("torch.cuda._lazy_init"),
            mock.patch("torch.cuda.mem_get_info", return_value=memory),
            torch.backends.cudnn.flags(enabled=False),
            torch.no_grad(),
            _Functions(),
            _Operators(),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
