"""Potentials that were trained apart: their mean, their spread, a fit that goes on where it was killed."""

from __future__ import annotations

from concurrent.futures import Executor

import equinox as eqx
import numpy as np
import pytest

import surefield as sf
from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.execution.executor import SerialExecutor
from surefield.potentials import load_potential, save_potential
from surefield.potentials.mean_potential import MeanPotential
from surefield.potentials.snap.snap import Snap
from surefield.testing import check_uncertainty
from surefield.training import TrainConfig
from surefield.uncertainty import DeepEnsemble


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def ensemble(copper_network, copper, folder):
    return DeepEnsemble.fit(
        copper_network, copper[:5], copper[5:7], M=3, seed=4, training=TrainConfig(epochs=1), folder=folder
    )


def test_contract(ensemble, copper):
    check_uncertainty(ensemble, copper[6:])


def test_mean_and_spread_of_the_members(ensemble, copper):
    frames = copper[:2]
    found = ensemble.predict(frames, forces=True, stress=True, per_atom=True, ensemble=True)
    members = [member.predict(frames) for member in ensemble.members]
    for index, prediction in enumerate(found):
        for name in ("energy", "energies", "forces", "stress"):
            values = np.array([member[index][name] for member in members])
            np.testing.assert_allclose(prediction[name], values.mean(axis=0), rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(prediction[f"{name}_ensemble"], values, rtol=1e-9, atol=1e-10)
        spread = np.std([member[index].energy for member in members], ddof=1)
        sigma = 2 * float(ensemble.maps["energy"].sigma(spread / 2))
        assert prediction.energy_uncertainty == pytest.approx(sigma, rel=1e-9)
        forces = np.std([member[index].forces for member in members], axis=0, ddof=1)
        expected = ensemble.maps["forces"].sigma(forces)
        np.testing.assert_allclose(prediction.forces_uncertainty, expected, rtol=1e-9)


def test_members_differ_and_do_not_depend_on_their_number(ensemble, copper_network, copper, folder):
    energies = [member.predict(copper[:1])[0].energy for member in ensemble.members]
    assert len({round(e, 6) for e in energies}) == 3
    fewer = DeepEnsemble.fit(
        copper_network, copper[:5], copper[5:7], M=2, seed=4, training=TrainConfig(epochs=1), folder=folder
    )
    assert [m.predict(copper[:1])[0].energy for m in fewer.members] == energies[:2]


def test_a_killed_fit_goes_on_with_the_members_that_are_done(ensemble, copper_network, copper, tmp_path):
    class Killed(Executor):
        def __init__(self, n):
            self.left, self.inner = n, SerialExecutor()

        def submit(self, fn, /, *args, **kwargs):
            self.left -= 1
            return self.inner.submit(fn, *args, **kwargs) if self.left >= 0 else self.inner.submit(_fail)

    def fit(executor):
        settings = {"M": 3, "seed": 4, "training": TrainConfig(epochs=1), "folder": tmp_path}
        return DeepEnsemble.fit(copper_network, copper[:5], copper[5:7], executor=executor, **settings)

    with pytest.raises(ExecutionError, match="job 1 of 3"):
        fit(Killed(1))
    done = sorted(path.parent.name for path in tmp_path.glob("*/member.npz"))
    assert done == ["member-1"]
    before = (tmp_path / "member-1" / "member.npz").stat().st_mtime_ns
    again = fit(None)
    assert (tmp_path / "member-1" / "member.npz").stat().st_mtime_ns == before
    same = zip(again.members, ensemble.members, strict=True)
    assert all(a.predict(copper[:1])[0].energy == b.predict(copper[:1])[0].energy for a, b in same)
    with pytest.raises(PotentialError, match="belongs to another training"):
        DeepEnsemble.fit(
            copper_network,
            copper[:4],
            copper[5:7],
            M=3,
            seed=4,
            training=TrainConfig(epochs=1),
            folder=tmp_path,
        )


def _fail():
    raise RuntimeError("killed")


def test_a_mean_is_a_potential_that_is_saved(ensemble, copper, tmp_path):
    save_potential(tmp_path / "mean.npz", ensemble.potential)
    loaded = load_potential(tmp_path / "mean.npz")
    assert isinstance(loaded, MeanPotential)
    assert loaded.predict(copper[:1])[0].energy == ensemble.predict(copper[:1])[0].energy


@pytest.mark.slow
def test_select(ensemble, copper):
    picks = sf.select(ensemble, copper[:3], copper[3:], method="lcmd", n=2)
    assert len(set(picks.indices.tolist())) == 2
    with pytest.raises(PotentialError, match="no single last layer; take full_grad_rp"):
        sf.select(ensemble, copper[:3], copper[3:], method="lcmd", n=2, features="ll_grad")


def test_members_that_do_not_fit_together(copper_network, network):
    with pytest.raises(PotentialError, match=r"members differ in elements.*member 2 of 2"):
        DeepEnsemble([copper_network, network])
    wider = sf.MomentNetwork(["Cu"], cutoff=4.0, dtype="float64")
    with pytest.raises(PotentialError, match=r"members differ in cutoff.*4\.0.*3\.5"):
        DeepEnsemble([copper_network, wider])
    with pytest.raises(ConfigError, match="at least 2 potentials"):
        DeepEnsemble([copper_network])
    pair = DeepEnsemble(
        [copper_network, eqx.tree_at(lambda p: p.bias, copper_network, copper_network.bias + 1)]
    )
    assert not pair.maps["energy"].calibrated
    for wrong in (0, 3):
        with pytest.raises(PotentialError, match="no such member"):
            pair.member(wrong)


def test_settings_that_make_no_ensemble(copper_network, copper):
    with pytest.raises(ConfigError, match="M, the number of members"):
        DeepEnsemble.fit(copper_network, copper[:5], copper[5:7], M=1)
    linear = Snap(Bispectrum((29,), 2, 3.5, (0.5,), (1.0,)))
    with pytest.raises(ConfigError, match=r"members of a Snap, which has no random start.*bootstrap"):
        DeepEnsemble.fit(linear, copper[:5], copper[5:7])


@pytest.mark.slow
def test_members_of_a_linear_potential_see_other_draws(copper):
    linear = Snap(Bispectrum((29,), 2, 3.5, (0.5,), (1.0,)))
    drawn = DeepEnsemble.fit(linear, copper[:5], copper[5:7], M=2, bootstrap=True)
    first, second = (member.predict(copper[:1])[0].energy for member in drawn.members)
    assert first != second
