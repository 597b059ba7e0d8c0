from __future__ import annotations

import pickle
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.storage import LocalStorage, StorageWarning, open_storage
from surefield.storage.configuration import configuration_bytes

Maker = Callable[..., list[Atoms]]


def content(frames: list[Atoms]) -> list[bytes]:
    return [configuration_bytes(atoms, "") for atoms in frames]


def ids(frames: list[Atoms]) -> list[str]:
    return [atoms.info["configuration_id"] for atoms in frames]


def test_stored_order_and_content(address: str, labelled: Maker, everything: Atoms) -> None:
    frames = [*labelled(4), everything, *labelled(2, seed=1, repeat=2)]
    before = content(frames)
    storage = LocalStorage(address)
    handle = storage.new_dataset("run_v2", frames, {"level": "PBE", "cutoff": 1 / 3})
    assert handle == "run_v2_0"
    assert content(frames) == before
    assert not any("configuration_id" in atoms.info for atoms in frames)
    back = open_storage(address).get_data(handle)
    assert content(back) == before
    assert len(set(ids(back))) == len(back)
    assert ids(storage.get_data("run_v2")) == ids(back)
    back[0].positions += 1  # of the caller's own
    assert content(storage.get_data(handle)) == before
    (found,) = storage.list_data()
    assert found == storage.describe("run_v2")
    assert (found.handle, found.size, found.parent, found.source) == (handle, 7, None, ("memory",))
    assert found.metadata == {"level": "PBE", "cutoff": 1 / 3}
    assert found.package_version == sf.__version__
    assert found.created[:2] == "20"
    assert len(found.hash) == 64


def test_versions(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(5)
    first = storage.new_dataset("cu", frames[:2], {"level": "PBE"})
    second = storage.add_data(first, frames[2:4])
    branch = storage.add_data(first, frames[4:], {"note": "x"})
    assert [first, second, branch] == ["cu_0", "cu_1", "cu_2"]
    assert content(storage.get_data("cu_0")) == content(frames[:2])
    assert content(storage.get_data("cu_1")) == content(frames[:4])
    assert content(storage.get_data("cu_2")) == content([*frames[:2], frames[4]])
    assert content(storage.get_data("cu")) == content(storage.get_data("cu_2"))
    assert [d.parent for d in storage.list_data("cu")] == [None, "cu_0", "cu_0"]
    assert storage.describe("cu_2").metadata == {"level": "PBE", "note": "x"}
    # the hash depends on what is in it, not on how it got there
    whole = storage.new_dataset("whole", storage.get_data("cu_1"))
    assert storage.describe(whole).hash == storage.describe("cu_1").hash
    assert storage.describe("cu_2").hash != storage.describe("cu_1").hash


def test_update_replaces_by_id_and_keeps_the_order(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    storage.new_dataset("cu", labelled(4))
    old = storage.get_data("cu_0")
    changed = [old[2].copy(), old[0].copy()]
    changed[0].positions += 0.5
    changed[0].info["energy"] = -1.0
    changed[1].info["energy"] = -2.0
    assert storage.update_data("cu_0", changed) == "cu_1"
    new = storage.get_data("cu_1")
    assert ids(new) == ids(old)
    assert [atoms.info.get("energy") for atoms in new] == [-2.0, None, -1.0, None]
    assert content(storage.get_data("cu_0")) == content(old)
    # without ids: the same geometry
    plain = labelled(4)[1].copy()
    plain.info["energy"] = -3.0
    storage.update_data("cu_0", [plain])
    assert [atoms.info.get("energy") for atoms in storage.get_data("cu_2")] == [None, -3.0, None, None]
    with pytest.raises(DataError, match=r"has no configuration 'cfg_.*add_data"):
        storage.update_data("cu_0", labelled(1, seed=9))
    assert len(storage.list_data()) == 3


def test_equal_content_is_stored_once(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(3)
    storage.new_dataset("a", [*frames, frames[0]])
    storage.new_dataset("b", frames[::-1])
    handle = storage.add_data("a_0", [frames[1], *labelled(1, seed=4), frames[1]])
    assert len(list(ase.db.connect(address).select())) == 4
    back = storage.get_data(handle)
    expected = [*frames, frames[0], frames[1], *labelled(1, seed=4), frames[1]]
    assert content(back) == content(expected)
    assert len(set(ids(back))) == 7
    assert ids(back)[6] == f"{ids(back)[1]}_2"
    assert content(storage.get_data("b")) == content(frames[::-1])


def test_ids_are_given_once_in_a_dataset(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(2)
    frames[0].info["configuration_id"] = "mine"
    storage.new_dataset("a", frames)
    assert ids(storage.get_data("a"))[0] == "mine"
    other = labelled(1, seed=3)
    other[0].info["configuration_id"] = "mine"
    with pytest.raises(DataError, match="same id"):
        storage.add_data("a", other)
    assert [d.handle for d in storage.list_data()] == ["a_0"]


def test_delete_takes_exactly_one(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(4)
    storage.new_dataset("a", frames[:1])
    storage.add_data("a_0", frames[1:2])
    storage.add_data("a_1", frames[2:3])
    storage.new_dataset("b", [frames[0], frames[3]])
    storage.delete_dataset("a_1")
    assert [d.handle for d in storage.list_data()] == ["a_0", "a_2", "b_0"]
    assert content(storage.get_data("a_2")) == content(frames[:3])
    storage.delete_dataset("a_2")
    assert content(storage.get_data("a_0")) == content(frames[:1])
    assert len(list(ase.db.connect(address).select())) == 2
    assert storage.add_data("a_0", frames[1:2]) == "a_3"  # a version is never given twice
    with pytest.raises(DataError, match="a_0, a_3; got the name 'a'"):
        storage.delete_dataset("a")
    with pytest.raises(DataError, match="no dataset 'a_7'"):
        storage.delete_dataset("a_7")
    for handle in ("a_0", "a_3"):
        storage.delete_dataset(handle)
    assert content(storage.get_data("b_0")) == content([frames[0], frames[3]])
    assert storage.new_dataset("a", frames) == "a_0"


def test_names(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    frames = labelled(1)
    assert storage.check_if_dataset_name_unique("si")
    assert storage.list_data() == []
    storage.new_dataset("si", frames)
    storage.new_dataset("si_2024", frames)
    storage.new_dataset("si_1", frames)
    assert not storage.check_if_dataset_name_unique("si")
    assert not storage.check_if_dataset_name_unique("si_0")  # a handle
    with pytest.raises(ConfigError, match=r"'si' is taken.*si_0.*add_data"):
        storage.new_dataset("si", frames)
    assert storage.describe("si_2024").handle == "si_2024_0"
    # "si_1" keeps meaning the dataset of that name
    assert storage.add_data("si", frames) == "si_2"
    assert storage.describe("si_1").handle == "si_1_0"
    for name in ("", "..", "a/b"):
        with pytest.raises(ConfigError, match="not the name"):
            storage.new_dataset(name, frames)
    with pytest.raises(DataError, match=r"no dataset 'sj_0'.*did you mean 'si_0'"):
        storage.get_data("sj_0")


def test_query_options(address: str, labelled: Maker) -> None:
    storage = LocalStorage(address)
    gold = [Atoms("Au"), Atoms("AuCu", positions=[[0, 0, 0], [2, 0, 0]])]
    storage.new_dataset("a", [*labelled(3), *gold])
    names = ids(storage.get_data("a"))
    assert ids(storage.get_data("a", {"ids": [names[3], names[1]]})) == [names[1], names[3]]
    assert ids(storage.get_data("a", {"elements": ["Cu"]})) == names[:3]
    assert ids(storage.get_data("a", {"elements": ["Cu"], "index": "::2"})) == [names[0], names[2]]
    with pytest.raises(ConfigError, match="unknown query option 'id'; did you mean 'ids'"):
        storage.get_data("a", {"id": names})
    with pytest.raises(ConfigError, match="list of texts"):
        storage.get_data("a", {"ids": names[0]})
    with pytest.raises(ConfigError, match="chemical symbols, got 'Xy'"):
        storage.get_data("a", {"elements": ["Xy"]})
    with pytest.raises(DataError, match="has no configuration 'x'"):
        storage.get_data("a", {"ids": ["x"]})


def test_ase_sees_structures_and_labels(address: str, labelled: Maker, everything: Atoms) -> None:
    frames = labelled(2)
    LocalStorage(address).new_dataset("a", [*frames, everything])
    rows = list(ase.db.connect(address).select())
    for row, atoms in zip(rows, frames, strict=False):
        np.testing.assert_array_equal(row.toatoms().positions, atoms.positions)
        np.testing.assert_array_equal(row.toatoms().get_forces(), atoms.get_forces())
        assert row.energy == atoms.get_potential_energy()
    assert rows[2].formula == "NaCl"


def test_more_frames_than_ase_writes_at_once_are_one_transaction(
    tmp_path: Path, labelled: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefield.storage import database_tables

    storage = LocalStorage(tmp_path)
    (atoms,) = labelled(1)
    frames = []
    for i in range(5100):  # ASE commits after 5000 changes
        atoms.info["step"] = i
        frames.append(atoms.copy())

    def fail(self: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(database_tables.Session, "commit", fail)
        with pytest.raises(sf.errors.ExecutionError, match="disk is full"):
            storage.new_dataset("many", frames)
    assert storage.list_data() == []
    assert len(list(ase.db.connect(storage.url).select())) == 0


def test_adding_costs_what_is_added(tmp_path: Path, labelled: Maker) -> None:
    storage = LocalStorage(tmp_path)
    batches = [labelled(60, seed=10 + i) for i in range(5)]

    def add(handle: str, batch: list[Atoms]) -> float:
        start = time.process_time()
        storage.add_data(handle, batch)
        return time.process_time() - start

    storage.new_dataset("a", labelled(60, seed=1))
    few = min(add("a_0", batch) for batch in batches[:2])
    storage.new_dataset("b", labelled(1500, seed=2))
    many = min(add("b_0", batch) for batch in batches[2:])
    assert many < 5 * few  # writing all again would cost 25 times as much


def test_damage_is_found(tmp_path: Path, labelled: Maker) -> None:
    storage = LocalStorage(tmp_path)
    storage.new_dataset("a", labelled(2))
    with sqlite3.connect(storage.url) as connection:
        connection.execute("UPDATE surefield_contents SET payload = zeroblob(100) WHERE system = 2")
    connection.close()
    with pytest.raises(DataError, match=r"configuration 'cfg_.*is damaged"):
        storage.get_data("a")
    with sqlite3.connect(storage.url) as connection:
        connection.execute("DELETE FROM surefield_contents WHERE system = 2")
    connection.close()
    with pytest.raises(DataError, match="has 1 of its 2 configurations"):
        storage.get_data("a")


def test_a_newer_store_and_other_files_are_refused(tmp_path: Path, labelled: Maker) -> None:
    storage = LocalStorage(tmp_path)
    storage.new_dataset("a", labelled(1))
    with sqlite3.connect(storage.url) as connection:
        connection.execute("UPDATE surefield_format SET format = 2")
    connection.close()
    with pytest.raises(DataError, match="newer version"):
        storage.get_data("a")
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to be taken for one" * 20)
    with pytest.raises(DataError, match="no database"):
        LocalStorage(tmp_path, "text").list_data()


def test_folder_and_name(tmp_path: Path, labelled: Maker) -> None:
    folder = tmp_path / "my store"
    storage = LocalStorage(folder)
    assert not folder.exists()
    assert storage.list_data() == []
    storage.new_dataset("a", labelled(1))
    other = LocalStorage(folder, "other")
    other.new_dataset("b", labelled(1))
    assert [d.handle for d in LocalStorage(folder).list_data()] == ["a_0"]
    assert pickle.loads(pickle.dumps(other)).list_data() == other.list_data()
    storage.delete_dataset("a_0")
    assert sorted(e.name for e in folder.iterdir()) == ["datasets.db", "other.db"]
    (folder / "notes.txt").write_text("x")
    with pytest.warns(StorageWarning, match=r"ignored: notes\.txt"):
        assert LocalStorage(folder).list_data() == []
    with pytest.raises(ConfigError, match="not the name"):
        LocalStorage(folder, "../x")
    with pytest.raises(ConfigError, match="is a file"):
        LocalStorage(folder / "notes.txt")
    with pytest.raises(ConfigError, match="its own name"):
        LocalStorage(folder / "other.db", "a")
    with pytest.raises(ConfigError, match="no such kind of storage"):
        LocalStorage("mysql://user:secret@host/db")


def test_a_database_of_ases_own_gets_datasets(tmp_path: Path, labelled: Maker) -> None:
    path = tmp_path / "mine.db"
    with ase.db.connect(path) as database:
        database.write(Atoms("H"), name="mine")
    storage = open_storage(path)
    assert storage.list_data() == []
    storage.new_dataset("a", labelled(2))
    storage.delete_dataset("a_0")
    assert [row.name for row in ase.db.connect(path).select()] == ["mine"]


def test_the_source_is_remembered(tmp_path: Path, labelled: Maker) -> None:
    sf.write_frames(tmp_path / "train.xyz", labelled(2))
    storage = LocalStorage(tmp_path / "store")
    handle = storage.new_dataset("a", tmp_path / "train.xyz")
    assert storage.describe(handle).source == (str(tmp_path / "train.xyz"),)
    assert content(storage.get_data(handle)) == content(list(sf.read_frames(tmp_path / "train.xyz")))


def test_a_password_is_not_shown() -> None:
    storage = LocalStorage("postgresql://me:secret@nowhere.invalid/db?password=secret&connect_timeout=1")
    assert storage.url == "postgresql://me@nowhere.invalid/db?connect_timeout=1"
    assert "secret" not in repr(storage)


def test_postgresql_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConfigError, match=r"pip install 'surefield\[db\]'"):
        LocalStorage("postgresql://me@nowhere.invalid/db").list_data()


def test_an_unreachable_server_is_named(postgres: Callable[[], str], labelled: Maker) -> None:
    url = postgres().partition("?")[0] + "?host=/nowhere"
    with pytest.raises(sf.errors.ExecutionError, match="nowhere"):
        LocalStorage(url).new_dataset("a", labelled(1))
