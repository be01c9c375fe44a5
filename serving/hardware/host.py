"""The host's own memory, which the CPU engine uses, and which some GPUs share."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def total_bytes() -> int | None:
    """Return the memory of the machine, None where it is not known."""
    return _meminfo("MemTotal")


def available_bytes() -> int | None:
    """Return the memory that is free to take: the machine's, or the container's limit if that is less."""
    available = _meminfo("MemAvailable")
    if available is None:
        return None
    try:
        return min(available, int(CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return available


def _meminfo(name: str) -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
