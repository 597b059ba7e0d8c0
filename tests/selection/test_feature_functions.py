"""Feature functions: what maps give, what they do not depend on, ensembles, transforms, data sets."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111

from surefield.descriptors.behler import behler_functions
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.callback import call_outside
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.mean_potential import MeanPotential
from surefield.selection import (
    FeatureTransformation,
    FullGradientRPFeatures,
    IdentityFeatures,
    KernelMatrix,
    LastLayerForceFeatures,
    LastLayerGradientFeatures,
    OTFInMemoryDataset,
    PerAtom,
    PerAtomFeatures,
    ScaleFeatures,
    ShiftFeatures,
    compute_features,
    create_feature_fn,
)
from surefield.selection.feature_maps import one_by_one
from surefield.selection.structure_inputs import stacked
from surefield.sensitivity import gradients, structure_rows
from surefield.sensitivity.gradients import gradient_rows
from surefield.sensitivity.sketch import count_sketch, gaussian_sketch

LL_GRAD, FULL = LastLayerGradientFeatures(), FullGradientRPFeatures(num_rp=12, sketch="none")
GRAM = LastLayerForceFeatures(strategy="gram")


@pytest.fixture(scope="module")
def crystals(alloy):
    """Three rattled crystals of three atoms, of one shape."""
    frames = [alloy[0].copy() for _ in range(3)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=seed)
    return frames


@pytest.fixture(scope="module")
def functions(network):
    """Feature functions by the maps that made them, each compiled once."""
    made = {}

    def of(base, *transforms):
        key = repr((base, transforms))
        if key not in made:
            made[key] = create_feature_fn(network, None, base, transforms)
        return made[key]

    return of


@pytest.fixture(scope="module")
def members(network):
    """Three potentials of one shape with other parameters."""
    rng = np.random.default_rng(3)
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)
    changed = [
        jax.tree.map(lambda leaf: leaf * (1 + 0.1 * rng.normal(size=leaf.shape)), arrays) for _ in range(3)
    ]
    return [eqx.combine(member, fixed) for member in changed]


def near(got, expected, tolerance=1e-10):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_last_layer_gradient_is_the_change_of_the_energy(network, crystals, functions):
    """The energy is linear in the last layer, so a finite change of it is the derivative."""
    rows = compute_features(functions(LL_GRAD), crystals)
    size = network.readout.size
    assert rows.shape == (3, size + network.bias.size)
    rng = np.random.default_rng(0)
    readout, bias = rng.normal(size=network.readout.shape), rng.normal(size=network.bias.shape)
    moved = eqx.tree_at(
        lambda p: (p.readout, p.bias), network, (network.readout + readout, network.bias + bias)
    )
    change = [
        b.energy - a.energy for a, b in zip(network.predict(crystals), moved.predict(crystals), strict=True)
    ]
    near(rows[:, :size] @ readout.ravel() + rows[:, size:] @ bias, np.array(change))
    np.testing.assert_array_equal(rows[:, size:], [network.bias_row(atoms.numbers) for atoms in crystals])


def test_full_gradient_and_its_sketches(network, crystals, functions):
    exact = np.stack(list(gradient_rows(network, [network.neighborhood(atoms) for atoms in crystals])))
    near(compute_features(functions(FULL), crystals), exact)
    gaussian = FullGradientRPFeatures(num_rp=12, sketch="gaussian", seed=4)
    near(compute_features(functions(gaussian), crystals), gaussian_sketch(exact, 12, 4))
    places, signs = count_sketch(exact.shape[1], 12, 4)
    expected = np.zeros((3, 12))
    np.add.at(expected.T, places, (exact * signs).T)
    counted = FullGradientRPFeatures(num_rp=12, sketch="countsketch", seed=4)
    near(compute_features(functions(counted), crystals), expected)
    other = FullGradientRPFeatures(num_rp=12, sketch="gaussian", seed=5)
    assert not np.allclose(compute_features(functions(other), crystals), gaussian_sketch(exact, 12, 4))


def test_projections_made_again_block_by_block(network, crystals, functions, monkeypatch):
    one_shot = compute_features(functions(FullGradientRPFeatures(num_rp=12, seed=4)), crystals)
    monkeypatch.setattr(gradients, "GAUSSIAN_BYTES", 100)
    by_block = create_feature_fn(network, None, FullGradientRPFeatures(num_rp=12, seed=4, sketch="gaussian"))
    assert "block by block" in by_block.notes[0]
    near(compute_features(by_block, crystals), one_shot, 1e-12)
    assert "countsketch" in create_feature_fn(network, None, FullGradientRPFeatures(num_rp=12)).notes[0]


def test_blocks_of_long_gradients(monkeypatch):
    monkeypatch.setattr(gradients, "GAUSSIAN_BYTES", 0)
    vectors = np.random.default_rng(0).normal(size=(2, 70_000))
    sketch, _ = gradients.gradient_sketch("gaussian", 70_000, 5, 3, np.float64)
    near(np.asarray(jax.jit(jax.vmap(sketch))(vectors)), gaussian_sketch(vectors, 5, 3), 1e-12)


def test_sketches_of_real_gradients(network, crystals):
    """Squared distances of 24 structures, relative to the exact ones."""
    frames = [crystals[0].copy() for _ in range(24)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    exact = np.stack(list(gradient_rows(network, [network.neighborhood(atoms) for atoms in frames])))
    pairs = np.triu_indices(24, 1)
    for kind in ("gaussian", "countsketch"):
        sketch, _ = gradients.gradient_sketch(kind, exact.shape[1], 512, 0, np.float64)
        rows = np.asarray(jax.vmap(sketch)(exact))
        ratio = np.square(rows[pairs[0]] - rows[pairs[1]]).sum(axis=1)
        ratio /= np.square(exact[pairs[0]] - exact[pairs[1]]).sum(axis=1)
        assert abs(ratio.mean() - 1) < 0.1
        assert 0 < ratio.std() <= 0.09


@pytest.mark.parametrize("base", [LL_GRAD, FULL, GRAM], ids=["ll_grad", "full", "gram"])
def test_invariance(crystals, functions, base):
    atoms = crystals[0]
    rotated = atoms.copy()
    rotated.rotate(33, (1, 2, 3), rotate_cell=True)
    moved = atoms.copy()
    moved.positions += (0.3, -1.0, 0.2)
    function = functions(base)
    for same in (atoms[[2, 0, 1]], rotated, moved):
        near(compute_features(function, [same]), compute_features(function, [atoms]))


def test_charges_have_biases_of_their_own():
    """Networks of an electrode: two biases per element, on which the energy depends in its own way."""
    frames = []
    for seed in range(2):
        atoms = fcc111("Au", (1, 1, 2), vacuum=5.0)
        atoms.pbc = True
        atoms.rattle(0.1, seed=seed)
        atoms.info["electrode_potential"] = 4.5 + 0.3 * seed
        frames.append(atoms)
    descriptor = behler_functions(["Au"], "set30", 4.0)
    potential = ChargeNetwork(descriptor, [(3,)], [(3,)], slab_metal="Au", dtype="float64")
    rows = compute_features(create_feature_fn(potential, None, LL_GRAD), frames)
    assert potential.bias.shape == (1, 2)
    change = np.array([[0.1, -0.2]])
    moved = [eqx.tree_at(lambda p: p.bias, potential, potential.bias + k * change) for k in (-1, 1)]
    before, after = (np.array([p.energy for p in of.predict(frames)]) for of in moved)
    near(rows[:, -2:] @ change[0], (after - before) / 2, 1e-8)


def test_supercells(crystals, functions):
    atoms, double = crystals[0], crystals[0].repeat((1, 2, 1))
    near(compute_features(functions(FULL), [double]), 2 * compute_features(functions(FULL), [atoms]))
    function = functions(FULL, PerAtomFeatures())
    near(compute_features(function, [double]), compute_features(function, [atoms]))


@pytest.fixture(scope="module")
def force_rows(network, crystals):
    """dF/dw of the crystals, (n_structures, n_atoms, 3, d)."""
    around = [network.neighborhood(atoms) for atoms in crystals]
    return np.stack([row.forces.reshape(3, 3, -1) for row in structure_rows(network.last_layer(), around)])


def test_force_features(crystals, functions, force_rows):
    raw = compute_features(functions(LastLayerForceFeatures()), crystals)
    near(raw, force_rows)
    with pytest.raises(DataError, match=r"g must be 2-D; got shape \(3, 3, 3, "):
        KernelMatrix(raw, 1)
    flat = force_rows.reshape(3, 9, -1)
    upper = np.triu_indices(flat.shape[2])
    gram = np.einsum("nki,nkj->nij", flat, flat)[:, *upper] * np.where(upper[0] == upper[1], 1, np.sqrt(2))
    near(compute_features(functions(GRAM), crystals), gram)


def test_force_features_in_one_row(network, crystals, functions, force_rows):
    summed = compute_features(functions(LastLayerForceFeatures(strategy="sum")), crystals)
    assert np.abs(summed).max() < 1e-10 * np.abs(force_rows).max()
    with pytest.warns(UserWarning, match="change with the order"):
        function = create_feature_fn(network, None, LastLayerForceFeatures(strategy="flatten"))
    near(compute_features(function, crystals), force_rows.reshape(3, -1))
    sizes = [crystals[0], crystals[0].repeat((2, 1, 1))]
    with pytest.raises(DataError, match=r"one number of atoms; got 3 in frame 0 and 6 in frame 1; .*'gram'"):
        compute_features(function, sizes)


def test_named_layers(network, crystals):
    rows = np.stack(list(gradient_rows(network, [network.neighborhood(atoms) for atoms in crystals])))
    moving = eqx.filter(network, gradients.trainable(network))
    leaves = jax.tree_util.tree_leaves_with_path(moving)
    named = sorted((jax.tree_util.keystr(place), leaf.size) for place, leaf in leaves)
    start = sum(size for name, size in named if name < ".weights[0]")
    function = create_feature_fn(network, None, LastLayerGradientFeatures(layer_name="weights.0"))
    near(compute_features(function, crystals), rows[:, start : start + dict(named)[".weights[0]"]])
    assert "layer 'weights.0' of MomentNetwork" in function.notes[0]
    default = create_feature_fn(network, None, LL_GRAD)
    assert "'dense_2' is the final linear map of MomentNetwork (2 x 59 weights)" in default.notes[0]


def test_force_features_of_a_named_layer(network, crystals):
    base = LastLayerForceFeatures(layer_name="biases.0")
    with pytest.raises(PotentialError, match=r"the layer 'biases\.0' of MomentNetwork has no weights"):
        create_feature_fn(network, None, base)
    function = create_feature_fn(network, None, LastLayerForceFeatures(layer_name="weights.0"))
    [raw] = compute_features(function, crystals[:1])
    direction = np.random.default_rng(1).normal(size=network.weights[0].shape)
    forces = [
        eqx.tree_at(lambda p: p.weights[0], network, network.weights[0] + step * direction)
        .predict(crystals[:1])[0]
        .forces
        for step in (-1e-4, 1e-4)
    ]
    near(raw @ direction.ravel(), (forces[1] - forces[0]) / 2e-4, 1e-6)


@pytest.mark.parametrize("large", [False, True])
def test_batches_change_nothing(crystals, functions, large):
    frames = [*crystals, *crystals[::-1], *crystals] + ([crystals[0].repeat((3, 2, 1))] if large else [])
    for base in (LL_GRAD, FULL):
        one, few, many = (functions(base).compute(_frames(frames), size) for size in (1, 7, 64))
        near(few, one)
        near(many, one)
        near(one[:5], compute_features(functions(base), frames[:5]))


def _frames(frames):
    from surefield.structures.read import read_frames

    return read_frames(frames)


def test_what_fills_a_batch_up_is_not_computed(network, crystals):
    calls = []

    def counted(source, graph):
        def outside(n_atoms):
            calls.append(int(n_atoms[0]))
            return np.asarray(n_atoms, np.float64)

        return call_outside(outside, jax.ShapeDtypeStruct((1,), np.float64), graph.n_atoms)

    graphs = stacked([network.neighborhood(atoms) for atoms in [*crystals, crystals[0]]], np.float64)
    graphs = eqx.tree_at(lambda g: g.n_atoms, graphs, np.array([[3], [3], [0], [0]], np.int32))
    rows = jax.jit(jax.vmap(lambda graph: one_by_one(counted, jnp.zeros(1), graph)))(graphs)
    np.testing.assert_array_equal(rows, [[3], [3], [0], [0]])
    assert calls == [3, 3]


def test_single_precision(crystals):
    from tests.conftest import small_network

    double, single = small_network(("Cu", "Au")), small_network(("Cu", "Au"), "float32")
    for base in (LL_GRAD, FullGradientRPFeatures(num_rp=12)):
        exact = compute_features(create_feature_fn(double, None, base), crystals)
        function = create_feature_fn(single, None, base)
        rows = function.compute(_frames(crystals), 1)
        near(rows, exact, 1e-4)
        near(function.compute(_frames(crystals), 64), rows, 1e-5)


def test_ensembles_average_kernels(members, crystals):
    each = [compute_features(create_feature_fn(member, None, LL_GRAD), crystals) for member in members]
    rows = compute_features(create_feature_fn(members, None, LL_GRAD, is_ensemble=True), crystals)
    near(rows, np.concatenate(each, axis=1) / np.sqrt(3), 1e-12)
    near(rows @ rows.T, np.mean([x @ x.T for x in each], axis=0), 1e-12)
    mean = create_feature_fn(MeanPotential(members), None, LL_GRAD, is_ensemble=True)
    near(compute_features(mean, crystals), rows, 1e-12)


def test_members_have_projections_of_their_own(members, crystals):
    base = FullGradientRPFeatures(num_rp=12, seed=2)
    rows = compute_features(create_feature_fn(members, None, base, is_ensemble=True), crystals)
    exact = [
        np.stack(list(gradient_rows(member, [member.neighborhood(atoms) for atoms in crystals])))
        for member in members
    ]
    sketched = [gaussian_sketch(x, 12, 2 + number * 2**64) for number, x in enumerate(exact)]
    near(rows, sum(sketched) / np.sqrt(3))


def test_stacked_parameters(network, members, crystals):
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(eqx.filter(m, eqx.is_inexact_array) for m in members)
    )
    function = create_feature_fn(network, stacked, LL_GRAD, is_ensemble=True)
    expected = compute_features(create_feature_fn(members, None, LL_GRAD, is_ensemble=True), crystals)
    near(compute_features(function, crystals), expected, 1e-12)
    own = eqx.filter(network, eqx.is_inexact_array)
    with pytest.raises(PotentialError, match="not those of an ensemble"):
        create_feature_fn(network, own, LL_GRAD, is_ensemble=True)
    with pytest.raises(PotentialError, match="an ensemble needs members"):
        create_feature_fn(network, None, LL_GRAD, is_ensemble=True)
    with pytest.raises(PotentialError, match=r"do not fit MomentNetwork.*is_ensemble=True"):
        create_feature_fn(network, stacked, LL_GRAD)
    with pytest.raises(ConfigError, match="is_ensemble=True"):
        create_feature_fn(members, None, LL_GRAD)


def test_other_parameters(network, members, crystals, functions):
    """As an array part and as nested dictionaries."""
    function = create_feature_fn(network, eqx.filter(members[0], eqx.is_inexact_array), LL_GRAD)
    rows = compute_features(function, crystals)
    near(rows, compute_features(create_feature_fn(members[0], None, LL_GRAD), crystals), 1e-12)
    assert not np.allclose(rows, compute_features(functions(LL_GRAD), crystals))
    names = ("offsets", "radial", "shift", "scale", "readout", "bias")
    params = {name: getattr(members[0], name) for name in names}
    params |= {name: dict(enumerate(getattr(members[0], name))) for name in ("weights", "biases")}
    near(compute_features(create_feature_fn(network, params, LL_GRAD), crystals), rows, 1e-12)
    with pytest.raises(PotentialError, match="missing parameters of MomentNetwork: bias;"):
        create_feature_fn(network, {n: v for n, v in params.items() if n != "bias"}, LL_GRAD)
    with pytest.raises(PotentialError, match="unknown parameters of MomentNetwork: dense"):
        create_feature_fn(network, {**params, "dense": np.zeros(3)}, LL_GRAD)


class Squared(FeatureTransformation):
    """A transform as users write them."""

    power: int = 2

    def apply(self, fn):
        return lambda inputs: fn(inputs) ** self.power


def test_transforms_in_order(crystals, functions):
    plain = compute_features(functions(LL_GRAD), crystals)
    offset = np.arange(plain.shape[1])
    later = functions(LL_GRAD, ScaleFeatures(2.0), ShiftFeatures(offset.tolist()))
    near(compute_features(later, crystals), 2 * plain + offset)
    before = functions(LL_GRAD, ShiftFeatures(1.0), ScaleFeatures(factor=2.0))
    near(compute_features(before, crystals), 2 * (plain + 1))
    near(compute_features(functions(LL_GRAD, FeatureTransformation(), Squared()), crystals), plain**2)
    near(compute_features(functions(LL_GRAD, PerAtomFeatures(0.5)), crystals), plain / np.sqrt(3))


def test_energies(network, crystals, functions):
    energies = [[p.energy] for p in network.predict(crystals)]
    near(compute_features(functions(IdentityFeatures(name="identity")), crystals), np.array(energies))


def test_data_sets(network, crystals, functions, tmp_path):
    function = functions(LL_GRAD)
    expected = compute_features(function, crystals)
    before = [atoms.copy() for atoms in crystals]
    dataset = OTFInMemoryDataset(crystals, network.cutoff, bs=2, n_epochs=1, ignore_labels=True)
    assert dataset.n_data == len(dataset) == 3
    near(compute_features(function, dataset), expected)
    batches = list(dataset.batch())
    assert [len(batch.numbers) for batch in batches] == [2, 1]
    near(np.concatenate([function(batch) for batch in batches]), expected)
    near(function(crystals), expected)

    class Labelled:
        def batch(self):
            return ((inputs, {"energy": 0.0}) for inputs in dataset.batch(1))

    near(compute_features(function, Labelled()), expected)
    out = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, expected.shape)
    assert compute_features(function, crystals, out=out) is out
    near(np.load(tmp_path / "rows.npy"), expected, 1e-6)
    near(compute_features(lambda frames: [[len(atoms)] for atoms in frames], crystals), np.full((3, 1), 3.0))
    assert all(a == b for a, b in zip(crystals, before, strict=True))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda f, a: compute_features(f, a, out=np.zeros((3, 2))), DataError, r"out has another shape.*2\)"),
        (lambda f, a: compute_features(f, []), DataError, "no structures"),
        (lambda f, a: compute_features(f, [Atoms("Fe")]), PotentialError, "Fe"),
        (lambda f, a: compute_features(lambda b: [[0.0]], a), DataError, "1 rows for 3 structures"),
        (
            lambda f, a: compute_features(lambda b: [[0.0], [np.nan], [0.0]], a),
            DataError,
            r"features are not finite in frame 1 \(AuCu2\)",
        ),
        (
            lambda f, a: compute_features(f, OTFInMemoryDataset(a, 2.0)),
            ConfigError,
            "shorter than that of the potential; got 2.0; expected 3.5",
        ),
        (lambda f, a: OTFInMemoryDataset(a, 4.0, n_epochs=2), ConfigError, "n_epochs .* got 2; expected 1"),
        (lambda f, a: OTFInMemoryDataset(a, 4.0, pos_unit="Bohr"), ConfigError, "pos_unit .*expected Ang"),
        (lambda f, a: OTFInMemoryDataset(a, -1.0), ConfigError, "cutoff must be a positive number"),
        (lambda f, a: OTFInMemoryDataset(a, 4.0, bs=0), ConfigError, "bs is too small"),
        (lambda f, a: OTFInMemoryDataset([], 4.0), DataError, "no structures"),
    ],
)
def test_bad_input(functions, crystals, act, error, message):
    with pytest.raises(error, match=message):
        act(functions(LL_GRAD), crystals)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LastLayerGradientFeatures(layer="x"), "unknown key 'layer', did you mean 'layer_name'"),
        (lambda: LastLayerGradientFeatures(name="l_grad"), "LastLayerGradientFeatures: name"),
        (lambda: LastLayerGradientFeatures("dense_2"), "takes its settings by name"),
        (lambda: IdentityFeatures(), "missing key 'name'"),
        (lambda: FullGradientRPFeatures(num_rp=0), "must lie in 1..65536, got 0"),
        (lambda: FullGradientRPFeatures(num_rp=65_537), "must lie in 1..65536"),
        (lambda: FullGradientRPFeatures(sketch="gausian"), "sketch"),
        (lambda: LastLayerForceFeatures(strategy="mean"), "strategy"),
        (lambda: ScaleFeatures(2.0, 3.0), "takes its settings by name"),
        (lambda: ScaleFeatures(), "missing key 'factor'"),
        (lambda: FeatureTransformation(factor=1), "unknown key 'factor'"),
        (lambda: setattr(ScaleFeatures(2.0), "factor", 3.0), "frozen"),
    ],
)
def test_bad_settings(make, message):
    error = Exception if message == "frozen" else ConfigError
    with pytest.raises(error, match=message):
        make()


class Lost(FeatureTransformation):
    def apply(self, fn):
        return None


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (PerAtom(), "PerAtom is fitted on features and cannot change a feature function"),
        (LL_GRAD, "no transform of feature functions"),
        (lambda fn: fn, "no transform of feature functions"),
    ],
)
def test_what_is_no_transform(network, transform, message):
    with pytest.raises(ConfigError, match=message):
        create_feature_fn(network, None, LL_GRAD, [transform])


def test_a_transform_that_gives_no_function(network, crystals):
    with pytest.raises(ConfigError, match=r"Lost\.apply must return a function"):
        create_feature_fn(network, None, LL_GRAD, [Lost()])(crystals)
