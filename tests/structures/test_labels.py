from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield import units
from surefield.errors import DataError
from surefield.structures.convert import convert_labels
from surefield.structures.geometry import check_geometry
from surefield.structures.label_sources import without_labels
from surefield.structures.labels import resolve_labels
from surefield.structures.read import read_frames, write_frames

FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
STRESS = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def dimer(**results: object) -> Atoms:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[2, 3, 4], pbc=True)
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results |= results
    return atoms


def test_reference_keys_win_over_aliases_and_nothing_is_changed():
    atoms = dimer()
    atoms.info |= {"REF_energy": -1.0, "dft_energy": -1.0}
    atoms.arrays["REF_forces"] = FORCES.copy()
    (labels,), report = resolve_labels([atoms])
    labels.forces[:] = 0
    assert labels.energy == -1.0
    assert labels.stress is None
    assert np.array_equal(atoms.arrays["REF_forces"], FORCES)
    assert report.kinds["energy"].keys == (("REF_energy", 1),)
    assert report.kinds["energy"].unused == ("dft_energy",)
    assert str(report) == (
        "labels of 1 structures: energy from REF_energy (1); forces from REF_forces (1); no stress"
    )


def test_calculator_results_come_before_aliases():
    atoms = dimer(energy=-1.0, forces=FORCES, stress=STRESS)
    atoms.info["Energy"] = -1.0
    (labels,), report = resolve_labels([atoms], require=("energy", "forces", "stress"))
    assert report.kinds["energy"].keys == (("calculator.energy", 1),)
    assert np.array_equal(labels.forces, FORCES)
    assert np.array_equal(labels.stress, STRESS)


@pytest.mark.parametrize("key", ["dft_force", "dft_forces", "force", "force_dft"])
def test_forces_under_their_usual_names(key: str):
    atoms = dimer()
    atoms.info["dft_energy"], atoms.arrays[key] = -1.0, FORCES
    assert np.array_equal(resolve_labels([atoms])[0][0].forces, FORCES)


def test_aliases_are_found():
    atoms = dimer()
    atoms.info["dft_energy"] = -3.0
    atoms.arrays["force"] = FORCES
    (labels,), _ = resolve_labels([atoms])
    assert labels.energy == -3.0
    assert np.array_equal(labels.forces, FORCES)


def test_free_energy_stands_in_but_does_not_compete():
    (labels,), _ = resolve_labels([dimer(energy=-1.0, free_energy=-1.5, forces=FORCES)])
    assert labels.energy == -1.0
    (labels,), _ = resolve_labels([dimer(free_energy=-1.5, forces=FORCES)])
    assert labels.energy == -1.5


def test_mapping_wins_and_ends_disagreement():
    atoms = dimer(energy=-1.0, forces=FORCES)
    atoms.info |= {"dft_energy": -2.0, "mine": -5.0}
    with pytest.raises(
        DataError, match=r"energy disagree in frame 0: 'calculator.energy' = -1 and 'dft_energy' = -2"
    ):
        resolve_labels([atoms])
    atoms.info["REF_energy"] = -2.0
    assert resolve_labels([atoms], {"energy": "mine"})[0][0].energy == -5.0
    assert resolve_labels([atoms], {"energy": "calculator.energy"})[0][0].energy == -1.0
    assert resolve_labels([atoms], {"energy": ["absent", "REF_energy"]})[0][0].energy == -2.0
    assert resolve_labels([atoms], {"energy": None}, require=())[0][0].energy is None


def test_forces_that_disagree():
    atoms = dimer(energy=-1.0, forces=FORCES)
    atoms.arrays["dft_forces"] = FORCES + 1e-3
    with pytest.raises(DataError, match=r"forces disagree.*'calculator.forces'.*'dft_forces'.*up to 0.001"):
        resolve_labels([atoms])


def test_reference_keys_win_over_whatever_else_there_is_and_that_is_said():
    atoms = dimer(energy=-1.0, forces=FORCES)
    atoms.info |= {"REF_energy": -467.0, "E": 0.05, "F": -467.1, "total_energy": "low", "dft_energy": [1, 2]}
    atoms.arrays["REF_forces"] = FORCES + 1e-3
    (labels,), report = resolve_labels([atoms])
    assert labels.energy == -467.0
    assert np.array_equal(labels.forces, FORCES + 1e-3)
    assert "energy from REF_energy (1), not from calculator.energy, which differs" in str(report)
    atoms.info["REF_virial"], atoms.info["REF_stress"] = -np.eye(3) * 24, np.eye(3) * 2
    with pytest.raises(DataError, match=r"stress disagree.*'REF_stress'.*'REF_virial'"):
        resolve_labels([atoms])


@pytest.mark.parametrize("value", ["low", "-5.0", True, [1.0, 2.0], [1.0, None], {"a": 1.0}, None, "None"])
def test_what_is_no_number_under_an_alias_is_passed_over(value: object):
    atoms = dimer(forces=FORCES)
    atoms.info |= {"energy": value, "stress": value, "total_energy": -3.0}
    (labels,), _ = resolve_labels([atoms])
    assert labels.energy == -3.0
    assert labels.stress is None
    if value not in (None, "None"):
        with pytest.raises(DataError, match=r"energy must be .* in frame 0 .*key 'energy'"):
            resolve_labels([atoms], {"energy": "energy"})


@pytest.mark.parametrize("key", ["ENERGY", "Energy", "DFT_Energy", "Ref_Energy"])
def test_keys_are_found_whatever_their_case(key: str):
    atoms = dimer()
    atoms.info |= {key: -3.0, "VIRIALS": [-24.0, -48, -72, -96, -120, -144]}
    atoms.arrays["FORCE"] = FORCES
    (labels,), report = resolve_labels([atoms])
    assert labels.energy == -3.0
    assert np.array_equal(labels.forces, FORCES)
    assert labels.stress == pytest.approx(STRESS)
    assert report.kinds["energy"].keys == ((key, 1),)
    bare = without_labels(atoms)
    assert not {*bare.info}
    assert {*bare.arrays} == {"numbers", "positions"}


def test_names_that_state_no_unit_are_named_by_the_user(tmp_path: Path):
    comment = " i =        5, time =        2.500, E =       -17.1643447508"
    (tmp_path / "a.xyz").write_text(f"1\n{comment}\nO 0 0 0\n")
    frames = read_frames(tmp_path / "a.xyz")
    message = (
        r"no energy in frame 0 of .*a.xyz.*'E' alone states no unit.*CP2K.*hartree.*"
        r"its unit: convert_labels\(source, energy_unit='Hartree', mapping={'energy': 'E'}\)$"
    )
    with pytest.raises(DataError, match=message) as error:
        resolve_labels(frames, require=["energy"])
    offer = str(error.value).rpartition("unit: ")[2]
    (converted,) = eval(offer, {"convert_labels": convert_labels, "source": tmp_path / "a.xyz"})
    assert converted.get_potential_energy() == pytest.approx(-467.0656, abs=1e-4)
    (labels,), _ = resolve_labels(frames, {"energy": "E"}, {"energy": "Hartree"}, require=["energy"])
    assert labels.energy == pytest.approx(-467.0656, abs=1e-4)
    named, bare = dimer(), dimer()
    named.info["REF_energy"], bare.info["E"] = -467.0, -0.4998
    with pytest.raises(DataError, match=r"called 'REF_energy' in 1 structures but 'E' in frame 1.*or units"):
        resolve_labels([named, bare], require=())


def test_a_label_that_is_not_finite_is_none(caplog: pytest.LogCaptureFixture):
    frames = [dimer(energy=0.0, forces=FORCES, stress=STRESS), dimer(energy=0.0, forces=FORCES)]
    frames[1].calc.results["stress"] = STRESS * np.nan
    labels, report = resolve_labels(frames)
    assert labels[1].stress is None
    assert np.array_equal(labels[0].stress, STRESS)
    assert "stress from calculator.stress (2), 1 without, 1 of them not finite" in str(report)
    assert "stress ('calculator.stress') is not finite in frame 1" in caplog.text


def test_keys_that_take_turns_are_refused_until_declared_equal():
    first, second = dimer(forces=FORCES), dimer(forces=FORCES)
    first.info["REF_energy"], second.info["dft_energy"] = -1.0, -2.0
    with pytest.raises(DataError, match="'REF_energy' in 1 structures but 'dft_energy' in frame 1"):
        resolve_labels([first, second])
    labels, _ = resolve_labels([first, second], {"energy": ["REF_energy", "dft_energy"]})
    assert [x.energy for x in labels] == [-1.0, -2.0]


def test_wrong_shape_names_frame_file_and_keys(tmp_path: Path):
    frames = [dimer(energy=0.0, forces=FORCES) for _ in range(8)]
    frames[7] = dimer(energy=0.0)
    frames[7].arrays["REF_forces"] = FORCES[:, :2]
    write_frames(tmp_path / "train.xyz", frames)
    message = (
        rf"forces must be \(n_atoms, 3\), got \(2, 2\) in frame 7 of {tmp_path}/train.xyz \(2 atoms, key "
        r"'REF_forces'\); keys present: calculator.energy, REF_forces"
    )
    with pytest.raises(DataError, match=message):
        resolve_labels(read_frames(tmp_path / "train.xyz"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("REF_energy", [1.0, 2.0], r"energy must be one number, got shape \(2,\) in frame 0"),
        ("REF_energy", "low", "energy must be numbers, got 'low' in frame 0"),
        ("REF_stress", np.zeros(5), r"stress must be \(3, 3\), \(9,\) or \(6,\), got \(5,\) in frame 0"),
        ("REF_stress", np.arange(9.0).reshape(3, 3), "stress .* not symmetric in frame 0"),
    ],
)
def test_malformed_labels(key: str, value: object, message: str):
    atoms = dimer()
    atoms.info[key] = value
    with pytest.raises(DataError, match=message):
        resolve_labels([atoms], require=())


def test_missing_forces_list_the_keys_present():
    with_forces, without = dimer(energy=0.0, forces=FORCES), dimer(energy=0.0)
    without.info["my_forces"] = FORCES
    with pytest.raises(DataError, match=r"no forces in frame 1 and 0 more.*calculator.energy, my_forces"):
        resolve_labels([with_forces, without])
    labels, report = resolve_labels([with_forces, without], require=["energy"])
    assert labels[1].forces is None
    assert report.kinds["forces"].missing == 1
    assert "forces from calculator.forces (1), 1 without" in str(report)


def test_nan_names_frame_and_atom_unless_allowed():
    forces = FORCES.copy()
    forces[1, 2] = np.nan
    frames = [dimer(energy=0.0, forces=FORCES), dimer(energy=0.0, forces=forces)]
    with pytest.raises(
        DataError, match=r"forces \('calculator.forces'\) is not finite on atom 1 in frame 1 \(1 entr"
    ):
        resolve_labels(frames)
    labels, _ = resolve_labels(frames, allow_nan=True)
    assert np.array_equal(labels[1].forces, forces, equal_nan=True)
    with pytest.raises(DataError, match=r"energy .* is not finite in frame 0"):
        resolve_labels([dimer(energy=np.inf, forces=FORCES)])


def test_virial_becomes_stress():
    atoms = dimer(energy=0.0, forces=FORCES)
    virial = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    atoms.info["REF_virial"] = virial
    (labels,), report = resolve_labels([atoms])
    assert labels.stress == pytest.approx(-STRESS / 24, rel=1e-14)
    assert report.kinds["stress"].keys == (("REF_virial", 1),)
    atoms.info["virial"] = atoms.info.pop("REF_virial")
    atoms.calc.results["stress"] = -STRESS / 24
    resolve_labels([atoms])
    atoms.calc.results["stress"] = STRESS / 24
    with pytest.raises(DataError, match=r"stress disagree.*'calculator.stress'.*'virial'"):
        resolve_labels([atoms])
    atoms.cell[:] = 0
    with pytest.raises(DataError, match=r"a virial .* needs a cell with a volume in frame 0"):
        resolve_labels([atoms], require=())


@pytest.mark.parametrize(
    ("entry", "text", "words"),
    [
        ("energy_unit", "hartree", "energy .*'hartree'.*energy_unit='Hartree'"),
        ("energy_units", "eV/atom", "energy .*'eV/atom'"),
        ("units", "Hartree", "energy .*'Hartree'"),
        ("units", "a.u.", "energy .*'a.u.'"),
        ("Units_Forces", "kcal/mol/Ang", "forces .*'kcal/mol/Ang'.*energy_unit='kcal/mol'"),
        ("units", {"energy": "eV", "force": "Ha/Bohr"}, "forces .*'Ha/Bohr'"),
        ("length_unit", "bohr", "positions are in 'bohr'"),
        ("energy_unit", "eV", ""),
        ("units", "metal", ""),
        ("units", "of the box", ""),
        ("forces_unit", "eV/Å", ""),
        ("dipole_unit", "e*Bohr", ""),
        ("unit_cell", "Bohr", ""),
    ],
)
def test_units_that_a_structure_states_are_not_passed_over(entry: str, text: object, words: str):
    atoms = dimer(energy=-1.0, forces=FORCES)
    atoms.info[entry] = text
    if not words:
        assert resolve_labels([atoms])[0][0].energy == -1.0
        return
    with pytest.raises(DataError, match=f"{words}.*"):
        resolve_labels([atoms])
    if "positions" in words:
        with pytest.raises(DataError, match=words):
            check_geometry([atoms])
    else:  # the user says what it is
        assert resolve_labels([atoms], units={"energy": "Hartree"})[0][0].energy == -27.211386024367243


def test_units_sign_and_order_of_stress():
    atoms = dimer(energy=1.0, forces=FORCES)
    atoms.info["vasp"] = np.array([1.0, 2, 3, 6, 4, 5])
    (labels,), _ = resolve_labels(
        [atoms],
        {"stress": "vasp"},
        {"energy": "Hartree", "length": "Bohr", "stress": "kbar"},
        stress_sign=-1,
        voigt_order="xx yy zz xy yz zx",
    )
    # CODATA 2018; its editions differ by 1e-8.
    assert labels.energy == pytest.approx(27.211386245988, rel=2e-8)
    assert labels.forces == pytest.approx(FORCES * 51.42206747632, rel=2e-8)
    assert labels.stress == pytest.approx(-STRESS * units.EV_A3_PER_KBAR)
    (labels,), _ = resolve_labels([atoms], {"stress": "vasp"}, {"energy": "Hartree", "length": "Bohr"})
    expected = atoms.info["vasp"] * units.EV_PER_HARTREE / units.ANGSTROM_PER_BOHR**3
    assert labels.stress == pytest.approx(expected)


def test_results_of_another_geometry_are_not_labels():
    atoms = dimer(energy=0.0, forces=FORCES)
    atoms.positions[0] += 0.1
    with pytest.raises(DataError, match=r"no energy in frame 0.*holds results of another geometry"):
        resolve_labels([atoms])
    _, report = resolve_labels([atoms], require=())
    assert report.stale == 1
    assert "1 structures moved after their calculation" in str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mapping": {"force": "F"}}, "'force' in mapping; did you mean 'forces'"),
        ({"units": {"energy": "hartree"}}, "unit 'hartree'; did you mean 'Hartree'"),
        ({"units": {"pressure": "GPa"}}, "unknown entry 'pressure' of units"),
        ({"require": ["virial"]}, "unknown kind of label 'virial'"),
        ({"voigt_order": "xx yy zz xy xy yz"}, "voigt_order must name"),
        ({"stress_sign": 2}, "stress_sign must be"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str):
    with pytest.raises(DataError, match=message):
        resolve_labels([dimer(energy=0.0, forces=FORCES)], **arguments)


def test_real_set(shared: Path):
    frames = read_frames(shared / "data/mlearn/Mo_test.xyz.xz")
    labels, report = resolve_labels(frames, require=("energy", "forces", "stress"))
    assert report.kinds["stress"].keys == (("calculator.stress", 23),)
    tensor = frames[0].get_stress(voigt=False)
    xx, yy, zz, yz, xz, xy = labels[0].stress
    assert np.array_equal(tensor, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
