"""Keep the memory maps of a process below the limit of Linux by dropping compiled programs in time.

XLA maps every compiled function on its own, a training step takes about a thousand maps, and Linux grants
a process 65,530 by default: after some tens of shapes of large programs, compiling would crash.
"""

from __future__ import annotations

import logging
from pathlib import Path

import jax

__all__ = ["release_compiled", "share_of_maps"]

_log = logging.getLogger(__name__)

#: Share of the limit above which compiled programs are dropped.
HIGHEST_SHARE = 0.6


def share_of_maps() -> float:
    """Memory maps of this process over the limit; 0 where the system has no such limit."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        with Path("/proc/self/maps").open("rb") as maps:
            return sum(1 for _ in maps) / limit
    except (OSError, ValueError):
        return 0.0


def release_compiled(highest: float = HIGHEST_SHARE) -> bool:
    """Drop all compiled programs of this process if too many maps are in use; call it between jobs.

    What is needed again comes from the compilation cache on disk.

    Returns:
        Whether programs were dropped.
    """
    share = share_of_maps()
    if share <= highest:
        return False
    jax.clear_caches()
    _log.info("compiled programs dropped: %.0f %% of the memory maps were in use", 100 * share)
    return True
