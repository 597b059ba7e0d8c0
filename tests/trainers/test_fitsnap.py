"""FitSNAP-type fits against published coefficients, and what their settings mean."""

from __future__ import annotations

import io
import json
import lzma

import ase.io
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.formats.fitsnap_json import read_fitsnap_json
from surefield.potentials import predict
from surefield.potentials.potential import SumPotential
from surefield.structures.convert import convert_labels
from surefield.structures.tensors import from_voigt
from surefield.testing.frames import random_rotation, rotated
from surefield.trainers.fitsnap import BAR, FitSnapPotential, FitSnapTrainer
from surefield.trainers.fitsnap_settings import fitsnap_settings, read_sections
from surefield.trainers.inputs import gather, make_configurations
from surefield.trainers.result import TrainingWarning
from surefield.training.least_squares import StreamedRows, solve
from surefield.training.linear import linear_rows
from surefield.training.problem import ResidualWeights, Weights, residual_weights
from surefield.units import EV_A3_PER_BAR

#: MAE, RMSE, R2 of fitsnap_03_metrics.md.
FITSNAP_03 = {
    "energy": (0.00674756, 0.0077996, -2.0705),
    "forces": (0.804023, 0.99119, -2.7089),
    "stress": (241.486, 306.568, 1.0),
}
#: eweight, fweight, vweight of the groups of fitsnap_ta306.
GROUPS = {
    "Displaced_A15": (100, 1, 1e-8),
    "Displaced_BCC": (100, 1, 1e-8),
    "Displaced_FCC": (100, 1, 1e-8),
    "GSF_110": (100, 1, 1e-8),
    "GSF_112": (100, 1, 1e-8),
    "Surface": (100, 1, 1e-8),
    "Liquid": (467, 1, 1e-8),
    "Elastic_BCC": (1e-8, 1e-8, 1e-4),
    "Elastic_FCC": (1e-9, 1e-9, 1e-9),
    "Volume_A15": (1, 1e-9, 1e-9),
    "Volume_BCC": (1, 1e-9, 1e-9),
    "Volume_FCC": (1, 1e-9, 1e-9),
}
TANTALUM = {
    "BISPECTRUM": {"numTypes": 1, "type": "Ta", "twojmax": 6, "rcutfac": 4.67637, "rfac0": 0.99363},
    "REFERENCE": {
        "units": "metal",
        "pair_style": "hybrid/overlay zero 10.0 zbl 4.0 4.8",
        "pair_coeff1": "* * zero",
        "pair_coeff2": "* * zbl 73 73",
    },
}
REFERENCE = {
    "pair_style": "zbl 2.0 3.9",
    "pair_coeff1": "1 1 73 73",
    "pair_coeff2": "2 2 74 74",
    "pair_coeff3": "1 2 73 74",
}
SMALL = {"type": "Ta W", "numTypes": 2, "twojmax": 2, "rcutfac": 4.2, "radelem": [0.5, 0.46], "wj": [1, 0.8]}


@pytest.fixture(scope="module")
def inputs(shared):
    return shared / "reference" / "trainers" / "inputs"


@pytest.fixture(scope="module")
def expected(shared):
    return shared / "reference" / "trainers" / "expected"


@pytest.fixture(scope="module")
def fcc(inputs):
    """Nine displaced cells; their stress is in bar, positive in compression."""
    frames = [ase.io.read(inputs / "ta_fcc" / f"Displaced_FCC_{i}.xyz") for i in range(9)]
    return list(convert_labels(frames, stress_unit="bar", stress_sign="compression"))


@pytest.fixture
def train(tmp_path):
    """A function that trains in a folder of its own."""

    def call(potential, frames, **options):
        flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "runs")}}
        return FitSnapTrainer().train("test", potential, frames, None, flow, register=False, **options)

    return call


def small(**sections) -> FitSnapPotential:
    """Potential of two elements; sections of the settings besides."""
    settings = {"BISPECTRUM": SMALL | sections.pop("BISPECTRUM", {}), **sections}
    return FitSnapPotential(["Ta", "W"], settings_path=settings)


@pytest.fixture(scope="module")
def truth():
    """A SNAP potential of two elements with a reference, the coefficients being known."""
    handle = small(REFERENCE=REFERENCE)
    rng = np.random.default_rng(8)
    snap = handle.model.learned
    values = 0.03 * rng.normal(size=snap.readout.shape), rng.normal(size=2)
    snap = eqx.tree_at(lambda p: (p.readout, p.bias), snap, tuple(map(jnp.asarray, values)))
    return SumPotential(snap, handle.model.baseline)


@pytest.fixture(scope="module")
def alloys(truth):
    """Ten cells of four atoms with noise-free labels, in two groups."""
    rng = np.random.default_rng(9)
    frames = []
    for i in range(10):
        atoms = Atoms(
            "TaW" if i % 3 else "Ta2", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.3] * 3, pbc=True
        )
        atoms = atoms.repeat((2, 1, 1))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.2 * rng.normal(size=(4, 3))
        atoms.info["config_type"] = "even" if i % 2 == 0 else "odd"
        frames.append(atoms)
    for atoms, p in zip(frames, predict(truth, frames), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=p.energy, forces=p.forces, stress=p.stress)
    return frames


def coefficients(potential, element: int = 0) -> np.ndarray:
    """Constant and coefficients of one element."""
    snap = potential.last_layer()
    return np.concatenate([np.asarray(snap.bias)[[element]], np.asarray(snap.readout)[element]])


def read_coefficients(path) -> np.ndarray:
    """Numbers of a .snapcoeff of one element, read by hand."""
    lines = path.read_text().splitlines()[4:]
    return np.array([float(line.split("#")[0]) for line in lines if line.split("#")[0].strip()])


def test_rows_of_the_design_matrix(fcc, inputs):
    with np.load(inputs / "design_matrix.npz") as file:
        a, b, kinds, config = (file[name] for name in ("A", "b", "row_type", "config"))
    handle = FitSnapPotential(["Ta"], settings_path=inputs / "ta_fitsnap_settings.in")
    configurations = make_configurations(handle.model, gather(fcc, None, False), Weights())
    rows = linear_rows(
        handle.model, configurations, lambda c: ResidualWeights(1.0, np.ones(c.n_atoms), np.ones(6))
    )
    for i, found in enumerate(rows):
        own = np.hstack([found.a[:, -1:], found.a[:, :-1]])
        for kind in "EFS":
            mine = (config == i) & (kinds == kind)
            place = kinds[config == i] == kind
            factor = -BAR if kind == "S" else 1.0
            size = np.abs(a[kinds == kind]).max()
            np.testing.assert_allclose(factor * own[place], a[mine], rtol=0, atol=1e-10 * size)
            # The labels in bar were made with the true constant, 8e-8 away from FitSNAP's.
            factor = -1.602176634e6 if kind == "S" else 1.0
            size = np.abs(b[kinds == kind]).max()
            digits = 1e-7 if kind == "S" else 1e-10
            np.testing.assert_allclose(factor * found.b[place], b[mine], rtol=0, atol=digits * size)


def test_solver_on_stored_rows(inputs, expected):
    with np.load(inputs / "design_matrix.npz") as file:
        first = file["A"], file["b"], np.ones(len(file["b"]))
    with np.load(expected / "fitsnap_ta306.npz") as file:
        second, exact = (file["A"], file["b"], file["w"]), file["coefficients"]
    found = []
    for a, b, w in (first, second):
        rows = StreamedRows(a.shape[1])
        for part in np.array_split(np.arange(len(b)), 7):
            rows.add(w[part, None] * a[part], w[part] * b[part])
        found.append(solve(rows.reduced(), "svd", eps=1e-13).x)
    published = read_coefficients(expected / "fitsnap_03.snapcoeff")
    np.testing.assert_allclose(found[0], published, rtol=2e-5)
    np.testing.assert_allclose(found[1], exact, rtol=0, atol=1e-10 * np.abs(exact).max())


def test_published_fit(train, fcc, inputs, expected):
    handle = FitSnapPotential(["Ta"], settings_path=inputs / "ta_fitsnap_settings.in")
    with pytest.warns(TrainingWarning, match="R2 of the"):
        result = train(handle, fcc, vweight=1.602176634e6)
    published = read_coefficients(expected / "fitsnap_03.snapcoeff")
    np.testing.assert_allclose(coefficients(result.potential.model), published, rtol=2e-5)
    for kind, (mae, rmse, r2) in FITSNAP_03.items():
        unit = 1.602176634e6 if kind == "stress" else 1.0
        found = result.errors[kind, "train", "unweighted"]
        np.testing.assert_allclose([found.mae * unit, found.rmse * unit], [mae, rmse], rtol=1e-5)
        np.testing.assert_allclose(found.r2, r2, rtol=2e-5)
    assert result.rows == {"energy": 9, "forces": 1296, "stress": 54, "configurations": 9}
    assert "rank 31 of 31" in result.message
    prefix = result.path / "potential" / "fitsnap_potential"
    np.testing.assert_array_equal(
        read_coefficients(prefix.with_suffix(".snapcoeff")), coefficients(handle.model)
    )
    again = FitSnapPotential(["Ta"])
    again.load_potential(prefix)
    (one,), (other,) = predict(again.model, fcc[:1]), predict(handle.model, fcc[:1])
    np.testing.assert_allclose(one.energy, other.energy, rtol=1e-10)
    np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-10)
    again.load_potential(result.path / "potential")
    np.testing.assert_array_equal(coefficients(again.model), coefficients(handle.model))


def test_default_units(train, fcc, inputs):
    handle = FitSnapPotential(["Ta"], settings_path=inputs / "ta_fitsnap_settings.in")
    result = train(handle, fcc)
    numbers = {
        "energy": (2.169609e-4, 0.997624),
        "forces": (2.670169e-2, 0.997308),
        "stress": (1.568257e-3, 0.999977),
    }
    for kind, values in numbers.items():
        found = result.errors[kind, "train", "unweighted"]
        np.testing.assert_allclose([found.rmse, found.r2], values, rtol=1e-5)


@pytest.fixture(scope="module")
def tantalum(shared):
    with lzma.open(shared / "data" / "Ta" / "train.xyz.xz", "rt") as file:
        return ase.io.read(io.StringIO(file.read()), ":", format="extxyz")


def grouped() -> FitSnapPotential:
    """Settings of fitsnap_ta306."""
    table = {"group_sections": "name training_size testing_size eweight fweight vweight"}
    table |= {name: [1.0, 0.0, *weights] for name, weights in GROUPS.items()}
    return FitSnapPotential(["Ta"], settings_path=TANTALUM | {"GROUPS": table})


def test_coefficients_with_group_weights(tantalum, expected):
    handle, weights = grouped(), Weights()
    configurations = make_configurations(handle.model, gather(tantalum, None, False), weights)
    rows = StreamedRows(31)
    weighted = FitSnapTrainer().weighted(configurations, handle, {c.id for c in configurations})
    for part in linear_rows(handle.model, weighted, lambda c: residual_weights(c, weights)):
        rows.add(part.a, part.b)
    x = solve(rows.reduced(), "svd", eps=1e-13).x
    with np.load(expected / "fitsnap_ta306.npz") as file:
        exact = file["coefficients"]
    np.testing.assert_allclose(np.r_[x[-1], x[:-1]], exact, rtol=0, atol=1e-6 * np.abs(exact).max())


@pytest.mark.slow
def test_fit_with_group_weights(train, tantalum, expected):
    result = train(grouped(), tantalum)
    with np.load(expected / "fitsnap_ta306.npz") as file:
        exact = file["coefficients"]
    found = coefficients(result.potential.model)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    metrics = json.loads((expected / "fitsnap_ta_metrics.json").read_text())["linear_306"]
    for kind, ours in (("energy", "energy"), ("force", "forces"), ("stress", "stress")):
        for weighting in ("unweighted", "weighted"):
            theirs, errors = metrics[f"{weighting} {kind}"], result.errors[ours, "train", weighting]
            unit = BAR if (kind, weighting) == ("stress", "unweighted") else 1.0
            assert errors.count == theirs["count"]
            values = [errors.mae * unit, errors.rmse * unit]
            np.testing.assert_allclose(values, [theirs["mae"], theirs["rmse"]], rtol=1e-5)


def test_known_coefficients_are_recovered(train, truth, alloys):
    handle = small(REFERENCE=REFERENCE)
    result = train(handle, alloys, fweight=0.5)
    for element in (0, 1):
        found, known = coefficients(handle.model, element), coefficients(truth, element)
        np.testing.assert_allclose(found, known, rtol=0, atol=1e-8 * np.abs(known).max())
    assert result.notes["rank"] == 12
    assert result.loss < 1e-16


def relabelled(frames, scale=1.0, turn=None):
    """Copies with scaled energies, turned if asked for, without stress."""
    turn = np.eye(3) if turn is None else turn
    found = []
    for atoms in frames:
        copy = rotated(atoms, turn)
        energy, forces = scale * atoms.get_potential_energy(), atoms.get_forces() @ turn.T
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
        found.append(copy)
    return found


def test_rotated_data_give_the_same_potential(train, alloys):
    turn = random_rotation(np.random.default_rng(1))
    handles = small(), small()
    for handle, turning in zip(handles, (None, turn), strict=True):
        train(handle, relabelled(alloys, 1.1, turning), vweight=0.0)
    one, other = (predict(handle.model, alloys[:2]) for handle in handles)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.energy, b.energy, rtol=1e-8)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-8)


def test_weights_of_atoms_and_doubled_configurations_agree(train, alloys):
    frames = relabelled(alloys, 1.1)
    weights = [np.full(4, np.sqrt(2)) if i == 3 else np.ones(4) for i in range(10)]
    handles = small(), small()
    train(handles[0], frames, eweight=0.0, vweight=0.0, per_atom_weights=list(np.concatenate(weights)))
    train(handles[1], [*frames, frames[3]], eweight=0.0, vweight=0.0)
    one, other = (np.asarray(handle.model.readout) for handle in handles)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * np.abs(other).max())


def test_group_weights_and_kinds_of_labels(train, alloys):
    frames = relabelled(alloys, 1.1)
    groups = {"even": "1.0 0.0 2.0 1.0 0.0", "odd": "1.0 0.0 1.0 0.5 0.0"}
    by_group, by_hand = small(GROUPS=groups), small()
    train(by_group, frames, vweight=0.0)
    weights = np.concatenate([np.full(4, 1.0 if i % 2 == 0 else 0.5) for i in range(10)])
    for i, atoms in enumerate(frames):
        atoms.info["structure_weight"] = 2.0 if i % 2 == 0 else 1.0
    # The weight of a structure multiplies its forces too.
    train(by_hand, frames, vweight=0.0, per_atom_weights=list(weights / np.repeat([2, 1] * 5, 4)))
    one, other = (np.asarray(handle.model.readout) for handle in (by_group, by_hand))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * np.abs(other).max())
    result = train(small(CALCULATOR={"energy": 1, "force": 0, "stress": 0}), alloys)
    assert result.errors["forces", "train", "weighted"].rmse == 0
    assert result.notes["rows"] == 10


def test_training_sizes_and_smartweights(train, alloys):
    groups = {"even": "0.6 0.4 1 1 1", "odd": "0.4 0.6 3 1 1", "smartweights": 1}
    results = [train(small(GROUPS=groups), alloys, seed=seed) for seed in (0, 0, 1)]
    assert results[0].split == results[1].split != results[2].split
    even = [name for name in results[0].split["train"] if int(name) % 2 == 0]
    assert (len(even), len(results[0].split["train"])) == (3, 5)
    assert len(results[0].split["validation"]) == 5
    handle = small(GROUPS=groups)
    configurations = make_configurations(handle.model, gather(alloys, None, False), Weights())
    fitted = set(results[0].split["train"])
    factors = FitSnapTrainer().weighted(configurations, handle, fitted)[1].factors
    expected = {"energy": 3 / 2, "forces": 1 / 2 / 12, "stress": BAR / 2 / 6}
    np.testing.assert_allclose([factors[kind] for kind in expected], list(expected.values()), rtol=1e-14)
    with pytest.raises(ConfigError, match="leave training_split and split out"):
        train(
            small(GROUPS=groups),
            alloys,
            split={"train": ["000000"], "validation": [f"{i:06d}" for i in range(1, 10)]},
        )


def test_constants_are_not_fitted_with_bzeroflag(train, alloys):
    handle = small(BISPECTRUM={"bzeroflag": 1})
    result = train(handle, relabelled(alloys, 1.1), vweight=0.0, eweight=10.0)
    np.testing.assert_array_equal(handle.model.bias, 0)
    assert result.notes["columns"] == 10
    text = (result.path / "potential" / "fitsnap_potential.snapparam").read_text()
    assert "bzeroflag 1" in text


def test_ridge(train, alloys):
    frames = relabelled(alloys, 1.1)
    handles = small(), small(SOLVER={"solver": "RIDGE"}, RIDGE={"alpha": 10.0})
    results = [train(handle, frames, vweight=0.0) for handle in handles]
    assert results[1].notes["solver"] == "ridge"
    sizes = [np.linalg.norm(handle.model.readout) for handle in handles]
    assert sizes[1] < sizes[0]
    assert results[1].loss > results[0].loss


@pytest.mark.parametrize(("solver", "entries"), [("LASSO", {"LASSO": {"alpha": 1e-3}}), ("ARD", {})])
def test_sparse_solvers(train, alloys, solver, entries):
    frames = relabelled(alloys, 1.1)
    best = train(small(), frames, vweight=0.0)
    result = train(small(SOLVER={"solver": solver}, **entries), frames, vweight=0.0)
    assert result.notes["solver"] == solver.lower()
    assert best.loss < result.loss < 1.1 * best.loss


def test_rank_deficiency_is_stated(train, alloys):
    result = train(small(), relabelled(alloys[1:3]), fweight=0.0, vweight=0.0)
    assert "rank 2 of 12 columns" in result.message


def test_start_parameters(train, alloys, truth, tmp_path):
    handle = small(REFERENCE=REFERENCE)
    handle.set_model(truth)
    handle.save_potential_files(tmp_path / "saved")
    for path in (tmp_path / "saved", tmp_path / "saved" / "fitsnap_potential"):
        again = FitSnapPotential(**handle.settings() | {"parameter_path": str(path)})
        np.testing.assert_array_equal(coefficients(again.model), coefficients(truth))
        energy, forces, stress = again.evaluate(alloys[0])
        np.testing.assert_allclose(energy, alloys[0].get_potential_energy(), rtol=1e-12)
        np.testing.assert_allclose(forces, alloys[0].get_forces(), atol=1e-12)
        np.testing.assert_allclose(stress, alloys[0].get_stress(), atol=1e-14)
    with pytest.raises(PotentialError, match="do not fit the settings"):
        FitSnapPotential(**small().settings() | {"parameter_path": str(tmp_path / "saved")}).build_potential()
    with pytest.raises(PotentialError, match="other elements"):
        FitSnapPotential(["Ta"]).load_potential(tmp_path / "saved")
    with pytest.raises(PotentialError, match="nothing"):
        FitSnapPotential(["Ta"]).load_potential(tmp_path / "nothing")


def test_settings_file_and_dictionary_mean_the_same(inputs):
    sections = read_sections(inputs / "ta_fitsnap_settings.in")
    from_file = fitsnap_settings(sections, ["Ta"])
    from_dictionary = fitsnap_settings(read_sections(TANTALUM), ["Ta"])
    assert from_file.descriptor == from_dictionary.descriptor
    assert from_file.reference.config() == from_dictionary.reference.config()
    default = fitsnap_settings({}, ["Ta"])
    assert default.descriptor == from_file.descriptor
    assert default.reference is None
    handle = FitSnapPotential(["Ta"], settings_path=inputs / "ta_fitsnap_settings.in")
    again = FitSnapPotential(**json.loads(json.dumps(handle.settings())))
    assert again.fit_settings.descriptor == handle.fit_settings.descriptor


def test_values_per_type_follow_the_types():
    values = {"type": "W Ta", "twojmax": [3, 3], "radelem": "0.46 0.5", "wj": "0.8 1.0"}
    inner = {"switchinnerflag": 1, "sinner": "1.4 1.5", "dinner": "0.2 0.3"}
    found = fitsnap_settings(read_sections({"BISPECTRUM": values | inner}), ["Ta", "W"])
    d = found.descriptor
    assert (d.species, d.radelem, d.wj) == ((73, 74), (0.5, 0.46), (1.0, 0.8))
    assert (d.sinner, d.dinner, d.twojmax) == ((1.5, 1.4), (0.3, 0.2), 3)
    assert found.types == ("W", "Ta")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"BISPECTRUM": {"twojmx": 6}}, "did you mean 'twojmax'"),
        ({"BISPECTRUMS": {}}, "did you mean 'BISPECTRUM'"),
        ({"ACE": {"numTypes": 1}}, r"section \[ACE\]"),
        ({"BISPECTRUM": {"twojmax": "10 6"}}, r"differs between types is not supported, got \[10, 6\]"),
        ({"BISPECTRUM": {"twojmax": "six"}}, "twojmax must be whole numbers, got 'six'"),
        ({"BISPECTRUM": {"wj": "1.0"}}, "wj needs a number per type"),
        ({"BISPECTRUM": {"type": "Ta Mo"}}, "other elements"),
        ({"BISPECTRUM": {"numTypes": 3}}, "numTypes is 3"),
        ({"BISPECTRUM": {"chemflag": 2}}, "chemflag must be 0 or 1"),
        ({"CALCULATOR": {"calculator": "LAMMPSPACE"}}, "'LAMMPSPACE' is not supported"),
        ({"SOLVER": {"solver": "NETWORK"}}, "solver 'NETWORK' is not supported"),
        ({"REFERENCE": {"pair_style": "eam/alloy"}}, "'eam/alloy' is not supported"),
        ({"REFERENCE": {"units": "real"}}, "units must be metal"),
        ({"GROUPS": {"all": "1.0 0.0 1"}}, "unusable group 'all'"),
        ({"GROUPS": {"all": "1.5 0.0 1 1 1"}}, "out of range"),
        ({"GROUPS": {"all": "1.0 -1 1 1 1"}}, "out of range"),
        ({"GROUPS": {"all": "3 1 1 1", "group_types": "str int int"}}, "group_types must be"),
        (
            {"GROUPS": {"all": "1 1 1 1", "group_sections": "name size training_size eweight fweight"}},
            "sizes",
        ),
        ({"BISPECTRUM": {"bikflag": 1}}, r"\[BISPECTRUM\] bikflag: it is not supported"),
        ({"CALCULATOR": {"nonlinear": "True"}}, "nonlinear must be numbers"),
        ({"ESHIFT": {"Mo": 1.0}}, r"\[ESHIFT\] Mo is no type"),
        ({"ESHIFT": {"W": "one"}}, r"\[ESHIFT\] W must be numbers"),
        ({"GROUPS": {"smartweight": 1}}, "did you mean 'smartweights'"),
        ({"GROUPS": {"BOLTZT": 300}}, "Boltzmann"),
        ({"BISPECTRUM": 3}, "must be a dictionary"),
        ({"BISPECTRUM": {"wj": {1: 1}}}, "must be text, a number or a list"),
    ],
)
def test_settings_that_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        FitSnapPotential(["Ta", "W"], settings_path=sections)


def test_energies_are_shifted_before_the_fit(train, alloys):
    shifts = {"Ta": -1.65, "W": 4.38}
    of = [{}, {"ESHIFT": shifts}, {"ESHIFT": {"Ta": 0.0, "W": 0.0}}]
    plain, shifted, zero = (small(REFERENCE=REFERENCE, **sections) for sections in of)
    results = [train(handle, alloys) for handle in (plain, shifted, zero)]
    bias = [np.asarray(handle.model.learned.bias) for handle in (plain, shifted, zero)]
    readout = [np.asarray(handle.model.learned.readout) for handle in (plain, shifted)]
    # The constants are all that shifts of the elements change.
    np.testing.assert_allclose(bias[1] - bias[0], [-1.65, 4.38], rtol=1e-8)
    np.testing.assert_allclose(readout[1], readout[0], atol=1e-8)
    np.testing.assert_array_equal(bias[2], bias[0])
    assert results[1].loss < 1e-16
    assert results[1].notes["energy_shifts"] == shifts


def test_folders_of_fitsnap_are_trained_on(train, truth, alloys, tmp_path):
    for i, atoms in enumerate(alloys):
        compression = -from_voigt(atoms.get_stress()) / EV_A3_PER_BAR
        data = {
            "Positions": atoms.positions.tolist(), "Lattice": atoms.cell.array.tolist(),
            "Energy": atoms.get_potential_energy(), "Forces": atoms.get_forces().tolist(),
            "Stress": compression.tolist(), "AtomTypes": atoms.get_chemical_symbols(),
        }  # fmt: skip
        path = tmp_path / "JSON" / atoms.info["config_type"] / f"{i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# of a test\n" + json.dumps({"Dataset": {"Data": [data], "StressStyle": "bar"}}))
    handle = small(REFERENCE=REFERENCE, GROUPS={"even": "1.0 0.0 2 1 1e-6", "odd": "1.0 0.0 1 1 1e-6"})
    result = train(handle, read_fitsnap_json(tmp_path / "JSON"))
    for element in (0, 1):
        known = coefficients(truth, element)
        np.testing.assert_allclose(
            coefficients(handle.model, element), known, atol=1e-7 * np.abs(known).max()
        )
    assert set(result.groups) == {"even", "odd"}


def test_errors_of_groups_have_units(train, alloys):
    result = train(small(REFERENCE=REFERENCE), alloys)
    counts = {name: result.groups[name]["forces", "train", "unweighted"].count for name in ("even", "odd")}
    assert counts == {"even": 60, "odd": 60}
    text = (result.path / "metrics.md").read_text()
    assert "| group | kind | part | weighting | count | mae | rmse | r2 | unit of mae and rmse |" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| even | forces | train | unweighted | 60 |"))
    assert f"{result.groups['even']['forces', 'train', 'unweighted'].rmse:.8g}" in line
    assert line.endswith("| eV/Å |")
    assert any(x.startswith("| stress | train") and x.endswith("| eV/Å^3 |") for x in text.splitlines())


def test_settings_of_fitsnap_that_change_nothing():
    sections = {
        "BISPECTRUM": SMALL | {"bikflag": 0, "dgradflag": 0, "alloyflag": 0},
        "CALCULATOR": {"nonlinear": 0, "per_atom_energy": "False", "dee": "errors.dat"},
        "SOLVER": {"solver": "SVD", "true_multinode": 0, "multinode": 1, "nsam": 0, "normalweight": -12},
        "RIDGE": {"alpha": 1e-8, "method": "SVD"},
        "GROUPS": {"random_sampling": 0, "random_seed": 7, "BOLTZ": 0, "vasp_use_TOTEN": "False"},
    }
    settings = fitsnap_settings(read_sections(sections), ["Ta", "W"])
    assert (
        settings.descriptor == fitsnap_settings(read_sections({"BISPECTRUM": SMALL}), ["Ta", "W"]).descriptor
    )
    assert settings.random_seed == 7


@pytest.mark.parametrize(
    ("row", "columns", "types", "counts"),
    [
        ("1.0 0.0 1 1 1", None, None, (11, 0)),
        ("0.5 0.25 1 1 1", None, None, (6, 3)),
        ("0.01 0.01 1 1 1", None, None, (1, 1)),
        ("1.0 1.0 1 1 1", None, None, (11, 0)),
        ("0.0 1.0 1 1 1", None, None, (0, 11)),
        ("4 2 1 1 1", None, None, (4, 2)),
        ("1 1 1 1 1", None, "str int int float float float", (1, 1)),
        ("0.4 1 1 1", None, None, (4, 7)),
        ("5 1 1 1", "name size eweight fweight vweight", None, (5, 6)),
    ],
)
def test_sizes_of_groups_are_those_of_fitsnap(row, columns, types, counts):
    table = {"group_sections": columns, "group_types": types, "all": row}
    sections = {"GROUPS": {key: value for key, value in table.items() if value is not None}}
    assert fitsnap_settings(read_sections(sections), ["Ta"]).groups["all"].counts(11) == counts


def test_groups_may_stand_in_a_file_of_their_own(tmp_path):
    text = "[PATH]\ngroupFile = list.in\n[GROUPS]\ngroup_sections = name size eweight fweight vweight\n"
    (tmp_path / "x.in").write_text(text)
    (tmp_path / "list.in").write_text("# name size\nall  0.5 2 3 4 # half\n\nrest 1.0 1 1 1\n")
    groups = fitsnap_settings(read_sections(tmp_path / "x.in"), ["Ta"]).groups
    assert groups["all"] == (0.5, None, 2.0, 3.0, 4.0)
    assert groups["rest"].whole
    (tmp_path / "list.in").unlink()
    with pytest.raises(ConfigError, match="groupFile cannot be read"):
        read_sections(tmp_path / "x.in")


def test_settings_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the settings file"):
        FitSnapPotential(["Ta"], settings_path=tmp_path / "missing.in")
    (tmp_path / "broken.in").write_text("twojmax = 6\n")
    with pytest.raises(ConfigError, match="cannot read the settings file"):
        FitSnapPotential(["Ta"], settings_path=tmp_path / "broken.in")


def test_configurations_that_are_refused(train, alloys):
    nameless = [atoms.copy() for atoms in alloys[:2]]
    for copy, atoms in zip(nameless, alloys, strict=False):
        copy.calc = atoms.calc
    del nameless[1].info["config_type"]
    groups = {"even": "1 0 1 1 1", "odd": "1 0 1 1 1"}
    with pytest.raises(DataError, match="configuration 000001 has no group"):
        train(small(GROUPS=groups), nameless)
    with pytest.raises(DataError, match="no group 'odd'; did you mean 'odds'"):
        train(small(GROUPS={"even": "1 0 1 1 1", "odds": "1 0 1 1 1"}), alloys)
    with pytest.raises(PotentialError, match="does not know W"):
        train(FitSnapPotential(["Ta"]), alloys)
