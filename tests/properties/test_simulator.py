"""Properties by LAMMPS: the same numbers as here, and refusals."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from tests.conftest import SW

from surefield import LLPR, DeepEnsemble, FIMPropertyScore
from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.foreign.lammps_run import LammpsProcess, LammpsSettings
from surefield.formats.lammps_form import write_lammps_form
from surefield.potentials import MomentNetwork
from surefield.potentials.evaluate import predict
from surefield.potentials.parametric import EAM, LennardJones, Morse, StillingerWeber, Tersoff
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.snap import Snap
from surefield.potentials.zbl import ZBL
from surefield.properties import (
    CohesiveEnergy,
    ElasticConstants,
    EquationOfState,
    LatticeConstant,
    PhononFrequencies,
    Property,
    SurfaceEnergy,
    VacancyFormationEnergy,
)

DIAMOND = (5.43, "diamond", "Si")


@pytest.fixture(scope="module")
def silicon() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"])


def named(value: object) -> str:
    return getattr(value, "__name__", "")


#: With how many digits they agree; phonons are differences of forces there, and exact here.
PROPERTIES = [
    (LatticeConstant, {}, 1e-9),
    (CohesiveEnergy, {}, 1e-10),
    (ElasticConstants, {"components": ("C11", "C12", "C44")}, 1e-7),
    (EquationOfState, {}, 1e-7),
    (PhononFrequencies, {"q": ((0.5, 0.5, 0.0),)}, 1e-6),
    (VacancyFormationEnergy, {}, 1e-8),
    (SurfaceEnergy, {"layers": 4}, 1e-8),
]


@pytest.mark.parametrize(("kind", "settings", "digits"), PROPERTIES[:3], ids=named)
def test_values_are_those_computed_here(
    kind: type[Property], settings: dict, digits: float, lmp: str, silicon: StillingerWeber
) -> None:
    here = kind(*DIAMOND, **settings).calculate_property(silicon)
    there = kind(*DIAMOND, **settings, simulator_path=lmp).calculate_property(silicon)
    np.testing.assert_allclose(there.value, here.value, rtol=digits)
    assert there.message == f"computed by {lmp}"
    assert here.message == ""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings", "digits"), PROPERTIES[3:], ids=named)
def test_other_values_are_those_computed_here(
    kind: type[Property], settings: dict, digits: float, lmp: str, silicon: StillingerWeber
) -> None:
    test_values_are_those_computed_here(kind, settings, digits, lmp, silicon)


def shaken(symbols: list[str], a: float) -> Atoms:
    atoms = bulk("Cu", "fcc", a=a, cubic=True)
    atoms.symbols[:] = [symbols[i % len(symbols)] for i in range(len(atoms))]
    atoms.rattle(0.1, seed=0)
    return atoms


def forms() -> list[tuple[Potential, Atoms]]:
    pairs = {"cutoff": [5.0, 5.5, 6.0], "epsilon": [0.2, 0.3, 0.1], "sigma": [2.2, 2.3, 2.4]}
    wells = {"cutoff": [5.0, 5.5, 6.0], "epsilon": [-0.2, -0.3, -0.1], "C": [1.4, 1.5, 1.6]}
    two = {name: [value, 0.9 * value, 1.1 * value] for name, value in SW.items()}
    two["costheta0"] = [-1 / 3, -0.3, -0.2]
    ordered = dict(A=1830.8, B=471.18, beta=1.1e-6, n=0.78734) | {"lambda1": 2.4799, "lambda2": 1.7322}
    triplets = {"lambda3": 0.5, "m": 3, "gamma": 1.0, "c": 100390.0, "d": 16.217, "h": -0.59825}
    triplets |= {"Rc": 2.85, "Dc": 0.15}
    tersoff = {k: v * np.linspace(1.0, 1.1, 4) for k, v in ordered.items()}
    tersoff |= {k: v * (np.linspace(1.0, 1.05, 8) if k != "m" else np.ones(8)) for k, v in triplets.items()}
    for name in ("A", "lambda1"):  # the energy of a bond is the same from both its ends
        tersoff[name][2] = tersoff[name][1]
    tersoff["Rc"][:], tersoff["Dc"][:] = 2.85, 0.15
    r = np.linspace(0.0, 5.0, 60)
    tables = {"embedding": [-np.sqrt(np.linspace(0, 30, 60))], "density": [np.exp(-r) * (5 - r) ** 2]}
    tables["pair"] = [2 * r * np.exp(-2 * r) * (5 - r) ** 2]
    eam = EAM(tables, ["Cu"], dr=5 / 59, drho=30 / 59, reach=5.0)
    copper = shaken(["Cu"], 3.6)
    descriptor = Bispectrum((29, 79), twojmax=2, rcutfac=4.0, radelem=(0.5, 0.45), wj=(1.0, 0.8))
    snap = Snap(descriptor)
    readout = np.random.default_rng(0).normal(0, 0.1, np.shape(snap.readout))
    snap = eqx.tree_at(lambda s: s.readout, snap, jnp.asarray(readout))
    return [
        (LennardJones(pairs, ["Cu", "Au"], shift=False), shaken(["Cu", "Au"], 3.7)),
        (LennardJones(pairs, ["Cu", "Au"]), shaken(["Cu", "Au"], 3.7)),
        (Morse({**wells, "Rzero": [2.6, 2.7, 2.8]}, ["Cu", "Au"]), shaken(["Cu", "Au"], 3.7)),
        (StillingerWeber(two, ["Si", "Ge"]), shaken(["Si", "Ge"], 4.2)),
        (Tersoff(tersoff, ["Si", "C"]), shaken(["Si", "C"], 3.6)),
        (eam, copper),
        (ZBL(["Cu", "Au"], 2.0, 3.0, switch="lammps"), shaken(["Cu", "Au"], 3.7)),
        (snap, shaken(["Cu", "Au"], 3.7)),
        (SumPotential(snap, ZBL(["Cu", "Au"], 2.0, 3.0, switch="lammps")), shaken(["Cu", "Au"], 3.7)),
    ]


def test_every_form_gives_the_energies_forces_and_stresses_of_here(lmp: str, tmp_path: Path) -> None:
    for number, (potential, atoms) in enumerate(forms()):
        folder = tmp_path / str(number)
        folder.mkdir()
        form = write_lammps_form(potential, folder)
        with LammpsProcess(lmp, LammpsSettings(form.commands, form.symbols), folder) as process:
            there = process.results(atoms)
        (here,) = predict(potential, [atoms])
        assert there["energy"] == pytest.approx(here.energy, rel=1e-10), type(potential)
        for name in ("forces", "stress"):
            expected = getattr(here, name)
            np.testing.assert_allclose(there[name], expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_what_lammps_has_no_form_of_is_refused(lmp: str) -> None:
    prop = LatticeConstant(*DIAMOND, simulator_path=lmp)
    with pytest.raises(PotentialError, match=r"no pair style that computes a MomentNetwork.*simulator_path"):
        prop.calculate_property(MomentNetwork(species=["Si"], hidden=(4,)))
    with pytest.raises(PotentialError, match=r"switches ZBL off in another way"):
        prop.calculate_property(ZBL(["Si"]))


def test_a_lammps_that_is_not_there_is_named(silicon: StillingerWeber) -> None:
    prop = LatticeConstant(*DIAMOND, simulator_path="/PATH/TO/lmp")
    with pytest.raises(ConfigError, match=r"simulator_path needs the program '/PATH/TO/lmp'.*leave"):
        prop.calculate_property(silicon)


def test_errors_of_lammps_are_told(lmp: str) -> None:
    wrong = StillingerWeber({**SW, "B": -0.6}, ["Si"])
    with pytest.raises(ExecutionError, match=r"LAMMPS ended with exit code 1.*Illegal Stillinger-Weber"):
        LatticeConstant(*DIAMOND, simulator_path=lmp).calculate_property(wrong)
    with pytest.raises(ExecutionError, match=r"LAMMPS ended with exit code"):
        LatticeConstant(*DIAMOND, simulator_path="true").calculate_property(wrong)


def test_derivatives_are_numerical(silicon: StillingerWeber) -> None:
    with pytest.raises(ConfigError, match="LAMMPS gives no derivatives by parameters"):
        LatticeConstant(*DIAMOND, simulator_path="lmp").near(silicon)


@pytest.mark.slow
def test_information_and_sigmas(lmp: str, silicon: StillingerWeber) -> None:
    free = {"A": [["default"]]}
    cohesive = {"here": CohesiveEnergy(*DIAMOND), "there": CohesiveEnergy(*DIAMOND, simulator_path=lmp)}
    fims = {
        where: FIMPropertyScore().compute(prop, "SENSITIVITY", np.eye(1), silicon, free)
        for where, prop in cohesive.items()
    }
    np.testing.assert_allclose(fims["there"], fims["here"], rtol=1e-7)
    other, frames = StillingerWeber({**SW, "A": 15.0}, ["Si"]), []
    for seed in range(6):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = other.calculator()
        atoms.get_potential_energy()
        frames.append(atoms)
    uncertain = LLPR.fit(silicon, frames[:4], frames[4:], progress=False)
    results = {where: prop.predict(uncertain) for where, prop in cohesive.items()}
    np.testing.assert_allclose(results["there"].value, results["here"].value, rtol=1e-10)
    np.testing.assert_allclose(results["there"].sigma, results["here"].sigma, rtol=1e-12)
    with pytest.raises(PotentialError, match="a MeanPotential"):
        cohesive["there"].predict(DeepEnsemble([silicon, other]))
