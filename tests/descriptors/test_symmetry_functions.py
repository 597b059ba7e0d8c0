from __future__ import annotations

import itertools
import json
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from surefield.descriptors.build import descriptor_from_config
from surefield.descriptors.cutoffs import Cosine, Polynomial, cutoff_function
from surefield.descriptors.derivatives import dense_derivatives
from surefield.descriptors.symmetry_functions import (
    Function,
    SymmetryFunctions,
    make_default_symmetry_functions,
    make_symmetry_functions,
)
from surefield.errors import ConfigError
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood

COSINE = Cosine(4.5)
ANGULAR = {"elements": ["Cu", "Pt"], "eta": 0.01, "gamma": 1.0, "zeta": 2.0}


@pytest.fixture(scope="module")
def images(shared):
    return read(shared / "reference/networks/small/images.extxyz", ":")


@pytest.fixture(scope="module")
def default():
    return SymmetryFunctions.from_lists(
        ["Cu", "Pt"], Cosine(6.5), make_default_symmetry_functions(["Cu", "Pt"])
    )


def uneven(cutoff=COSINE):
    """Different functions of each element, all three types, whole and other powers."""
    copper = make_symmetry_functions(["Cu", "Pt"], "G2", [0.5, 4.0], offsets=[0.0, 2.5])
    copper += make_symmetry_functions(["Cu", "Pt"], "G5", [0.1], zetas=[2.5], gammas=[-1.0, 0.7])
    platinum = make_symmetry_functions(["Pt"], "G4", [0.2, 0.01], zetas=[3.3, 4.0], gammas=[1.0])
    platinum += copper[:1]
    return SymmetryFunctions.from_lists(["Pt", "Cu"], cutoff, {"Cu": copper, "Pt": platinum})


@eqx.filter_jit
def values(descriptor, graph):
    return descriptor.features(graph)


@eqx.filter_jit
def slopes(descriptor, graph):
    return descriptor.jacobian(graph)


def moved(graph, vectors):
    return eqx.tree_at(lambda g: g.vectors, graph, vectors)


def features(descriptor, atoms):
    graph = collate([neighborhood(atoms, descriptor.cutoff)])
    return np.asarray(values(descriptor, graph))[: len(atoms)]


def by_definition(function, cutoff, graph, i):
    """A function of atom i as the formula is written, neighbour by neighbour."""
    near = [k for k in range(graph.mask.shape[1]) if graph.mask[i, k]]
    numbers = {k: graph.numbers[graph.neighbors[i, k]] for k in near}
    vectors = graph.vectors[i]
    r = np.linalg.norm(vectors, axis=-1)
    fc, scale = lambda x: float(cutoff(x)), function.eta / cutoff.Rc**2
    if function.type == "G2":
        own = [k for k in near if numbers[k] == function.elements[0]]
        return sum(np.exp(-scale * (r[k] - function.offset) ** 2) * fc(r[k]) for k in own)
    total = 0.0
    for j, k in itertools.combinations(near, 2):
        if tuple(sorted((numbers[j], numbers[k]))) != function.elements:
            continue
        between = np.linalg.norm(vectors[j] - vectors[k])
        cosine = max(vectors[j] @ vectors[k] / (r[j] * r[k]), -1.0)
        square, cut = r[j] ** 2 + r[k] ** 2, fc(r[j]) * fc(r[k])
        if function.type == "G4":
            square, cut = square + between**2, cut * fc(between)
        total += (1 + function.gamma * cosine) ** function.zeta * np.exp(-scale * square) * cut
    return 2 ** (1 - function.zeta) * total


def test_reference_fingerprints(shared, images, default):
    stored = np.load(shared / "reference/networks/small/fingerprints.npz")
    for index, atoms in enumerate(images):
        np.testing.assert_allclose(features(default, atoms), stored[f"image{index}"], rtol=0, atol=1e-12)


def test_reference_derivatives(shared, images, default):
    stored = np.load(shared / "reference/networks/small/fingerprints.npz")
    expected = np.zeros((10, 3, 10, 20))
    for (m, n, x), value in zip(stored["primes_image0_keys"], stored["primes_image0_values"], strict=True):
        expected[m, x, n] = value
    _, primes = dense_derivatives(default, [neighborhood(images[0], 6.5)])
    np.testing.assert_allclose(primes[0], expected, rtol=0, atol=1e-11)


def test_reference_of_other_functions_and_cutoffs(shared, images):
    folder = shared / "reference/networks/descriptors"
    settings = json.loads((folder / "gaussian.json").read_text())
    stored = np.load(folder / "gaussian.npz")
    for name, entry in settings["cutoffs"].items():
        kwargs = {key: value for key, value in entry.items() if key != "name"}
        cutoff = cutoff_function({"name": entry["name"], "kwargs": kwargs})
        descriptor = SymmetryFunctions.from_lists(["Cu", "Pt"], cutoff, settings["Gs"])
        structures = [neighborhood(atoms, cutoff.Rc) for atoms in images]
        found, primes = dense_derivatives(descriptor, structures)
        for index, atoms in enumerate(images):
            expected = stored[f"{name}__image{index}"]
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found[index, : len(atoms)], expected, rtol=0, atol=1e-12 * scale)
        keys, expected = stored[f"{name}__primes_image3_keys"], stored[f"{name}__primes_image3_values"]
        rows = np.array([primes[3, m, x, n] for m, n, x in keys])
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cutoff", [COSINE, Polynomial(4.5, 2.0)], ids=["cosine", "polynomial"])
def test_values_are_those_of_the_formula(images, cutoff):
    descriptor = uneven(cutoff)
    graph = collate([neighborhood(images[4], descriptor.cutoff)])
    found = np.asarray(values(descriptor, graph))
    for i in (0, 7):  # platinum and copper
        place = descriptor.species.index(int(graph.numbers[i]))
        expected = [by_definition(f, cutoff, graph, i) for f in descriptor.functions[place]]
        np.testing.assert_allclose(found[i, : len(expected)], expected, rtol=1e-12)
        np.testing.assert_array_equal(found[i, len(expected) :], 0.0)


@pytest.mark.parametrize("cutoff", [COSINE, Polynomial(4.5, 2.0)], ids=["cosine", "polynomial"])
def test_jacobian_equals_forward_differentiation(images, cutoff):
    descriptor = uneven(cutoff)
    graph = collate([neighborhood(images[4], descriptor.cutoff)])
    found = np.asarray(slopes(descriptor, graph))

    @jax.jit
    def of_one_atom(i):
        vectors = jnp.asarray(graph.vectors)

        def own(row):
            return descriptor.features(moved(graph, vectors.at[i].set(row)))[i]

        return jax.jacfwd(own)(vectors[i]).transpose(1, 2, 0)

    for i in range(len(images[4])):
        np.testing.assert_allclose(found[i], of_one_atom(i), rtol=0, atol=1e-12)


def test_derivatives_agree_with_finite_differences(images):
    atoms = images[3]
    descriptor = uneven()
    _, primes = dense_derivatives(descriptor, [neighborhood(atoms, descriptor.cutoff)])
    for m, x in ((0, 2), (8, 0)):
        sides = []
        for step in (1e-5, -1e-5):
            image = atoms.copy()
            image.positions[m, x] += step
            sides.append(features(descriptor, image))
        np.testing.assert_allclose(primes[0, m, x], (sides[0] - sides[1]) / 2e-5, atol=1e-8)


def test_reverse_mode_is_the_contraction_of_the_jacobian(images):
    descriptor = uneven()
    graph = collate([neighborhood(images[0], descriptor.cutoff)])
    weights = np.random.default_rng(1).normal(size=(graph.numbers.shape[0], descriptor.width))

    def total(vectors):
        return jnp.sum(weights * descriptor.features(moved(graph, vectors)))

    gradient = jax.jit(jax.grad(total))(jnp.asarray(graph.vectors))
    expected = np.einsum("ikxg,ig->ikx", slopes(descriptor, graph), weights)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_many_atoms_in_blocks_are_the_same(images, monkeypatch):
    descriptor = uneven()
    graph = collate([neighborhood(atoms, descriptor.cutoff) for atoms in images])
    whole = values(descriptor, graph), slopes(descriptor, graph)
    monkeypatch.setattr("surefield.descriptors.angular_sums._BLOCK_BYTES", 8 * 3 * graph.mask.shape[1] ** 2)
    np.testing.assert_allclose(jax.jit(descriptor.features)(graph), whole[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(jax.jit(descriptor.jacobian)(graph), whole[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("zeta", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("gamma", [1.0, -1.0])
def test_collinear_atoms_have_finite_values_and_gradients(zeta, gamma):
    atoms = Atoms("Cu4", [[0, 0, 0], [1.7, 1.7, 1.7], [-2.1, -2.1, -2.1], [3.1, 3.1, 3.1]])
    lists = [
        {"type": kind, "elements": ["Cu", "Cu"], "eta": 0.1, "gamma": gamma, "zeta": zeta}
        for kind in ("G4", "G5")
    ]
    descriptor = SymmetryFunctions.from_lists(["Cu"], Cosine(6.0), {"Cu": lists})
    graph = collate([neighborhood(atoms, 6.0)])

    def total(vectors):
        return jnp.sum(descriptor.features(moved(graph, vectors)))

    assert np.all(np.isfinite(values(descriptor, graph)))
    assert np.all(np.isfinite(slopes(descriptor, graph)))
    assert np.all(np.isfinite(jax.jit(jax.grad(total))(jnp.asarray(graph.vectors))))


def test_neighbours_at_one_place_are_finite():
    atoms = Atoms("Cu3", [[0, 0, 0], [2.0, 0.3, 0.1], [2.0, 0.3, 0.1]])
    descriptor = SymmetryFunctions.from_lists(
        ["Cu"], Polynomial(6.0, 2.0), make_default_symmetry_functions(["Cu"])
    )
    graph = collate([neighborhood(atoms, 6.0)])
    assert np.all(np.isfinite(values(descriptor, graph)[0]))
    assert np.all(np.isfinite(slopes(descriptor, graph)[0]))


def test_copies_of_the_atom_itself_count():
    cell = Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)
    functions = make_default_symmetry_functions(["Cu"])
    descriptor = SymmetryFunctions.from_lists(["Cu"], Cosine(5.0), functions)
    one, many = features(descriptor, cell), features(descriptor, cell * (2, 2, 2))
    assert np.all(one[0] > 0)
    np.testing.assert_allclose(many, np.repeat(one, 8, axis=0), rtol=1e-12)


def test_no_neighbours_and_padding_give_zero():
    descriptor = uneven()
    graph = collate([neighborhood(Atoms("Cu"), descriptor.cutoff)], n_atoms=3)
    np.testing.assert_array_equal(values(descriptor, graph), 0.0)
    np.testing.assert_array_equal(slopes(descriptor, graph), 0.0)


def test_longer_neighbour_lists_change_nothing(images, default):
    wide = collate([neighborhood(images[0], 8.0)])
    found = np.asarray(values(default, wide))[: len(images[0])]
    np.testing.assert_allclose(found, features(default, images[0]), rtol=0, atol=1e-12)


def test_single_precision(images, default):
    structure = neighborhood(images[0], 6.5)
    single = values(default, collate([structure], dtype=np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, values(default, collate([structure])), rtol=1e-4, atol=1e-5)
    assert slopes(default, collate([structure], dtype=np.float32)).dtype == np.float32


def test_equal_descriptors_are_one_key(default):
    again = descriptor_from_config(json.loads(json.dumps(default.config())))
    assert again == default
    assert hash(again) == hash(default)
    assert again != uneven()
    assert pickle.loads(pickle.dumps(default)) == default
    other = SymmetryFunctions(default.species, Cosine(6.4), default.functions)
    assert other != default


def test_names_say_what_functions_are(default):
    names = default.names("Cu")
    assert names[0] == "G2 Cu eta=0.05 offset=0"
    assert names[-2] == "G4 Cu-Pt eta=0.005 gamma=-1 zeta=4"
    assert len(names) == 20
    with pytest.raises(ConfigError, match="no element 'Pd'"):
        default.names("Pd")


def test_default_sets(shared):
    model = json.loads((shared / "reference/networks/small/model.json").read_text())
    assert make_default_symmetry_functions(["Pt", "Cu"]) == model["Gs"]
    sizes = [len(make_default_symmetry_functions(e)[e[0]]) for e in (["Cu", "Pt"], list("CHO"), list("CHON"))]
    assert sizes == [20, 36, 56]


def test_order_of_made_functions():
    radial = make_symmetry_functions(["Pt", "Cu"], "G2", [1, 2], offsets=[0, 1])
    keys = [(f["eta"], f["element"], f["offset"]) for f in radial]
    assert keys == [(e, s, o) for e in (1.0, 2.0) for s in ("Pt", "Cu") for o in (0.0, 1.0)]
    angular = make_symmetry_functions(["Pt", "Cu"], "G5", [1, 2], zetas=[1, 4], gammas=[1, -1])
    keys = [(f["eta"], f["zeta"], f["gamma"], *f["elements"]) for f in angular]
    pairs = [("Pt", "Pt"), ("Cu", "Pt"), ("Cu", "Cu")]
    assert keys == [(e, z, g, *p) for e in (1.0, 2.0) for z in (1.0, 4.0) for g in (1.0, -1.0) for p in pairs]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["Cu"], "G3", [1.0]), "known: G2, G4, G5"),
        ((["Cu"], "G2", [1.0], None, [1.0]), "are for G4"),
        ((["Cu"], "G4", [1.0]), "needs zetas and gammas"),
        ((["Cu"], "G4", [1.0], [0.0], [1.0], [1.0]), "offsets are for G2"),
        ((["Cux"], "G2", [1.0]), "no chemical symbol"),
    ],
)
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_symmetry_functions(*arguments)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "G7", "element": "Cu", "eta": 1.0}, "unknown type 'G7'"),
        ({"type": ["G2"], "element": "Cu", "eta": 1.0}, "unknown type"),
        ({"type": "G2", "element": "Cu"}, "'eta' is missing in here"),
        ({"type": "G2", "element": "Cu", "eta": 1.0, "ofset": 1.0}, "did you mean 'offset'"),
        ({"type": "G2", "element": "cu", "eta": 1.0}, "did you mean 'Cu'"),
        ({"type": "G2", "element": "Cu", "eta": "1"}, "eta must be a finite number"),
        ({"type": "G2", "element": "Cu", "eta": -1.0}, "must not be negative"),
        ({**ANGULAR, "type": "G4", "elements": "Cu"}, "elements of G4"),
        ({**ANGULAR, "type": "G4", "elements": ["Cu"]}, "a list of two"),
        ({**ANGULAR, "type": "G5", "zeta": 0.0}, "zeta must be positive"),
        ({**ANGULAR, "type": "G5", "zeta": 1.5, "gamma": 2.0}, "gamma must be in"),
        ("G2", "expected a dict"),
    ],
)
def test_unusable_functions_are_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        Function.from_dict(entry, "here")


def test_elements_without_functions_are_refused():
    functions = make_default_symmetry_functions(["Cu", "Pt"])
    with pytest.raises(ConfigError, match="element O has no symmetry functions"):
        SymmetryFunctions.from_lists(["Cu", "O"], Cosine(6.5), functions)
    with pytest.raises(ConfigError, match="ascending"):
        SymmetryFunctions((78, 29), Cosine(6.5), ((), ()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "gausian"}, "did you mean 'gaussian'"),
        ({"kind": "gaussian"}, "damaged description"),
        ({"kind": "gaussian", "cutoff": {"name": "Cosine"}, "functions": {}}, "needs its radius"),
        ("gaussian", "unknown kind"),
    ],
)
def test_damaged_descriptions_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        descriptor_from_config(config)
