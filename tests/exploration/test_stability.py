from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.exploration.alloys import atomic_volumes, lattice_of, random_alloys
from surefield.exploration.config import StabilityConfig
from surefield.exploration.stability import Limits, check_stability, limits_of, run_trial
from surefield.potentials.parametric import LennardJones
from surefield.training.dataset import prepare

SOFT = LennardJones({"epsilon": 0.3, "sigma": 2.3, "cutoff": 5.0}, ["Cu", "Au"])


def _labelled(frames: list[Atoms]) -> list[Atoms]:
    for atoms, p in zip(frames, SOFT.predict(frames), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=p.energy, forces=p.forces)
    return frames


@pytest.fixture(scope="module")
def data():
    cells = [bulk(s, "fcc", a=a, cubic=True) for s, a in (("Cu", 3.6), ("Cu", 3.9), ("Au", 4.1), ("Au", 4.4))]
    for number, atoms in enumerate(cells):
        atoms.rattle(0.02, seed=number)
        atoms.info["temperature_K"] = 150.0 * (number + 1)
    return prepare(_labelled(cells), SOFT)


def test_alloys_take_lattice_and_volume_from_the_cells_of_lowest_energy(data):
    energies = [sample.labels.energy for sample in data.samples]
    (alloy,) = random_alloys(data.frames, energies, 3, seed=1)
    assert alloy.info["name"] == "CuAu"
    assert sorted(set(alloy.numbers)) == [29, 79]
    assert np.sum(alloy.numbers == 29) == len(alloy) // 2 == 24
    lowest = [3.6 if energies[0] < energies[1] else 3.9, 4.1 if energies[2] < energies[3] else 4.4]
    assert alloy.get_volume() / len(alloy) == pytest.approx(np.mean(np.array(lowest) ** 3) / 4)
    assert lattice_of(alloy) == "fcc"
    again, other = (random_alloys(data.frames, energies, 1, seed=seed)[0] for seed in (1, 2))
    assert np.array_equal(again.numbers, alloy.numbers)
    assert not np.array_equal(other.numbers, alloy.numbers)


def test_all_metals_come_first_and_every_one_comes():
    cells = [bulk(s, "bcc", a=3.2, cubic=True) for s in ("Nb", "Mo", "Ta", "W")] + [molecule("H2O")]
    names = [a.info["name"] for a in random_alloys(cells, [-1.0] * 5, 3, seed=0)]
    assert names == ["NbMoTaW", "NbMo", "TaW"]
    assert random_alloys(cells, [-1.0] * 5, 0, seed=0) == []
    assert random_alloys(cells[:1], [-1.0], 3, seed=0) == []
    assert random_alloys([molecule("H2O"), bulk("Si")], [-1.0, -1.0], 3, seed=0) == []


def test_lattices_are_told_apart():
    found = [
        lattice_of(bulk(s, kind, a=4.0)) for s, kind in (("Fe", "bcc"), ("Cu", "fcc"), ("Si", "diamond"))
    ]
    assert found == ["bcc", "fcc", ""]
    assert lattice_of(molecule("H2O")) == ""


def test_volumes_of_compounds_are_sums():
    cells = [bulk("NaCl", "rocksalt", a=5.6), bulk("Na", "bcc", a=4.2)]
    volumes = atomic_volumes(cells)
    assert volumes == pytest.approx({11: 4.2**3 / 2, 17: 5.6**3 / 4 - 4.2**3 / 2})


def test_a_sound_potential_runs_through(data):
    outcome = check_stability(SOFT, data, StabilityConfig(steps=15, n_structures=2, n_alloys=1, seconds=1e4))
    assert [(t.structure, t.kind, t.temperature) for t in outcome.trials] == [
        ("Cu", "training", 600.0),
        ("Au", "training", 600.0),
        ("CuAu", "alloy", 600.0),
        ("Cu", "training", 300.0),
        ("Au", "training", 300.0),
        ("CuAu", "alloy", 300.0),
    ]
    assert all(t.steps == 15 and t.outcome == "ran" for t in outcome.trials)
    assert outcome.broken == ()
    alloy = outcome.trials[2]
    assert alloy.n_atoms == 48
    assert alloy.first_force < 1e-9 < outcome.trials[0].first_force  # both elements have the same parameters
    assert outcome.as_dict()["trials"][2]["outcome"] == "ran"


class Attracting(EMT):
    """Atoms fall into each other."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = -20.0 * self.results["forces"]


def test_what_breaks_says_when_and_how(data):
    start = bulk("Cu", cubic=True)
    start.rattle(0.05, seed=1)
    limits = Limits(1.5, 1e9)
    trial = run_trial(start, Attracting(), 600.0, limits, steps=400, seed=3)
    assert 0 < trial.steps < 400
    assert trial.fault.endswith((" K", "apart"))
    assert trial.outcome == f"broke: {trial.fault}"
    weak = run_trial(start, EMT(), 300.0, Limits(1.5, 0.01), steps=10)
    assert (weak.steps, weak.fault) == (0, f"force of {weak.first_force:.3g} eV/Å")
    near = run_trial(start, EMT(), 300.0, Limits(2.8, 1e9), steps=10)
    assert near.fault.endswith("Å apart")


def test_atoms_that_jump_into_each_other_are_a_break(data):
    """The calculator refuses such a structure before the watch sees it."""
    gas = LennardJones({"epsilon": 1e-30, "sigma": 2.3, "cutoff": 5.0}, ["Cu"])
    start = bulk("Cu", cubic=True) * (2, 2, 2)
    trial = run_trial(start, gas.calculator(), 1e6, Limits(0.0, 1e9), steps=200, timestep_fs=5.0)
    assert 0 < trial.steps < 200
    assert " Å apart" in trial.fault
    assert "remove the structure" not in trial.fault


def test_time_ends_a_run_after_one_step(data):
    trial = run_trial(bulk("Cu", cubic=True), EMT(), 300.0, Limits(0.0, 1e9), steps=50, seconds=0.0)
    assert (trial.steps, trial.outcome) == (1, "ran until its time was over")


def test_limits_follow_the_data(data):
    limits = limits_of(data)
    shortest = min(structure.shortest for structure in data.structures)
    assert limits == Limits(pytest.approx(0.6 * shortest), 50.0)
