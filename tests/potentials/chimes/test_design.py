"""Rows in closed form: against finite differences, replicas, and the matrices of chimes_lsq."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from surefield.formats.chimes import read_setup, read_xyzf, settings_of
from surefield.potentials.chimes import Chimes, design
from surefield.potentials.chimes.design import cluster_rows
from surefield.structures.neighbors import neighborhood

from .conftest import SETTINGS


def crystal():
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.symbols[[1, 3]] = "Au"
    atoms.positions += np.random.default_rng(3).normal(0, 0.1, (4, 3))
    return atoms


def rows(atoms, **options):
    return cluster_rows(
        SETTINGS, [neighborhood(atoms, SETTINGS.reach)], **{"forces": True, "strain": True} | options
    )


def test_forces_and_virial_are_derivatives_of_the_energy():
    atoms, h = crystal(), 1e-4
    found = rows(atoms)
    scale = np.abs(found.forces).max()
    for atom, axis in ((0, 1), (3, 2)):
        energies = []
        for step in (-h, h):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            energies.append(rows(moved, forces=False, strain=False).energy[0])
        slope = (energies[1] - energies[0]) / (2 * h)
        np.testing.assert_allclose(found.forces[3 * atom + axis], -slope, atol=1e-6 * scale)
    for a, b in ((0, 0), (1, 2)):
        energies = []
        for step in (-h, h):
            strain = np.eye(3)
            strain[a, b] += step / 2
            strain[b, a] += step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(rows(moved, forces=False, strain=False).energy[0])
        slope = (energies[1] - energies[0]) / (2 * h)
        np.testing.assert_allclose(found.virial[0, a, b], slope, atol=1e-6 * np.abs(found.virial).max())


def test_a_cell_and_its_replica_have_the_same_rows_per_atom():
    cell = crystal()
    one, many = rows(cell), rows(cell.repeat((2, 1, 2)))
    np.testing.assert_allclose(many.energy[0], 4 * one.energy[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(many.forces[:12], one.forces, atol=1e-10 * np.abs(one.forces).max())
    np.testing.assert_allclose(many.virial[0], 4 * one.virial[0], atol=1e-9 * np.abs(one.virial).max())


def test_energy_offsets_count_atoms():
    found = rows(crystal())
    np.testing.assert_array_equal(found.energy[0, -2:], [2, 2])
    assert not found.forces[:, -2:].any()
    assert not found.virial[..., -2:].any()


def test_pieces_change_nothing(monkeypatch):
    frames = [crystal(), crystal().repeat((1, 1, 2)), crystal()]
    potential = Chimes(SETTINGS)
    structures = [neighborhood(a, SETTINGS.reach) for a in frames]
    whole = list(potential.closed_rows(structures, forces=True, strain=True))
    for name in ("_HELD", "_CHUNK", "_GROUP"):
        monkeypatch.setattr(design, name, 3000)
    assert len(list(design.grouped(structures, SETTINGS.n_columns))) == 3
    for a, b in zip(whole, potential.closed_rows(structures, forces=True, strain=True), strict=True):
        assert a.energies is None
        assert b.energies is None
        for x, y in zip(a[:3], b[:3], strict=True):
            np.testing.assert_allclose(x, y, atol=1e-11 * np.abs(x).max())


def test_only_what_is_asked_for():
    found = rows(crystal(), forces=False, strain=False)
    assert found.forces is None
    assert found.virial is None


@pytest.mark.parametrize(("name", "n_frames"), [("water", 6), ("cho", 4), ("carbon4", 30)])
def test_matrices_of_chimes_lsq(reference, name, n_frames):
    data = np.load(reference / "expected" / "chimes" / f"fit_{name}.npz")
    inputs = reference / "inputs" / "chimes" / "fit"
    potential = Chimes(settings_of(read_setup(inputs / f"{name}.in")))
    frames = read_xyzf(inputs / f"{name}.xyzf.xz", n_frames)
    structures = [potential.neighborhood(atoms) for atoms in frames]
    found = list(potential.closed_rows(structures, forces=True, strain=name == "cho"))
    expected = data["A"] if "A" in data else data["A_first30"]
    n = expected.shape[1]
    assert n in (potential.n_features, potential.settings.n_coefficients)
    labels = data["row_label"] if "row_label" in data else np.full(len(expected), "C")
    forces = np.concatenate([rows.forces for rows in found])[:, :n]
    pairs = [(forces, np.isin(labels, ["C", "H", "O"]))]
    if name == "cho":
        pairs.append((np.repeat([rows.energy for rows in found], 3, axis=0), labels == "+1"))
        for i, axis in enumerate("xyz"):
            volumes = [atoms.get_volume() for atoms in frames]
            stress = np.array([-r.virial[i, i] / v for r, v in zip(found, volumes, strict=True)])
            pairs.append((stress, labels == f"s_{axis}{axis}"))
    for own, which in pairs:
        assert np.abs(own - expected[which]).max() <= 1e-10 * np.abs(expected[which]).max()
