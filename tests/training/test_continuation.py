from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from tests.training.test_train import SETTINGS, _same

from surefield.errors import ConfigError, PotentialError
from surefield.potentials import ZBL, save_potential
from surefield.potentials.parametric import LennardJones
from surefield.training import train
from surefield.training.continuation import continued, solve_around
from surefield.training.dataset import prepare
from surefield.training.growth import with_species
from surefield.training.loss import LossWeights, errors, residuals

SHORT = SETTINGS | {"epochs": 2}
WEIGHTS = LossWeights(energy=30.0, forces=1.0)


def _shifted(frames, shift):
    """The same labels with another zero of energy, by element."""
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        results = dict(atoms.calc.results)
        results["energy"] += sum(shift.get(z, 0.0) for z in atoms.numbers.tolist())
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return copies


@pytest.fixture(scope="module")
def trained(copper, copper_network):
    return train(copper_network, copper[:6], 0, **SETTINGS).potential


def test_other_zeros_of_energy_change_the_offsets_alone(trained, copper):
    moved = prepare(_shifted(copper, {29: 7.5}), trained).samples
    plain = prepare(copper, trained).samples
    first, second = (continued(trained, trained, samples, {}) for samples in (plain, moved))
    np.testing.assert_allclose(second.offsets, first.offsets + 7.5, atol=1e-9)
    np.testing.assert_allclose(first.offsets, trained.offsets, atol=0.02)
    for name in ("radial", "shift", "scale", "readout", "bias"):
        np.testing.assert_array_equal(getattr(second, name), getattr(trained, name))
    free = continued(
        trained, trained, moved, {"Cu": 0.3}
    )  # two energies per atom say the same of one element
    np.testing.assert_allclose(free.offsets, second.offsets, atol=1e-9)


def test_a_last_layer_that_is_worse_than_none_is_not_kept(trained, copper):
    wild = eqx.tree_at(lambda p: p.readout, trained, -3.0 * trained.readout)
    samples = prepare(copper, trained).samples
    assert not np.any(continued(wild, wild, samples, {}).readout)
    assert np.any(continued(trained, trained, samples, {}).readout)


def test_the_last_layer_is_solved_around_its_own(trained, copper):
    """The exact solution never raises the loss of its labels, and changes nothing where none is left."""
    samples = prepare(copper, trained).samples
    start = continued(trained, trained, samples, {})
    solved, solution = solve_around(start, samples, [], WEIGHTS, all_columns=True)
    before, after = (errors(residuals(p, samples)) for p in (start, solved))
    assert after.forces_rmse < before.forces_rmse
    assert solution.train_loss == pytest.approx(30 * after.energy_rmse**2 + after.forces_rmse**2, rel=1e-6)
    own = _labelled_by(start, copper)
    again, _ = solve_around(start, prepare(own, start).samples, [], WEIGHTS, all_columns=True)
    np.testing.assert_allclose(again.readout, start.readout, atol=1e-5)


def _labelled_by(potential, frames):
    copies = [atoms.copy() for atoms in frames]
    for atoms, p in zip(copies, potential.predict(frames), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=p.energy, forces=p.forces)
    return copies


def test_a_fixed_body_is_fixed(trained, copper):
    fit = train(None, copper, 0.25, start_from=trained, train_body=False, **SHORT)
    assert fit.history == ()
    moved = fit.potential
    assert not np.allclose(moved.readout, trained.readout)
    last = lambda p: (p.readout, p.bias, p.offsets)  # noqa: E731
    assert _same(eqx.tree_at(last, moved, last(trained)), trained)


def test_a_trained_one_is_better_than_a_new_one(trained, copper, copper_network):
    held = prepare(copper[6:], 3.5)
    new = train(copper_network, copper[:1], held, **SHORT)
    more = train(None, copper[:1], held, start_from=trained, **SHORT)
    assert more.validation_errors.forces_rmse < 0.7 * new.validation_errors.forces_rmse
    assert len(more.history) == len(new.history) == 2


def test_sums_files_and_objects_are_the_same_start(trained, copper, tmp_path):
    whole = trained + ZBL(["Cu"], 1.0, 2.0)
    save_potential(tmp_path / "whole.npz", whole)
    fits = [
        train(None, copper, 0.25, start_from=start, **SHORT)
        for start in (whole, tmp_path / "whole.npz", str(tmp_path / "whole.npz"))
    ]
    assert fits[0].potential.baseline is whole.baseline
    assert _same(fits[0].potential, fits[1].potential)
    assert _same(fits[0].potential, fits[2].potential)
    before = [np.array(leaf) for leaf in jax.tree.leaves(eqx.filter(whole, eqx.is_array))]
    assert all(map(np.array_equal, before, jax.tree.leaves(eqx.filter(whole, eqx.is_array))))


def test_the_start_is_part_of_what_a_run_is(trained, copper, copper_network, tmp_path):
    fit = train(None, copper, 0.25, start_from=trained, folder=tmp_path, **SHORT)
    again = train(None, copper, 0.25, start_from=trained, folder=tmp_path, **SHORT)
    assert _same(fit.potential, again.potential)
    assert again.history == fit.history
    other = eqx.tree_at(lambda p: p.bias, trained, trained.bias + 0.1)
    with pytest.raises(PotentialError, match="another starting parameters"):
        train(None, copper, 0.25, start_from=other, folder=tmp_path, **SHORT)
    with pytest.raises(PotentialError, match="start_from was True, now False"):
        train(trained, copper, 0.25, folder=tmp_path, **SHORT)


def test_what_cannot_be_continued_is_told(trained, copper, copper_network, tmp_path):
    with pytest.raises(ConfigError, match="got both"):
        train(copper_network, copper, start_from=trained)
    with pytest.raises(ConfigError, match="got none"):
        train(None, copper)
    with pytest.raises(ConfigError, match="train_body=False keeps a body that is trained"):
        train(copper_network, copper, train_body=False)
    pair = LennardJones({"epsilon": 0.4, "sigma": 2.1, "cutoff": 4.0}, ["Cu"])
    with pytest.raises(ConfigError, match="LennardJones has no linear one"):
        train(None, copper, 0, start_from=pair, train_body=False)
    with pytest.raises(PotentialError, match="there is no saved potential"):
        train(None, copper, start_from=tmp_path / "none.npz")


def test_new_elements_take_from_the_data_what_old_ones_keep(trained, copper):
    """Copper atoms with another number and another zero of energy."""
    mixed = []
    for atoms in copper:
        copy = atoms.copy()
        copy.numbers[0] = 79
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
        mixed.append(copy)
    mixed = _shifted(mixed, {79: -4.0})
    grown = with_species(trained, ["Au"])
    start = continued(trained, grown, prepare(mixed, grown).samples, {"Au": -3.9})
    for name in ("shift", "scale", "readout", "bias"):
        np.testing.assert_array_equal(getattr(start, name)[0], getattr(trained, name)[0])
    assert np.std(start.shift[1]) > 0
    assert not np.any(start.readout[1])
    fit = train(None, mixed, 0.25, start_from=trained, **SHORT | {"epochs": 0})
    assert fit.potential.species == (29, 79)
    assert np.any(fit.potential.readout[1])
    assert fit.train_errors.energy_rmse < 0.01
