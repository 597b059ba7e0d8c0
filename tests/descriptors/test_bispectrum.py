from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surefield.descriptors.bispectrum import Bispectrum, Neighbors
from surefield.descriptors.bispectrum_tables import blocks, hyperspherical, tables, triples
from surefield.descriptors.build import descriptor_from_config
from surefield.errors import ConfigError
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_potential

VARIANTS = (
    "j6",
    "j8_bzero",
    "j4_noswitch_bnorm",
    "j4_quadratic",
    "j6_rmin0",
    "two_j6",
    "two_j4_chem",
    "two_j4_chem_bzero",
    "two_j4_chem_wselfall_bnorm_bzero",
    "j6_switchinner",
)


def descriptor_of(arguments: str, n_types: int) -> Bispectrum:
    """Descriptor of the arguments of `compute sna/atom`; its types become tantalum and tungsten."""
    words = arguments.split()
    numbers = [float(word) for word in words[: 3 + 2 * n_types]]
    settings = {"rcutfac": numbers[0], "rfac0": numbers[1], "twojmax": int(numbers[2]), "bzeroflag": True}
    settings |= {"radelem": tuple(numbers[3 : 3 + n_types]), "wj": tuple(numbers[3 + n_types :])}
    rest = iter(words[3 + 2 * n_types :])
    for name in rest:
        if name == "chem":
            settings["chemflag"] = True
            [next(rest) for _ in range(1 + n_types)]
        elif name in ("sinner", "dinner"):
            settings[name] = tuple(float(next(rest)) for _ in range(n_types))
        elif name == "rmin0":
            settings[name] = float(next(rest))
        elif name in ("quadraticflag", "switchinnerflag"):
            next(rest)
        else:
            settings[name] = bool(int(next(rest)))
    return Bispectrum(species=(73, 74)[:n_types], **settings)


@pytest.fixture(scope="module")
def variants(shared):
    with np.load(shared / "reference" / "trainers" / "expected" / "snap_variants.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_flag_against_lammps(variants, name):
    n_types = 2 if name.startswith("two") else 1
    descriptor = descriptor_of(str(variants[f"args_{name}"]), n_types)
    numbers = 72 + variants["types"] if n_types == 2 else np.full(54, 73)
    atoms = Atoms(numbers, positions=variants["positions"], cell=variants["cell"], pbc=True)
    graph = collate([neighborhood(atoms, descriptor.cutoff)])
    found = np.asarray(jax.jit(descriptor.features)(graph))[: len(atoms)]
    expected = variants[f"B_{name}"][:, : descriptor.width]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def small(**settings) -> Bispectrum:
    values = {"species": (29, 79), "twojmax": 3, "rcutfac": 3.6, "radelem": (0.5, 0.55), "wj": (1.0, 0.7)}
    return Bispectrum(**{**values, **settings})


SMALL = {
    "plain": {},
    "inner": {"sinner": (2.0, 2.2), "dinner": (0.3, 0.5), "bnormflag": True},
    "chem": {"chemflag": True, "wselfallflag": True, "bzeroflag": True},
    "wide": {"rmin0": 2.1, "rfac0": 1.3, "twojmax": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_derivatives_are_those_of_the_features(alloy, name):
    descriptor = small(**SMALL[name])
    graph = collate([neighborhood(alloy[0], descriptor.cutoff + 0.4)])
    rng = np.random.default_rng(0)
    direction = rng.normal(size=graph.vectors.shape)

    def moved(step: float) -> jax.Array:
        vectors = graph.vectors + step * direction
        return descriptor.features(eqx.tree_at(lambda g: g.vectors, graph, vectors))

    slopes, both = jax.jit(lambda: (descriptor.jacobian(graph), jax.jvp(moved, (0.0,), (1.0,))[1]))()
    differences = (moved(1e-5) - moved(-1e-5)) / 2e-5
    closed = jnp.einsum("nkaf,nka->nf", slopes, direction)
    size = float(jnp.abs(differences).max())
    np.testing.assert_allclose(closed, differences, rtol=0, atol=1e-8 * size)
    np.testing.assert_allclose(both, closed, rtol=0, atol=1e-12 * size)


def test_many_atoms_are_computed_in_blocks():
    atoms = bulk("Cu", cubic=True).repeat((5, 5, 4))
    atoms.rattle(0.1, seed=1)
    descriptor = small(species=(29,), radelem=(0.4,), wj=(1.0,), twojmax=6)
    graph = collate([neighborhood(atoms, descriptor.cutoff)])
    assert len(atoms) > 2 * descriptor.block_size(graph.mask.shape[1])
    found = np.asarray(jax.jit(descriptor.features)(graph))[: len(atoms)]
    some = np.array([0, 133, len(atoms) - 1])
    one = Neighbors(
        graph.vectors[some], graph.mask[some], np.zeros(3, int), np.zeros(graph.mask[some].shape, int)
    )
    alone = jax.jit(descriptor.components)(one)
    np.testing.assert_allclose(found[some], alone, rtol=1e-10)


def test_tables():
    table = tables(4)
    means = (table.values * table.weights[:, None]).T @ table.values
    for j, block in enumerate(blocks(4)):
        np.testing.assert_allclose((j + 1) * means[block, block], np.eye((j + 1) ** 2), atol=1e-13)
    # U^1 itself, with rows up to the middle: conj(a), -conj(b).
    n = np.array([[0.1], [0.5], [-0.7], [0.5]])
    np.testing.assert_allclose(hyperspherical(n, 1)[1:, 0], np.sqrt(2) * np.array([0.1, 0.7, 0.5, -0.5]))
    counts = [len(triples(j)) for j in (0, 2, 6, 8)]
    assert counts == [1, 5, 30, 55]


def test_a_network_on_bispectrum_components(alloy):
    network = AtomicNetwork(small(), [(4,), (3,)], seed=2)
    network = eqx.tree_at(lambda p: p.readout, network, network.readout + 0.5)
    check_potential(network, alloy[:1])


def test_description():
    descriptor = small(**SMALL["chem"])
    again = descriptor_from_config(descriptor.config())
    assert again == descriptor
    assert hash(again) == hash(descriptor)
    names = descriptor.names("Cu")
    assert len(set(names)) == descriptor.width
    assert names[0] == "B Cu Cu Cu 0 0 0"
    assert small().names("Au")[3] == "B 2 0 2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"twojmax": -1}, "twojmax must be a whole number"),
        ({"radelem": (0.5,)}, "radelem needs a value per element"),
        ({"sinner": (1.0, 1.0)}, "go together"),
        ({"sinner": (1.0, 1.0), "dinner": (0.0, 0.1)}, "dinner must be above 0"),
        ({"rmin0": 3.7}, "rmin0"),
        ({"species": (79, 29)}, "ascending"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings)
