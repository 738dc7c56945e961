"""States of all random generators as one string, so that a run can go on where it was."""

from __future__ import annotations

import json
import random

import numpy as np
import torch

__all__ = ["capture", "restore", "seed_worker"]


def capture() -> str:
    """Write down the states of Python's, NumPy's, torch's and CUDA's global generators.

    Returns:
        JSON.
    """
    numpy_state = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
        "torch": _to_text(torch.get_rng_state()),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = [_to_text(part) for part in torch.cuda.get_rng_state_all()]
    return json.dumps(state)


def restore(text: str) -> None:
    """Put the generators back.

    Args:
        text: Of :func:`capture`; CUDA's states are passed over where the number of GPUs differs.
    """
    state = json.loads(text)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(state["torch"]))
    cuda = state.get("cuda", [])
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_text(part) for part in cuda])


def seed_worker(base_seed: int, worker: int) -> None:
    """Seed the generators of a loader's worker as PyTorch's DataLoader does.

    Args:
        base_seed: Of the epoch.
        worker: Number of the worker.
    """
    from torch.utils.data._utils.worker import _generate_state

    random.seed(base_seed + worker)
    torch.manual_seed(base_seed + worker)
    np.random.seed(_generate_state(base_seed, worker))


def _to_text(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
