"""What an LLPR promises as a whole: symmetries of sigmas, training on ethanol, structures that are odd."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

import surefield as sf
from surefield.calibration.metrics import auroc
from surefield.sensitivity import RowCovariance, energy_features
from surefield.testing.frames import random_rotation, rotated
from surefield.training import train
from surefield.uncertainty import LLPR, LLPRPosterior, calibrate_alpha, sample_ensemble
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.ensemble_training import _Run
from surefield.uncertainty.member_learner import Learner, Scored, entry_losses


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return LLPR.fit(copper_network, copper[:4], copper[4:], progress=False)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (2, 1, 3)])
def test_supercells_have_so_many_times_the_features(llpr, copper, repeats):
    """f_A grows with the number of copies, and so does sigma: copies of one structure err together."""
    n, cell = int(np.prod(repeats)), copper[5]
    one, many = (
        energy_features(llpr.potential, [llpr.potential.neighborhood(a)]) for a in (cell, cell * repeats)
    )
    np.testing.assert_allclose(many, n * one, rtol=1e-10, atol=1e-10 * np.abs(many).max())
    (p,), (q,) = llpr.predict([cell], forces=True), llpr.predict([cell * repeats], forces=True)
    assert q.energy_uncertainty == pytest.approx(n * p.energy_uncertainty, rel=1e-8)
    np.testing.assert_allclose(q.forces_uncertainty[:2], p.forces_uncertainty, rtol=1e-6)


def test_force_covariances_rotate(llpr, copper):
    """G S G' of an atom becomes R G S G' R'; the noise of single components is that of all."""
    rotation = random_rotation(np.random.default_rng(3))
    before, after = (
        llpr.covariance([a], kinds=("forces",)) for a in (copper[4], rotated(copper[4], rotation))
    )
    for atom in range(2):
        own = slice(3 * atom, 3 * atom + 3)
        expected = rotation @ before[own, own] @ rotation.T
        np.testing.assert_allclose(after[own, own], expected, atol=1e-7 * np.abs(expected).max())


class Rows(Learner):
    """Rows and residuals of stored arrays, all in one batch."""

    def __init__(self, start, parts):
        self.start, self.parts = jnp.asarray(start), parts

    def scored(self, parameters, part):
        members = np.asarray(parameters)
        return {
            name: Scored(g @ members.T, r, np.arange(len(r)) % 3, np.full(len(r), 9))
            for name, (g, r) in self.parts[part].items()
        }

    def prepared(self, terms, optimizer):
        self.terms, self.optimizer = terms, optimizer
        self._step = jax.jit(self._stepped)

    def batches(self, epoch):
        return [None]

    def step(self, parameters, state, batch, rate):
        return self._step(parameters, state, rate)

    def _stepped(self, members, state, rate):
        def loss(moved):
            total = 0.0
            for name, term in self.terms.items():
                g, r = self.parts[0][name]
                total += term.weight * jnp.mean(
                    entry_losses(g @ moved.T, r, jnp.asarray(term.eps), term.loss)
                )
            return total

        updates, state = self.optimizer.update(jax.grad(loss)(members), state, members)
        moved = members - rate * updates
        return moved - moved.mean(axis=0), state


@pytest.fixture(scope="module")
def ethanol(shared: Path):
    """Rows and residuals (energies in total) of training and validation, and members from the posterior."""
    folder, parts = shared / "reference" / "uncertainty", []
    energy, forces = (np.load(folder / f"metatrain_ethanol{kind}.npz") for kind in ("", "_forces"))
    scale = float(energy["scaler"][0])
    for split in ("train", "val"):
        residual = (energy[f"{split}_E"] - energy[f"{split}_Eref"])[:, 0]
        own = scale * forces[f"{split}_G"], forces[f"{split}_F"] - forces[f"{split}_Fref"]
        parts.append({"energy": (scale * energy[f"{split}_F_sum"], residual), "forces": own})
    posterior = LLPRPosterior.from_covariance(RowCovariance(96).add(parts[0]["forces"][0]).matrix, 1.0)
    alpha = float(calibrate_alpha(parts[1]["forces"][1], posterior.u(parts[1]["forces"][0])))
    return sample_ensemble(posterior, alpha, 16, seed=1), parts


def test_members_of_ethanol(ethanol):
    """Residuals of training are much smaller than those of validation: a warning; the loss falls, the best
    state on validation is kept, and the learning rate never rises after the warm-up."""
    start, parts = ethanol
    training = LLPRTraining(num_epochs=40, learning_rate=0.03, warmup_fraction=0.1)
    run = _Run(Rows(start, parts), training, "energy", False)
    with pytest.warns(UserWarning, match=r"residuals of (energy|forces) are \d\.\d times larger"):
        members, epoch, history = run.to_the_end(None, {})
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["train_forces_nll"] < history[0]["train_forces_nll"]
    kept = min(history, key=lambda row: row["valid_loss"])
    assert kept["epoch"] == epoch
    assert kept["valid_loss"] <= history[0]["valid_loss"]
    rates = [row["learning_rate"] for row in history[1:]]
    assert np.all(np.diff(rates[4:]) <= 0)
    np.testing.assert_allclose(np.asarray(members).sum(axis=0), 0, atol=1e-9)


@pytest.mark.slow
def test_shaken_structures_are_told_apart(shared: Path):
    """Test frames with displacements of 0.2 A have a larger sigma(E)/n than the originals."""
    frames = sf.read_frames(shared / "data" / "mlearn" / "Cu_train.xyz.xz")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(frames))
    own, held, test = (frames[part] for part in (order[:80], order[80:110], order[110:140]))
    network = sf.MomentNetwork(["Cu"], cutoff=5.0, n_basis=6, n_channels=4, n_triple=2, hidden=[16])
    fit = train(network, own, held, epochs=4, progress=False)
    llpr = LLPR.fit(fit.potential, fit.train_set, fit.validation_set, row_kinds=["energy"], progress=False)
    shaken = [atoms.copy() for atoms in test]
    for atoms in shaken:
        atoms.positions += rng.normal(0, 0.2, atoms.positions.shape)
    near, far = (
        [p.energy_uncertainty / len(a) for p, a in zip(llpr.predict(some), some, strict=True)]
        for some in (list(test), shaken)
    )
    assert auroc(np.r_[np.zeros(len(near), bool), np.ones(len(far), bool)], np.r_[near, far]) >= 0.95


def test_perfect_crystal_is_masked_and_counted(copper_network, copper):
    """Its forces vanish by symmetry: they count nowhere, and are told."""
    perfect = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
    perfect.info["REF_energy"] = 0.1
    perfect.arrays["REF_forces"] = np.zeros((2, 3))
    some = [atoms.copy() for atoms in copper]
    for atoms, source in zip(some, copper, strict=True):
        atoms.info["REF_energy"] = source.get_potential_energy()
        atoms.arrays["REF_forces"] = source.get_forces()
    llpr = LLPR.fit(copper_network, [*some[:4], perfect], [*some[4:], perfect], progress=False)
    assert llpr.statistics["masked"] == {"forces": {"symmetry": 6}}
    assert llpr.statistics["calibration_rows"]["forces"] == 4 * 6
