"""Processes of one job that share work: each has a part, and all get what every one has computed.

The launcher says who is who: torchrun, or anything that sets WORLD_SIZE, RANK and MASTER_ADDR; srun by the
variables of Slurm. Arrays alone travel, and nothing that is received is run.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, final
from zipfile import BadZipFile

import numpy as np

from surefield.errors import ConfigError, ExecutionError

__all__ = ["ProcessGroup", "n_processes"]

#: Seconds that processes wait for each other; they may start long after one another.
TIMEOUT: Final = 1800.0
#: Seconds between two attempts to reach the first process.
_PAUSE: Final = 0.1
#: Bytes of the first message, at most.
_HELLO: Final = 2**16
_LENGTH: Final = struct.Struct("!Q")
#: Variables of launchers: number of processes, own number, address of the first.
_LAUNCHERS: Final = (
    ("WORLD_SIZE", "RANK", "MASTER_ADDR"),
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LAUNCH_NODE_IPADDR"),
)

Arrays = Mapping[str, np.ndarray]


def n_processes() -> int:
    """Processes of this job, as its launcher states them; 1 without one."""
    return max(_stated(launcher)[0] for launcher in _LAUNCHERS)


def _stated(launcher: Sequence[str]) -> tuple[int, int, str]:
    size, rank, address = (os.environ.get(name) for name in launcher)
    try:
        return int(size or 1), int(rank or 0), address or "127.0.0.1"
    except ValueError:
        got = f"{launcher[0]}={size}, {launcher[1]}={rank}"
        raise ConfigError("processes of a job are whole numbers", where="environment", got=got) from None


@final
class ProcessGroup:
    """All processes of a job, connected to the first of them.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        address: of the first one, where all reach it.
        port: that it listens on.
        key: the same in all processes; those of another job are turned away.
        timeout: seconds that processes wait for each other.

    Raises:
        ConfigError: a rank that there is not.
        ExecutionError: not all processes came in time, or one is of another job.
    """

    def __init__(
        self, rank: int, size: int, address: str, port: int, key: str, timeout: float = TIMEOUT
    ) -> None:
        if not 0 <= rank < size:
            raise ConfigError("no such process in this job", got=rank, expected=f"0 to {size - 1}")
        self.rank, self.size, self.timeout = rank, size, timeout
        hello: dict[str, np.ndarray] = {"key": np.array(key), "rank": np.array(rank)}
        self._links: dict[int, socket.socket] = {}
        if rank > 0:
            self._links[0] = _connected(address, port, timeout)
            _send(self._links[0], hello)
            if not bool(_receive(self._links[0], 0)["welcome"]):
                self.close()
                raise _other_job(f"process {rank}", address, port)
        elif size > 1:
            self._accept(port, key)

    @classmethod
    def of_launcher(cls, port: int, key: str) -> Self | None:
        """The group that the launcher has started; None for a process of its own."""
        launcher = max(_LAUNCHERS, key=lambda names: _stated(names)[0])
        size, rank, address = _stated(launcher)
        return cls(rank, size, address, port, key) if size > 1 else None

    def _accept(self, port: int, key: str) -> None:
        try:
            server = socket.create_server(("", port))
        except OSError as error:
            fix = "choose another distributed_port"
            raise ExecutionError(f"port {port} cannot be listened on", got=error, fix=fix) from error
        with server:
            server.settimeout(self.timeout)
            while len(self._links) < self.size - 1:
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    raise self._incomplete() from None
                link.settimeout(self.timeout)
                try:
                    hello = _receive(link, None, _HELLO)
                    rank = int(hello["rank"])
                except (ExecutionError, BadZipFile, KeyError, ValueError):  # none of ours
                    link.close()
                    continue
                welcome = str(hello["key"]) == key and 0 < rank < self.size and rank not in self._links
                _send(link, {"welcome": np.array(welcome)})
                if not welcome:
                    link.close()
                    self.close()
                    raise _other_job(f"process {rank}", "this machine", port)
                self._links[rank] = link

    def _incomplete(self) -> ExecutionError:
        self.close()
        return ExecutionError(
            f"not all processes of the job came within {self.timeout:g} s",
            got=f"{len(self._links) + 1}",
            expected=self.size,
            fix="start all of them with one launcher, or set distributed: false",
        )

    def share(self, n: int) -> slice:
        """The part of n items that is this process's: consecutive ones, as many in all processes, nearly."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gathered(self, arrays: Arrays) -> list[dict[str, np.ndarray]]:
        """Arrays of all processes in the order of their ranks; every process calls it, and gets the same.

        Raises:
            ExecutionError: another process has ended.
        """
        if self.rank > 0:
            _send(self._links[0], arrays)
            return _split(_receive(self._links[0], 0), self.size)
        every = [dict(arrays), *(_receive(self._links[rank], rank) for rank in range(1, self.size))]
        joined = {f"{rank}:{name}": array for rank, own in enumerate(every) for name, array in own.items()}
        for link in self._links.values():
            _send(link, joined)
        return every

    def close(self) -> None:
        """End the connections."""
        for link in self._links.values():
            with suppress(OSError):
                link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _other_job(which: str, address: str, port: int) -> ExecutionError:
    return ExecutionError(
        f"{which} belongs to another job, or has other data or settings",
        where=f"{address}, port {port}",
        fix="start all processes with the same files, or choose another distributed_port",
    )


def _connected(address: str, port: int, timeout: float) -> socket.socket:
    end = time.monotonic() + timeout
    while True:
        try:
            link = socket.create_connection((address, port), timeout=timeout)
        except OSError as error:  # the first process has not begun to listen
            if time.monotonic() > end:
                what = f"the first process of the job was not reached within {timeout:g} s"
                raise ExecutionError(what, where=f"{address}, port {port}", got=error) from error
            time.sleep(_PAUSE)
        else:
            return link


def _send(link: socket.socket, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    content = buffer.getvalue()
    try:
        link.sendall(_LENGTH.pack(len(content)))
        link.sendall(content)
    except OSError as error:
        raise ExecutionError("another process of the job has ended", got=error) from error


def _receive(link: socket.socket, rank: int | None, most: int | None = None) -> dict[str, np.ndarray]:
    (length,) = _LENGTH.unpack(_exactly(link, _LENGTH.size, rank))
    if most is not None and length > most:
        raise ValueError(f"{length} bytes where at most {most} are expected")
    with np.load(io.BytesIO(_exactly(link, length, rank)), allow_pickle=False) as file:
        return dict(file)


def _exactly(link: socket.socket, n: int, rank: int | None) -> bytearray:
    content = bytearray()
    which = "a process" if rank is None else f"process {rank}"
    while len(content) < n:
        try:
            part = link.recv(min(n - len(content), 2**20))
        except OSError as error:
            raise ExecutionError(f"{which} of the job has said nothing for too long", got=error) from error
        if not part:
            raise ExecutionError(f"{which} of the job has ended", fix="see its log")
        content += part
    return content


def _split(joined: Arrays, size: int) -> list[dict[str, np.ndarray]]:
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(size)]
    for name, array in joined.items():
        rank, _, own = name.partition(":")
        parts[int(rank)][own] = array
    return parts
