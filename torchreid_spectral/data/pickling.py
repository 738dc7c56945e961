"""Datasets that find their classes in a worker that knows nothing of this plugin.

Where worker processes are spawned (Windows, macOS) each starts from an empty interpreter and
unpickles its dataset. torchreid may not even import there before ``register()`` has mended it, and
its classes may lie under names that only exist afterwards. So a pickled dataset first says
"register", then names its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchreid_spectral import _compat
from torchreid_spectral.registry import register

__all__ = ["patch_pickling"]


class _Registered:
    """Pickles as the call ``register()``, run before whatever follows it in the pickle."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[()]]:
        return register, ()


def _restore(_: object, make: Any, arguments: Any) -> Any:  # noqa: ANN401
    return make(*arguments)


def _reduce(dataset: Any, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Reduce as the class itself says, after the registration."""
    kind: Any = type(dataset)
    if kind.__reduce__ is not object.__reduce__:
        make, arguments, *rest = dataset.__reduce__()
        return _restore, (_Registered(), make, arguments), *rest
    own = getattr(kind, "__getstate__", None)  # object has one since Python 3.11
    default = own is None or own is getattr(object, "__getstate__", None)
    state = dataset.__dict__ if default else dataset.__getstate__()
    return _restore, (_Registered(), kind.__new__, (kind,)), state


def patch_pickling() -> None:
    """Let every dataset of torchreid pickle this way; idempotent."""
    base: Any = _compat.submodule("data.datasets.dataset").Dataset
    base.__reduce_ex__ = _reduce
