"""A quantity of one's own is one entry in the table: read, trained on, predicted with a sigma, reported."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

import surefield as sf
from surefield import quantities
from surefield.errors import ConfigError
from surefield.files import json_text, write_atomic
from surefield.potentials.evaluate import species_index
from surefield.potentials.potential import MECHANICAL, LastLayerPotential
from surefield.quantities import Quantity
from surefield.structures.graph import sum_atoms
from surefield.structures.labels import Labels
from surefield.training.dataset import prepare
from surefield.training.loss import errors, residuals
from surefield.uncertainty import LLPR
from surefield.uncertainty.evaluation import evaluate_uncertainty

CENTERS = (1.0, 1.5, 2.0, 2.5)


class Polar(LastLayerPotential):
    """Energies and charges of atoms, both linear in sums of Gaussians of the distances; dipole = Σ q r."""

    readout: jnp.ndarray
    bias: jnp.ndarray
    offsets: jnp.ndarray
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    solved: bool = eqx.field(static=True)

    @property
    def supplies(self):
        return MECHANICAL | {"dipole"}

    @property
    def n_solvable(self):
        return self.readout.shape[1] if self.solved else 0

    def basis(self, graph):
        squares = jnp.where(graph.mask, jnp.sum(graph.vectors**2, axis=-1), self.cutoff**2)
        r = jnp.sqrt(squares)[..., None]
        terms = jnp.exp(-4 * (r - jnp.asarray(CENTERS)) ** 2) * (1 - r / self.cutoff) ** 2
        return jnp.sum(jnp.where(graph.mask[..., None], terms, 0.0), axis=1)

    def site_features(self, graph):
        basis = self.basis(graph)
        return jnp.concatenate([basis, jnp.zeros_like(basis)], axis=1)

    def site_energies(self, graph):
        index = species_index(self, graph)
        return jnp.sum(self.site_features(graph) * self.readout[index], axis=1) + self.bias[index]

    def outputs(self, graph):
        weights = self.readout[species_index(self, graph)][:, len(CENTERS) :]
        charges = jnp.where(graph.atom_mask, jnp.sum(self.basis(graph) * weights, axis=1), 0.0)
        return {"dipole": sum_atoms(charges[:, None] * graph.positions, graph)}


def polar(solved: bool = True) -> Polar:
    width = 2 * len(CENTERS)
    values = {"readout": jnp.zeros((2, width)), "bias": jnp.zeros(2), "offsets": jnp.zeros(2)}
    return Polar(**values, species=(1, 8), cutoff=3.0, solved=solved)


@pytest.fixture
def _dipole():
    quantities.add(Quantity("dipole", "e Å", components=(3,), aliases=("mu",), weight=10.0))
    yield
    quantities.remove("dipole")


@pytest.fixture
def waters() -> list[Atoms]:
    """Bent molecules around one shape, whose energies, forces and dipoles are those of another Polar."""
    rng = np.random.default_rng(0)
    truth = eqx.tree_at(lambda p: p.readout, polar(), jnp.asarray(rng.normal(size=(2, 8))))
    frames = []
    for _ in range(60):
        positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + rng.normal(0, 0.08, (3, 3))
        atoms = Atoms("OH2", positions)
        (p,) = truth.predict([atoms])
        noise = rng.normal(0, 0.01, 3)
        atoms.info |= {"REF_energy": p.energy, "mu": np.asarray(p.dipole) + noise}
        atoms.arrays["REF_forces"] = np.asarray(p.forces) + rng.normal(0, 0.01, (3, 3))
        frames.append(atoms)
    return frames


@pytest.mark.usefixtures("_dipole")
def test_a_dipole_is_read_trained_predicted_and_uncertain(waters, tmp_path):
    assert prepare(waters[:1], polar()).samples[0].labels.dipole.shape == (3,)

    fit = sf.train(polar(), waters[:40], waters[40:50], epochs=3, progress=False)
    before = errors(residuals(polar(), prepare(waters[50:], polar()).samples))
    after = errors(residuals(fit.potential, prepare(waters[50:], fit.potential).samples))
    assert after.dipole_rmse < 0.1 * before.dipole_rmse
    assert fit.validation_errors is not None
    assert fit.validation_errors.dipole_rmse < 0.02

    llpr = LLPR.fit(fit.potential, fit.train_set, fit.validation_set, progress=False)
    assert {"energy", "forces", "dipole"} <= set(llpr.maps)
    predictions = llpr.predict(waters[50:])
    z = [
        (p.dipole - a.info["mu"]) / p.dipole_uncertainty
        for p, a in zip(predictions, waters[50:], strict=True)
    ]
    assert 0.4 < np.sqrt(np.mean(np.square(z))) < 2.5
    written = predictions[0].written_to(waters[50])
    np.testing.assert_array_equal(
        written.info["surefield_dipole_uncertainty"], predictions[0].dipole_uncertainty
    )
    atoms = waters[50].copy()
    atoms.calc = llpr.calculator()
    atoms.get_potential_energy()
    np.testing.assert_array_equal(atoms.calc.results["dipole_uncertainty"], predictions[0].dipole_uncertainty)

    evaluation = evaluate_uncertainty(llpr, prepare(waters[50:], llpr.potential), ("energy", "dipole"))
    assert evaluation.test()["dipole_rmse"] == pytest.approx(after.dipole_rmse)
    evaluation.save(tmp_path / "predictions.npz")
    summary = {"verb": "uq", "test": evaluation.test(), "calibration": evaluation.calibration(llpr)}
    write_atomic(tmp_path / "summary.json", json_text(summary))
    page = sf.write_report(tmp_path).read_text(encoding="utf-8")
    assert "Error against σ: dipole" in page
    assert "e Å" in page


def test_what_is_not_in_the_table_is_refused():
    with pytest.raises(ConfigError, match="unknown quantity 'dipol'"):
        quantities.quantity("dipol")
    with pytest.raises(ConfigError, match="there is a quantity 'energy' already"):
        quantities.add(Quantity("energy", "eV"))
    with pytest.raises(ConfigError, match="unknown quantity 'dipole'"):
        Labels(dipole=np.zeros(3))
    with pytest.raises(AttributeError, match="Labels has no 'dipole'"):
        _ = Labels(energy=1.0).dipole
    assert Labels(energy=1.0).forces is None


@pytest.mark.usefixtures("_dipole")
def test_a_dipole_is_trained_by_gradients(waters):
    settings = {"epochs": 60, "learning_rate": 0.1, "weights": {"dipole": 100.0}, "progress": False}
    fit = sf.train(polar(solved=False), waters[:40], waters[40:50], **settings)
    assert fit.history[-1]["valid_dipole_rmse"] < 0.3 * fit.history[0]["valid_dipole_rmse"]
    assert fit.train_errors.as_dict()["dipole_rmse"] < 0.1


@pytest.mark.usefixtures("_dipole")
@pytest.mark.parametrize(
    ("name", "weight"), [("dipole", -1.0), ("energy", 1.0), ("dipol", 1.0), ("charges", 1.0)]
)
def test_a_weight_without_effect_is_refused(name, weight):
    with pytest.raises(ConfigError, match=f"'{name}'"):
        sf.train(polar(), [], weights={name: weight})
