from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield.errors import ConfigError, DataError
from surefield.storage import FolderStorage, LocalStorage, StorageWarning, open_storage

Maker = Callable[..., list[Atoms]]


@pytest.fixture
def folder(tmp_path: Path, labelled: Maker) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    sf.write_frames(folder / "train.xyz", labelled(4))
    sf.write_frames(folder / "test_1.extxyz.gz", labelled(2, seed=1))
    return folder


def test_files_are_datasets(folder: Path, labelled: Maker) -> None:
    storage = open_storage(folder)
    assert isinstance(storage, FolderStorage)
    assert [d.handle for d in storage.list_data()] == ["test_1_0", "train_0"]
    assert [d.handle for d in storage.list_data("train")] == ["train_0"]
    for atoms, expected in zip(storage.get_data("train"), labelled(4), strict=True):
        np.testing.assert_array_equal(atoms.positions, expected.positions)
        np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces())
        np.testing.assert_array_equal(atoms.arrays["atomic_weights"], expected.arrays["atomic_weights"])
    assert storage.describe("train").source == (str(folder / "train.xyz"),)
    assert [atoms.info["step"] for atoms in storage.get_data("test_1", {"index": "1:"})] == [1]
    assert not storage.check_if_dataset_name_unique("train")


def test_ids_and_hashes_are_those_of_a_database(folder: Path, tmp_path: Path) -> None:
    storage = FolderStorage(folder)
    frames = storage.get_data("train")
    local = LocalStorage(tmp_path / "store")
    handle = local.new_dataset("train", folder / "train.xyz")
    assert local.describe(handle).hash == storage.describe("train_0").hash
    ids = [atoms.info["configuration_id"] for atoms in frames]
    assert [atoms.info["configuration_id"] for atoms in local.get_data(handle)] == ids
    # a file that changes is read again
    before = storage.describe("train").hash
    sf.write_frames(folder / "train.xyz", frames[:2])
    assert storage.describe("train").size == 2
    assert storage.describe("train").hash != before
    # and ids survive a file
    sf.write_frames(folder / "copy.xyz", frames[::-1])
    assert [a.info["configuration_id"] for a in storage.get_data("copy")] == ids[::-1]


def test_foreign_files_are_ignored_with_a_warning(folder: Path) -> None:
    for name in ("notes.txt", ".hidden", "a.json", "b.json", "c.json"):
        (folder / name).write_text("x")
    with pytest.warns(StorageWarning, match=r"ignored: a\.json, b\.json, c\.json and 1 more"):
        storage = FolderStorage(folder)
    assert len(storage.list_data()) == 2


def test_nothing_is_written(folder: Path, labelled: Maker) -> None:
    storage = FolderStorage(folder)
    before = sorted(path.name for path in folder.iterdir())
    for call in (
        lambda: storage.new_dataset("a", labelled(1)),
        lambda: storage.add_data("train_0", labelled(1)),
        lambda: storage.update_data("train_0", labelled(1)),
        lambda: storage.delete_dataset("train_0"),
    ):
        with pytest.raises(ConfigError, match="only read; copy it"):
            call()
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_is_no_storage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        FolderStorage(tmp_path / "none")
    with pytest.raises(ConfigError, match="give the folder"):
        open_storage(folder / "train.xyz")
    with pytest.raises(DataError, match=r"no dataset 'trian'.*did you mean 'train_0'"):
        FolderStorage(folder).get_data("trian")
    (folder / "train.extxyz").write_bytes((folder / "train.xyz").read_bytes())
    with pytest.raises(DataError, match=r"train\.extxyz and train\.xyz .* the dataset 'train'"):
        FolderStorage(folder)
