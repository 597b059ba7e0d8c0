"""Configuration of executors: where tasks run, one model a kind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Annotated, Literal, assert_never

from pydantic import Field

from surefield.config import Config
from surefield.execution.executor import SerialExecutor
from surefield.execution.local_executor import LocalExecutor

__all__ = ["ExecutorConfig", "LocalExecutorConfig", "SerialExecutorConfig", "make_executor"]


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


ExecutorConfig = Annotated[SerialExecutorConfig | LocalExecutorConfig, Field(discriminator="kind")]


@contextmanager
def make_executor(config: ExecutorConfig) -> Iterator[Executor]:
    """Executor of a configuration, for as long as the block lasts; an exception in it stops what runs.

    Raises:
        ConfigError: a package is missing.
    """
    match config:
        case SerialExecutorConfig():
            yield SerialExecutor()
        case LocalExecutorConfig():
            with LocalExecutor(config.n_workers, config.cores_per_worker) as executor:
                yield executor
        case _:
            assert_never(config)
