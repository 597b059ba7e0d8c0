"""The block of metatrain's page: every key does what it says, and mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

import surefield as sf
from surefield.cli.jobs import run_verb
from surefield.errors import ConfigError
from surefield.sensitivity import RowCovariance, energy_features
from surefield.structures.neighbors import neighborhood
from surefield.structures.read import write_frames
from surefield.uncertainty import LLPR, LLPRPosterior
from surefield.uncertainty.architecture import architecture_of
from surefield.uncertainty.row_sums import Blocks

PAGE = """
architecture:
  name: llpr
  model:
    num_ensemble_members: {}
  training:
    distributed: false
    distributed_port: 39591
    batch_size: 8
    regularizer: null
    model_checkpoint: null
    loss: ensemble_nll
    num_epochs: null
    train_all_parameters: false
    warmup_fraction: 0.01
    learning_rate: 0.0003
    weight_decay: null
    log_interval: 1
    checkpoint_interval: 100
    per_structure_targets: []
    num_workers: null
    log_mae: false
    log_separate_blocks: false
    best_model_metric: loss
    grad_clip_norm: 1.0
"""


def alpha_of(fitted, name):
    return float(getattr(fitted.maps[name], "alpha"))  # noqa: B009 (maps of all kinds have one type)


def fit(copper_network, copper, **options):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False, **options)


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return fit(copper_network, copper)


def test_the_page_is_accepted_and_states_the_defaults(tmp_path):
    (tmp_path / "llpr.yaml").write_text(PAGE)
    from_file = architecture_of(tmp_path / "llpr.yaml", {})
    assert from_file == architecture_of(None, {}) == architecture_of(yaml.safe_load(PAGE), {})


def test_the_same_from_block_file_and_keys(llpr, copper_network, copper, tmp_path):
    block = {"name": "llpr", "trainer": {"regularizer": 0.2, "row_weights": "unit"}}
    (tmp_path / "llpr.yaml").write_text(yaml.safe_dump({"architecture": block}))
    one = fit(copper_network, copper, config=block)
    two = fit(copper_network, copper, config=tmp_path / "llpr.yaml")
    three = fit(copper_network, copper, regularizer=0.2, row_weights="unit")
    for fitted in (one, two, three):
        assert fitted.statistics["varsigma2"] == pytest.approx(0.04)
        assert set(fitted.statistics["weights"].values()) == {1.0}
        np.testing.assert_array_equal(fitted.posterior.factor, one.posterior.factor)
    assert llpr.statistics["varsigma2"] != pytest.approx(0.04)


@pytest.mark.parametrize("batch", [{"batch_size": 1}, {"batch_size": 1000}, {"max_atoms_per_batch": 5}])
def test_batches_do_not_matter(llpr, copper_network, copper, batch):
    other = fit(copper_network, copper, **batch)
    largest = np.abs(llpr.posterior.covariance).max()
    np.testing.assert_allclose(other.posterior.covariance, llpr.posterior.covariance, atol=1e-9 * largest)
    for name in llpr.maps:
        assert alpha_of(other, name) == pytest.approx(alpha_of(llpr, name), rel=1e-7)


def test_blocks():
    sizes = [3, 3, 3, 9, 1, 1]
    assert [(b.start, b.stop) for b in Blocks(2).of(sizes)] == [(0, 2), (2, 4), (4, 6)]
    assert [(b.start, b.stop) for b in Blocks(8, max_atoms=7).of(sizes)] == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert [(b.start, b.stop) for b in Blocks(1, min_atoms=6).of(sizes)] == [(0, 2), (2, 4), (4, 6)]
    assert list(Blocks().of([])) == []


def test_model_checkpoint(llpr, copper_network, copper, tmp_path):
    sf.save_potential(tmp_path / "copper.npz", copper_network)
    fitted = LLPR.fit(
        None, copper[:4], copper[4:], model_checkpoint=str(tmp_path / "copper.npz"), progress=False
    )
    np.testing.assert_array_equal(fitted.posterior.factor, llpr.posterior.factor)
    with pytest.raises(ConfigError, match="model_checkpoint"):
        LLPR.fit(None, copper[:4], copper[4:])


def test_per_structure_targets(copper_network, copper):
    """Rows of energies are those of the structures."""
    keys = {"row_kinds": ["energy"], "row_weights": "unit", "regularizer": 0.1}
    whole = fit(copper_network, copper, per_structure_targets=["energy"], **keys)
    f = energy_features(copper_network, [neighborhood(a, copper_network.cutoff) for a in copper[:4]])
    np.testing.assert_allclose(whole.posterior.covariance, f.T @ f, atol=1e-9 * np.abs(f.T @ f).max())


def test_metatrain_rules(copper_network, copper):
    """Energy rows per atom with unit weights, the number itself on the diagonal, map alpha everywhere."""
    fitted = fit(
        copper_network, copper, compat="metatrain", regularizer=0.01, num_ensemble_members={"energy": 4}
    )
    f = energy_features(copper_network, [neighborhood(a, copper_network.cutoff) for a in copper[:4]]) / 2
    lower = np.linalg.cholesky(f.T @ f + 0.01 * np.eye(f.shape[1]))
    assert fitted.posterior.cholesky is not None
    np.testing.assert_allclose(fitted.posterior.cholesky, lower, atol=1e-9 * lower.max())
    assert set(fitted.maps) == {"energy"}
    assert fitted.displacements["energy"].shape == (4, f.shape[1])
    with pytest.raises(ConfigError, match="takes a number or null"):
        fit(copper_network, copper, compat="metatrain", regularizer="val_nll")


def test_metatrain_reference_from_rows(shared):
    """`compat: metatrain` on the arrays of the program itself: regulariser, factor and sigmas of ethanol."""
    stored = np.load(shared / "reference/uncertainty/metatrain_ethanol.npz")
    covariance = RowCovariance(96).add(stored["F_train_mean"])
    posterior = LLPRPosterior.from_covariance(
        covariance.matrix, regularizer=float(stored["r0"]), compat="metatrain"
    )
    np.testing.assert_allclose(posterior.u(stored["test_F_sum"]), stored["r0_sigma0_test"][:, 0], rtol=1e-9)


def test_calibration_method(copper_network, copper, llpr):
    other = fit(copper_network, copper, calibration_method="absolute_residuals")
    p = llpr.predict(copper[4:])
    ratio = [
        abs(q.energy - a.get_potential_energy()) / q.energy_uncertainty * alpha_of(llpr, "energy")
        for q, a in zip(p, copper[4:], strict=True)
    ]
    assert alpha_of(other, "energy") == pytest.approx(np.sqrt(np.pi / 2) * np.mean(ratio), rel=1e-6)


@pytest.mark.parametrize("rule", ["per_atom", "per_element"])
def test_residual_offset(llpr, copper_network, copper, rule):
    """Labels of another level of theory, 0.7 eV/atom lower: sigmas as without, and the offset is stated."""
    plain = fit(copper_network, copper, residual_offset=rule)
    moved = []
    for atoms in copper:
        copy = atoms.copy()
        copy.calc = type(atoms.calc)(
            copy, **{**atoms.calc.results, "energy": atoms.get_potential_energy() - 1.4}
        )
        moved.append(copy)
    shifted = fit(copper_network, moved, residual_offset=rule)
    (key,) = shifted.statistics["residual_offset"]
    assert key == {"per_atom": "atom", "per_element": "Cu"}[rule]
    change = shifted.statistics["residual_offset"][key] - plain.statistics["residual_offset"][key]
    assert change == pytest.approx(-0.7)
    assert alpha_of(shifted, "energy") == pytest.approx(alpha_of(plain, "energy"), rel=1e-6)


def test_seed_and_sampling(llpr):
    one, two = (llpr.with_ensemble(4, seed=seed).displacements["energy"] for seed in (0, 1))
    assert np.abs(one - two).max() > 0
    np.testing.assert_array_equal(one, llpr.with_ensemble(4, seed=0).displacements["energy"])
    np.testing.assert_allclose(one.sum(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"training": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"training": {}, "trainer": {}}, "not both"),
        ({"training": {"best_model_metric": "mae_prod"}}, "needs log_mae"),
        ({"training": {"best_model_metric": "rmse_prod"}}, "use loss"),
        ({"training": {"num_epochs": 3}}, "num_ensemble_members is empty"),
        ({"model": {"num_ensemble_members": {"energy": 1}}}, "greater than or equal to 2"),
        ({"training": {"batch_size": 0}}, "batch_size"),
        ({"training": {"regularizer": -1.0}}, "regularizer"),
        ({"training": {"warmup_fraction": 1.5}}, "warmup_fraction"),
        ({"training": {"grad_clip_norm": 0}}, "grad_clip_norm"),
        ({"training": {"loss": "ensemble_nl"}}, "loss"),
        ({"training": {"max_atoms_per_batch": 3, "min_atoms_per_batch": 4}}, "below min_atoms_per_batch"),
        ({"name": "soap_bpnn"}, "name"),
    ],
)
def test_mistakes(block, words):
    with pytest.raises(ConfigError, match=words):
        architecture_of(block, {})


def test_one_process_is_the_whole(copper_network, copper, llpr):
    """`distributed` without a launcher; and members of one target alone are trained with a potential."""
    alone = fit(copper_network, copper, distributed=True, num_workers=2)
    np.testing.assert_array_equal(alone.posterior.factor, llpr.posterior.factor)
    keys = {"num_ensemble_members": {"energy": 4, "stress": 4}, "num_epochs": 1}
    with pytest.raises(ConfigError, match=r"members of one target; got energy, stress"):
        fit(copper_network, copper, train_all_parameters=True, **keys)


def test_unknown_targets(copper_network, copper):
    for keys in (
        {"num_ensemble_members": {"enery": 4}},
        {"per_structure_targets": ["enery"]},
        {"loss": {"enery": {"weight": 1.0}}},
    ):
        with pytest.raises(ConfigError, match=r"'enery'.*did you mean 'energy'"):
            fit(copper_network, copper, **keys)


def test_on_the_command_line(copper_network, copper, tmp_path):
    """`surefield train` with the block: an LLPR around the potential that `model_checkpoint` names."""
    sf.save_potential(tmp_path / "copper.npz", copper_network)
    write_frames(tmp_path / "train.xyz", copper[:4])
    write_frames(tmp_path / "valid.xyz", copper[4:])
    config = {
        "name": "copper",
        "root": str(tmp_path / "runs"),
        "data": {"train": "train.xyz", "validation": "valid.xyz"},
        "architecture": {
            "name": "llpr",
            "model": {"num_ensemble_members": {"energy": 3}},
            "training": {"model_checkpoint": "copper.npz"},
        },
    }
    (tmp_path / "llpr.yaml").write_text(yaml.safe_dump(config))
    assert run_verb("train", tmp_path / "llpr.yaml", [], dry_run=True, overwrite=False) is None
    report = run_verb("train", tmp_path / "llpr.yaml", [], dry_run=False, overwrite=False)
    assert report is not None
    found = sf.load(report.parent / "llpr.npz")
    assert isinstance(found, LLPR)
    assert found.n_members == 3
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**config, "architecture": {"name": "llpr"}}))
    with pytest.raises(ConfigError, match="model_checkpoint must name a trained potential"):
        run_verb("train", tmp_path / "bad.yaml", [], dry_run=True, overwrite=False)
    config["data"] = {"train": "train.xyz"}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="a file of structures that the potential has not seen"):
        run_verb("train", tmp_path / "bad.yaml", [], dry_run=True, overwrite=False)
