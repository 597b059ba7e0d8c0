"""ChIMES fits: the matrices and coefficients of chimes_lsq, weights, offsets, penalties, refusals."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError
from surefield.formats.chimes import read_params, read_setup, read_xyzf, write_params
from surefield.potentials import ZBL, save_potential
from surefield.potentials.chimes import Chimes, ChimesSettings
from surefield.trainers.chimes import ChIMESPotential, ChIMESTrainer
from surefield.trainers.inputs import gather, make_configurations
from surefield.trainers.result import TrainingWarning
from surefield.training.least_squares import StreamedRows, solve
from surefield.training.problem import Problem, TrainingRun, Weights

KCAL = 23.060548
ALGORITHMS = ("svd", "fast_svd", "ridge", "ridgecv", "lasso", "lassolars", "lars", "dlars", "dlasso")
SETTINGS = ChimesSettings(
    ("Si", "C"), (5, 3, 0), (1.2, 1.1, 1.1), (4.6, 4.2, 4.4), (1.6, 1.4, 1.5), cutoff="TERSOFF", tersoff=0.6
)


@pytest.fixture(scope="module")
def truth():
    return Chimes(SETTINGS, np.random.default_rng(4).normal(size=SETTINGS.n_columns))


@pytest.fixture(scope="module")
def frames(truth):
    """Six cells of eight atoms, of changing composition, labelled by a known potential."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(6):
        atoms = bulk("Si", cubic=True)
        atoms.symbols[: 2 + i % 3] = "C"
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.15, (8, 3))
        found.append(labelled(truth, atoms))
    return found


def labelled(potential, atoms):
    structure = potential.neighborhood(atoms)
    (rows,) = potential.closed_rows([structure], forces=True, strain=True)
    energy, forces, virial = potential.penalty(structure)
    x = potential.coefficients
    virial = (rows.virial @ x + virial) / atoms.get_volume()
    stress = [virial[i] for i in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    labels = {
        "energy": rows.energy @ x + energy,
        "forces": (rows.forces @ x).reshape(-1, 3) + forces,
        "stress": np.array(stress),
    }
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def copied(atoms, **info):
    copy = atoms.copy()
    copy.calc = atoms.calc
    copy.info |= info
    return copy


def fit(trainer, model, frames, folder, weights=(1.0, 1.0, 1.0), per_atom_weights=False):
    inputs = gather(frames, None, per_atom_weights)
    configurations = make_configurations(model, inputs, Weights(*weights))
    return trainer.fit(model, Problem(tuple(configurations), (), Weights(*weights), 0, TrainingRun(folder)))


def coefficients(result):
    return result.model.coefficients


class Case:
    """A reference fit: matrices of the peer, and ours."""

    def __init__(self, reference, name, n_frames=None):
        inputs = reference / "inputs" / "chimes" / "fit"
        self.data = np.load(reference / "expected" / "chimes" / f"fit_{name}.npz")
        self.frames = read_xyzf(inputs / f"{name}.xyzf.xz", n_frames)
        species = sorted(set(self.frames[0].get_chemical_symbols()))
        self.model = ChIMESPotential(species, inputs / f"{name}.in").model

    def close(self, x, name, tolerance):
        expected = self.data[name]
        assert np.abs(x[: len(expected)] - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def reference(shared):
    return shared / "reference" / "trainers"


@pytest.fixture(scope="module")
def water(reference):
    return Case(reference, "water")


@pytest.mark.parametrize(
    ("name", "algorithm", "weighted", "tolerance"),
    [
        ("x_svd", "svd", False, 1e-8),
        ("x_svd_w", "svd", True, 1e-8),
        ("x_ridge", "ridge", False, 1e-8),
        ("x_ridge_w", "ridge", True, 1e-8),
        ("x_lasso_w", "lasso", True, 1e-6),
        ("x_lasso_w", "dlasso", True, 1e-6),
    ],
)
def test_coefficients_from_the_stored_matrix(water, name, algorithm, weighted, tolerance):
    a, b = water.data["A"], water.data["b"]
    w = water.data["w"] if weighted else np.ones(len(b))
    rows = StreamedRows(a.shape[1])
    rows.add(w[:, None] * a, w * b)
    alpha = 1.0 if "lasso" in algorithm else 1e-4
    water.close(solve(rows.reduced(), algorithm, eps=1e-5, alpha=alpha).x, name, tolerance)


@pytest.mark.filterwarnings("ignore:no configuration has")
@pytest.mark.usefixtures("rounding_of_the_reference")
@pytest.mark.parametrize(
    ("name", "algorithm", "weighted"),
    [
        ("x_svd", "svd", False),
        ("x_svd_w", "svd", True),
        ("x_fast_svd", "fast_svd", False),
        ("x_ridge_w", "ridge", True),
        ("x_lasso_w", "lasso", True),
    ],
)
def test_whole_fit_of_water(water, tmp_path, name, algorithm, weighted):
    w = water.data["w"] if weighted else None
    alpha = 1.0 if algorithm == "lasso" else 1e-4
    trainer = ChIMESTrainer(algorithm, alpha=alpha, compat="chimes_lsq", row_weights=w, keep_rows=True)
    result = fit(trainer, water.model, water.frames, tmp_path)
    water.close(coefficients(result) * KCAL, name, 1e-6 if algorithm == "lasso" else 1e-7)
    rows = np.load(tmp_path / "design.npz")
    assert rows["row_label"].tolist() == water.data["row_label"].tolist()
    assert len(rows["column"]) == 178  # no energies, so no energy offsets
    np.testing.assert_allclose(rows["b"], water.data["b"], rtol=1e-13)
    np.testing.assert_array_equal(rows["w"], np.ones(1728) if w is None else w)
    assert result.success
    if name == "x_svd_w":
        # As the peer wrote them into the head of its parameter file.
        assert result.notes["rank"] == 160
        assert result.notes["unweighted_rmse"] == pytest.approx(8.6299, rel=1e-5)
        assert result.notes["unweighted_bic"] == pytest.approx(8641.3, rel=1e-5)
    if algorithm == "lasso":
        assert result.notes["parameters"] == 56


@pytest.mark.parametrize(("name", "weighted"), [("x_svd", False), ("x_svd_w", True)])
def test_whole_fit_with_stress_and_energy(reference, tmp_path, name, weighted):
    case = Case(reference, "cho")
    w = case.data["w"] if weighted else None
    trainer = ChIMESTrainer(compat="chimes_lsq", row_weights=w, keep_rows=True)
    result = fit(trainer, case.model, case.frames, tmp_path)
    case.close(coefficients(result) * KCAL, name, 1e-7)
    rows = np.load(tmp_path / "design.npz")
    labels = case.data["row_label"]
    assert rows["row_label"].tolist() == labels.tolist()
    for kind in ("+1", "s_xx", "s_yy", "s_zz"):
        for key in ("A", "b"):
            expected = case.data[key][labels == kind]
            error = np.abs(rows[key][labels == kind] - expected).max()
            assert error <= 1e-10 * np.abs(expected).max(), (kind, key)


@pytest.mark.filterwarnings("ignore:no configuration has")
def test_whole_fit_of_four_carbon_atoms(reference, tmp_path):
    case = Case(reference, "carbon4", 250)
    result = fit(ChIMESTrainer(compat="chimes_lsq"), case.model, case.frames, tmp_path)
    case.close(coefficients(result) * KCAL, "x_svd", 1e-7)
    assert result.notes["rank"] == 188
    assert result.notes["rows"] == 3000


@pytest.mark.parametrize("compat", [None, "chimes_lsq"])
def test_known_coefficients_are_recovered(truth, frames, tmp_path, compat):
    result = fit(ChIMESTrainer(eps=1e-14, compat=compat), Chimes(SETTINGS), frames, tmp_path)
    np.testing.assert_allclose(coefficients(result), truth.coefficients, rtol=0, atol=1e-8)
    for atoms in frames:
        np.testing.assert_allclose(
            labelled(result.model, atoms.copy()).get_forces(), atoms.get_forces(), atol=1e-8
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_honours_weights(frames, tmp_path, algorithm):
    """Twice the weight of a configuration is four times its squares: the same as four copies of it."""
    noisy = [copied(atoms) for atoms in frames]
    rng = np.random.default_rng(0)
    for atoms in noisy:
        labels = dict(atoms.calc.results)
        labels["forces"] = labels["forces"] + rng.normal(0, 0.3, (8, 3))
        atoms.calc = SinglePointCalculator(atoms, **labels)
    trainer = ChIMESTrainer(algorithm, alpha=0.02, folds=3, eps=1e-3)
    doubled = [copied(a, structure_weight=2.0) if i == 1 else a for i, a in enumerate(noisy)]
    weighted = coefficients(fit(trainer, Chimes(SETTINGS), doubled, tmp_path, (1, 1, 0)))
    plain = coefficients(fit(trainer, Chimes(SETTINGS), noisy, tmp_path, (1, 1, 0)))
    assert np.abs(weighted - plain).max() > 1e-4 * np.abs(plain).max()
    if algorithm in ("svd", "fast_svd", "ridge"):
        copies = [*noisy[:1], *[noisy[1]] * 4, *noisy[2:]]
        repeated = coefficients(fit(trainer, Chimes(SETTINGS), copies, tmp_path, (1, 1, 0)))
        np.testing.assert_allclose(weighted, repeated, atol=1e-7 * np.abs(repeated).max())


def test_weights_of_atoms_and_kinds(frames, tmp_path):
    model = Chimes(SETTINGS)
    trainer = ChIMESTrainer("ridge", alpha=0.1, keep_rows=True)
    weights = np.linspace(0, 2, 48)
    fit(trainer, model, frames, tmp_path, (2.0, 3.0, 0.5), per_atom_weights=weights)
    rows = np.load(tmp_path / "design.npz")
    kinds, w = rows["row_label"], rows["w"]
    assert len(w) == 6 * (1 + 24 + 6) - 3  # the atom of weight 0 has no rows
    assert (w[kinds == "+1"] == 2.0).all()
    assert (w[np.char.startswith(kinds, "s_")] == 0.5).all()
    np.testing.assert_allclose(w[np.isin(kinds, ["Si", "C"])], np.repeat(3 * weights[1:], 3))
    ones = fit(trainer, model, frames, tmp_path, per_atom_weights=np.ones(48))
    plain = fit(trainer, model, frames, tmp_path)
    np.testing.assert_array_equal(coefficients(ones), coefficients(plain))


def test_rows_of_the_peer_are_ours_in_other_units(frames, tmp_path):
    settings = replace(SETTINGS, fit_stress="ALL")
    found = {}
    for compat in (None, "chimes_lsq"):
        (tmp_path / str(compat)).mkdir()
        trainer = ChIMESTrainer("ridge", compat=compat, keep_rows=True)
        fit(trainer, Chimes(settings), frames[:2], tmp_path / str(compat))
        found[compat] = np.load(tmp_path / str(compat) / "design.npz")
    ours, theirs = found[None], found["chimes_lsq"]
    assert theirs["row_label"][24:36].tolist() == [*(f"s_{a}{b}" for a in "xyz" for b in "xyz"), *["+1"] * 3]
    for key in ("A", "b"):
        np.testing.assert_array_equal(theirs[key][:24], ours[key][1:25])
        np.testing.assert_allclose(theirs[key][33:36], np.repeat(8 * ours[key][:1], 3, axis=0), rtol=1e-14)
        voigt = ours[key][25:31]
        np.testing.assert_array_equal(theirs[key][24:33], -voigt[[0, 5, 4, 5, 1, 3, 4, 3, 2]])


def test_rows_that_the_settings_leave_out(frames, tmp_path):
    settings = replace(SETTINGS, fit_stress="false", fit_energy="false")
    trainer = ChIMESTrainer("ridge", compat="chimes_lsq", keep_rows=True)
    fit(trainer, Chimes(settings), frames, tmp_path)
    assert set(np.load(tmp_path / "design.npz")["row_label"]) == {"Si", "C"}


def test_energy_offsets_stay_where_they_are_not_fitted(truth, frames, tmp_path):
    start = Chimes(SETTINGS, np.r_[np.zeros(SETTINGS.n_coefficients), truth.coefficients[-2:]])
    fixed = fit(ChIMESTrainer("ridge", alpha=1e-8, fit_energy_offsets=False), start, frames, tmp_path)
    np.testing.assert_array_equal(coefficients(fixed)[-2:], truth.coefficients[-2:])
    energies = [labelled(fixed.model, atoms.copy()).get_potential_energy() for atoms in frames]
    np.testing.assert_allclose(energies, [a.get_potential_energy() for a in frames], atol=1e-4)
    forces_only = fit(ChIMESTrainer("ridge"), start, frames, tmp_path, (0, 1, 0))
    np.testing.assert_array_equal(coefficients(forces_only)[-2:], truth.coefficients[-2:])
    assert fixed.notes["columns"] == SETTINGS.n_coefficients


def test_penalty_and_baseline_are_taken_off_the_labels(truth, frames, tmp_path):
    near = replace(SETTINGS, penalty_distance=1.2, penalty_scale=2.0)
    known = Chimes(near, truth.coefficients)
    baseline = ZBL(["Si", "C"], 1.0, 2.5)
    data = []
    for atoms in frames:
        copy = labelled(known, atoms.copy())
        (extra,) = baseline.predict([copy])
        labels = dict(copy.calc.results)
        labels = {name: labels[name] + getattr(extra, name) for name in labels}
        copy.calc = SinglePointCalculator(copy, **labels)
        data.append(copy)
    assert known.penalty(known.neighborhood(data[0]))[0] > 0.01
    result = fit(ChIMESTrainer("ridge", alpha=1e-10), Chimes(near) + baseline, data, tmp_path)
    for atoms in frames:
        ours = labelled(result.model.learned, atoms.copy())
        np.testing.assert_allclose(ours.get_forces(), labelled(known, atoms.copy()).get_forces(), atol=1e-4)


def test_rotated_data_give_the_same_predictions(frames, tmp_path):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = []
    for atoms in frames:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ turn.T, scale_atoms=True)
        labels = {"energy": atoms.get_potential_energy() + 0.1, "forces": atoms.get_forces() @ turn.T}
        copy.calc = SinglePointCalculator(copy, **labels)
        turned.append(copy)
    shifted = []
    for atoms in frames:
        copy = atoms.copy()
        labels = {"energy": atoms.get_potential_energy() + 0.1, "forces": atoms.get_forces()}
        copy.calc = SinglePointCalculator(copy, **labels)
        shifted.append(copy)
    trainer = ChIMESTrainer("ridge", alpha=1e-3)
    a, b = (
        coefficients(fit(trainer, Chimes(SETTINGS), data, tmp_path, (1, 1, 0))) for data in (shifted, turned)
    )
    np.testing.assert_allclose(a, b, atol=1e-8 * np.abs(a).max())


def test_columns_that_nothing_determines_are_named(truth, frames, tmp_path):
    silicon = frames[0].copy()
    silicon.symbols[:] = "Si"
    labelled(truth, silicon)
    with pytest.warns(TrainingWarning, match=r"columns are zero, nothing determines C-C T1, C-C T2"):
        result = fit(ChIMESTrainer("ridge"), Chimes(SETTINGS), [silicon], tmp_path)
    assert "offset C" in result.notes["zero_columns"]
    assert "Si-Si T1" not in result.notes["zero_columns"]


@pytest.mark.parametrize("compat", [None, "chimes_lsq"])
def test_pairs_below_the_inner_cutoff_are_reported(truth, frames, tmp_path, compat):
    close = Atoms("SiC", [[0, 0, 0], [1.05, 0, 0]], cell=[9, 9, 9], pbc=True)
    data = [*frames, labelled(truth, close)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(ChIMESTrainer("ridge", compat=compat), Chimes(SETTINGS), data, tmp_path)
    text = " ".join(str(w.message) for w in caught)
    assert "pairs at or below S_MINIM" in text
    assert "1 C-Si (shortest 1.05 Å)" in text


@pytest.mark.filterwarnings("ignore:.*columns are zero")
def test_more_columns_than_rows(frames, tmp_path):
    few = [frames[0]]
    with pytest.raises(DataError, match=r"cannot fit more columns than rows; got \d+ columns, 31 rows"):
        fit(ChIMESTrainer("svd"), Chimes(SETTINGS), few, tmp_path)
    assert fit(ChIMESTrainer("ridge"), Chimes(SETTINGS), few, tmp_path).success


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"algorithm": "swd"}, "did you mean 'svd'"),
        ({"eps": -1.0}, "out of range"),
        ({"folds": 1}, "out of range"),
        ({"compat": "lsq"}, "unknown compat"),
        ({"row_weights": [1.0]}, "needs compat='chimes_lsq'"),
    ],
)
def test_unusable_arguments(arguments, text):
    with pytest.raises(ConfigError, match=text):
        ChIMESTrainer(**arguments)


def test_row_weights(frames, tmp_path):
    n = 6 * (24 + 3 + 3)
    weights = np.random.default_rng(2).uniform(0.5, 2, n)
    np.savetxt(tmp_path / "weights.dat", weights, fmt="%.17g")
    given = [weights, weights.tolist(), tmp_path / "weights.dat"]
    trainers = [ChIMESTrainer("ridge", compat="chimes_lsq", row_weights=w) for w in given]
    assert trainers[0].settings() == trainers[1].settings() == trainers[2].settings()
    assert (
        ChIMESTrainer(**json.loads(json.dumps(trainers[0].settings()))).settings() == trainers[0].settings()
    )
    model = Chimes(SETTINGS)
    for wrong in (weights[:-1], np.append(weights, 1.0)):
        trainer = ChIMESTrainer("ridge", compat="chimes_lsq", row_weights=wrong)
        with pytest.raises(DataError, match=rf"{len(wrong)} row weights given, the data have {n} rows"):
            fit(trainer, model, frames, tmp_path)
    with pytest.raises(ConfigError, match="replaces all other weights; got eweight"):
        fit(trainers[0], model, frames, tmp_path, (2.0, 1.0, 1.0))
    heavy = [copied(frames[0], structure_weight=2.0), *frames[1:]]
    with pytest.raises(ConfigError, match="weights of configuration 000000"):
        fit(trainers[0], model, heavy, tmp_path)
    with pytest.raises(DataError, match="unusable row weight in row 1"):
        ChIMESTrainer(compat="chimes_lsq", row_weights=[1.0, -1.0])
    with pytest.raises(DataError, match="row_weights must be numbers"):
        ChIMESTrainer(compat="chimes_lsq", row_weights=tmp_path / "absent.dat")
    assert "row_weights" in str(trainers[0].refusal(None, per_atom_weights=True))
    assert trainers[0].refusal(None, per_atom_weights=False) is None


@pytest.mark.parametrize("weighted", [True, False])
def test_what_is_reported_is_what_was_minimised(frames, tmp_path, weighted):
    weights = np.random.default_rng(2).uniform(0.5, 2, 6 * (24 + 3 + 3)) if weighted else None
    # Singular values are dropped, so that something is left over.
    trainer = ChIMESTrainer("svd", eps=0.03, compat="chimes_lsq", row_weights=weights, keep_rows=True)
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "runs")}}
    result = trainer.train("x", Chimes(SETTINGS), frames, None, flow, register=False)
    rows = np.load(result.path / "design.npz")
    r = rows["w"] * (rows["A"] @ (coefficients(result.potential) * KCAL) - rows["b"])
    assert r @ r > 1e-3
    assert result.loss == pytest.approx(r @ r, rel=1e-8)
    text = (result.path / "metrics.md").read_text()
    assert f"Loss {result.loss!r}" in text
    assert "of chimes_lsq (kcal/mol, Å) times weights" in text
    kinds = np.array([{"+": "energy", "s": "stress"}.get(label[0], "forces") for label in rows["row_label"]])
    for kind in ("energy", "forces", "stress"):
        errors, own = result.errors[kind, "train", "weighted"], r[kinds == kind]
        assert (errors.count, errors.rmse) == (len(own), pytest.approx(np.sqrt(np.mean(own**2)), rel=1e-8))
    again = trainer.evaluate_loss(result.potential.model, frames)
    assert again.total == pytest.approx(result.loss, rel=1e-10)


def test_three_stresses_are_fitted_as_three(truth, frames, tmp_path):
    data = [copied(frames[0], stress_is_diagonal=True), *frames[1:]]
    trainer = ChIMESTrainer("ridge", keep_rows=True)
    fit(trainer, Chimes(SETTINGS), data, tmp_path, (0, 0, 1))
    assert np.load(tmp_path / "design.npz")["row_label"].tolist()[:4] == ["s_xx", "s_yy", "s_zz", "s_xx"]
    workflow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path)}}
    result = trainer.train("three", Chimes(SETTINGS), data, workflow=workflow, upload_to_kimkit=False)
    assert result.rows["stress"] == 6 * len(data) - 3
    nine = Chimes(replace(SETTINGS, fit_stress="ALL"))
    with pytest.raises(DataError, match="needs six stress components, configuration 000000"):
        fit(ChIMESTrainer("ridge", compat="chimes_lsq"), nine, data, tmp_path)


def test_handle_from_settings_and_parameters(reference, tmp_path):
    setup = reference / "inputs" / "chimes" / "fit" / "water.in"
    params = reference / "expected" / "chimes" / "params_water_svd_w.txt.xz"
    fresh = ChIMESPotential(["H", "O"], setup)
    assert not fresh.model.coefficients.any()
    same = ChIMESPotential(**json.loads(json.dumps(fresh.settings())))
    assert same.model.settings == fresh.model.settings
    assert ChIMESPotential(["H", "O"], read_setup(setup)).model.settings == fresh.model.settings
    fitted = ChIMESPotential(["O", "H"], parameter_path=params)
    np.testing.assert_array_equal(fitted.model.coefficients, read_params(params).coefficients)
    both = ChIMESPotential(["O", "H"], setup, params)
    np.testing.assert_array_equal(both.model.coefficients, fitted.model.coefficients)
    written = fitted.save_potential_files(tmp_path / "out")
    assert [path.name for path in written] == ["potential.npz", "params.txt"]
    again = ChIMESPotential(["O", "H"], parameter_path=tmp_path / "out")
    np.testing.assert_array_equal(again.model.coefficients, fitted.model.coefficients)
    (tmp_path / "out" / "potential.npz").unlink()
    third = ChIMESPotential(["O", "H"], parameter_path=tmp_path / "out")
    np.testing.assert_array_equal(third.model.coefficients, fitted.model.coefficients)


def test_handle_refuses_what_does_not_fit(reference, truth, tmp_path):
    setup = reference / "inputs" / "chimes" / "fit" / "water.in"
    with pytest.raises(ConfigError, match="needs settings_path"):
        ChIMESPotential(["H"])
    with pytest.raises(ConfigError, match="species are not the types"):
        ChIMESPotential(["H", "C"], setup)
    write_params(tmp_path / "params.txt", truth)
    with pytest.raises(ConfigError, match="species are not the types"):
        ChIMESPotential(["Si"], parameter_path=tmp_path / "params.txt").build_potential()
    cho = reference / "expected" / "chimes" / "params_cho_svd_w.txt.xz"
    with pytest.raises(ConfigError, match="species are not the types"):
        ChIMESPotential(["H", "O"], setup, cho).build_potential()
    other = Chimes(replace(SETTINGS, orders=(4, 3, 0)))
    save_potential(tmp_path / "other.npz", other)
    handle = ChIMESPotential(["Si", "C"], dictionary(), tmp_path / "other.npz")
    with pytest.raises(ConfigError, match="do not fit the settings"):
        handle.build_potential()


def dictionary():
    pairs = (("Si", "Si"), ("C", "C"), ("Si", "C"))
    return {
        "PAIRTYP": "CHEBYSHEV 5 3 0 -1 1",
        "TYPEIDX": [{"ATM_TYP": "Si"}, {"ATM_TYP": "C"}],
        "PAIRIDX": [
            {"ATM_TY1": a, "ATM_TY2": b, "S_MINIM": 1.2, "S_MAXIM": 4.4, "MORSE_LAMBDA": 1.5}
            for a, b in pairs
        ],
    }


def test_plain_distances_have_no_file_for_the_calculator(tmp_path):
    handle = ChIMESPotential(["Si", "C"], dictionary() | {"CHBTYPE": "DEFAULT"})
    assert [path.name for path in handle.save_potential_files(tmp_path)] == ["potential.npz"]
