from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from surefield.errors import DataError
from surefield.storage.configuration import configuration_bytes, read_configuration


def test_everything_comes_back_bit_by_bit(everything: Atoms) -> None:
    atoms = everything
    back = read_configuration(configuration_bytes(atoms, "here"))
    assert list(back.pbc) == [True, False, True]
    assert back.cell.array.tobytes() == atoms.cell.array.tobytes()
    assert back.get_celldisp().ravel().tolist() == [0.1, 0.2, 0.3]
    assert back.arrays.keys() == atoms.arrays.keys()
    for name, array in atoms.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].tobytes() == array.tobytes()
        assert back.arrays[name].flags.writeable
    assert back.constraints[0].index.tolist() == [1]
    assert back.calc.name == "vasp"
    assert back.get_potential_energy() == 1 / 3
    assert back.calc.results["stress"].shape == (3, 3)
    assert back.calc.results["forces_ensemble"].shape == (4, 2, 3)
    assert back.calc.results["energy_uncertainty"] == 0.1
    info = back.info
    assert np.signbit(info["zero"])
    assert np.isnan(info["nan"])
    assert info["array"].tobytes() == atoms.info["array"].tobytes()
    assert info["flag"] is True
    assert info["number"] == 7
    for name in ("text", "nested", "complex", "spacegroup", "atomic_weights"):
        assert info[name] == atoms.info[name]
        assert type(info[name]) is type(atoms.info[name])


def test_equal_content_has_equal_bytes(everything: Atoms) -> None:
    first, second = everything, read_configuration(configuration_bytes(everything, ""))
    second.info = dict(reversed(second.info.items())) | {"configuration_id": "other"}
    assert configuration_bytes(first, "") == configuration_bytes(second, "")
    second.arrays["single"][0] = np.nextafter(np.float32(0.1), np.float32(1))
    assert configuration_bytes(first, "") != configuration_bytes(second, "")


def test_no_atoms_and_no_results() -> None:
    back = read_configuration(configuration_bytes(Atoms(), "here"))
    assert len(back) == 0
    assert back.positions.shape == (0, 3)
    assert back.calc is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("thing", object(), "info['thing'] cannot be stored in frame 3; got a object"),
        ("a", {"b": {1}}, "info['a']['b'] cannot be stored"),
        ("a", np.array([None]), "got an array of object"),
        ("a", np.longdouble(1), "longdouble"),
    ],
)
def test_what_is_no_data_is_refused(key: str, value: object, words: str) -> None:
    atoms = Atoms("H", info={key: value})
    with pytest.raises(DataError) as caught:
        configuration_bytes(atoms, "frame 3")
    assert words in str(caught.value)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(DataError, match="newer version"):
        read_configuration(b"SFC9" + configuration_bytes(Atoms("H"), "")[4:])
