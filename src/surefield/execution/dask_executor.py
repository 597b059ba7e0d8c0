"""Executor over the workers of Dask; the only module that imports it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.executor import usable_cores

__all__ = ["dask_executor"]


@contextmanager
def dask_executor(
    address: str | None = None, scheduler_file: Path | None = None, n_workers: int | None = None
) -> Iterator[Executor]:
    """Executor of a cluster of Dask, for as long as the block lasts.

    Args:
        address: of a running scheduler, such as "tcp://node7:8786".
        scheduler_file: which a running scheduler has written.
        n_workers: of a cluster on this machine, where neither is given; as many as the cores by default. A
            script that does so needs `if __name__ == "__main__":`.

    Raises:
        ConfigError: distributed is not installed.
        ExecutionError: no scheduler answers.
    """
    try:
        distributed = import_module("distributed")
    except ImportError as error:
        raise ConfigError(
            f"the executor 'dask' needs Dask: pip install 'surefield[dask]' ({error})"
        ) from error
    with ExitStack() as stack:
        try:
            if address is None and scheduler_file is None:
                address = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=n_workers or usable_cores(), threads_per_worker=1, dashboard_address=None
                    )
                )
            where = {"scheduler_file": str(scheduler_file)} if scheduler_file else {"address": address}
            client = stack.enter_context(distributed.Client(**where))
        except (OSError, TimeoutError, RuntimeError) as error:
            fix = "start one with `dask scheduler`, or leave the address out for workers of this machine"
            raise ExecutionError("no scheduler of Dask", got=str(error), fix=fix) from error
        executor = stack.enter_context(client.get_executor())
        executor.in_flight = 2 * max(1, sum(client.nthreads().values()))
        yield executor
