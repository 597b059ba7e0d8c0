"""Clusters: every distinct one once, periodic images being distinct atoms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.chimes import clusters as module
from surefield.descriptors.chimes.clusters import HalfEdges, clusters
from surefield.structures.neighbors import neighborhood

from .conftest import SETTINGS


def small_cell():
    """Two atoms in a skewed cell that is shorter than the cutoffs."""
    return Atoms(
        "CuAu",
        [[0.1, 0.2, 0.1], [1.4, 1.3, 1.6]],
        cell=[[2.6, 0.2, 0], [0.3, 2.7, 0.1], [0, 0.4, 2.9]],
        pbc=True,
    )


def counted(atoms, m):
    """Clusters per cell by types and total length, from all images in a large block: 1/m at each member."""
    n = 3
    shifts = np.array(list(itertools.product(range(-n, n + 1), repeat=3))) @ atoms.cell.array
    points = (atoms.positions[None] + shifts[:, None]).reshape(-1, 3)
    symbols = np.tile(atoms.symbols, len(shifts))
    limit = {2: {"CuCu": 4.5, "AuAu": 4.4, "AuCu": 4.6}, 3: 3.8, 4: 3.6}[m]
    total: dict = {}
    for own in range(len(atoms)):
        start = points[own + len(atoms) * (len(shifts) // 2)]
        near = np.flatnonzero((r := np.linalg.norm(points - start, axis=1)) < 4.7)
        near = near[r[near] > 1e-9]
        for others in itertools.combinations(near.tolist(), m - 1):
            members = [own + len(atoms) * (len(shifts) // 2), *others]
            lengths = []
            for a, b in itertools.combinations(members, 2):
                reach = limit["".join(sorted((symbols[a], symbols[b])))] if m == 2 else limit
                lengths.append(d := float(np.linalg.norm(points[a] - points[b])))
                if d >= reach:
                    break
            else:
                key = ("".join(sorted(symbols[members])), round(sum(lengths), 6))
                total[key] = total.get(key, 0) + 1 / m
    return total


@pytest.mark.parametrize("m", [2, 3])
def test_all_clusters_of_a_small_cell_are_found_once(m):
    atoms = small_cell()
    edges = HalfEdges.of(SETTINGS, [neighborhood(atoms, SETTINGS.reach)])
    found: dict = {}
    for part in clusters(SETTINGS, edges, m):
        label = "".join(sorted(part.block.label.split("-")))
        for lengths in part.distances.T:
            key = (label, round(float(lengths.sum()), 6))
            found[key] = found.get(key, 0) + 1
    expected = counted(atoms, m)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in found)


@pytest.mark.parametrize("pieces", [400_000, 50])
def test_a_supercell_has_as_many_clusters_per_cell(pieces, monkeypatch):
    monkeypatch.setattr(module, "_CANDIDATES", pieces)
    cell = small_cell()
    structures = [neighborhood(a, SETTINGS.reach) for a in (cell, cell.repeat((1, 2, 3)))]
    for m in (2, 3, 4):
        counts = []
        for s in structures:
            labels: dict = {}
            for part in clusters(SETTINGS, HalfEdges.of(SETTINGS, [s]), m):
                labels[part.block.label] = labels.get(part.block.label, 0) + len(part.atoms)
            counts.append(labels)
        assert counts[1] == {label: 6 * n for label, n in counts[0].items()}
        assert sum(counts[0].values()) > 0


def test_atoms_stand_in_the_order_of_the_block():
    edges = HalfEdges.of(SETTINGS, [neighborhood(small_cell(), SETTINGS.reach)])
    for part in clusters(SETTINGS, edges, 3):
        assert (edges.types[part.atoms] == part.block.types).all()


def test_structures_do_not_mix():
    one, two = small_cell(), Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])
    structures = [neighborhood(a, SETTINGS.reach) for a in (one, two)]
    edges = HalfEdges.of(SETTINGS, structures)
    for m in (2, 3, 4):
        for part in clusters(SETTINGS, edges, m):
            assert (np.ptp(edges.structure[part.atoms], axis=1) == 0).all()
