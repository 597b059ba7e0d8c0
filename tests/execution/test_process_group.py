"""Processes that share work: parts, what all get, and those that do not belong."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.process_group import ProcessGroup, n_processes


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def together(size, of, port, keys=None):
    """Results, or errors, of a function of each process of a group; here they are threads."""

    def run(rank):
        key = "same" if keys is None else keys[rank]
        try:
            with ProcessGroup(rank, size, "127.0.0.1", port, key, timeout=5.0) as group:
                return of(group)
        except ExecutionError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def test_all_get_what_each_has(port):
    def of(group):
        first = group.gathered({"rank": np.array(group.rank), "own": np.full(3 - group.rank, 0.1)})
        second = group.gathered({} if group.rank == 1 else {"name": np.array("x")})
        return first, second

    for first, second in together(3, of, port):
        assert [int(one["rank"]) for one in first] == [0, 1, 2]
        assert [one["own"].tolist() for one in first] == [[0.1] * 3, [0.1] * 2, [0.1]]
        assert [set(one) for one in second] == [{"name"}, set(), {"name"}]


@pytest.mark.parametrize("n", [0, 1, 7, 9])
def test_shares_are_the_whole(port, n):
    shares = together(3, lambda group: list(range(n))[group.share(n)], port)
    assert [item for share in shares for item in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_another_job_is_turned_away(port):
    for error in together(2, lambda group: group, port, keys=["one", "two"]):
        assert isinstance(error, ExecutionError)
        assert "process 1 belongs to another job" in str(error)


def test_a_process_that_ends(port):
    """The others say so, and do not wait for ever."""

    def of(group):
        return group.gathered({}) if group.rank == 0 else None

    first, _ = together(2, of, port)
    assert "process 1 of the job has ended" in str(first)


def test_strangers_are_ignored(port):
    """Something else that connects to the port does no harm."""

    def of(group):
        return len(group.gathered({}))

    def stranger():
        for _ in range(50):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1.0) as link:
                    link.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return True
            except OSError:
                continue
        return False

    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(ProcessGroup, 0, 2, "127.0.0.1", port, "same", 5.0)
        while not stranger():
            pass
        other = pool.submit(ProcessGroup, 1, 2, "127.0.0.1", port, "same", 5.0)
        with alone.result() as first, other.result() as second:
            got = pool.submit(of, second)
            assert of(first) == got.result() == 2


def test_mistakes(port, monkeypatch):
    with pytest.raises(ConfigError, match="no such process in this job; got 2; expected 0 to 1"):
        ProcessGroup(2, 2, "127.0.0.1", port, "same")
    with pytest.raises(ExecutionError, match=r"within 0.2 s; got 1; expected 2"):
        ProcessGroup(0, 2, "127.0.0.1", port, "same", timeout=0.2)
    with pytest.raises(ExecutionError, match=r"was not reached within 0.2 s"):
        ProcessGroup(1, 2, "127.0.0.1", port, "same", timeout=0.2)
    with socket.create_server(("", port)), pytest.raises(ExecutionError, match="another distributed_port"):
        ProcessGroup(0, 2, "127.0.0.1", port, "same")
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert n_processes() == 1
    assert ProcessGroup.of_launcher(port, "same") is None
    monkeypatch.setenv("SLURM_NTASKS", "3")
    assert n_processes() == 3
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE=two"):
        n_processes()
