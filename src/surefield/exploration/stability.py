"""Whether a potential runs: short dynamics of training structures, and of alloys that it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from surefield.errors import DataError
from surefield.execution.stopwatch import working_seconds
from surefield.exploration.alloys import random_alloys
from surefield.exploration.config import StabilityConfig
from surefield.exploration.sampling import hottest_allowed, langevin, set_velocities, suitable_timestep
from surefield.potentials.potential import HasPotential
from surefield.structures.doctor.temperatures import temperature_words
from surefield.structures.label_sources import without_labels
from surefield.structures.neighbors import neighborhood
from surefield.training.dataset import LabelledSet

__all__ = ["Limits", "Stability", "Trial", "check_stability", "limits_of", "run_trial"]

#: K, of the cold runs, and of the hot ones where no structure states a temperature.
ROOM, HOT = 300.0, 600.0
#: Atoms nearer than this part of the shortest training distance have fallen into each other.
NEAREST: Final = 0.6
#: Forces beyond this many times the largest of training, and beyond so many eV/Å, are those of an explosion.
LARGEST, LEAST_LIMIT = 10.0, 50.0
#: 1/fs.
FRICTION: Final = 0.02
#: Training structures with more atoms than this are left to longer runs, where there are smaller ones.
_SMALL: Final = 64


@dataclass(frozen=True)
class Limits:
    """Where a run has broken: distance in Å, force in eV/Å."""

    distance: float
    force: float


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        structure: what ran.
        kind: 'training' or 'alloy'.
        n_atoms: atoms.
        temperature: K.
        first_force: largest force on an atom before the first step, eV/Å; of an alloy on the perfect lattice.
        steps: that were run.
        planned: steps.
        timestep_fs: fs.
        fault: how it broke; empty if it did not.
    """

    structure: str
    kind: str
    n_atoms: int
    temperature: float
    first_force: float
    steps: int
    planned: int
    timestep_fs: float
    fault: str = ""

    @property
    def outcome(self) -> str:
        """In words."""
        if self.fault:
            return f"broke: {self.fault}"
        return "ran" if self.steps == self.planned else "ran until its time was over"


@dataclass(frozen=True)
class Stability:
    """Outcome of `check_stability`.

    Attributes:
        trials: the runs.
        limits: beyond which a run has broken.
    """

    trials: tuple[Trial, ...]
    limits: Limits

    @property
    def broken(self) -> tuple[Trial, ...]:
        """Runs that broke."""
        return tuple(trial for trial in self.trials if trial.fault)

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        trials = [asdict(trial) | {"outcome": trial.outcome} for trial in self.trials]
        return {"trials": trials, "limits": asdict(self.limits)}


def check_stability(
    model: HasPotential, data: LabelledSet, config: StabilityConfig | None = None
) -> Stability:
    """Run a trained potential for a moment, and say after how many steps it breaks, if it does.

    Errors on test structures do not tell: they are like those of training. Runs are Langevin dynamics at
    300 K and at the hottest temperature of training: of training structures of different formulas, and of
    random alloys on perfect lattices, see `random_alloys`. A run has broken when atoms come nearer than 0.6
    times the shortest distance of training, a force exceeds ten times its largest (at least 50 eV/Å), or the
    kinetic temperature leaves all bounds.

    Args:
        model: a potential, or what holds one.
        data: that it was trained on.
        config: times, temperatures and numbers of runs.
    """
    config = config or StabilityConfig()
    begin = working_seconds()
    limits = limits_of(data)
    hot = config.temperature or _hottest(data)
    starts = [("training", atoms) for atoms in _training_structures(data, config.n_structures)]
    energies = [sample.labels.energy for sample in data.samples]
    starts += [
        ("alloy", atoms) for atoms in random_alloys(data.frames, energies, config.n_alloys, seed=config.seed)
    ]
    calculator = model.potential.calculator(extrapolation="ignore", stress=False)
    # The hot runs first: they are what breaks.
    planned = [(kind, atoms, t) for t in dict.fromkeys([hot, ROOM]) for kind, atoms in starts]
    trials = []
    for number, (kind, atoms, temperature) in enumerate(planned):
        spent = working_seconds() - begin
        share = max(config.seconds - spent, 0.0) / (len(planned) - number)
        trials.append(
            run_trial(
                atoms,
                calculator,
                temperature,
                limits,
                kind=kind,
                steps=config.steps,
                seconds=share,
                seed=(config.seed, number),
            )
        )
    return Stability(tuple(trials), limits)


def run_trial(
    atoms: Atoms,
    calculator: BaseCalculator,
    temperature: float,
    limits: Limits,
    *,
    kind: str = "training",
    steps: int = 500,
    seconds: float = np.inf,
    timestep_fs: float | None = None,
    seed: int | Sequence[int] = 0,
) -> Trial:
    """Langevin dynamics until it breaks, ends, or its time is over; one step at least.

    Args:
        atoms: start; not changed.
        calculator: of ASE.
        temperature: K.
        limits: beyond which it has broken.
        kind: of the trial.
        steps: planned.
        seconds: that it may take, compiling left out.
        timestep_fs: fs; None: what suits the lightest atom.
        seed: of velocities and thermostat.
    """
    end = working_seconds() + seconds
    start = without_labels(atoms)
    start.calc = calculator
    rng = np.random.default_rng(seed)
    set_velocities(start, temperature, rng)
    step = timestep_fs or suitable_timestep(start)
    dynamics = langevin(start, temperature, step, FRICTION, rng)
    faults: list[str] = []

    def watch() -> None:
        fault = _fault(start, temperature, limits)
        if fault:
            faults.append(fault)
        if fault or (dynamics.nsteps and working_seconds() > end):
            raise _Ended

    name = str(atoms.info.get("name") or atoms.get_chemical_formula(empirical=True))
    first = float(np.linalg.norm(start.get_forces(), axis=1).max())
    dynamics.attach(watch)
    try:
        with suppress(_Ended):
            dynamics.run(steps)
    except DataError as error:  # atoms jumped into each other, or away, within one step
        faults.append(str(error).partition(";")[0])
    fault = faults[0] if faults else ""
    return Trial(name, kind, len(start), temperature, first, dynamics.nsteps, steps, step, fault)


def limits_of(data: LabelledSet) -> Limits:
    """Limits that no structure like those of training comes near."""
    shortest = min((structure.shortest for structure in data.structures), default=np.inf)
    forces = [s.labels.forces for s in data.samples if s.labels.forces is not None]
    largest = max((float(np.nanmax(np.linalg.norm(f, axis=1))) for f in forces if len(f)), default=0.0)
    distance = NEAREST * shortest if np.isfinite(shortest) else 0.0
    return Limits(distance, max(LARGEST * largest, LEAST_LIMIT))


class _Ended(Exception):
    """Leaves the loop of ASE."""


def _fault(atoms: Atoms, temperature: float, limits: Limits) -> str:
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    if not force <= limits.force:  # true of NaN, too
        return f"force of {force:.3g} eV/Å"
    kelvin = atoms.get_temperature()
    if not kelvin <= hottest_allowed(temperature, len(atoms)):
        return f"{kelvin:.3g} K"
    nearest = neighborhood(atoms, limits.distance).shortest if limits.distance > 0 else np.inf
    return f"atoms {nearest:.2f} Å apart" if nearest < limits.distance else ""


def _hottest(data: LabelledSet) -> float:
    kelvin = temperature_words(data.frames)
    stated = kelvin[np.isfinite(kelvin) & (kelvin > ROOM)]
    return float(stated.max()) if len(stated) else HOT


def _training_structures(data: LabelledSet, n: int) -> list[Atoms]:
    """Structures of different formulas, small ones if there are, spread over the formulas."""
    by_formula: dict[str, Atoms] = {}
    for atoms in sorted(data.frames, key=lambda atoms: (len(atoms) > _SMALL, -len(atoms) % (_SMALL + 1))):
        if len(atoms) > 1:
            by_formula.setdefault(atoms.get_chemical_formula(empirical=True), atoms)
    known = list(by_formula.values())
    return [known[i] for i in np.linspace(0, len(known) - 1, min(n, len(known))).round().astype(int)]
