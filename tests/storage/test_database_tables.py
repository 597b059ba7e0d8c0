"""What must not lose anything: kills, a full disk, two writers, a server that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

import surefield
from surefield.errors import ExecutionError
from surefield.storage import LocalStorage, database_tables
from surefield.storage.configuration import configuration_bytes

Maker = Callable[..., list[Atoms]]


def content(frames: list[Atoms]) -> list[bytes]:
    return [configuration_bytes(atoms, "") for atoms in frames]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(surefield.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


KILLED = """
import os, signal, sys
from ase import Atoms
from surefield.storage import LocalStorage, database_tables

def die(session):
    os.kill(os.getpid(), signal.SIGKILL)

database_tables.Session.commit = die
frames = [Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2 + i / 100]]) for i in range(300)]
LocalStorage(sys.argv[1]).add_data("a_0", frames)
"""


def test_a_killed_writer_leaves_the_old_state(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(3)
    storage.new_dataset("a", frames)
    process = start(KILLED, address)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert [d.handle for d in storage.list_data()] == ["a_0"]
    assert content(storage.get_data("a")) == content(frames)
    assert storage.add_data("a_0", labelled(1, seed=1)) == "a_1"


WRITER = """
import sys
from ase import Atoms
from surefield.storage import LocalStorage

address, mark = sys.argv[1], int(sys.argv[2])
storage = LocalStorage(address)
print("ready", flush=True)
sys.stdin.readline()
for step in range(6):
    frames = [Atoms("Cu", info={"mark": mark, "step": step, "place": i}) for i in range(20)]
    print(storage.add_data("a", frames) if step else storage.new_dataset(f"own {mark}", frames))
"""


def test_two_writers_lose_nothing(address: str, labelled: Maker) -> None:
    """Each process stores one dataset and adds five batches to a third; the storage itself is new."""
    writers = [start(WRITER, address, mark) for mark in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    storage = LocalStorage(address)
    storage.new_dataset("a", labelled(1))
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    printed = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], printed
    handles = [handle for out, _ in printed for handle in out.split("\n")[1:-1]]
    assert sorted(handles) == sorted(f"a_{i}" for i in range(1, 11))
    # each version is one that was there, and the 20 configurations of one writer, in order
    for handle in handles:
        found = storage.describe(handle)
        frames = storage.get_data(handle)
        before = storage.get_data(str(found.parent))
        assert content(frames[: len(before)]) == content(before)
        added = frames[len(before) :]
        assert [atoms.info["place"] for atoms in added] == list(range(20))
        assert len({(atoms.info["mark"], atoms.info["step"]) for atoms in added}) == 1
    assert len(storage.get_data("a_10")) == 201
    assert {d.name for d in storage.list_data()} == {"a", "own 0", "own 1"}


FULL = """
import resource, sys
from ase import Atoms
from surefield.errors import ExecutionError
from surefield.storage import LocalStorage

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
frames = [Atoms("Cu200", info={"i": i}) for i in range(400)]
try:
    LocalStorage(sys.argv[1]).add_data("a_0", frames)
except ExecutionError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, labelled: Maker) -> None:
    storage = LocalStorage(tmp_path)
    frames = labelled(3)
    storage.new_dataset("a", frames)
    process = start(FULL, tmp_path, Path(storage.url).stat().st_size + 100_000)
    printed, errors = process.communicate(timeout=120)
    assert "the disk is full or fails: nothing was stored" in printed, errors
    assert content(storage.get_data("a")) == content(frames)
    assert storage.add_data("a_0", labelled(1, seed=1)) == "a_1"
    assert storage.describe("a_1").size == 4


def test_a_writer_that_waits_too_long_says_so(
    address: str, labelled: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(address)
    storage.new_dataset("a", labelled(1))
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with database_tables.writing(address):
            held.set()
            release.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    try:
        assert held.wait(60)
        monkeypatch.setattr(database_tables, "WAIT_S", 1)
        with pytest.raises(ExecutionError, match="another process is writing: nothing was stored, try again"):
            storage.add_data("a", labelled(1, seed=1))
        assert storage.describe("a").size == 1  # readers need not wait
    finally:
        release.set()
        other.join()
    assert storage.add_data("a", labelled(1, seed=1)) == "a_1"


def test_a_server_that_drops_the_connection(
    postgres: Callable[[], str], labelled: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    address = postgres()
    storage = LocalStorage(address)
    storage.new_dataset("a", labelled(2))
    commit = database_tables.Session.commit

    def cut(session: database_tables.Session) -> None:
        ((process,),) = session.execute("SELECT pg_backend_pid()")
        with psycopg2.connect(address) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [process])
        other.close()
        commit(session)

    with monkeypatch.context() as patch:
        patch.setattr(database_tables.Session, "commit", cut)
        with pytest.raises(ExecutionError, match=r"the storage postgresql://tester@/.* failed"):
            storage.add_data("a", labelled(300, seed=1))
    assert [d.handle for d in storage.list_data()] == ["a_0"]
    assert storage.add_data("a", labelled(3, seed=1)) == "a_1"


def test_no_permission(tmp_path: Path, labelled: Maker) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExecutionError, match=r"the storage .* failed; got Not a directory"):
        LocalStorage(tmp_path / "file" / "store").new_dataset("a", labelled(1))
