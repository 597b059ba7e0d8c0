from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read

from surefield.descriptors.quests import QUESTSDescriptor
from surefield.errors import ConfigError, DataError
from surefield.structures.geometry import check_geometry


def direct(atoms: Atoms, i: int, k: int, cutoff: float) -> np.ndarray:
    """The definition, neighbour by neighbour, from many images of the cell."""
    near = []
    steps = [range(-3, 4) if periodic else (0,) for periodic in atoms.pbc]
    for shift in np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 3):
        for j in range(len(atoms)):
            r = atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i]
            if 0 < np.linalg.norm(r) <= cutoff:
                near.append(r)
    near = sorted(near, key=np.linalg.norm)[:k]
    w = [(1 - (np.linalg.norm(r) / cutoff) ** 2) ** 2 for r in near]
    first = np.zeros(k)
    rows = np.zeros((k, k))
    for j, r in enumerate(near):
        first[j] = w[j] / np.linalg.norm(r)
        for m, other in enumerate(near):
            if m != j:
                rows[j, m] = np.sqrt(w[j] * w[m]) / np.linalg.norm(r - other)
    return np.concatenate([first, np.sort(rows, axis=1)[:, ::-1].mean(axis=0)[: k - 1]])


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(0, 0.1, atoms.positions.shape)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [
        rattled(bulk("Si", cubic=True)),
        rattled(fcc111("Cu", (1, 2, 2), vacuum=6.0)),  # open along one axis
        rattled(Atoms("OHHCu", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0], [3, 3, 0]])),
    ],
    ids=["crystal", "slab", "molecule"],
)
@pytest.mark.parametrize("k", [6, 32])
def test_definition(atoms: Atoms, k: int) -> None:
    descriptor = QUESTSDescriptor(k, 4.5)
    rows = descriptor.compute(atoms)
    assert rows.shape == (len(atoms), descriptor.n_features) == (len(atoms), 2 * k - 1)
    for i in range(len(atoms)):
        np.testing.assert_allclose(rows[i], direct(atoms, i, k, 4.5), rtol=1e-12, atol=1e-13)


def test_open_axis_has_no_images() -> None:
    slab = rattled(fcc111("Cu", (2, 2, 2), vacuum=0.5))  # so thin that images would be neighbours
    assert not slab.pbc[2]
    open_rows = QUESTSDescriptor().compute(slab)
    slab.pbc = True
    assert np.abs(QUESTSDescriptor().compute(slab) - open_rows).max() > 0.01


def test_published_values(shared) -> None:
    expected = np.load(shared / "reference/scores/expected/quests_descriptor_04.npz")
    frames = {name: read(shared / f"reference/scores/inputs/si_t900/{name}.xyz") for name in expected.files}
    rows = QUESTSDescriptor(32, 5.0).compute_batch(list(frames.values()))
    for name, own in zip(frames, rows, strict=True):
        np.testing.assert_allclose(own, expected[name], atol=1e-8, rtol=0)


def test_elements_and_isolated_atoms() -> None:
    atoms = rattled(bulk("Si", cubic=True))
    other = atoms.copy()
    other.numbers[:] = 79
    np.testing.assert_array_equal(QUESTSDescriptor().compute(other), QUESTSDescriptor().compute(atoms))
    assert not QUESTSDescriptor().compute(Atoms("He")).any()
    assert QUESTSDescriptor().compute(Atoms()).shape == (0, 63)


def test_batch_is_single_and_structures_stay() -> None:
    frames = [rattled(bulk("Si", cubic=True).repeat((1, 1, n)), n) for n in (1, 2, 1)] + [Atoms("H")]
    frames[0].calc = SinglePointCalculator(frames[0], energy=-1.0)
    before = [set(atoms.arrays) for atoms in frames]
    descriptor = QUESTSDescriptor()
    copies = descriptor.described(frames)
    for atoms, copy, rows in zip(frames, copies, descriptor.compute_batch(frames), strict=True):
        np.testing.assert_array_equal(rows, descriptor.compute(atoms))
        np.testing.assert_array_equal(copy.arrays["quests_descriptor_descriptors"], rows)
    assert [set(atoms.arrays) for atoms in frames] == before
    assert copies[0].get_potential_energy() == -1.0


def test_coincident_atoms() -> None:
    atoms = bulk("Si", cubic=True)
    atoms += Atoms("Si", positions=atoms.positions[3:4] + atoms.cell.array[0])
    with pytest.raises(DataError, match=r"atoms 3 \(Si\) and 8 \(Si\) are 0.000 Å apart in structure 1"):
        QUESTSDescriptor().compute_batch([bulk("Si"), atoms])


def test_geometries_are_those_that_the_command_line_takes() -> None:
    """Atoms that lie too near are an error, and where they may lie is the same for all that is computed."""
    for distance in (0.1, 0.29):
        pair = Atoms("SiH", positions=[[0, 0, 0], [0, 0, distance]])
        with pytest.raises(DataError, match=f"are {distance:.3f} Å apart in structure 0; expected at least"):
            QUESTSDescriptor().compute(pair)
        with pytest.raises(DataError, match="apart"):
            check_geometry([pair])
    near = Atoms("SiH", positions=[[0, 0, 0], [0, 0, 0.31]])
    assert QUESTSDescriptor().compute(near)[0, 0] == pytest.approx((1 - (0.31 / 5) ** 2) ** 2 / 0.31)
    stated = Atoms("H", info={"positions_unit": "Bohr"})
    with pytest.raises(DataError, match="structure 0"):
        QUESTSDescriptor().compute(stated)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="num_nearest_neighbors"):
        QUESTSDescriptor(1)
    with pytest.raises(ConfigError, match="cutoff"):
        QUESTSDescriptor(cutoff=0.0)
    with pytest.raises(ConfigError, match="compute_batch"):
        QUESTSDescriptor().compute([bulk("Si")])  # type: ignore[arg-type]
    atoms = bulk("Si", cubic=True)
    atoms.positions[2, 1] = np.nan
    with pytest.raises(DataError, match=r"position of atom 2 is not finite in structure 0"):
        QUESTSDescriptor().compute(atoms)
