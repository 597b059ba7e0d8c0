from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from surefield import units
from surefield.structures.doctor import doctor
from surefield.structures.doctor.magnitudes import check_magnitudes
from surefield.structures.doctor.virials import check_virials
from surefield.structures.labels import Labels, resolve_labels
from surefield.structures.read import read_frames
from surefield.structures.tensors import volume

VIRIAL = "the virial in eV"


def copper(n: int = 20, repeat: int = 2, a: float = 3.75) -> list[Atoms]:
    """Constant cell, as in molecular dynamics: no pair of strained cells."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True, a=a) * (repeat, repeat, repeat)
        atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def restressed(frames: list[Atoms], factor: float | str) -> list[Labels]:
    labels, _ = resolve_labels(frames)
    factors = [-volume(atoms.cell.array) if factor == VIRIAL else factor for atoms in frames]
    return [b.replace(stress=np.asarray(b.stress) * f) for b, f in zip(labels, factors, strict=True)]


@pytest.mark.parametrize(
    ("factor", "check", "word"),
    [
        (1 / units.EV_A3_PER_GPA, "stress unit", "look like GPa"),
        (-1 / units.EV_A3_PER_KBAR, "stress unit", "kbar, the sign reversed"),
        (1 / units.EV_A3_PER_BAR, "stress unit", "look like bar"),
        (units.ANGSTROM_PER_BOHR**3 / units.EV_PER_HARTREE, "stress unit", "Hartree/Bohr^3"),
        (VIRIAL, "stress unit", VIRIAL),
        (-1.0, "stress sign", "the sign is reversed"),
    ],
)
def test_stress_without_strained_cells(factor: float | str, check: str, word: str):
    frames = copper()
    assert doctor(frames).worst in (None, "note")
    (finding,) = (f for f in doctor(frames, restressed(frames, factor)).findings if f.severity != "note")
    assert (finding.check, finding.severity) == (check, "error")
    assert word in finding.message
    assert finding.frames == tuple(range(20))


def test_stresses_with_their_diagonal_alone():
    """The others are masks, no faults, and the unit is found of three components too."""
    frames = copper()
    for atoms in frames:
        atoms.info["stress_is_diagonal"] = True
    assert doctor(frames).worst in (None, "note")
    labels = restressed(frames, 1 / units.EV_A3_PER_GPA)
    assert np.isnan(labels[0].stress[3:]).all()
    (finding,) = (f for f in doctor(frames, labels).findings if f.severity != "note")
    assert (finding.check, finding.severity) == ("stress unit", "error")
    assert "look like GPa" in finding.message
    labels[0].stress[0] = np.nan
    assert doctor(frames, labels).of("stress not finite")[0].frames == (0,)


def test_few_frames_have_a_bound():
    frames = copper(3)
    labels = restressed(frames, 1 / units.EV_A3_PER_KBAR)
    assert check_virials(read_frames(frames), restressed(frames, 1.0)) == []
    (finding,) = check_virials(read_frames(frames), labels)
    assert finding.check == "impossible stress"
    largest = max(np.abs(a.get_stress()).max() for a in frames) / units.EV_A3_PER_KBAR / units.EV_A3_PER_GPA
    assert finding.size == pytest.approx(largest)


@pytest.mark.parametrize("name", ["mlearn/Mo_train", "mlearn/Si_test", "Ta/train", "NbMoTaW/test_binary"])
def test_stresses_of_calculations_are_possible(shared: Path, name: str):
    frames = read_frames(shared / f"data/{name}.xyz.xz")
    labels, _ = resolve_labels(frames, require=(), allow_nan=True)
    assert check_virials(frames, labels) == []
    scaled = [
        b if b.stress is None else b.replace(stress=np.asarray(b.stress) / units.EV_A3_PER_BAR)
        for b in labels
    ]
    (finding,) = check_virials(frames, scaled)
    assert "bar" in finding.message


@pytest.mark.parametrize("unit", ["Hartree", "kcal/mol", "kJ/mol"])
def test_energies_of_all_electrons_and_forces_name_their_unit(shared: Path, unit: str):
    frames = read_frames(shared / "data/ethanol/train.xyz.xz@:40")
    labels, _ = resolve_labels(frames)
    assert check_magnitudes(frames, labels) == []
    factor = units.ENERGY[unit]
    scaled = [Labels(energy=(b.energy or 0.0) / factor, forces=np.asarray(b.forces) / factor) for b in labels]
    findings = {finding.check: finding.message for finding in check_magnitudes(frames, scaled)}
    assert f"look like {unit}:" in findings["energy unit"]
    # Forces in hartree/Å are small, not impossible.
    assert (unit in findings.get("impossible forces", "")) == (unit != "Hartree")


def test_overview_says_what_the_set_is():
    frames = copper(3, 1)
    frames[0].info["config_type"] = "start"
    molecule = Atoms("CuO", [[0, 0, 0], [0, 0, 1.7]])
    molecule.calc = SinglePointCalculator(molecule, energy=-4.0)
    text = doctor([*frames, molecule]).to_text()
    for line in (
        "elements: O (1 atoms in 1 structures), Cu (13 atoms in 4 structures)",
        "atoms: 2 to 4 per structure; 2 compositions: Cu4 (3), CuO (1)",
        "cells: 1 molecules, 3 crystals, 13.18 Å^3/atom",
        "config_type: start (1)",
        "labels: energy from calculator.energy (4); forces from calculator.forces (3), 1 without",
    ):
        assert line in text
    energies = [a.get_potential_energy() / 4 for a in frames]
    assert f"energy: -2 to {max(energies):.4g} eV/atom" in text
    stress = np.concatenate([a.get_stress() for a in frames]) / units.EV_A3_PER_GPA
    assert f"stress: {stress.min():.4g} to {stress.max():.4g} GPa" in text
    assert doctor(frames).to_dict()["overview"]["cells"] == "3 crystals, 13.18 Å^3/atom"


def test_structures_that_cannot_be_computed_are_reported_and_left_out():
    frames = copper(4, 1)
    frames[1].positions[2] = np.nan
    frames[3].cell[0, 0] = np.inf
    labels = [Labels(energy=float(i), forces=np.ones((4, 3))) for i in range(4)]
    report = doctor(frames, labels)
    (finding,) = report.of("impossible structures")
    assert finding.severity == "error"
    assert "position of atom 2 is not finite in frame 1" in finding.message
    assert finding.frames == (1, 3)
    # All others are numbered as in the whole list.
    assert report.of("net force")[0].frames == (0, 2)
