from __future__ import annotations

import json
import warnings
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_symmetry_functions
from surefield.errors import ConfigError, DataError
from surefield.potentials import evaluate, load_potential, predict, save_potential, trainable
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.electrode.charged_potential import warn_of_negative_capacitance
from surefield.potentials.electrode.quadratic_charge_network import QuadraticChargeNetwork
from surefield.potentials.potential import TrainingData
from surefield.sensitivity.rows import structure_rows
from surefield.structures.graph import collate, sum_atoms
from surefield.structures.offsets import energy_offsets
from surefield.structures.read import read_frames
from surefield.testing import check_potential
from surefield.training.dataset import prepare

ELEMENTS = ("Au", "H", "O")
STENCIL = (-2, -1, 1, 2)
CONVENTIONS = ("exact", "fixed-interface", "amp-1.1")


def descriptor(cutoff=4.0):
    functions = make_symmetry_functions(ELEMENTS, "G2", [0.5, 4.0])
    angular = make_symmetry_functions(["Au"], "G4", [0.005], zetas=[1.0], gammas=[1.0])
    lists = {"Au": functions, "H": functions + angular, "O": functions}
    return SymmetryFunctions.from_lists(ELEMENTS, Cosine(cutoff), lists)


def charge_network(**settings):
    hidden, charge_hidden = [(5,), (4, 3), ()], [(4,), (), (3,)]
    return ChargeNetwork(descriptor(), hidden, charge_hidden, slab_metal="Au", seed=1, **settings)


def quadratic_network(**settings):
    return QuadraticChargeNetwork(descriptor(), [(5,), (4, 3), ()], slab_metal="Au", seed=1, **settings)


def ready(network, frames):
    """Prepared from the frames, and every parameter moved, so that nothing vanishes."""
    data = prepare(frames, network)
    energies = [sample.labels.energy for sample in data.samples]
    offsets = energy_offsets([atoms.numbers for atoms in frames], energies)
    network = network.prepared(TrainingData(data.structures, energies, offsets))
    vector = np.asarray(network.vector)
    moved = vector + np.random.default_rng(2).normal(0, 0.3, vector.shape)
    return network.with_vector(jnp.asarray(moved))


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "reference" / "networks" / "charge"


@pytest.fixture(scope="module")
def made_up(folder):
    """Three images of Au(111) with H and O."""
    return list(read_frames(folder / "made_up_train.extxyz", ":3"))


@pytest.fixture(scope="module", params=[charge_network, quadratic_network], ids=["network", "quadratic"])
def network(request, made_up):
    return ready(request.param(), made_up)


# The reference: scheme 'amp'.


@pytest.fixture(scope="module")
def reference(folder):
    model, expected = (json.loads((folder / name).read_text()) for name in ("model.json", "expected.json"))
    return model, expected, read_frames(folder / "images.extxyz")


def amp_network(model, convention):
    symbols = ("H", "Pt")
    functions = SymmetryFunctions.from_lists(symbols, Cosine(model["cutoff"]["Rc"]), model["Gs"])
    settings = {k: model[k] for k in ("etas", "surface_correction", "slab_metal", "activation")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = ChargeNetwork(
            functions,
            [model["hiddenlayers"][s] for s in symbols],
            [model["charge_hiddenlayers"][s] for s in symbols],
            charge_activation=model["charge_activation"],
            scheme="amp",
            output_activation="activation",
            force_convention=convention,
            **settings,
        )
    ranges, charge_ranges = (
        np.array([model[key][s] for s in symbols]) for key in ("fprange", "charge_fprange")
    )
    low, high = jnp.asarray(ranges[..., 0]), jnp.asarray(ranges[..., 1])
    charge_low, charge_high = jnp.asarray(charge_ranges[..., 0]), jnp.asarray(charge_ranges[..., 1])
    network = eqx.tree_at(
        lambda p: (p.low, p.high, p.charge_low, p.charge_high), network, (low, high, charge_low, charge_high)
    )
    return network.with_vector(jnp.asarray(model["vector"]))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_reference_energies_charges_and_forces(reference, convention):
    model, expected, frames = reference
    network = amp_network(model, convention)
    assert network.interface.radius == model["vdw_radius"]
    np.testing.assert_array_equal(network.vector, model["vector"])
    for found, image in zip(predict(network, frames), expected["images"], strict=True):
        np.testing.assert_allclose(found.energy, image["omega"], atol=1e-10)
        np.testing.assert_allclose(-found.excess_electrons, image["charge"], atol=1e-10)
        np.testing.assert_allclose(found.charges, image["atomic_charges"], atol=1e-10)
        np.testing.assert_allclose(found.energies, image["atomic_energies"], atol=1e-10)
        np.testing.assert_allclose(found.forces, image["forces"][convention], atol=1e-10)


def test_reference_interface_and_charge_fingerprints(reference):
    model, expected, frames = reference
    network = amp_network(model, "exact")
    for atoms, image in zip(frames, expected["images"], strict=True):
        graph = collate([network.neighborhood(atoms)])
        np.testing.assert_allclose(network.interface.heights(graph)[1], image["interface"], atol=1e-10)
        found = network.interface.fingerprints(graph)[: len(atoms)]
        np.testing.assert_allclose(found, image["charge_fingerprints"], atol=1e-10)


def test_reference_parameter_gradients(reference):
    model, expected, frames = reference
    network = amp_network(model, "exact")
    graph = collate([network.neighborhood(frames[0])])

    @jax.jit
    def gradients(vector):
        omega = jax.grad(lambda v: evaluate(network.with_vector(v), graph).energy[0])(vector)
        return omega, jax.grad(lambda v: jnp.sum(network.with_vector(v).charges(graph)))(vector)

    omega, charge = gradients(jnp.asarray(model["vector"]))
    np.testing.assert_allclose(omega, expected["dgcEnergy_dParameters_image0"], atol=1e-10)
    np.testing.assert_allclose(charge, expected["dcharge_dParameters_image0"], atol=1e-10)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_reference_loss_and_its_gradient(reference, convention):
    """1 x energy + 0.04 x force + 10 x charge loss: the forces of each convention can be trained on."""
    model, expected, frames = reference
    network = amp_network(model, convention)
    data = prepare(frames, network)
    graph = collate(data.structures)
    n = np.array([len(atoms) for atoms in frames])
    energy = np.array([sample.labels.energy for sample in data.samples])
    charge = -np.array([sample.labels.excess_electrons for sample in data.samples])
    forces = np.zeros(graph.positions.shape)
    forces[: n.sum()] = np.concatenate([sample.labels.forces for sample in data.samples])

    @jax.jit
    def loss(vector):
        results = evaluate(network.with_vector(vector), graph)
        total = jnp.sum(((results.energy - energy) / n) ** 2)
        squares = sum_atoms(jnp.sum((results.forces - forces) ** 2, axis=1), graph)
        total += 0.04 * jnp.sum(squares / (3 * n))
        return total + 10 * jnp.sum(((sum_atoms(results.outputs["charges"], graph) - charge) / n) ** 2)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(model["vector"]))
    np.testing.assert_allclose(value, expected["loss"][convention]["loss"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected["loss"][convention]["dloss_dparameters"], atol=1e-10)


# Scheme 'consistent', and the quadratic response.


def test_contract(network, made_up):
    check_potential(network, made_up[:2])


@pytest.mark.slow
def test_contract_in_single_precision(made_up):
    single = ready(charge_network(dtype="float32"), made_up)
    wider = (single.charge_low - 0.1, single.charge_high + 0.1)  # rounding is no extrapolation
    single = eqx.tree_at(lambda p: (p.charge_low, p.charge_high), single, wider)
    assert (single.dtype, single.offsets.dtype) == (np.float32, np.float64)
    check_potential(single, made_up[:1])


def test_the_contract_notices_charges_that_are_no_derivatives(made_up, monkeypatch):
    network = ready(charge_network(scheme="amp"), made_up)
    check_potential(network, made_up[:1])
    monkeypatch.setattr(ChargeNetwork, "conjugate_charges", True)
    with pytest.raises(AssertionError, match="excess electrons"):
        check_potential(network, made_up[:1])


@pytest.mark.parametrize("convention", ["fixed-interface", pytest.param("amp-1.1", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:force_convention")
def test_other_force_conventions_fail_the_contract(made_up, convention):
    network = ready(charge_network(force_convention=convention), made_up)
    with pytest.raises(AssertionError, match="finite differences: forces"):
        check_potential(network, made_up[:1])


def _moved(atoms, phi=0.0, strain=None):
    copy = atoms.copy()
    copy.info["electrode_potential"] += phi
    if strain is not None:
        copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def test_stress_and_its_relatives_are_derivatives(network, made_up):
    """For a slab in a cell that is periodic in three directions: N_e, capacitance, stress, to 1e-6."""
    slab = made_up[0].copy()
    slab.pbc = True
    strain = np.random.default_rng(0).normal(size=(3, 3))
    strain = strain + strain.T
    frames = [_moved(slab, phi=1e-2 * k) for k in STENCIL]
    frames += [_moved(slab, strain=1e-4 * k * strain) for k in STENCIL]
    here, *others = predict(network, [slab, *frames])
    charged, strained = others[:4], others[4:]
    electrons = _slope([p.energy for p in charged], 1e-2)
    np.testing.assert_allclose(here.excess_electrons, electrons, rtol=1e-6)
    capacitance = -_slope([p.excess_electrons for p in charged], 1e-2)
    np.testing.assert_allclose(here.capacitance, capacitance, rtol=1e-6)
    np.testing.assert_allclose(-here.charges.sum(), here.excess_electrons, rtol=1e-12)
    xx, yy, zz, yz, xz, xy = here.stress
    full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    work = slab.get_volume() * np.sum(full * strain)
    np.testing.assert_allclose(work, _slope([p.energy for p in strained], 1e-4), rtol=1e-6)


def test_parameter_gradients_are_derivatives(network, made_up):
    """Of Omega, N_e and a force, along random directions of the vector, to 1e-6."""
    graph = collate([network.neighborhood(made_up[0])])

    @jax.jit
    def values(vector):
        results = evaluate(network.with_vector(vector), graph)
        return jnp.stack([results.energy[0], -jnp.sum(results.outputs["charges"]), results.forces[12, 2]])

    vector = jnp.asarray(network.vector)
    rng = np.random.default_rng(3)
    for _ in range(4):
        direction = jnp.asarray(rng.normal(size=vector.shape))
        _, slope = jax.jvp(values, (vector,), (direction,))
        found = _slope([values(vector + 1e-4 * k * direction) for k in STENCIL], 1e-4)
        np.testing.assert_allclose(slope, found, rtol=1e-6)


def _slope(points, step):
    """Fourth-order central difference of values at the points of `STENCIL`."""
    return np.tensordot([1, -8, 8, -1], np.asarray(points), 1) / (12 * step)


def test_vector_round_trip(network):
    vector = np.random.default_rng(0).normal(size=network.vector.shape)
    np.testing.assert_array_equal(network.with_vector(jnp.asarray(vector)).vector, vector)
    with pytest.raises(ConfigError, match=str(len(vector))):
        network.with_vector(jnp.zeros(len(vector) + 1))


def test_order_of_the_vector():
    """Weights, scalings, charge weights, charge scalings, Ei, Jii; each by symbol: Au, H, O."""
    network = charge_network()
    n, q = [6, 7, 6], [10, 11, 10]  # inputs of Au, H, O; layers were given to H, O, Au
    weights = [_count(sizes, m) for sizes, m in zip([(), (5,), (4, 3)], n, strict=True)]
    charge_weights = [_count(sizes, m) for sizes, m in zip([(3,), (4,), ()], q, strict=True)]
    assert len(network.vector) == sum(weights) + sum(charge_weights) + 6 + 6 + 3 + 3
    place = network.species.index(79)
    named = eqx.tree_at(
        lambda p: (p.intercepts, p.slopes, p.charge_intercepts, p.charge_slopes, p.offsets, p.hardness),
        network,
        tuple(jnp.zeros(3).at[place].set(value) for value in (11.0, 12.0, 13.0, 14.0, 15.0, 16.0)),
    )
    vector = np.asarray(named.vector)
    start, end = sum(weights), sum(weights) + 6 + sum(charge_weights)
    assert vector[start : start + 2].tolist() == [11.0, 12.0]
    assert vector[end : end + 2].tolist() == [13.0, 14.0]
    assert vector[end + 6 :].tolist() == [15.0, 0.0, 0.0, 16.0, 0.0, 0.0]
    first = network.layers[network.species.index(1)][0]
    assert vector[weights[0] : weights[0] + first.size].tolist() == first.ravel().tolist()


def _count(hidden, n_in):
    sizes = [n_in, *hidden, 1]
    return sum((a + 1) * b for a, b in pairwise(sizes))


def test_start_values(made_up):
    network = charge_network()
    data = prepare(made_up, network)
    found = network.prepared(TrainingData(data.structures, [None] * 3, {79: -3.0, 8: -2.0}))
    phi = [atoms.info["electrode_potential"] for atoms in made_up]
    assert found.offsets.tolist() == [0.0, -2.0, -3.0]
    np.testing.assert_allclose(found.intercepts, np.mean(phi), rtol=1e-15)
    assert (set(found.slopes.tolist()), set(found.hardness.tolist())) == ({1.0}, {0.3})
    assert (set(found.charge_slopes.tolist()), set(found.charge_intercepts.tolist())) == ({0.1}, {0.0})
    np.testing.assert_array_equal(found.charge_low[:, :6], found.low[:, :6])
    graphs = [collate([s]) for s in data.structures]
    edges = np.stack([found.interface.fingerprints(graph)[:14] for graph in graphs])
    numbers = data.structures[0].numbers
    for place, (z, n) in enumerate(zip(found.species, found.descriptor.n_features, strict=True)):
        own = edges[:, numbers == z].reshape(-1, 4)
        np.testing.assert_allclose(found.charge_low[place, n : n + 4], own.min(axis=0), rtol=1e-13)
        np.testing.assert_allclose(found.charge_high[place, n : n + 4], own.max(axis=0), rtol=1e-13)
    assert predict(found, made_up)[1].extrapolation.max() < 1e-9


def test_only_data_constants_are_fixed(network):
    flags = trainable(network)
    fixed = [name for name in vars(flags) if getattr(flags, name) is False]
    assert {"offsets", "low", "high", "default_phi"} <= set(fixed)
    assert all((flags.readout, flags.bias, flags.slopes))


def test_features_are_derivatives_by_the_last_weights(network, made_up):
    """Rows of energy and forces against derivatives of the predictions along random directions."""
    (rows,) = structure_rows(network, [network.neighborhood(made_up[0])])
    graph = collate([network.neighborhood(made_up[0])])

    def values(readout):
        results = evaluate(_with(network, readout), graph)
        return results.energy[0], results.forces[:14].reshape(-1)

    along = jax.jit(lambda direction: jax.jvp(values, (network.readout,), (direction,))[1])
    for direction in np.random.default_rng(4).normal(size=(2, *network.readout.shape)):
        energy, forces = along(jnp.asarray(direction))
        np.testing.assert_allclose(rows.energy @ direction.ravel(), energy, rtol=1e-10)
        np.testing.assert_allclose(rows.forces @ direction.ravel(), forces, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scheme", ["consistent", "amp", "quadratic"])
def test_rows_of_excess_electrons_are_differences_by_the_last_weights(made_up, scheme):
    plain = quadratic_network() if scheme == "quadratic" else charge_network(scheme=scheme)
    network = ready(plain, made_up)
    (rows,) = structure_rows(network, [network.neighborhood(made_up[0])], ("excess_electrons", "charges"))
    assert set(rows.values) == {"excess_electrons", "charges"}
    np.testing.assert_allclose(-rows["charges"].sum(axis=0), rows["excess_electrons"], atol=1e-12)
    step = 1e-5 * np.random.default_rng(4).normal(size=network.readout.shape)
    (minus,), (plus,) = (predict(_with(network, network.readout + k * step), made_up[:1]) for k in (-1, 1))
    slope = (plus.excess_electrons - minus.excess_electrons) / 2
    assert rows["excess_electrons"] @ step.ravel() == pytest.approx(slope, rel=1e-7)


def _with(network, readout):
    return eqx.tree_at(lambda p: p.readout, network, readout)


def test_save_and_load(network, made_up, tmp_path):
    network = eqx.tree_at(lambda p: p.default_phi, network, jnp.asarray(4.2))
    save_potential(tmp_path / "charge.npz", network)
    loaded = load_potential(tmp_path / "charge.npz")
    assert eqx.tree_equal(loaded, network)
    assert loaded.electrode_potential == 4.2


def test_amp_charges_are_the_latents(made_up):
    """-dOmega/dPhi is another number than Q; and the capacitance is that of Q."""
    network = ready(charge_network(scheme="amp"), made_up)
    here, *others = predict(network, [made_up[0], *(_moved(made_up[0], phi=1e-2 * k) for k in STENCIL)])
    assert abs(_slope([p.energy for p in others], 1e-2) - here.excess_electrons) > 0.1
    capacitance = -_slope([p.excess_electrons for p in others], 1e-2)
    np.testing.assert_allclose(here.capacitance, capacitance, rtol=1e-6)


def test_quadratic_response_is_quadratic(made_up):
    network = ready(quadratic_network(), made_up)
    mean = np.mean([atoms.info["electrode_potential"] for atoms in made_up])
    np.testing.assert_allclose(network.reference_phi, mean, rtol=1e-15)
    found = predict(network, [_moved(made_up[0], phi=phi) for phi in (-1.0, 0.0, 1.0)])
    np.testing.assert_allclose([p.capacitance for p in found], found[0].capacitance, rtol=1e-10)
    assert found[0].capacitance > 0
    curvature = found[0].energy - 2 * found[1].energy + found[2].energy
    np.testing.assert_allclose(curvature, -found[0].capacitance, rtol=1e-8)


# Structures that state something, or do not.


def test_the_default_potential_serves_images_without_one(made_up):
    network = ready(charge_network(), made_up)
    bare = made_up[0].copy()
    del bare.info["electrode_potential"]
    with pytest.raises(DataError, match=r"no electrode potential in frame 0.*V on the absolute scale"):
        predict(network, [bare])
    with_default = eqx.tree_at(lambda p: p.default_phi, network, jnp.asarray(4.7))
    stated = bare.copy()
    stated.info["electrode_potential"] = 4.7
    one, two, other = predict(with_default, [bare, stated, made_up[0]])
    assert (one.energy, one.electrode_potential) == (two.energy, 4.7)
    assert other.electrode_potential == made_up[0].info["electrode_potential"]
    with pytest.raises(DataError, match="SHE"):
        charge_network(electrode_potential=0.3)


def test_a_stated_interface_replaces_the_slab(made_up):
    network = ready(charge_network(), made_up)
    height = network.interface_height(made_up[0])
    stated = made_up[0].copy()
    stated.info["interface"] = height
    assert network.interface_height(stated) == height
    same, plain = predict(network, [stated, made_up[0]])
    np.testing.assert_allclose(same.energy, plain.energy, rtol=1e-13)
    assert np.abs(same.forces - plain.forces)[:12].max() > 1e-3  # z0 is now a constant
    water = made_up[0][12:]
    with pytest.raises(DataError, match=r"no Au.*frame 0.*info\['interface'\]"):
        predict(network, [water])
    water.info["interface"] = height
    assert np.isfinite(predict(network, [water])[0].forces).all()


def test_unknown_settings():
    with pytest.raises(ConfigError, match="did you mean 'consistent'"):
        charge_network(scheme="consistant")
    with pytest.raises(ConfigError, match="slab_metal"):
        ChargeNetwork(descriptor(), [()] * 3, [()] * 3)


def test_extrapolation_is_named(network, made_up):
    far = made_up[0].copy()
    far.info["electrode_potential"] = 8.0
    far.positions[12, 2] += 2.0
    assert predict(network, [far])[0].extrapolation[12] > 0.05
    assert "atom 12 (H) lies outside" in network.describe_extrapolation(far)
    closer = made_up[0].copy()
    closer.info["electrode_potential"] = 8.0
    if isinstance(network, ChargeNetwork):
        assert "charge fingerprint eta=" in network.describe_extrapolation(closer)


def test_negative_capacitance_is_reported(made_up):
    network = ready(quadratic_network(), made_up)
    assert warn_of_negative_capacitance(network, made_up) == []
    charge = ready(charge_network(), made_up)
    values = [p.capacitance for p in predict(charge, made_up)]
    turned = eqx.tree_at(lambda p: p.charge_slopes, charge, 30 * charge.charge_slopes)
    turned = turned if min(values) > 0 else charge
    with pytest.warns(UserWarning, match=r"negative capacitance on \d of 3 training images \(frame"):
        found = warn_of_negative_capacitance(turned, made_up)
    assert found
