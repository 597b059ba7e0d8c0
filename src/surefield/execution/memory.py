"""Memory that a process may still take, so that work that cannot fit is refused before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from surefield.errors import ConfigError

__all__ = ["available_memory", "check_memory"]

_GIB = 2.0**30


def available_memory() -> float:
    """Bytes left to this process by the machine, its control group and its own limit; infinite if unknown."""
    left = [_machine(), _control_group()]
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            left.append(float(limit - pages * os.sysconf("SC_PAGE_SIZE")))
    except (ImportError, OSError):  # not a system with such limits
        pass
    return max(min(left), 0.0)


def _machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def _control_group() -> float:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return float("inf") if limit == "max" else float(int(limit) - int(used))
    except (OSError, ValueError):
        return float("inf")


def check_memory(what: str, needed: float, detail: str, fix: str) -> None:
    """Refuse work that needs more bytes than there are.

    Raises:
        ConfigError: it does; the message has both numbers and what to reduce.
    """
    left = available_memory()
    if needed > left:
        raise ConfigError(
            f"{what} needs about {needed / _GIB:.2g} GiB of memory",
            got=f"{left / _GIB:.2g} GiB left; {detail}",
            fix=fix,
        )
