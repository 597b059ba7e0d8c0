"""Sums over many rows in parts: in this process, in threads, or on any executor, rounded in the same way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar

from threadpoolctl import ThreadpoolController

from surefield.execution.executor import SerialExecutor, get_executor, usable_cores
from surefield.execution.in_flight import map_ordered
from surefield.execution.progress import track

__all__ = ["COLUMNS", "TOLERANCE", "in_parts", "threshold"]

R = TypeVar("R")

#: Terms below exp(-_NEGLIGIBLE) of the largest may be left out of a sum,
_NEGLIGIBLE: Final = 40.0
#: and all that are left out are less than this part of it.
TOLERANCE: Final = 1e-12
#: Columns of a block of exponents: 256 x 1024 float64 is 2 MiB, which stays in the cache of a core.
COLUMNS: Final = 1024
#: Parts of the work, whoever does it.
_PARTS: Final = 16
#: Pairs of rows from which on threads pay, and from which on progress is shown.
_FEW_PAIRS: Final = 10**7
_MANY_PAIRS: Final = 10**10


def threshold(n_terms: float) -> float:
    """t: terms below exp(-t) of the largest of their sum are left out."""
    return max(_NEGLIGIBLE, math.log(max(n_terms, 1.0) / TOLERANCE))


def in_parts(
    of_part: Callable[[Sequence[int]], R],
    n_blocks: int,
    n_pairs: int,
    executor: Executor | str | None,
    progress: bool | None,
) -> list[R]:
    """Results for the parts of a number of blocks, in their order.

    Args:
        of_part: function of the numbers of some blocks; importable (a `functools.partial` is fine).
        n_blocks: number of blocks.
        n_pairs: pairs of rows that may have to be looked at.
        executor: None for threads of this process, else as in `execution.executor.get_executor`.
        progress: as in `execution.progress.track`; by default shown where it takes long.

    Raises:
        ConfigError: unknown name of an executor.
        ExecutionError: a part failed.
    """
    parts = [range(first, n_blocks, _PARTS) for first in range(min(_PARTS, n_blocks))]
    shown = progress if progress is not None or n_pairs >= _MANY_PAIRS else False
    with ExitStack() as stack:
        if executor is None and n_pairs > _FEW_PAIRS and usable_cores() > 1:
            # NumPy lets other threads run during products and exponentials.
            workers: Executor = stack.enter_context(ThreadPoolExecutor(usable_cores()))
        else:
            workers = get_executor(executor)
            if isinstance(executor, str):
                stack.callback(workers.shutdown)
        if isinstance(workers, SerialExecutor | ThreadPoolExecutor):
            # Threads of BLAS beside ours wait for each other, for the most part.
            stack.enter_context(_libraries().limit(limits=1, user_api="blas"))
        else:
            of_part = functools.partial(_on_one_core, of_part)
        bar = stack.enter_context(track(len(parts), "kernel sums", shown))
        return map_ordered(workers, of_part, parts, bar)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads of their own; to look for them takes longer than small sums."""
    return ThreadpoolController()


def _on_one_core(of_part: Callable[[Sequence[int]], R], numbers: Sequence[int]) -> R:
    with _libraries().limit(limits=1, user_api="blas"):
        return of_part(numbers)
