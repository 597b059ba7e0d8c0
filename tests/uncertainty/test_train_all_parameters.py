"""Training of a potential with its members: which sigmas there are then, and those that are sampled."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials import ZBL
from surefield.potentials.snap.snap import Snap
from surefield.testing import check_uncertainty
from surefield.uncertainty import LLPR, ConstantUncertainty

NAMES = ("energy", "forces", "stress")


def fitted(potential, copper, folder=None, **keys):
    keys = {"num_epochs": 4, "learning_rate": 0.003, "batch_size": 2, **keys}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # residuals of copper may be larger on either set
        return LLPR.fit(
            potential,
            copper[:4],
            copper[4:],
            progress=False,
            folder=folder,
            train_all_parameters=True,
            num_ensemble_members={"energy": 6},
            **keys,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("all")


@pytest.fixture(scope="module")
def trained(copper_network, copper, folder):
    return fitted(copper_network, copper, folder, checkpoint_interval=2)


@pytest.fixture(scope="module")
def refitted(trained):
    return trained.refit_covariance(progress=False)


def test_body_and_members_move(trained, copper_network, copper):
    rows = trained.statistics["training of energy members"]["history"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["valid_forces_rmse"] < rows[0]["valid_forces_rmse"]
    (p,), (q,) = trained.predict(copper[:1]), copper_network.predict(copper[:1])
    assert p.energy != q.energy
    np.testing.assert_allclose(trained.displacements["energy"].sum(axis=0), 0, atol=1e-12)


def test_auto_is_the_spread_of_the_members(trained, copper):
    options = {"forces": True, "stress": True, "ensemble": True}
    for source in ("auto", "ensemble"):
        for p in trained.predict(copper[:2], source=source, **options):
            for name in NAMES:
                spread = np.std(p[f"{name}_ensemble"], axis=0, ddof=1)
                np.testing.assert_allclose(p[f"{name}_uncertainty"], spread, rtol=1e-8)
    with pytest.raises(PotentialError, match=r"no analytic sigmas.*refit_covariance\(\)"):
        trained.predict(copper[:1], source="analytic")
    with pytest.raises(PotentialError, match="no analytic sigmas"):
        trained.predict(copper[:1], method="sampled")
    with pytest.raises(PotentialError, match="no covariance to update"):
        trained.update(copper[:1])
    with pytest.raises(PotentialError, match="no members to draw"):
        trained.with_ensemble(4)


@pytest.mark.slow
def test_contract(trained, copper, tmp_path):
    check_uncertainty(trained, copper[5:7])
    trained.save(tmp_path / "llpr.npz")
    again = LLPR.load(tmp_path / "llpr.npz")
    assert again.stale
    with pytest.raises(DataError, match="both sets, which a file does not hold"):
        again.refit_covariance()
    with pytest.raises(DataError, match="both sets"):
        trained.refit_covariance(copper[:4])
    renewed = again.refit_covariance(copper[:4], copper[4:], progress=False)
    (p,) = renewed.predict(copper[:1], source="analytic")
    assert p.energy_uncertainty > 0


def test_refitted(trained, refitted, copper, copper_network):
    """As an LLPR that was fitted around the trained potential; the members are kept."""
    fresh = LLPR.fit(trained.potential, copper[:4], copper[4:], progress=False)
    for source in ("auto", "analytic"):
        for p, q in zip(refitted.predict(copper[:2], source=source), fresh.predict(copper[:2]), strict=True):
            assert p.energy_uncertainty == pytest.approx(q.energy_uncertainty, rel=1e-9)
    np.testing.assert_array_equal(refitted.displacements["energy"], trained.displacements["energy"])
    assert "training of energy members" in refitted.statistics
    (p,) = refitted.predict(copper[:1], source="ensemble", ensemble=True)
    assert p.energy_uncertainty == pytest.approx(np.std(p.energy_ensemble, ddof=1))


def test_goes_on_bit_by_bit(trained, copper_network, copper, folder):
    (folder / "model_4.ckpt").unlink()
    again = fitted(copper_network, copper, folder, checkpoint_interval=2)
    np.testing.assert_array_equal(again.displacements["energy"], trained.displacements["energy"])
    (p,), (q,) = again.predict(copper[:1]), trained.predict(copper[:1])
    assert p.energy == q.energy


@pytest.mark.slow
def test_best_by_the_product_of_errors(copper_network, copper):
    """Metrics that are constant without a training of the potential choose the state here."""
    found = fitted(copper_network, copper, best_model_metric="mae_prod", log_mae=True, num_epochs=2)
    told = found.statistics["training of energy members"]
    best = min(told["history"], key=lambda row: row["valid_mae_prod"])
    assert told["epoch"] == best["epoch"]


@pytest.mark.slow
def test_sampled_sigmas(refitted, copper):
    """Within their stated error of the exact ones, from a seed, whatever the batch."""
    frames, options = copper[4:7], {"forces": True, "stress": True, "per_atom": True}
    exact = refitted.predict(frames, **options)
    assert exact[0].relative_standard_error is None
    some = refitted.predict(frames, method="sampled", n_probes=400, seed=1, **options)
    (alone,) = refitted.predict(frames[:1], method="sampled", n_probes=400, seed=1, batch_size=1, **options)
    assert alone.energy_uncertainty == pytest.approx(some[0].energy_uncertainty, rel=1e-9)
    error = 1 / np.sqrt(2 * 399)
    for p, q in zip(exact, some, strict=True):
        assert q.relative_standard_error == pytest.approx(error)
        for name in ("energy", "energies", "stress"):
            np.testing.assert_allclose(q[f"{name}_uncertainty"], p[f"{name}_uncertainty"], rtol=5 * error)
        ratios = np.log(q.forces_uncertainty / p.forces_uncertainty)
        assert np.abs(ratios).max() < 5 * error
    other = refitted.predict(frames, method="sampled", n_probes=400, seed=2)
    assert other[0].energy_uncertainty != some[0].energy_uncertainty
    # Few probes: their scatter over seeds is the stated error.
    few = [refitted.predict(frames[:1], method="sampled", n_probes=9, seed=s)[0] for s in range(100)]
    scatter = np.std([p.energy_uncertainty for p in few]) / exact[0].energy_uncertainty
    assert scatter == pytest.approx(0.25, rel=0.22)
    assert few[0].relative_standard_error == pytest.approx(0.25)


def test_forces_that_vanish_are_certain_however_sigmas_are_made(refitted, crystal_of_copper):
    for options in ({"method": "sampled"}, {"source": "ensemble"}):
        (found,) = refitted.predict([crystal_of_copper], forces=True, **options)
        np.testing.assert_array_equal(found.forces_uncertainty, 0)


@pytest.fixture
def crystal_of_copper():
    from ase.build import bulk

    return bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))


def test_mistakes(refitted, copper_network, copper):
    for options, words in (
        ({"source": "analytical"}, r"unknown source.*did you mean 'analytic'"),
        ({"method": "sample"}, r"unknown method.*did you mean 'sampled'"),
        ({"method": "sampled", "n_probes": 1}, "n_probes must be at least 2; got 1"),
        ({"method": "sampled", "source": "ensemble"}, "not sampled"),
    ):
        with pytest.raises(ConfigError, match=words):
            refitted.predict(copper[:1], **options)
    bare = LLPR.fit(copper_network, copper[:2], copper[2:4], row_kinds=["energy"], progress=False)
    with pytest.raises(ConfigError, match="no members whose spread"):
        bare.predict(copper[:1], source="ensemble")
    constant = ConstantUncertainty.fit(copper_network, copper[4:])
    for options in ({"source": "ensemble"}, {"source": "analytic"}, {"method": "sampled"}):
        with pytest.raises(ConfigError, match="ConstantUncertainty has no"):
            constant.predict(copper[:1], **options)
    with pytest.raises(PotentialError, match="no body to train together with the members"):
        fitted(Snap(Bispectrum((29,), 2, 3.5, (0.5,), (1.0,))) + ZBL(["Cu"], 0.5, 1.0), copper)
