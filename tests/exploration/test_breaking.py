from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from surefield.exploration.breaking import fault_of, fragment_numbers, nearest_contact
from surefield.exploration.config import BreakageConfig
from surefield.exploration.sampling import set_velocities

CONFIG = BreakageConfig()


def test_molecules_and_crystals_are_sane():
    for name in ("H2", "CH4", "C6H6", "H2O", "LiF", "CH3SH"):
        assert fault_of(molecule(name), CONFIG, temperature=300.0, n_fragments=1) == "", name
    for symbol in ("Cu", "Si", "W", "Na"):
        assert fault_of(bulk(symbol), CONFIG) == "", symbol


def test_contacts_are_measured_in_covalent_radii():
    # Radii: H 0.31, C 0.76 Å.
    assert nearest_contact(Atoms("H2", [[0, 0, 0], [0, 0, 0.38]]), 0.6) == ""
    assert (
        nearest_contact(Atoms("H2", [[0, 0, 0], [0, 0, 0.36]]), 0.6)
        == "atoms 0 (H) and 1 (H) are 0.36 Å apart"
    )
    assert "0.63 Å apart" in nearest_contact(Atoms("CH", [[0, 0, 0], [0, 0, 0.63]]), 0.6)
    # The nearest in units of the radii counts, not in Å.
    mixed = Atoms("H2CC", [[0, 0, 0], [0, 0, 0.5], [9, 0, 0], [9, 0, 0.8]])
    assert "(C)" in nearest_contact(mixed, 0.6)
    assert nearest_contact(mixed, 0.0) == ""


def test_contacts_with_images_count():
    atoms = Atoms("Cu", cell=[1.2, 9, 9], pbc=True)
    assert "1.20 Å" in fault_of(atoms, CONFIG)


def test_heat_and_nonsense():
    atoms = molecule("C6H6")
    set_velocities(atoms, 300.0, np.random.default_rng(0))
    assert fault_of(atoms, CONFIG, temperature=300.0) == ""
    atoms.set_momenta(8 * atoms.get_momenta())
    assert fault_of(atoms, CONFIG, temperature=300.0).startswith("kinetic temperature of")
    atoms.positions[0] = np.nan
    assert fault_of(atoms, CONFIG) == "positions are not finite"


def test_fragments_that_fly_off():
    pair = molecule("H2O") + molecule("CH4")
    pair.positions[3:] += [4.0, 0, 0]
    n = int(fragment_numbers(pair, 5.0).max()) + 1
    assert n == 1
    assert fault_of(pair, CONFIG, n_fragments=n) == ""
    pair.positions[:3] -= [4.0, 0, 0]
    assert fault_of(pair, CONFIG, n_fragments=n) == "H2O flew off, more than 5 Å from the rest"
    # Two parts at the start may stay two, and a periodic structure has none.
    assert fault_of(pair, CONFIG, n_fragments=2) == ""
    assert fault_of(pair, BreakageConfig(fragment_gap=None), n_fragments=n) == ""
    pair.set_cell([30, 30, 30])
    pair.pbc = True
    assert fault_of(pair, CONFIG, n_fragments=n) == ""


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="contact"):
        BreakageConfig(contact=1.5)
