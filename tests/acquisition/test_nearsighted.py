from __future__ import annotations

import warnings
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from surefield.acquisition.nearsighted import chunk_convergence, chunk_key, cut_chunk, select_atoms
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.loop import LoopConfig, MethodComparison
from surefield.loop.oracles import emt
from surefield.networks.fingerprints import Gaussian
from surefield.networks.full_batch import LossFunction
from surefield.networks.neural_network import NeuralNetwork
from surefield.potentials import MomentNetwork, Prediction, predict
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.image_network import ImageNetwork
from surefield.structures.images import image_key
from surefield.structures.read import read_frames, write_frames
from surefield.training import TrainConfig


@pytest.fixture(scope="module")
def atomic_network() -> AtomicNetwork:
    pair = ["Au", "Cu"]
    descriptor = SymmetryFunctions.from_lists(pair, Cosine(3.5), make_default_symmetry_functions(pair))
    return AtomicNetwork(descriptor, [(4, 3), (5,)], seed=3)


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """Cell smaller than the cutoff in one direction, atoms outside of it, labels, and much else."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell.array + rng.uniform(-0.3, 0.3, (3, 3)), scale_atoms=True)
    atoms.symbols[[1, 4]] = "Au"
    atoms.positions += rng.normal(0, 0.15, atoms.positions.shape)
    atoms.positions[5] += atoms.cell[0] - 2 * atoms.cell[2]
    atoms.set_tags(np.arange(8))
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["energy"], atoms.info["note"] = -3.0, "made up"
    atoms.set_array("forces", np.ones((8, 3)))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.ones((8, 3)))
    return atoms


@pytest.fixture(scope="module")
def chain() -> Atoms:
    """Molecule much longer than two cutoffs."""
    rng = np.random.default_rng(1)
    positions = np.stack([2.3 * np.arange(14), np.tile([0.0, 1.4], 7), np.zeros(14)], axis=1)
    return Atoms("CuAu" * 7, positions=positions + rng.normal(0, 0.15, (14, 3)))


@pytest.mark.parametrize("structure", ["crystal", "chain"])
@pytest.mark.parametrize("model", ["network", "atomic_network"])
def test_the_force_on_the_centre_is_that_of_the_whole_structure(structure, model, request):
    atoms, potential = request.getfixturevalue(structure), request.getfixturevalue(model)
    (whole,) = predict(potential, [atoms])
    centers = [0, 1, 5]
    expected = whole.forces[centers]
    chunks = [cut_chunk(atoms, i, potential=potential) for i in centers]
    forces = np.array([p.forces[0] for p in predict(potential, chunks)])
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-10)
    with pytest.warns(UserWarning, match=r"3\.5 Å is less than twice the cutoff \(7 Å\)"):
        small = [cut_chunk(atoms, i, potential.cutoff, potential=potential) for i in centers]
    forces = np.array([p.forces[0] for p in predict(potential, small)])
    assert np.abs(forces - expected).max() > 1e-4


def test_what_a_chunk_says_of_itself(crystal):
    chunk = cut_chunk(crystal, 5, 5.0, vacuum=4.0)
    # Positions of all periodic copies by hand.
    shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3) @ crystal.cell.array
    copies = (crystal.positions - crystal.positions[5])[:, None] + shifts
    atom, shift = np.nonzero(np.linalg.norm(copies, axis=2) <= 5.0)
    relative = chunk.positions - chunk.positions[0]
    assert len(chunk) == len(atom) > 27
    assert chunk.symbols[0] == "Cu"
    found = {(tag, *np.round(r, 6)) for tag, r in zip(chunk.get_tags(), relative + 0.0, strict=True)}
    assert found == {(a, *np.round(copies[a, s] + 0.0, 6)) for a, s in zip(atom, shift, strict=True)}
    assert not chunk.pbc.any()
    np.testing.assert_allclose(chunk.positions.min(axis=0), 4.0)
    np.testing.assert_allclose(chunk.positions.max(axis=0), np.diag(chunk.cell.array) - 4.0)
    np.testing.assert_array_equal(chunk.arrays["force_weight"], [1.0, *np.zeros(len(chunk) - 1)])
    assert chunk.info == {
        "energy_weight": 0.0,
        "source_id": image_key(crystal),
        "source_atom": 5,
        "chunk_radius": 5.0,
    }
    assert chunk.calc is None
    assert not chunk.constraints
    assert set(chunk.arrays) == {"numbers", "positions", "tags", "force_weight"}


def test_a_shell_at_the_radius_is_complete():
    atoms = bulk("Cu", a=3.6).repeat(2)
    assert len(cut_chunk(atoms, 3, 3.6 / np.sqrt(2))) == 13
    assert len(cut_chunk(atoms, 3, 3.6)) == 19
    assert len(cut_chunk(atoms, 3, 1.0)) == 1


def test_keys_tell_chunks_apart_and_survive_files(crystal, chain, tmp_path):
    chunks = [cut_chunk(crystal, 1, 4.0), cut_chunk(crystal, 2, 4.0), cut_chunk(crystal, 1, 4.1)]
    chunks += [cut_chunk(chain, 1, 4.0), cut_chunk(crystal, 1, 4.0, vacuum=9.0)]
    keys = [chunk_key(chunk) for chunk in chunks]
    assert len(set(keys)) == 4
    assert keys[0] == keys[4] == (image_key(crystal), 1, 4.0)
    write_frames(tmp_path / "chunks.xyz", chunks)
    again = read_frames(tmp_path / "chunks.xyz")
    assert [chunk_key(chunk) for chunk in again] == keys
    assert again[0].info["energy_weight"] == 0
    np.testing.assert_array_equal(again[0].arrays["force_weight"], chunks[0].arrays["force_weight"])
    with pytest.raises(DataError, match="source_id, source_atom, chunk_radius"):
        chunk_key(crystal)


def test_the_metal_surface_of_an_electrode_stays_where_it_is():
    slab = fcc111("Au", (2, 2, 3), vacuum=8.0)
    slab.pbc = True
    add_adsorbate(slab, "O", 1.2, "fcc")
    add_adsorbate(slab, "H", 2.4, "ontop", offset=(1, 0))
    slab.rattle(0.05, seed=1)
    slab.rotate(100, (1, 2, 0), rotate_cell=True)
    normal = slab.cell.array[2] / slab.cell.lengths()[2]
    slab.info["work_function"] = 4.1
    species = ["Au", "H", "O"]
    descriptor = SymmetryFunctions.from_lists(species, Cosine(4.0), make_default_symmetry_functions(species))
    network = ChargeNetwork(descriptor, [(4,)] * 3, [(4,)] * 3, slab_metal="Au", surface_normal=normal)
    network = eqx.tree_at(lambda p: p.charge_slopes, network, jnp.ones(3))
    (whole,) = predict(network, [slab])
    for center in (12, 13):  # of metal atoms the force has a part of its own: the surface moves with them
        chunk = cut_chunk(slab, center, potential=network)
        assert chunk.info["electrode_potential"] == 4.1
        (alone,) = predict(network, [chunk])
        np.testing.assert_allclose(alone.forces[0], whole.forces[center], rtol=0, atol=1e-10)
        np.testing.assert_allclose(alone.charges[0], whole.charges[center], rtol=0, atol=1e-10)
        del chunk.info["interface"]
        chunk.symbols[chunk.symbols == "Au"] = "O"
        with pytest.raises(DataError, match="no Au"):
            predict(network, [chunk])
    # A stated height moves along.
    slab.info["interface"] = 11.0
    (whole,) = predict(network, [slab])
    (alone,) = predict(network, [cut_chunk(slab, 13, potential=network)])
    np.testing.assert_allclose(alone.forces[0], whole.forces[13], rtol=0, atol=1e-10)
    with pytest.raises(ConfigError, match="potential="):
        cut_chunk(slab, 13, 8.0)


def test_refused_cuts(crystal, network):
    with pytest.raises(ConfigError, match="radius=, or potential="):
        cut_chunk(crystal, 0)
    for center in (8, -1, 1.0, "Cu"):
        with pytest.raises(ConfigError, match=r"such atom|whole number"):
            cut_chunk(crystal, center, 4.0)
    for settings in ({"radius": 0.0}, {"radius": np.nan}, {"radius": 4.0, "vacuum": 0.0}):
        with pytest.raises(ConfigError, match="positive number"):
            cut_chunk(crystal, 0, **settings)
    with pytest.raises(PotentialError, match="image-centred"):
        cut_chunk(crystal, 0, 4.0, potential=ImageNetwork(crystal, (3,)))

    @dataclass
    class Handle:
        potential: object

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunk = cut_chunk(crystal, 0, 7.0, potential=Handle(network))
    assert chunk.info["chunk_radius"] == cut_chunk(crystal, 0, potential=Handle(network)).info["chunk_radius"]


def test_convergence_of_a_label(crystal):
    source = crystal.copy()
    source.calc = EMT()
    (whole,) = source.get_forces(apply_constraint=False)[3:4]
    oracle = emt()
    radii = [14.0, 4.0, 6.0, 8.0, 12.0]
    found = chunk_convergence(lambda chunk: oracle.label([chunk])[0], crystal, 3, radii)
    np.testing.assert_array_equal(found.radii, sorted(radii))
    assert found.n_atoms.tolist() == [len(cut_chunk(crystal, 3, r)) for r in found.radii]
    # The range of EMT's pair sums is about 6 Å, so beyond 12 Å nothing changes.
    np.testing.assert_allclose(found.forces[-1], whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.changes[-2:], 0, atol=1e-9)
    assert found.changes[0] > 0.02
    assert found.radius(found.changes[0]) == 4.0
    assert found.radius(0.999 * found.changes[0]) > 4.0
    assert found.radius(1e-9) == 12.0
    short = chunk_convergence(lambda chunk: oracle.label([chunk])[0].get_forces(), crystal, 3, [4.0, 8.0])
    np.testing.assert_array_equal(short.forces, found.forces[[0, 2]])
    with pytest.raises(DataError, match=r"from 4 to 8 Å.*larger radii"):
        short.radius(0.5 * short.changes[0])


def test_refused_convergence(crystal):
    with pytest.raises(ConfigError, match="two different radii"):
        chunk_convergence(lambda chunk: chunk, crystal, 3, [4.0, 4.0])
    with pytest.raises(DataError, match="forces"):
        chunk_convergence(lambda chunk: chunk, crystal, 3, [4.0, 5.0])
    for label in (None, np.zeros(3), np.full((1, 3), np.nan)):
        with pytest.raises(DataError, match=r"chunk of radius 1 Å"):
            chunk_convergence(lambda chunk, label=label: label, crystal, 3, [1.0, 1.5])


@pytest.mark.slow
def test_the_loop_takes_chunks_as_candidates(tmp_path):
    """A pool of chunks, labelled by EMT; what they say of themselves reaches the labels."""
    rng = np.random.default_rng(2)
    source = bulk("Cu", cubic=True).repeat(2)
    source.positions += rng.normal(0, 0.15, source.positions.shape)
    potential = MomentNetwork(["Cu"], cutoff=2.8, n_basis=4, n_channels=3, n_triple=2, hidden=(8,))
    uncertain = select_atoms(rng.uniform(size=(32, 3)), n=8)
    pool = {chunk_key(c): c for c in (cut_chunk(source, i, potential=potential) for i in uncertain)}
    labelled = [atoms for atoms in emt().label([cut_chunk(source, i, 5.6) for i in (0, 1)]) if atoms]
    sizes = {"n_initial": 4, "n_per_round": 2, "n_rounds": 1, "validation": 0.5}
    config = LoopConfig(methods=("max_dist",), seeds=(0,), **sizes)
    pool = list(pool.values())
    loop = MethodComparison(tmp_path, config, potential, TrainConfig(epochs=1), emt(), pool, labelled)
    loop.run(progress=False)
    picked = {e["index"] for e in loop.journal.find(event="labelled", method="max_dist")}
    assert len(picked) == 6
    stored = [atoms for path in (tmp_path / "labels").glob("[!.]*.xyz") for atoms in read_frames(path)]
    by_key = {chunk_key(atoms): atoms for atoms in stored}
    for index in picked:
        atoms = by_key[chunk_key(pool[index])]
        assert atoms.info["energy_weight"] == 0
        np.testing.assert_array_equal(atoms.arrays["force_weight"], pool[index].arrays["force_weight"])


def test_a_pool_of_chunks_trains(crystal, tmp_path):
    """Forces on the centres are learnt; energies and other forces of the clusters do not matter."""
    chunks = [cut_chunk(crystal, i, 5.6) for i in range(6)]
    labelled = [atoms for atoms in emt().label(chunks) if atoms is not None]
    rng = np.random.default_rng(3)
    spoiled = [atoms.copy() for atoms in labelled]
    for atoms, good in zip(spoiled, labelled, strict=True):
        forces = good.get_forces() + rng.normal(size=(len(atoms), 3))
        forces[0] = good.get_forces()[0]
        atoms.calc = SinglePointCalculator(atoms, energy=good.get_potential_energy() + 9, forces=forces)

    def error(model):
        found = np.array([p.forces[0] for p in predict(model.potential, chunks)])
        return np.sqrt(np.mean((found - [a.get_forces()[0] for a in labelled]) ** 2))

    def trained(images):
        loss = LossFunction(convergence={"energy_rmse": None, "force_rmse": 1e-3}, maxiter=15)
        scalings = {symbol: {"intercept": 0.0, "slope": 1.0} for symbol in ("Au", "Cu")}
        model = NeuralNetwork((3,), scalings=scalings, lossfunction=loss, randomseed=0, checkpoints=None)
        model.fit(images, Gaussian(cutoff=Cosine(2.8)), only_setup=True)
        before = error(model)
        model.fit(images, Gaussian(cutoff=Cosine(2.8)))
        return before, error(model), np.asarray(model.vector)

    before, after, vector = trained(labelled)
    assert after < 0.8 * before
    np.testing.assert_array_equal(trained(spoiled)[2], vector)


SIGMAS = np.array([[0.0, 0.3, 0.4], [0.1, 0.0, 0.0], [0.6, 0.0, 0.8], [0.0, 0.0, 0.2], [0.5, 0.0, 0.0]])


def test_least_sure_atoms_come_first():
    prediction = Prediction(energy=0.0, forces_uncertainty=SIGMAS)
    assert select_atoms(prediction, n=3).tolist() == [2, 0, 4]
    assert select_atoms(SIGMAS, fraction=0.4).tolist() == [2, 0]
    assert select_atoms(SIGMAS, fraction=0.01).tolist() == [2]
    assert select_atoms(np.linalg.norm(SIGMAS, axis=1), threshold=0.15).tolist() == [2, 0, 4, 3]
    assert select_atoms(SIGMAS, n=99).tolist() == [2, 0, 4, 3, 1]
    assert select_atoms(SIGMAS, threshold=2.0).tolist() == []


def test_confidence_widens_the_scores():
    # 2.5758 sigma hold 99 % of a normal distribution.
    assert select_atoms(SIGMAS, threshold=2.575).tolist() == []
    assert select_atoms(SIGMAS, threshold=2.575, confidence=0.99).tolist() == [2]
    assert select_atoms(SIGMAS, threshold=2.577, confidence=0.99).tolist() == []


def test_chosen_atoms_keep_their_distance():
    atoms = Atoms("Cu5", positions=np.outer([0.2, 2.2, 9.8, 5.0, 6.1], [1, 0, 0]), cell=[10, 10, 10])
    assert select_atoms(SIGMAS, n=5, min_distance=1.5, atoms=atoms).tolist() == [2, 0, 4, 1]
    atoms.pbc = True  # atoms 2 and 0 are 0.4 Å apart through the boundary
    assert select_atoms(SIGMAS, n=5, min_distance=1.5, atoms=atoms).tolist() == [2, 4, 1]
    assert select_atoms(SIGMAS, n=2, min_distance=1.5, atoms=atoms).tolist() == [2, 4]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n": 2, "fraction": 0.5},
        {"n": 0},
        {"n": 1.5},
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"threshold": -1.0},
        {"threshold": np.nan},
        {"n": 1, "min_distance": -1.0},
        {"n": 1, "min_distance": 1.0},
        {"n": 1, "confidence": 99},
    ],
)
def test_refused_settings(settings):
    with pytest.raises(ConfigError, match=r"exactly one|n must|fraction|threshold|min_distance|confidence"):
        select_atoms(SIGMAS, **settings)


def test_refused_uncertainties():
    with pytest.raises(DataError, match="no uncertainties of forces"):
        select_atoms(Prediction(energy=0.0, forces=SIGMAS), n=1)
    for bad in (0.3, [], SIGMAS[:, :2], SIGMAS[None], -SIGMAS, np.full(4, np.nan)):
        with pytest.raises(DataError, match=r"shape|finite"):
            select_atoms(bad, n=1)
    with pytest.raises(DataError, match=r"\(4, 3\) or \(4,\)"):
        select_atoms(SIGMAS, n=1, atoms=Atoms("Cu4"))
