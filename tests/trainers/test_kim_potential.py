from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from surefield.errors import ConfigError, PotentialError
from surefield.trainers.kim_potential import KIMPotential

SILICON = "SW_StillingerWeber_1985_Si__MO_405512056662_006"


def test_ids_species_and_settings(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handle = KIMPotential("MO_405512056662")
    assert (handle.kim_id, handle.species, handle.backend) == (SILICON, ["Si"], "surefield")
    older = KIMPotential("SW_StillingerWeber_1985_Si__MO_405512056662_005", species=["Si"], kim_api="x")
    assert older.kim_id == "SW_StillingerWeber_1985_Si__MO_405512056662_005"
    again = KIMPotential(**older.settings())
    assert again.settings() == older.settings()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"species of MO_405512056662; got \['C'\]"):
        KIMPotential("MO_405512056662", species="C")


def test_parameters_in_the_form_of_kim(silicon):
    handle = KIMPotential(SILICON)
    assert handle.get_params()["A"] == [[0], [15.2848479197914]]
    energy, forces, stress = handle.evaluate(silicon[0])
    assert energy == pytest.approx(silicon[0].calc.results["energy"], rel=1e-12)
    np.testing.assert_allclose(forces, silicon[0].calc.results["forces"], atol=1e-12)
    np.testing.assert_allclose(stress, silicon[0].calc.results["stress"], atol=1e-14)
    before = handle.model
    handle.set_params({"A": [[0], [16.0]], "gamma": [0, 2.4]})
    assert float(handle.model.values["A"][0]) == 16.0
    assert float(handle.model.values["gamma"][0]) == 2.4
    assert float(before.values["A"][0]) == 15.2848479197914
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        handle.set_params({"gama": [[0], [1.0]]})
    for wrong in ([[1], [1.0]], [[0], ["a"]], [[0, 0], [1.0]], 3.0, [[0], [np.nan]]):
        with pytest.raises(ConfigError, match=r"parameter A; .*extents below 1"):
            handle.set_params({"A": wrong})


def test_saved_files_load_everywhere(tmp_path: Path, silicon):
    handle = KIMPotential(SILICON)
    handle.set_params({"A": [[0], [16.0]]})
    files = handle.save_potential_files(tmp_path / "saved")
    assert {f.name for f in files} >= {"potential.npz", "CMakeLists.txt", "KIM_surefield_Si.params"}
    expected = handle.evaluate(silicon[1])[0]
    params = next(f for f in files if f.suffix == ".params")
    for path in (tmp_path / "saved", tmp_path / "saved" / "potential.npz", params, params.parent):
        other = KIMPotential(SILICON)
        other.load_potential(path)
        assert other.evaluate(silicon[1])[0] == expected
        assert KIMPotential(SILICON, parameter_path=path).evaluate(silicon[1])[0] == expected
    by_driver = KIMPotential("SW__MD_335816936951_004", parameter_path=params)
    assert (by_driver.species, by_driver.evaluate(silicon[1])[0]) == (["Si"], expected)
    with pytest.raises(PotentialError, match="Morse"):
        KIMPotential("Morse_Shifted_Jelinek_1972_Ar").load_potential(tmp_path / "saved")
    with pytest.raises(ConfigError, match="form without parameters"):
        KIMPotential("SW__MD_335816936951_004")


def test_unknown_models_need_kim(monkeypatch):
    from surefield.foreign import opaque_kim

    opaque_kim._kimpy.cache_clear()
    opaque_kim._installed.cache_clear()
    monkeypatch.setitem(sys.modules, "kimpy", None)
    for name, options in (("EDIP_JustoBazantKaxiras_1998_Si", {}), (SILICON, {"backend": "kim"})):
        with pytest.raises(PotentialError, match=r"pip install 'surefield\[kim\]'"):
            KIMPotential(name, **options)
    with pytest.raises(ConfigError, match="did you mean 'SW_StillingerWeber_1985_Si'"):
        KIMPotential("SW_StilingerWeber_1985_Si", backend="surefield")
    with pytest.raises(ConfigError, match="backend must be"):
        KIMPotential(SILICON, backend="lammps")  # type: ignore[arg-type]
