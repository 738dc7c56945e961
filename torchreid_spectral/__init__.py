"""Spectral (random-walk) self-attention, deep supervision and graph re-ranking for torchreid.

Importing this package changes nothing anywhere and imports neither torch nor torchreid; names
are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchreid_spectral.evaluation import (
        evaluate_rank as evaluate_rank,
    )
    from torchreid_spectral.inference import (
        SpectralReID as SpectralReID,
    )
    from torchreid_spectral.registry import (
        build_model as build_model,
    )
    from torchreid_spectral.registry import (
        list_losses as list_losses,
    )
    from torchreid_spectral.registry import (
        list_models as list_models,
    )
    from torchreid_spectral.registry import (
        list_rerankers as list_rerankers,
    )
    from torchreid_spectral.registry import (
        register as register,
    )
    from torchreid_spectral.registry import (
        register_backbone as register_backbone,
    )
    from torchreid_spectral.rerank import (
        build_reranker as build_reranker,
    )

__version__ = "0.1.0"

_LAZY = {
    "build_model": "registry",
    "list_losses": "registry",
    "list_models": "registry",
    "list_rerankers": "registry",
    "register": "registry",
    "register_backbone": "registry",
    "build_reranker": "rerank",
    "evaluate_rank": "evaluation",
    "SpectralReID": "inference",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562)
    if name in _LAZY:
        return getattr(import_module(f"torchreid_spectral.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'torchreid_spectral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
