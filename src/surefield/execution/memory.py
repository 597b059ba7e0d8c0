"""Memory that a process may still take, so that work that cannot fit is refused before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from surefield.errors import ConfigError

__all__ = ["available_memory", "check_memory"]

_GIB = 2.0**30
#: Files of a control group with its limit and with what is used, and the prefix in its statistics of what its
#: subgroups use too; by the controller's name, which version 2 leaves empty. Pages of files count as used,
#: but are given back when memory is asked for, as in MemAvailable of the machine.
_GROUP_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def available_memory() -> float:
    """Bytes left to this process by the machine, its control group and its own limit; infinite if unknown."""
    left = [_machine(), _control_groups()]
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


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes left by the control group of this process and by those around it, of both versions of Linux.

    Args:
        root: where the groups are mounted.
        own: the groups of the process, one line `number:controllers:path` each.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return float("inf")
    left = [float("inf")]
    for _, controllers, path in lines:
        if controllers not in _GROUP_FILES:
            continue
        top = root / controllers
        group = top / path.strip("/")
        # In a container the path may be that of the machine, and the group of the container the topmost.
        for folder in {top, group, *group.parents}:
            if folder.is_relative_to(top):
                left.append(_left_in(folder, *_GROUP_FILES[controllers]))
    return min(left)


def _left_in(folder: Path, limit_file: str, used_file: str, prefix: str) -> float:
    try:
        limit, used, stat = ((folder / n).read_text().strip() for n in (limit_file, used_file, "memory.stat"))
        if limit == "max":
            return float("inf")
        numbers = {name: int(number) for name, number in (line.split() for line in stat.splitlines())}
        cached = sum(numbers.get(f"{prefix}{name}", 0) for name in ("active_file", "inactive_file"))
        return float(int(limit) - int(used) + cached)
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
