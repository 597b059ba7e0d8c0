from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError

from surefield.potentials import predict


def test_ase_gets_the_predictions(network, alloy):
    for atoms, expected in zip(alloy, predict(network, alloy), strict=True):
        copy = atoms.copy()
        copy.calc = network.calculator()
        np.testing.assert_allclose(copy.get_potential_energy(), expected.energy, rtol=1e-12)
        np.testing.assert_allclose(
            copy.get_potential_energy(force_consistent=True), expected.energy, rtol=1e-12
        )
        np.testing.assert_allclose(copy.get_forces(), expected.forces, atol=1e-11)
        np.testing.assert_allclose(copy.get_potential_energies(), expected.energies, rtol=1e-11)
        if atoms.pbc.all():
            np.testing.assert_allclose(copy.get_stress(), expected.stress, atol=1e-12)
        else:
            with pytest.raises(PropertyNotImplementedError, match="stress"):
                copy.get_stress()


def test_results_follow_the_atoms(network, alloy):
    atoms = alloy[1].copy()
    atoms.calc = network.calculator()
    before = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.1
    assert abs(atoms.get_potential_energy() - before) > 1e-6


def test_a_molecule_can_be_asked_for_its_energy_only(network, alloy):
    atoms = alloy[1].copy()
    atoms.calc = network.calculator()
    atoms.get_forces()
    assert "stress" not in atoms.calc.results
    assert "energy_uncertainty" not in atoms.calc.results


def test_written_predictions_leave_labels_alone(network, copper):
    atoms = copper[0]
    (prediction,) = predict(network, [atoms])
    written = prediction.written_to(atoms)
    assert written.get_potential_energy() == atoms.get_potential_energy()
    assert written.info["surefield_energy"] == prediction.energy
    np.testing.assert_array_equal(written.arrays["surefield_forces"], prediction.forces)
    assert "surefield_energy" not in atoms.info
