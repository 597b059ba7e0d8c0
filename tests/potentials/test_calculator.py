from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT

from surefield import LLPR, DropoutEnsemble, KIMPotential, select, train
from surefield.acquisition.select import score_frames
from surefield.errors import ConfigError, DataError
from surefield.potentials import predict
from surefield.structures.read import Frames


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


def impossible() -> dict[str, tuple[Atoms, str]]:
    nan, lost = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    nan.positions[1] = np.nan
    lost.positions[0] = 1e12
    flat = Atoms("Cu2", positions=[[0, 0, 0], [1.8, 1.8, 0]], pbc=True)
    return {
        "overlap": (Atoms("Cu2"), r"atoms 0 \(Cu\) and 1 \(Cu\) are 0.000 Å apart"),
        "not finite": (nan, "position of atom 1 is not finite"),
        "no cell": (flat, "cell has no volume although periodic along xyz"),
        "no atoms": (Atoms(), "no atoms"),
        "lost": (lost, "from the origin"),
    }


@pytest.mark.parametrize("kind", impossible())
def test_what_cannot_be_computed_is_refused(kind: str):
    atoms, message = impossible()[kind]
    potential = KIMPotential("Morse_Shifted_GirifalcoWeizer_1959LowCutoff_Cu").model
    atoms.calc = potential.calculator()
    with pytest.raises(DataError, match=f"{message}.* in the structure of this calculator"):
        atoms.get_potential_energy()
    frames = Frames((bulk("Cu"), atoms), ("frame 0 of a.xyz", "frame 4 of a.xyz"))
    with pytest.raises(DataError, match=f"{message}.* in frame 4 of a.xyz"):
        predict(potential, frames)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_atoms_many_cells_away_are_the_same_atoms(pbc: tuple[bool, ...]):
    potential = KIMPotential("Morse_Shifted_GirifalcoWeizer_1959LowCutoff_Cu").model
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms.pbc = pbc
    far = atoms.copy()
    cells = np.random.default_rng(0).integers(-(10**7), 10**7, (len(far), 3)) * far.pbc
    far.positions += cells @ far.cell.array
    near_by, far_away = predict(potential, [atoms, far])
    assert far_away.energy == pytest.approx(near_by.energy, abs=1e-5)
    # Positions of 1e8 Å have 1e-8 Å as last digit.
    np.testing.assert_allclose(far_away.forces, near_by.forces, atol=1e-5)


@pytest.mark.parametrize("model", [EMT(), EMT, "potential.npz"])
def test_what_is_no_potential_is_named_with_the_ways_to_one(model):
    for door in (
        lambda: LLPR.fit(model, [bulk("Cu")], [bulk("Cu")]),
        lambda: DropoutEnsemble(model),
        lambda: train(model, [bulk("Cu")]),
        lambda: select(model, [bulk("Cu")], [bulk("Cu")]),
        lambda: score_frames(model, [bulk("Cu")], "forces_variance"),
    ):
        with pytest.raises(ConfigError, match=r"potential of surefield is needed.*(EMT|npz).*surefield.load"):
            door()
