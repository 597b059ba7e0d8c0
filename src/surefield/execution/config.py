"""Configuration of executors: where tasks run, one model a kind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

from pydantic import BeforeValidator, Field

from surefield.config import Config

__all__ = [
    "DaskExecutorConfig",
    "ExecutorConfig",
    "LocalExecutorConfig",
    "SerialExecutorConfig",
    "SlurmExecutorConfig",
    "make_executor",
]


class SerialExecutorConfig(Config):
    """Everything in this process, one task after the other."""

    kind: Literal["serial"] = "serial"


class LocalExecutorConfig(Config):
    """Worker processes of this machine."""

    kind: Literal["local"] = "local"
    n_workers: int | None = Field(
        default=None, ge=1, description="processes; by default as many as the cores allow"
    )
    cores_per_worker: int = Field(default=1, ge=1, description="threads that libraries use in each")


class SlurmExecutorConfig(Config):
    """Jobs of Slurm, one a task (extra `slurm`)."""

    kind: Literal["slurm"] = "slurm"
    root: Path = Field(default=Path("surefield-jobs"), description="folder on a disk that the nodes share")
    max_jobs: int = Field(default=16, ge=1, description="in the queue at a time")
    cores_per_job: int = Field(default=1, ge=1, description="cores and threads of each job")
    walltime: float | None = Field(default=None, gt=0, description="minutes of one job")
    queue: str | None = Field(default=None, description="queue or partition")
    account: str | None = Field(default=None, description="whom the time is charged to")
    extra_args: dict[str, Any] = Field(
        default_factory=dict, description="further options of sbatch, such as {mem: 4G}, and lines of setup"
    )


class DaskExecutorConfig(Config):
    """Workers of Dask (extra `dask`): of a running scheduler, or of this machine."""

    kind: Literal["dask"] = "dask"
    address: str | None = Field(default=None, description="of a running scheduler, tcp://node7:8786")
    scheduler_file: Path | None = Field(default=None, description="which a running scheduler has written")
    n_workers: int | None = Field(
        default=None, ge=1, description="on this machine, where no scheduler is named"
    )


def _kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


#: A kind alone, `executor: local`, stands for the kind with its defaults.
ExecutorConfig = Annotated[
    SerialExecutorConfig | LocalExecutorConfig | SlurmExecutorConfig | DaskExecutorConfig,
    Field(discriminator="kind"),
    BeforeValidator(_kind),
]


@contextmanager
def make_executor(config: ExecutorConfig, *, folder: Path | None = None) -> Iterator[Executor]:
    """Executor of a configuration, for as long as the block lasts; an exception in it stops what runs.

    Args:
        config: one of the kinds.
        folder: that `root` is relative to; the current one by default.

    Raises:
        ConfigError: a package is missing, or settings that a job cannot have.
        ExecutionError: no scheduler answers.
    """
    # Configurations are read without what executors need.
    from surefield.execution.dask_executor import dask_executor
    from surefield.execution.executor import SerialExecutor
    from surefield.execution.local_executor import LocalExecutor
    from surefield.execution.slurm_executor import SlurmExecutor

    match config:
        case SerialExecutorConfig():
            yield SerialExecutor()
        case LocalExecutorConfig():
            with LocalExecutor(config.n_workers, config.cores_per_worker) as executor:
                yield executor
        case SlurmExecutorConfig():
            names = {"walltime", "queue", "account", "extra_args"}
            details = config.model_dump(include=names)
            root = (folder or Path()) / config.root
            with SlurmExecutor(root, details, config.max_jobs, config.cores_per_job) as executor:
                yield executor
        case DaskExecutorConfig():
            with dask_executor(config.address, config.scheduler_file, config.n_workers) as executor:
                yield executor
        case _:
            assert_never(config)
