from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.formats.kim import driver_of, params_text, read_params, write_kim_model
from surefield.formats.kim_models import MODELS
from surefield.potentials.parametric import LennardJones, StillingerWeber

NAMES = [
    "SW_StillingerWeber_1985_Si",
    "LJ_Shifted_Bernardes_1958LowCutoff_Ar",
    "Morse_Shifted_Jelinek_1972_Ar",
    "Tersoff_LAMMPS_Tersoff_1989_SiC",
]


def same(a, b) -> bool:
    return a.symbols == b.symbols and all(np.array_equal(a.values[k], b.values[k]) for k in a.values)


@pytest.mark.parametrize("name", NAMES)
def test_files_read_back_exactly(name, tmp_path: Path):
    potential = MODELS[name].make()
    files = write_kim_model(tmp_path, "model_1", potential)
    assert {f.parent for f in files} == {tmp_path / "model_1"}
    cmake = (tmp_path / "model_1" / "CMakeLists.txt").read_text()
    assert f'"{MODELS[name].driver}_004"' in cmake
    assert '"model_1.params"' in cmake
    driver = driver_of(potential)
    assert driver is not None
    assert same(read_params(tmp_path / "model_1" / "model_1.params", driver), potential)


def test_pairs_in_any_order_and_comments(tmp_path: Path):
    rows = ["Cd Cd 1 2 3 4 5 6 7 8 9", "Te Cd 10 2 3 4 5 6 7 8 9", "Te Te 11 2 3 4 5 6 7 8 9  # A first"]
    (tmp_path / "x.params").write_text("# made up\n2\n\n" + "\n".join(rows) + "\n")
    driver = driver_of(MODELS[NAMES[0]].make())
    assert driver is not None
    found = read_params(tmp_path / "x.params", driver)
    assert isinstance(found, StillingerWeber)
    assert found.symbols == ("Cd", "Te")
    np.testing.assert_array_equal(found.values["A"], [1.0, 10.0, 11.0])
    np.testing.assert_array_equal(found.values["lambda"], 6.0)


def test_what_no_driver_computes_is_refused(tmp_path: Path):
    values = {"cutoff": 5.0, "epsilon": 0.1, "sigma": 3.0}
    for potential in (LennardJones(values, ["Ar"], shift=False), LennardJones(values, ["Ar", "Kr"])):
        assert driver_of(potential) is None
        with pytest.raises(PotentialError, match="no KIM driver computes this LennardJones"):
            params_text(potential)
    with pytest.raises(PotentialError, match="letters, digits"):
        write_kim_model(tmp_path, "a-b", MODELS[NAMES[0]].make())


def test_broken_files_are_refused(tmp_path: Path):
    driver = driver_of(MODELS[NAMES[0]].make())
    assert driver is not None
    for text in ("", "1\n", "1\nSi Si 1 2 3\n", "1\nSi Si a b c d e f g h i\n"):
        (tmp_path / "x.params").write_text(text)
        with pytest.raises(PotentialError, match="not a parameter file"):
            read_params(tmp_path / "x.params", driver)
    with pytest.raises(PotentialError, match="no parameter file"):
        read_params(tmp_path / "none.params", driver)
