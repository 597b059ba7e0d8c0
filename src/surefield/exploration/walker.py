"""One walker: dynamics or a relaxation with the current potential, watched by its sigma."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.filters import FrechetCellFilter
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE

from surefield.errors import DataError, PotentialError
from surefield.exploration.breaking import fault_of, fragment_numbers
from surefield.exploration.config import DynamicsConfig, RelaxationConfig
from surefield.exploration.sampling import langevin, set_velocities, snapshot, suitable_timestep
from surefield.exploration.sigma_bias import biased_calculator
from surefield.exploration.sigma_window import SigmaWindow, with_sigmas
from surefield.potentials.prediction import Prediction
from surefield.structures.label_sources import without_labels
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["FINISHED", "WalkerRecord", "evenly", "lost_walker", "walk"]

FINISHED: Final = "finished"
#: What a calculator says of structures that it cannot compute.
_REFUSALS: Final = (DataError, PotentialError, FloatingPointError, np.linalg.LinAlgError)
#: Time constants of the barostat, in fs.
_BAROSTAT_FS: Final = 1000.0


@dataclass(frozen=True)
class WalkerRecord:
    """What became of one walker.

    Attributes:
        walker: its number.
        kind: 'dynamics' or 'relaxation'.
        start: place of its start in the list that was given.
        formula: of that.
        ensemble: 'nve', 'nvt' or 'npt' of dynamics, the optimiser of a relaxation.
        temperature: K; None of relaxations.
        timestep_fs: fs; None of relaxations.
        steps: that were done.
        quantity: whose sigma was looked at, 'forces' (eV/Å) or 'energies' (eV).
        lower: edge of the window from which structures were collected.
        limit: of sigma.
        looked_at: steps at which sigma was looked at.
        sigma: the largest of an atom, at each of these.
        ended: why: 'finished', 'sigma limit: ...', 'structure broke: ...' or 'its worker was killed ...'.
        n_frames: structures that it gave.
        biased: whether sigma drew it.
    """

    walker: int
    kind: str
    start: int
    formula: str
    ensemble: str
    temperature: float | None
    timestep_fs: float | None
    steps: int
    quantity: str
    lower: float
    limit: float
    looked_at: tuple[int, ...]
    sigma: tuple[float, ...]
    ended: str
    n_frames: int
    biased: bool = False

    @property
    def times_fs(self) -> tuple[float, ...]:
        """Of the looks at sigma; empty of a relaxation."""
        step = self.timestep_fs
        return () if step is None else tuple(step * number for number in self.looked_at)

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"looked_at": list(self.looked_at), "sigma": list(self.sigma)}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> WalkerRecord:
        """What `to_dict` gave."""
        sequences = {name: tuple(entries[name]) for name in ("looked_at", "sigma")}
        return cls(**{**entries, **sequences})


def walk(
    uncertainty: Uncertainty,
    start: Atoms,
    config: DynamicsConfig | RelaxationConfig,
    *,
    walker: int,
    place: int,
    temperature: float | None,
    first: bool,
    seed: tuple[int, ...],
) -> tuple[list[Atoms], WalkerRecord]:
    """Run a walker until its end, its limit, or until it breaks.

    A walker that leaves the limit or breaks between two looks at sigma is traced back: the last structure
    within the limit is found among all since the last look, by bisection. Whatever happens, that structure
    is given; of one that ends well, the last one where none was in the window.

    Args:
        uncertainty: the current potential and its sigmas.
        start: where it starts; not changed.
        config: of the walker.
        walker: its number.
        place: of the start in the list that was given.
        temperature: K, of dynamics.
        first: of its start: a relaxation begins there without random displacements.
        seed: of velocities, thermostat and displacements.

    Returns:
        Structures without labels, in the order of the steps, and the record.
    """
    rng = np.random.default_rng(seed)
    window = SigmaWindow.of(uncertainty, config.window)
    atoms = without_labels(start)
    bias = None if isinstance(config, RelaxationConfig) else config.bias
    cell_moves = config.relax_cell if isinstance(config, RelaxationConfig) else config.ensemble == "npt"
    if bias is not None:
        atoms.calc = biased_calculator(uncertainty, bias, stress=cell_moves)
    else:
        atoms.calc = _calculator(uncertainty, stress=cell_moves)
    if isinstance(config, RelaxationConfig):
        mover, timestep, ensemble = _relaxation(atoms, config, first, rng), None, config.optimizer
    else:
        assert temperature is not None
        mover, timestep = _dynamics(atoms, config, temperature, rng)
        ensemble = config.ensemble
    name = f"{ensemble}_{temperature:g}K" if temperature is not None else config.kind
    info = {"walker": walker, "start": place, "temperature_K": temperature, "timestep_fs": timestep}
    watch = _Watch(uncertainty, window, atoms, mover, config, temperature, name, info)
    mover.attach(watch)
    try:
        if isinstance(config, RelaxationConfig):
            mover.run(fmax=config.fmax, steps=config.steps)
        else:
            mover.run(config.steps)
        watch.finish()
    except _Ended:
        pass
    except _REFUSALS as error:
        watch.broke(str(error).partition(";")[0])
    frames = watch.frames(config.n_frames)
    record = WalkerRecord(
        walker=walker,
        kind=config.kind,
        start=place,
        formula=start.get_chemical_formula(),
        ensemble=ensemble,
        temperature=temperature,
        timestep_fs=timestep,
        steps=int(mover.nsteps),
        quantity=window.quantity,
        lower=window.lower,
        limit=watch.window.limit,
        looked_at=tuple(watch.looked_at),
        sigma=tuple(watch.sigma),
        ended=watch.ended,
        n_frames=len(frames),
        biased=bias is not None,
    )
    return frames, record


def lost_walker(
    uncertainty: Uncertainty,
    start: Atoms,
    config: DynamicsConfig | RelaxationConfig,
    ended: str,
    *,
    walker: int,
    place: int,
    temperature: float | None,
) -> WalkerRecord:
    """Record of a walker that no worker outlived, which gave nothing."""
    window = SigmaWindow.of(uncertainty, config.window)
    dynamics = isinstance(config, DynamicsConfig)
    return WalkerRecord(
        walker=walker,
        kind=config.kind,
        start=place,
        formula=start.get_chemical_formula(),
        ensemble=config.ensemble if dynamics else config.optimizer,
        temperature=temperature,
        timestep_fs=(config.timestep_fs or suitable_timestep(start)) if dynamics else None,
        steps=0,
        quantity=window.quantity,
        lower=window.lower,
        limit=window.limit,
        looked_at=(),
        sigma=(),
        ended=ended,
        n_frames=0,
        biased=dynamics and config.bias is not None,
    )


def evenly(n: int, most: int | None) -> np.ndarray:
    """Places of at most so many of n things, evenly spread, the last among them."""
    if most is None or n <= most:
        return np.arange(n)
    return np.linspace(n - 1, 0, most).round().astype(int)[::-1] if most > 1 else np.array([n - 1])


class _Ended(Exception):
    """Leaves the loop of ASE."""


@final
class _Watch:
    """Looks at a structure after every step, and at its sigma after some."""

    def __init__(
        self,
        uncertainty: Uncertainty,
        window: SigmaWindow,
        atoms: Atoms,
        mover: Any,
        config: DynamicsConfig | RelaxationConfig,
        temperature: float | None,
        name: str,
        info: Mapping[str, Any],
    ) -> None:
        self.uncertainty, self.window, self.atoms, self.mover = uncertainty, window, atoms, mover
        self.config, self.temperature, self.name, self.info = config, temperature, name, info
        gap = config.breakage.fragment_gap
        molecule = gap is not None and not atoms.pbc.any()
        self.n_fragments = int(fragment_numbers(atoms, gap).max()) + 1 if molecule and gap else None
        self.looked_at: list[int] = []
        self.sigma: list[float] = []
        self.ended = FINISHED
        self.collected: list[Atoms] = []
        self.last: Atoms | None = None
        #: Sane structures since the last look at sigma, and their steps.
        self.recent: list[tuple[int, Atoms]] = []

    def __call__(self) -> None:
        step = int(self.mover.nsteps)
        if self.looked_at and step == self.looked_at[-1]:
            return
        looks = step % self.config.check_every == 0
        # Parts fly off slowly: that is looked at now and then.
        parts = self.n_fragments if looks else None
        fault = fault_of(self.atoms, self.config.breakage, temperature=self.temperature, n_fragments=parts)
        if fault:
            self.broke(fault)
            raise _Ended
        self.recent.append((step, self.atoms.copy()))
        if looks:
            self._look()

    def finish(self) -> None:
        """Look at the last structure, if nobody has."""
        if self.recent and self.recent[-1][0] not in self.looked_at:
            self._look()

    def broke(self, fault: str) -> None:
        """Note that the structure has broken, and find the last one within the limit."""
        self.ended = f"structure broke: {fault}"
        if self.recent and self.recent[-1][0] not in self.looked_at:
            self._trace_back(self._sigma_of(self.recent[-1][1])[0])

    def frames(self, most: int) -> list[Atoms]:
        """What was collected, evenly thinned, and the last structure within the limit where it counts."""
        frames = list(self.collected)
        steps = [frame.info["step"] for frame in frames]
        if (
            self.last is not None
            and self.last.info["step"] not in steps
            and (self.ended != FINISHED or not frames)
        ):
            frames.append(self.last)
        return [frames[i] for i in evenly(len(frames), most)]

    def _look(self) -> None:
        step, atoms = self.recent[-1]
        value, prediction = self._sigma_of(atoms)
        if not self.looked_at and self.config.window.limit is None:
            self.window = self.window.opened_for(value)
        self.looked_at.append(step)
        self.sigma.append(value)
        if not value <= self.window.limit:  # true of NaN, too
            entry = "forces" if self.window.quantity == "forces" else "energies"
            what = f"sigma of the {entry} is {value:.3g} {self.window.unit}, beyond {self.window.limit:.3g}"
            self.ended = f"sigma limit: {what}"
            self._trace_back(value)
            raise _Ended
        self.last = self._kept(step, atoms, value, prediction)
        if value >= self.window.lower:
            self.collected.append(self.last)
        self.recent = [(step, atoms)]

    def _trace_back(self, value: float) -> None:
        """Find the last structure within the limit, of all since the last look."""
        if value <= self.window.limit:
            within, beyond = len(self.recent) - 1, len(self.recent)
        else:
            within, beyond = (0 if self.last is not None else -1), len(self.recent) - 1
        while beyond - within > 1:
            middle = (within + beyond) // 2
            if self._sigma_of(self.recent[middle][1])[0] <= self.window.limit:
                within = middle
            else:
                beyond = middle
        # A start beyond the limit is sane: it was not the potential that led there.
        step, atoms = self.recent[max(within, 0)]
        self.last = self._kept(step, atoms, *self._sigma_of(atoms))

    def _sigma_of(self, atoms: Atoms) -> tuple[float, Prediction]:
        return self.window.look(self.uncertainty, atoms)

    def _kept(self, step: int, atoms: Atoms, value: float, prediction: Prediction) -> Atoms:
        frame = with_sigmas(snapshot(atoms, self.name), prediction, value, self.window.quantity)
        timestep = self.info["timestep_fs"]
        known = {"walker": self.info["walker"], "start": self.info["start"], "step": step}
        if timestep is not None:
            known |= {"time_fs": timestep * step, "temperature_K": self.info["temperature_K"]}
        frame.info |= known
        return frame


def _calculator(uncertainty: Uncertainty, *, stress: bool) -> BaseCalculator:
    """Of the potential alone: sigmas are looked at now and then."""
    return uncertainty.potential.calculator(extrapolation="ignore", stress=stress)


def _dynamics(
    atoms: Atoms, config: DynamicsConfig, temperature: float, rng: np.random.Generator
) -> tuple[Any, float]:
    """Dynamics of ASE, and its time step in fs."""
    timestep = config.timestep_fs or suitable_timestep(atoms)
    set_velocities(atoms, temperature, rng)
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, timestep * units.fs), timestep
    if config.ensemble == "nvt":
        return langevin(atoms, temperature, timestep, config.friction, rng), timestep
    with warnings.catch_warnings():
        # The mass of the barostat follows from its time constant, by a rule of ASE that it warns of.
        warnings.filterwarnings("ignore", "Using heuristic P_mass", UserWarning)
        mover = LangevinBAOAB(
            atoms,
            timestep * units.fs,
            temperature_K=temperature,
            externalstress=-config.pressure_gpa * units.GPa,
            hydrostatic=True,
            T_tau=units.fs / config.friction,
            P_tau=_BAROSTAT_FS * units.fs,
            rng=rng,
        )
    return mover, timestep


def _relaxation(atoms: Atoms, config: RelaxationConfig, first: bool, rng: np.random.Generator) -> Any:
    if not first:
        atoms.positions += config.rattle * rng.standard_normal(atoms.positions.shape)
    moved: Any = FrechetCellFilter(atoms) if config.relax_cell and atoms.pbc.all() else atoms
    optimizer = BFGS if config.optimizer == "bfgs" else FIRE
    return optimizer(moved, logfile=None)  # pyright: ignore[reportArgumentType]
