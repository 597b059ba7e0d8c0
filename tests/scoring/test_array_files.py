import json
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import DataError
from surefield.scoring.array_files import content_hash, described_array, load_array, load_arrays


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3))


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".dat"])
def test_a_file_is_its_array(tmp_path: Path, array: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savetxt(path, array, fmt="%.17g")
    np.testing.assert_array_equal(load_array(path, "cov"), array)
    np.testing.assert_array_equal(load_array(str(path), "cov"), array)
    assert described_array(path, "cov")["hash"] == described_array(array, "cov")["hash"]
    assert described_array(path, "cov")["path"] == str(path)


def test_npy_is_mapped_when_asked(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    assert isinstance(load_array(tmp_path / "a.npy", "cov", mmap=True), np.memmap)


def test_json_has_the_array_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"fim": [[1.0, 2.0], [2.0, 5.0]]}))
    assert load_array(path, "fim_property", json_key="fim").tolist() == [[1.0, 2.0], [2.0, 5.0]]
    with pytest.raises(DataError, match=r"no 'other'.*got \['fim'\]"):
        load_array(path, "fim_property", json_key="other")
    with pytest.raises(DataError, match="unknown type of file for cov"):
        load_array(path, "cov")


def test_a_list_of_arrays_may_be_one_of_paths(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    arrays = load_arrays([tmp_path / "a.npy", array], "error_pdfs")
    assert [np.array_equal(a, array) for a in arrays] == [True, True]
    assert len(load_arrays(array, "error_pdfs")) == 1
    assert load_arrays([[1.0, 2.0], [3.0, 4.0]], "error_pdfs")[0].shape == (2, 2)


def test_missing_and_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no file for train_descriptors; got {tmp_path / 'gone.npy'}"):
        load_array("gone.npy", "train_descriptors")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=f"file of cov cannot be read in {tmp_path / 'bad.npy'}"):
        load_array("bad.npy", "cov")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"cov cannot be read.*allow_pickle=False"):
        load_array("objects.npy", "cov")


@pytest.mark.parametrize("value", [["a1", "b"], [[1.0], [1.0, 2.0]], np.array(["x"])])
def test_what_is_no_array_of_numbers_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="cov"):
        load_array(value, "cov")


def test_hashes_go_by_numbers_and_shape_not_by_type(
    array: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = array.astype(np.float32)
    assert content_hash(half) == content_hash(half.astype(np.float64))
    assert content_hash(array) != content_hash(array.reshape(3, 4))
    monkeypatch.setattr("surefield.scoring.array_files._BLOCK", 5)
    blocks = content_hash(array)
    assert blocks == content_hash(np.asfortranarray(array))
    changed = array.copy()
    changed[-1, -1] += 1e-12
    assert content_hash(changed) != blocks
