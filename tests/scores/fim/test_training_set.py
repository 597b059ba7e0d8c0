"""Fisher information of configurations: reference numbers, and what must hold for any potential."""

from __future__ import annotations

import copy
import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from tests.conftest import SW

import surefield
from surefield.errors import ConfigError, DataError
from surefield.foreign import JaxPotential
from surefield.potentials.parametric import StillingerWeber
from surefield.scores.fim import FIMTrainingSetScore, LogTransform
from surefield.scoring.results import read_labelled
from surefield.structures.read import read_frames

KIM = {
    "potential_type": "KIM",
    "potential_args": {"kim_id": "SW_StillingerWeber_1985_Si__MO_405512056662_006", "species": ["Si"]},
}
NAMES = ("A", "B", "p", "q", "sigma", "gamma", "lambda", "costheta0")
EIGHT = {name: [["default"]] for name in NAMES}
TWO = {"A": [["default"]], "lambda": [[40.0]]}


@pytest.fixture(scope="module")
def sw() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"])


@pytest.fixture(scope="module")
def score() -> FIMTrainingSetScore:
    return FIMTrainingSetScore()


def relative(fim: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of sqrt(F_ii F_jj)."""
    size = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    return float(np.abs((fim - expected) / (size[..., :, None] * size[..., None, :])).max())


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference" / "scores"
    inputs = np.load(folder / "inputs" / "fim_sw_configurations.npz")
    ends = np.cumsum(inputs["n_atoms"])[:-1]
    frames = [
        Atoms(f"Si{len(x)}", positions=x, cell=cell, pbc=True)
        for x, cell in zip(np.split(inputs["positions"], ends), inputs["cells"], strict=True)
    ]
    return frames, np.load(folder / "expected" / "fim_sw.npz")


def test_fim_sw(reference, score) -> None:
    frames, expected = reference
    fims = score.compute_batch(frames, "SENSITIVITY", KIM, EIGHT)
    assert relative(np.stack(fims), expected["fim"]) < 1e-10
    assert [entry["parameter"] for entry in score.fim_index_to_parameter.values()] == list(NAMES)
    assert (score.derivative_errors == 0).all()
    # The KIM model's own numbers, at the same parameters.
    potential = surefield.KIMPotential(**KIM["potential_args"]).potential
    predictions = potential.predict(frames, stress=False)
    np.testing.assert_allclose([p.energy for p in predictions], expected["energies"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        np.concatenate([p.forces for p in predictions]), expected["forces"], rtol=0, atol=1e-11
    )


def test_fim_sw_by_the_default_numerical_step(reference, score) -> None:
    frames, expected = reference
    with pytest.warns(UserWarning, match=r"error above 0.001: p 6.3e-03, sigma 5.7e-03, gamma 4.0e-02"):
        fims = score.compute_batch(frames, "SENSITIVITY", KIM, EIGHT, derivative_kwargs={"method": "central"})
    stated = expected["fim_step10percent"]
    np.testing.assert_allclose(fims, stated, rtol=0, atol=1e-9 * np.abs(stated).max())
    assert 0.05 < relative(np.stack(fims), expected["fim"]) < 0.13


@pytest.mark.parametrize("derivative_kwargs", [None, {"method": "central"}])
def test_fim_training_10(shared, score, derivative_kwargs) -> None:
    folder = shared / "reference" / "scores"
    frames = list(read_frames(folder / "inputs" / "query_configs.extxyz"))
    asked = {"A": [["default"]], "B": [["default"]], "lambda": [[0.0, "fix"]]}
    masks = [str(folder / "inputs" / "fim_mask.txt")] * len(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fims = score.compute_batch(
            frames, "sensitivity", KIM, asked, list_of_mask=masks, derivative_kwargs=derivative_kwargs
        )
    np.testing.assert_allclose(fims, np.load(folder / "expected" / "fim_training_10.npy"), rtol=1e-12)


@pytest.mark.parametrize("quantity", ["energy", "forces", "stress"])
def test_one_configuration_with_its_rows(silicon, sw, score, quantity) -> None:
    evaluate = {f"compute_{q}": q == quantity for q in ("energy", "forces", "stress")}
    fim, rows = score.compute(
        silicon[0], "SENSITIVITY", sw, TWO, evaluate_kwargs=evaluate, return_jacobian=True
    )
    assert rows.shape == ({"energy": 1, "forces": 24, "stress": 6}[quantity], 2)
    np.testing.assert_allclose(fim, rows.T @ rows, rtol=1e-12)
    np.testing.assert_array_equal(fim, fim.T)
    assert np.linalg.eigvalsh(fim)[0] >= -1e-12 * np.linalg.eigvalsh(fim)[-1]
    numerical = score.compute(
        silicon[0], "SENSITIVITY", sw, TWO, None, evaluate, {"method": "CD4", "step": 1e-2}
    )
    np.testing.assert_allclose(fim, numerical, rtol=1e-9)


def test_quantities_with_noise_add_up(silicon, sw, score) -> None:
    noise = {"energy": 0.01, "forces": 0.1, "stress": 0.002}
    parts = [
        score.compute_batch(
            silicon[:2], "SENSITIVITY", sw, TWO, evaluate_kwargs={"compute_forces": False, name: True}
        )
        for name in ("compute_energy", "compute_stress")
    ]
    forces = score.compute_batch(silicon[:2], "SENSITIVITY", sw, TWO)
    every = {"compute_energy": True, "compute_stress": [True, False]}
    got = score.compute_batch(silicon[:2], "SENSITIVITY", sw, TWO, evaluate_kwargs=every, noise=noise)
    np.testing.assert_allclose(got[0], parts[0][0] / 1e-4 + forces[0] / 1e-2 + parts[1][0] / 4e-6, rtol=1e-12)
    np.testing.assert_allclose(got[1], parts[0][1] / 1e-4 + forces[1] / 1e-2, rtol=1e-12)


def test_masked_rows_contribute_nothing(silicon, sw, score) -> None:
    keep = np.zeros(24, int)
    keep[[0, 7, 20]] = 1
    _, rows = score.compute(silicon[0], "SENSITIVITY", sw, TWO, return_jacobian=True)
    for mask in (keep, keep.reshape(8, 3), keep.tolist()):
        fim = score.compute(silicon[0], "SENSITIVITY", sw, TWO, mask=mask)
        np.testing.assert_allclose(fim, rows[keep == 1].T @ rows[keep == 1], rtol=1e-12)
    assert not score.compute(silicon[0], "SENSITIVITY", sw, TWO, mask=np.zeros(24)).any()
    with pytest.raises(DataError, match=r"^mask has another number of entries"):
        score.compute(silicon[0], "SENSITIVITY", sw, TWO, mask=[1, 0])


def test_transforms_obey_the_chain_rule(silicon, sw, score) -> None:
    plain = score.compute(silicon[0], "SENSITIVITY", sw, TWO)
    slopes = np.diag([SW["A"], 40.0])
    log = {"transform_type": "LogTransform", "transform_args": {"sign": 1}}
    for derivative in (None, {"method": "CD4", "step": 1e-3}):
        for transform in (log, LogTransform(1)):
            got = score.compute(silicon[0], "SENSITIVITY", sw, TWO, transform, derivative_kwargs=derivative)
            np.testing.assert_allclose(got, slopes @ plain @ slopes, rtol=1e-8)
    with pytest.raises(ConfigError, match="the parameter q is outside its domain"):
        score.compute(silicon[0], "SENSITIVITY", sw, {"q": [["default"]]}, log)


def test_networks_by_last_layer_and_by_all(network, alloy, score) -> None:
    evaluate = {"compute_energy": True, "compute_forces": True}
    noise = {"energy": 1.0, "forces": 1.0}
    for asked in ("last_layer", None):
        fim, rows = score.compute(
            alloy[0],
            "SENSITIVITY",
            network,
            asked,
            evaluate_kwargs=evaluate,
            noise=noise,
            return_jacobian=True,
        )
        size = network.n_features if asked else network.vector.size
        assert fim.shape == (size, size)
        assert len(score.fim_index_to_parameter) == size
        np.testing.assert_allclose(fim, rows.T @ rows, rtol=0, atol=1e-12 * fim.max())
    some = {"bias": [["default"], ["default", "fix"]]}
    exact = score.compute(
        alloy[0], "SENSITIVITY", network, some, None, {"compute_energy": True, "compute_forces": False}
    )
    np.testing.assert_allclose(exact, [[4.0]])  # two atoms of the first element


def test_networks_against_finite_differences(network, alloy, score) -> None:
    size = network.n_features
    for asked in ("last_layer", {"biases.0": [["default"]] * network.biases[0].size}):
        exact, numerical = (
            score.compute(alloy[0], "SENSITIVITY", network, asked, derivative_kwargs=kwargs)
            for kwargs in (None, {"method": "CD4", "step": 1e-3})
        )
        assert len(exact) in (size, network.biases[0].size)
        np.testing.assert_allclose(numerical, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


def pairs(edges, parameters):
    r = jnp.linalg.norm(edges.vectors, axis=-1)
    values = jnp.where(edges.mask, (r - 4) ** 2 / r, 0.0)
    sums = jnp.zeros(len(edges.numbers)).at[edges.receivers].add(values)
    return jnp.stack([sums, jnp.tanh(sums)], axis=1) @ parameters["w"]


def test_a_model_of_another_package_in_single_precision(alloy, score) -> None:
    model = JaxPotential(pairs, {"w": jnp.asarray([0.3, 0.7], jnp.float32)}, "w", ["Cu", "Au"], cutoff=4.0)
    exact = score.compute(alloy[1], "SENSITIVITY", model, "last_layer")
    numerical = score.compute(
        alloy[1], "SENSITIVITY", model, "last_layer", derivative_kwargs={"method": "central"}
    )
    np.testing.assert_allclose(exact, numerical, rtol=1e-10)


def test_an_ensemble_has_the_mean_information(silicon, sw, score) -> None:
    values = np.array([[15.0, 40.0], [16.0, 50.0]])
    asked = {"A": [["default"]], "lambda": [["default"]]}
    models = [sw.with_values({"A": [a], "lambda": [b]}) for a, b in values]
    single = [score.compute(silicon[0], "SENSITIVITY", m, asked) for m in models]
    for got in (
        score.compute(silicon[0], "SENSITIVITY", models, asked),
        score.compute(silicon[0], "SENSITIVITY", sw, asked, ensemble=values),
    ):
        np.testing.assert_allclose(got, np.mean(single, axis=0), rtol=1e-12)
    fim, rows = score.compute(silicon[0], "SENSITIVITY", models, asked, return_jacobian=True)
    np.testing.assert_allclose(rows.T @ rows, fim, rtol=1e-12)
    for ensemble, message in ((values[:, :1], r"\(n_members, 2\)"), (values * np.nan, "finite")):
        with pytest.raises(DataError, match=message):
            score.compute(silicon[0], "SENSITIVITY", sw, asked, ensemble=ensemble)
    with pytest.raises(ConfigError, match="not both"):
        score.compute(silicon[0], "SENSITIVITY", models, asked, ensemble=values)
    with pytest.raises(ConfigError, match=r"same parameters in potential\[1\]"):
        score.compute(silicon[0], "SENSITIVITY", [sw, sw.with_free([("A", 0)])])


def test_any_division_gives_the_same(silicon, sw, score) -> None:
    masks = [None, np.arange(24) % 2, *[None] * 6]
    whole = score.compute_batch(silicon, "SENSITIVITY", sw, TWO, list_of_mask=masks)
    with ThreadPoolExecutor(2) as pool:
        divided = score.compute_batch(silicon, "SENSITIVITY", sw, TWO, list_of_mask=masks, executor=pool)
    one_by_one = [
        score.compute(a, "SENSITIVITY", sw, TWO, mask=m) for a, m in zip(silicon, masks, strict=True)
    ]
    np.testing.assert_allclose(divided, whole, rtol=1e-12)
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-12)


@pytest.mark.slow
def test_processes_give_the_same(silicon, sw, score) -> None:
    whole = score.compute_batch(silicon[:4], "SENSITIVITY", sw, TWO)
    np.testing.assert_allclose(
        score.compute_batch(silicon[:4], "SENSITIVITY", sw, TWO, nprocs=2), whole, rtol=1e-12
    )


def test_nothing_of_the_caller_changes(silicon, sw, score, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked, evaluate = copy.deepcopy(TWO), {"compute_energy": [True], "compute_forces": False}
    before = [silicon[0].positions.copy(), dict(silicon[0].info), float(sw.values["lambda"][0])]
    score.compute_batch(silicon[:1], "SENSITIVITY", sw, asked, evaluate_kwargs=evaluate)
    assert asked == TWO
    assert evaluate == {"compute_energy": [True], "compute_forces": False}
    np.testing.assert_array_equal(silicon[0].positions, before[0])
    assert silicon[0].info == before[1]
    assert float(sw.values["lambda"][0]) == before[2]
    assert not list(tmp_path.iterdir())


def test_results_in_files_say_what_determined_them(silicon, sw, score, tmp_path) -> None:
    fims = score.compute_batch(
        silicon[:2], "SENSITIVITY", sw, TWO, LogTransform(1), list_of_mask=[None, [1] * 24]
    )
    score.save_results(fims, tmp_path, silicon[:2])
    for atoms, fim in zip(read_labelled(tmp_path), fims, strict=True):
        np.testing.assert_array_equal(atoms.info["fim_training_set_score"], fim)
        metadata = atoms.info["_metadata"]["fim_training_set_score"]
        assert metadata["fim_index_to_parameter"]["1"] == {"parameter": "lambda", "extent": 0}
        assert metadata["parameters_optimize"] == TWO
        assert metadata["transform"] == {"transform_type": "LogTransform", "transform_args": {"sign": 1}}
        assert metadata["derivative"]["method"] == "autodiff"
        json.dumps(metadata)
    assert metadata["list_of_mask"][0]["shape"] == [24]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"derivative_kwargs": {"method": "best"}}, ConfigError, "'best' is not known"),
        ({"derivative_kwargs": {"steps": 0.1}}, ConfigError, "did you mean 'step'"),
        ({"derivative_kwargs": {"step": 0.1}}, ConfigError, "no effect on 'autodiff'"),
        ({"derivative_kwargs": {"method": "central", "step": 0.0}}, ConfigError, "positive"),
        ({"derivative_kwargs": {"method": "central", "step": [0.1]*3}}, ConfigError, "one per parameter"),
        ({"evaluate_kwargs": {"compute_energy": True}}, ConfigError, "exactly one quantity"),
        ({"parameters_optimize": {"C": [["default"]]}}, ConfigError, "no parameter 'C'"),
        ({"transform": "log"}, ConfigError, "transform"),
        ({"list_of_mask": [None]}, DataError, "one entry"),
        ({"nprocs": 0}, ConfigError, "nprocs"),
        ({"score_quantity": "IMPORTANCE"}, ConfigError, "got IMPORTANCE; expected SENSITIVITY"),
        ({"potential": []}, ConfigError, "empty list"),
        ({"potential": "SW"}, ConfigError, "potential of surefield is needed"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(silicon, sw, score, kwargs, error, message) -> None:
    arguments = {"score_quantity": "SENSITIVITY", "potential": sw, "parameters_optimize": TWO} | kwargs
    with pytest.raises(error, match=message):
        score.compute_batch(silicon[:2], **arguments)


def test_double_precision_whatever_jax_is_set_to(silicon, sw, score) -> None:
    log = LogTransform(1)
    expected = score.compute(silicon[0], "SENSITIVITY", sw, TWO, log)
    jax.config.update("jax_enable_x64", False)
    try:
        single = score.compute(silicon[0], "SENSITIVITY", sw, TWO, log)
    finally:
        jax.config.update("jax_enable_x64", True)
    np.testing.assert_allclose(single, expected, rtol=1e-13)


def test_matrices_that_do_not_fit_into_memory_are_refused(silicon, score) -> None:
    network = surefield.MomentNetwork(["Si"], cutoff=4.0, hidden=(400, 400), dtype="float64")
    with pytest.raises(ConfigError, match=r"Fisher information.*last_layer"):
        score.compute_batch(silicon, "SENSITIVITY", network)


def test_a_list_is_no_configuration(silicon, sw, score) -> None:
    with pytest.raises(ConfigError, match="compute_batch"):
        score.compute(silicon, "SENSITIVITY", sw, TWO)
