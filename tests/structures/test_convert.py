"""Labels in other units and signs."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from surefield.errors import DataError
from surefield.structures.convert import convert_labels
from surefield.structures.labels import DIAGONAL_STRESS, resolve_labels


def labelled():
    atoms = bulk("Ta", cubic=True)
    stress = np.array([1000.0, 2000.0, 3000.0, 10.0, 20.0, 30.0])
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.full((2, 3), 0.5), stress=stress)
    return atoms


def test_bar_positive_in_compression():
    atoms = labelled()
    (found,) = convert_labels([atoms], stress_unit="bar", stress_sign="compression")
    np.testing.assert_allclose(found.get_stress(), -atoms.get_stress() / 1.602176634e6, rtol=1e-7)
    assert found.get_potential_energy() == -2.0
    assert atoms.get_stress()[0] == 1000.0


def test_energies_and_forces():
    (found,) = convert_labels([labelled()], energy_unit="kcal/mol", stress_unit="GPa")
    assert found.get_potential_energy() == pytest.approx(-2.0 / 23.060548, rel=1e-6)
    assert found.get_forces()[0, 0] == pytest.approx(0.5 / 23.060548, rel=1e-6)


def test_labels_in_info_move_to_the_results():
    atoms = bulk("Ta", cubic=True)
    atoms.info["energy"] = -3.0
    (found,) = convert_labels([atoms], energy_unit="meV")
    assert found.get_potential_energy() == pytest.approx(-3e-3)
    assert "energy" not in found.info
    assert atoms.info["energy"] == -3.0


def test_a_stress_with_its_diagonal_alone_stays_one():
    atoms = bulk("Si")
    atoms.info[DIAGONAL_STRESS] = True
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, stress=np.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.0]))
    (labels,), _ = resolve_labels(convert_labels([atoms], stress_unit="GPa"), require=())
    assert labels.stress[:3] == pytest.approx([GPa, 2 * GPa, 3 * GPa])
    assert np.isnan(labels.stress[3:]).all()


def test_unknown_sign():
    with pytest.raises(DataError, match="did you mean 'compression'"):
        convert_labels([labelled()], stress_sign="compresion")
