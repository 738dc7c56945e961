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
_OF_PROCESS = Path("/proc/self/cgroup")
_CGROUP_FILES = {  # limit, use, and what of the use is a cache that gives way; version 2, then 1
    "": ("memory.max", "memory.current", ("inactive_file", "slab_reclaimable")),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file",)),
}


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
    """Give what is free in the process's group and in all that this lies in."""
    found = [_in_group(folder, *names) for controller, names in _CGROUP_FILES.items()
             for folder in _groups(controller)]  # fmt: skip
    return min((value for value in found if value is not None), default=None)


def _groups(controller: str) -> list[Path]:
    """List the folders of the process's group and of those above it."""
    root = _CGROUP / controller
    try:
        lines = _OF_PROCESS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:  # such as 0::/user.slice/job_1 or 9:memory:/job_1
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            own = root / path.strip("/")  # not there where the container shows its own as the top
            return [own, *(folder for folder in own.parents if folder.is_relative_to(root))]
    return [root]


def _in_group(folder: Path, limit: str, used: str, reclaimable: tuple[str, ...]) -> int | None:
    try:
        bound, use, statistics = ((folder / name).read_text(encoding="ascii")
                                  for name in (limit, used, "memory.stat"))  # fmt: skip
        held = dict(line.split() for line in statistics.splitlines())
        return int(bound) - int(use) + sum(int(held.get(name, 0)) for name in reclaimable)
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return None
