from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.structures.doctor import doctor
from surefield.structures.electrode import PHI
from surefield.structures.labels import Labels
from surefield.structures.read import read_frames
from surefield.structures.states import mixed_states, state
from surefield.training.dataset import prepare, unread_states


def water(seed: int, **info: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    atoms.info.update(info)
    return atoms


def labelled(frames: list[Atoms], energies: list[float]) -> list[Atoms]:
    for atoms, energy in zip(frames, energies, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    return frames


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        ({"charge": 0, "spin": 1}, {"charge": 1, "spin": 2}, "charge and spin"),
        ({}, {"total_charge": -1}, "charge"),
        ({"multiplicity": 1}, {"multiplicity": 3}, "multiplicity"),
        ({"Charge": "0"}, {"Charge": "+1"}, "charge"),
    ],
)
def test_two_energies_of_one_geometry(one: dict, other: dict, word: str):
    frames = labelled(
        [water(k, **entries) for k in range(3) for entries in (one, other)],
        [-10.0, 8.0, -10.1, 8.2, -9.9, 8.0],
    )
    (finding,) = doctor(frames).of("charge and spin states")
    assert finding.severity == "warning"
    assert finding.size == pytest.approx(18.0, abs=0.2)
    assert "3 geometries have several energies, about 18 eV apart" in finding.message
    assert f"which differ in {word} only (frame 0: " in finding.message
    assert "; frame 1: " in finding.message
    assert finding.frames == tuple(range(6))
    # It is not said a second time.
    assert not doctor(frames).of("contradicting labels")
    with pytest.warns(UserWarning, match="3 geometries have several energies.*reads neither charge nor spin"):
        data = prepare(frames, 3.0)
    assert "frame 1: " in data.label_note


def test_states_of_other_geometries_and_moments():
    frames = [water(k, charge=k % 2) for k in range(4)]
    labels = [Labels(energy=-10.0 + 18 * (k % 2)) for k in range(4)]
    mixed = mixed_states(read_frames(frames), labels)
    assert mixed is not None
    assert "4 structures H2O are in 2 states, which differ in charge" in mixed.message
    assert mixed.difference == pytest.approx(18.0)
    magnets = [water(0), water(0)]
    for atoms, moments in zip(magnets, ([0, 0, 0], [2, 0, 0]), strict=True):
        atoms.set_initial_magnetic_moments(moments)
    mixed = mixed_states(read_frames(magnets), [Labels(energy=-10.0), Labels(energy=-9.0)])
    assert mixed is not None
    assert "initial magnetic moments" in mixed.message


def test_nothing_is_said_where_states_do_not_matter():
    neutral = [water(k, charge=0, spin=1) for k in range(3)]
    some = [water(0, spin=1), water(1), water(2)]
    by_composition = [water(0, charge=0), Atoms("OH", [[0, 0, 0], [0, 0, 1]], info={"charge": -1})]
    same_energy = [water(0, spin=1), water(0, spin=3)]
    for frames in (neutral, some, by_composition):
        labels = [Labels(energy=-float(k)) for k in range(len(frames))]
        assert mixed_states(read_frames(frames), labels) is None
    assert mixed_states(read_frames(same_energy), [Labels(energy=-1.0)] * 2) is None
    report = doctor(by_composition, [Labels(energy=-1.0), Labels(energy=-2.0)])
    assert report.of("charged structures")[0].severity == "note"
    # Potentials of an electrode read what electrons there are.
    frames = read_frames([water(0, charge=0), water(0, charge=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            unread_states(frames, [Labels(energy=-1.0), Labels(energy=2.0)], {"excess_electrons", PHI}) == ""
        )


def test_state_is_read_from_charges_of_atoms():
    atoms = water(0)
    atoms.set_initial_charges([-0.9, 0.95, 0.95])
    assert state(atoms) == (("charge", 1.0),)
