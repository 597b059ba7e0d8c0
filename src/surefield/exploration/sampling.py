"""Candidate structures from molecular dynamics: thermal, decorrelated, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import BaseCalculator
from ase.collections import g2
from ase.md.langevin import Langevin

from surefield import keys
from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.progress import Track, track
from surefield.structures.geometry import check_geometry
from surefield.structures.label_sources import without_labels
from surefield.structures.read import Frames, read_frames, write_frames

__all__ = [
    "hottest_allowed",
    "langevin",
    "molecular_dynamics_pool",
    "pool_and_test",
    "set_velocities",
    "snapshot",
    "start_structure",
    "suitable_timestep",
]

#: A trajectory this many times hotter than its thermostat has blown up.
_TOO_HOT = 10.0
#: Longest time step in fs for the mass (u) of the lightest atom.
_TIMESTEPS: Final = ((5.0, 0.5), (20.0, 1.0), (np.inf, 2.0))


def molecular_dynamics_pool(
    atoms: Atoms,
    calculator: BaseCalculator | Callable[[], BaseCalculator],
    temperatures: Sequence[float],
    n_frames: int,
    *,
    steps_between: int = 200,
    timestep_fs: float = 0.5,
    friction: float = 0.02,
    equilibration_steps: int = 1000,
    seed: int,
    progress: Track | None = None,
) -> list[Atoms]:
    """Run one Langevin trajectory per temperature and keep a structure every `steps_between` steps.

    Velocities are decorrelated when `steps_between * timestep_fs` is well above the damping time
    1/friction: 100 fs against 50 fs by default; slow motions such as torsions take longer. Langevin dynamics
    after Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429 (2006) 310, as in ASE, without fixing the centre
    of mass; velocities at the start are drawn from Maxwell's distribution.

    Args:
        atoms: where every trajectory starts; not changed.
        calculator: a calculator of ASE, or a function that makes one for each trajectory, which is needed
            for the same result every time when the calculator starts from its previous calculation.
        temperatures: K, one trajectory each; the same temperature may come several times.
        n_frames: structures in all, as evenly spread over the trajectories as possible.
        steps_between: steps from one kept structure to the next.
        timestep_fs: fs.
        friction: 1/fs.
        equilibration_steps: steps before the first `steps_between`.
        seed: trajectory i draws from `numpy.random.default_rng([seed, i])`, whatever the others are.
        progress: is advanced by one for each structure.

    Returns:
        Structures without labels and momenta; `info` has temperature_K, config_type ("md_300K") and
        trajectory (counted from 0). Without periodic boundaries the centre of mass is in the origin.

    Raises:
        ConfigError: a number out of range.
        DataError: a start that cannot be computed, see `check_geometry`.
        ExecutionError: the calculator failed or the trajectory blew up.
    """
    _check(atoms, temperatures, n_frames, steps_between, timestep_fs, friction, equilibration_steps)
    sizes = [len(part) for part in np.array_split(np.arange(n_frames), len(temperatures))]
    frames: list[Atoms] = []
    for number, (temperature, size) in enumerate(zip(temperatures, sizes, strict=True)):
        if size == 0:
            continue
        rng = np.random.default_rng([seed, number])
        start = without_labels(atoms)
        start.calc = _fresh(calculator)
        set_velocities(start, temperature, rng)
        dynamics = langevin(start, temperature, timestep_fs, friction, rng)
        _run(dynamics, equilibration_steps, temperature)
        for _ in range(size):
            _run(dynamics, steps_between, temperature)
            frame = snapshot(start, f"md_{temperature:g}K", temperature_K=float(temperature))
            frame.info["trajectory"] = number
            frames.append(frame)
            if progress is not None:
                progress.advance()
    return frames


def set_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw the velocities of all atoms from Maxwell's distribution."""
    widths = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * widths[:, None])


def langevin(
    atoms: Atoms, temperature: float, timestep_fs: float, friction: float, rng: np.random.Generator
) -> Langevin:
    """Langevin dynamics at a temperature (K), with the friction in 1/fs; the centre of mass is free."""
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature,
        friction=friction / units.fs,
        fixcm=False,
        rng=rng,
    )


def suitable_timestep(atoms: Atoms) -> float:
    """Time step in fs that suits the lightest atom."""
    lightest = float(atoms.get_masses().min())
    return next(step for mass, step in _TIMESTEPS if lightest <= mass)


def hottest_allowed(temperature: float, n_atoms: int) -> float:
    """Kinetic temperature (K) beyond which a trajectory has blown up.

    That of few atoms fluctuates by sqrt(2/(3 n_atoms)), hence the generous limit.
    """
    return temperature * _TOO_HOT * (1.0 + np.sqrt(2.0 / (3.0 * n_atoms)))


def snapshot(atoms: Atoms, config_type: str, **info: Any) -> Atoms:
    """Copy without labels and momenta; of a molecule the centre of mass is in the origin.

    Args:
        atoms: on their way; not changed.
        config_type: where the structure comes from.
        info: further entries.
    """
    frame = without_labels(atoms)
    frame.calc = None
    frame.arrays.pop("momenta", None)
    if not frame.pbc.any():
        frame.positions -= frame.get_center_of_mass()
    frame.info.update({keys.CONFIG_TYPE: config_type, **info})
    return frame


def start_structure(name: str) -> Atoms:
    """Molecule of ASE by name, or the first structure of a file."""
    return molecule(name) if name in g2.names else read_frames(name)[0]


def pool_and_test(
    path: Path,
    atoms: Atoms,
    calculator: Callable[[], BaseCalculator],
    temperatures: Sequence[float],
    n_pool: int,
    n_test: int,
    *,
    seed: int,
    **options: Any,
) -> tuple[Frames, Frames]:
    """Structures for pool and test from different trajectories; made once and kept in a file.

    Args:
        path: of that file; if it is there, nothing is run.
        atoms, calculator, temperatures, options: as `molecular_dynamics_pool` takes them.
        n_pool: structures of the pool.
        n_test: structures for the errors.
        seed: pool and test have different seeds that follow from it.
    """
    if not path.exists():
        structures: list[Atoms] = []
        with track(n_pool + n_test, "molecular dynamics", None) as bar:
            for split, count, own in (("pool", n_pool, 2 * seed), ("test", n_test, 2 * seed + 1)):
                frames = molecular_dynamics_pool(
                    atoms, calculator, temperatures, count, seed=own, progress=bar, **options
                )
                for frame in frames:
                    frame.info["split"] = split
                structures += frames
        write_frames(path, structures)
    kept = read_frames(path)
    splits = np.array([frame.info["split"] for frame in kept])
    return kept[np.flatnonzero(splits == "pool")], kept[np.flatnonzero(splits == "test")]


def _check(
    atoms: Atoms,
    temperatures: Sequence[float],
    n_frames: int,
    steps_between: int,
    timestep_fs: float,
    friction: float,
    equilibration_steps: int,
) -> None:
    check_geometry(Frames((atoms,), ("the start of molecular dynamics",)))
    if len(temperatures) == 0 or not all(np.isfinite(t) and t > 0 for t in temperatures):
        raise ConfigError(f"temperatures must be one or more numbers above 0 K, got {list(temperatures)}")
    for name, value, least in (
        ("n_frames", n_frames, 1),
        ("steps_between", steps_between, 1),
        ("equilibration_steps", equilibration_steps, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    for name, number in (("timestep_fs", timestep_fs), ("friction", friction)):
        if not (np.isfinite(number) and number > 0):
            raise ConfigError(f"{name} must be above 0, got {number}")


def _fresh(calculator: BaseCalculator | Callable[[], BaseCalculator]) -> BaseCalculator:
    if isinstance(calculator, BaseCalculator):
        return calculator
    return calculator()


def _run(dynamics: Langevin, steps: int, temperature: float) -> None:
    """Run steps; stop a trajectory that has blown up before it fills the pool with nonsense."""
    atoms = dynamics.atoms
    before = dynamics.nsteps
    where = f"molecular dynamics at {temperature:g} K, steps {before} to {before + steps}"
    try:
        dynamics.run(steps)
    except Exception as error:  # a calculator may raise anything
        raise ExecutionError(f"{where}: the calculator failed: {type(error).__name__}: {error}") from error
    hot = atoms.get_temperature()
    fault = None if hot < hottest_allowed(temperature, len(atoms)) else f"kinetic temperature {hot:.4g} K"
    try:
        check_geometry(Frames((atoms,), ("its structure",)))
    except DataError as error:
        fault = fault or str(error)
    if fault is not None:
        raise ExecutionError(
            f"{where}: the trajectory blew up ({fault}); use a smaller timestep_fs, a lower temperature or a "
            "relaxed start"
        )
