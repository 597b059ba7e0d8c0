from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from surefield.errors import DataError
from surefield.scoring.descriptor_arrays import descriptors_of


@pytest.fixture
def frames() -> list[Atoms]:
    frames = [Atoms("H2"), Atoms("He")]
    for atoms in frames:
        atoms.arrays["soap"] = np.arange(3.0 * len(atoms), dtype=np.float32).reshape(-1, 3)
    return frames


def test_rows_are_float64(frames: list[Atoms]) -> None:
    rows = descriptors_of(frames, "soap")
    assert [r.shape for r in rows] == [(2, 3), (1, 3)]
    assert {r.dtype for r in rows} == {np.dtype(np.float64)}
    frames[0].arrays["one"] = np.arange(2)
    assert descriptors_of(frames[:1], "one")[0].shape == (2, 1)


def test_faults_are_named(frames: list[Atoms]) -> None:
    with pytest.raises(
        DataError, match=r"arrays\['acsf'\] in configuration 0; got the keys numbers, positions, soap"
    ):
        descriptors_of(frames, "acsf")
    with pytest.raises(DataError, match="another length in configuration 0; got 3; expected 4"):
        descriptors_of(frames, "soap", 4)
    frames[1].arrays["soap"] = np.zeros((1, 2))
    with pytest.raises(DataError, match="another length in configuration 1; got 2; expected 3"):
        descriptors_of(frames, "soap")
    frames[0].arrays["soap"][1, 2] = np.nan
    with pytest.raises(DataError, match="configuration 0, atom 1; got nan"):
        descriptors_of(frames, "soap")
    frames[0].arrays["word"] = np.array(["a", "b"])
    with pytest.raises(DataError, match=r"\(n_atoms, n_features\) numbers"):
        descriptors_of(frames, "word")
