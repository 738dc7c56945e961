"""How much memory a call needs, said before it is taken, and refused where it is not there."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch

from torchreid_spectral.errors import InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["available_memory", "check_memory", "human", "peak_memory"]

logger = logging.getLogger(__name__)
WORTH_TELLING = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (  # limit, use, and what of the use is a cache that gives way; version 2, then 1
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "slab_reclaimable")),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     ("total_inactive_file",)),
)  # fmt: skip


def available_memory(device: torch.device) -> int | None:
    """Give the free bytes of a device.

    Args:
        device: CPU or CUDA.

    Returns:
        Bytes, the least of what the machine and its container leave; ``None`` if unknown. What
        only caches (the system's of files, PyTorch's of GPU memory) hold counts as free.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    found = [value for value in (_machine(), _container()) if value is not None]
    return min(found, default=None)


def check_memory(what: str, needed: int, device: torch.device, advice: str) -> None:
    """Log what a call needs, and refuse what does not fit.

    Args:
        what: The call.
        needed: Bytes.
        device: Where.
        advice: What to do instead.

    Raises:
        InputError: If the device has less memory free.
    """
    free = available_memory(device)
    level = logging.INFO if needed >= WORTH_TELLING else logging.DEBUG
    known = "unknown" if free is None else human(free)
    logger.log(level, "%s needs about %s; free: %s", what, human(needed), known)
    if free is not None and needed > free:
        raise InputError(f"{what} needs about {human(needed)}, but {known} are free. {advice}")


def peak_memory() -> int | None:
    """Give the most memory that the process has held.

    Returns:
        Bytes; ``None`` on Windows, which does not say.
    """
    if resource is None:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held  # macOS counts bytes


def human(size: float) -> str:
    """Write bytes for people.

    Args:
        size: Bytes.

    Returns:
        For instance ``1.5 GB``; a GB is 10^9 bytes.
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows, partly on macOS
        return None


def _container() -> int | None:
    for limit, used, statistics, reclaimable in _CGROUP_FILES:
        try:
            limit, used = (_read(name).strip() for name in (limit, used))
            if limit == "max":
                return None
            held = dict(line.split() for line in _read(statistics).splitlines())
            cached = sum(int(held.get(name, 0)) for name in reclaimable)
            return int(limit) - int(used) + cached
        except (OSError, ValueError):
            continue
    return None


def _read(name: str) -> str:
    return (_CGROUP / name).read_text(encoding="ascii")
