"""The potential of a loop beside the engine that labelled it, and beside one from labels of plain dynamics.

Dynamics of the engine give test structures with their labels, and other dynamics of it as many labels as the
loop has: what the loop's choices were worth is the difference between both potentials, at equal labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError, ExecutionError, PotentialError
from surefield.execution.progress import Track, track
from surefield.exploration.breaking import fault_of, fragment_numbers
from surefield.exploration.config import BreakageConfig
from surefield.exploration.sampling import langevin, set_velocities, snapshot
from surefield.files import json_text, read_json, write_atomic
from surefield.loop.audit import worst_structure
from surefield.loop.config import EngineTrialConfig
from surefield.loop.fit_plan import FitPlan
from surefield.loop.oracles.calculator import CalculatorOracle
from surefield.structures.label_sources import without_labels
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.evaluation import evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["TRIAL", "engine_trial", "overlap"]

TRIAL: Final = "engine_trial.json"
_FRICTION: Final = 0.02
#: Shared by all dynamics of a trial.
_BREAKAGE: Final = BreakageConfig()
#: Structures of the potential's own dynamics that the engine looks at.
_LOOKED_AT: Final = 50
#: Å, width of a bin of distances, and where the histogram ends.
_BIN, _REACH = 0.1, 8.0
_ENGINE, _PLAIN = "engine.xyz", "plain.xyz"


def engine_trial(
    folder: Path,
    config: EngineTrialConfig,
    plan: FitPlan,
    oracle: CalculatorOracle,
    start: Atoms,
    potential: str,
    seed: int,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run the trial of a finished loop, or give what its file says; dynamics that were run are kept.

    Args:
        folder: of the run, with potential.npz and labelled.xyz.
        config: how hot, how long.
        plan: how the loop fits.
        oracle: whose calculator drives the dynamics.
        start: where all dynamics start.
        potential: hash of potential.npz.
        seed: of the loop; dynamics have others that follow from it.
        progress: show a progress bar.

    Returns:
        `n_labels`, `temperature_K`, `picoseconds`, `potentials` by name (`loop`, `plain`): `test` (errors on
        the engine's structures), `worst_rmse` (of one of them, eV/Å), `picoseconds` until it broke, `fault`,
        `on_its_way` (its errors on its own structures, by the engine), `overlap`; `distances`; `verdict`.
    """
    path, place = folder / TRIAL, folder / "trial"
    table = {"settings": config.model_dump(mode="json"), "potential": potential}
    if path.exists() and (known := read_json(path)).get("made_from") == table:
        return known
    place.mkdir(exist_ok=True)
    steps = round(1000 * config.picoseconds / config.timestep_fs)
    n_labels = len(read_frames(folder / "labelled.xyz"))
    runs = 2 + (2 if config.plain else 0)
    with track(runs * steps, "beside the engine", progress) as bar:

        def engine(name: str, n: int, number: int) -> Frames:
            file = place / name
            if not file.exists() or len(read_frames(file)) != n:
                rng = np.random.default_rng([seed, 7000 + number])
                frames, fault, _ = _dynamics(start, oracle.make_calculator(), config, n, rng, bar)
                if fault:
                    fix = "lower loop.trial.temperature"
                    raise ExecutionError(f"dynamics of {oracle.name} broke", got=fault, fix=fix)
                write_frames(file, frames)
            return read_frames(file)

        test = prepare(engine(_ENGINE, config.n_test, 0), plan.potential)
        fits: dict[str, Callable[[], Uncertainty]] = {}
        fits["loop"] = lambda: load_uncertainty(folder / "potential.npz")
        if config.plain:
            fits["plain"] = lambda: plan.fit_all(engine(_PLAIN, n_labels, 1), seed)[0]
        potentials, distances = {}, {"engine": _distances(test.frames)}
        for number, (name, fit) in enumerate(fits.items()):
            rng = np.random.default_rng([seed, 7010 + number])
            potentials[name], distances[name] = _beside(fit(), test, oracle, config, start, rng, bar)
            potentials[name]["overlap"] = overlap(distances[name], distances["engine"])
    outcome = {
        "made_from": table,
        "engine": oracle.name,
        "n_labels": n_labels,
        "n_test": len(test),
        "temperature_K": config.temperature,
        "picoseconds": config.picoseconds,
        "timestep_fs": config.timestep_fs,
        "potentials": potentials,
        "distances": {"bin": _BIN, **{name: counts.tolist() for name, counts in distances.items()}},
    }
    outcome["verdict"] = _verdict(outcome)
    write_atomic(path, json_text(outcome, indent=1) + "\n")
    return outcome


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Part of two histograms that they share, 0 to 1."""
    if not (one.sum() and other.sum()):
        return 0.0
    return float(np.minimum(one / one.sum(), other / other.sum()).sum())


def _beside(
    uncertainty: Uncertainty,
    test: LabelledSet,
    oracle: CalculatorOracle,
    config: EngineTrialConfig,
    start: Atoms,
    rng: np.random.Generator,
    bar: Track,
) -> tuple[dict[str, Any], np.ndarray]:
    """Errors of a potential where the engine goes and where it goes itself, and distances on its way."""
    comparison = evaluate_uncertainty(uncertainty, test, ("energy", "forces"))
    worst = worst_structure(comparison)
    calculator = uncertainty.potential.calculator(extrapolation="ignore", stress=False)
    frames, fault, lasted = _dynamics(start, calculator, config, config.n_test, rng, bar)
    chosen = frames[:: max(len(frames) // _LOOKED_AT, 1)][:_LOOKED_AT]
    labelled = [a for a in oracle.label([without_labels(a) for a in chosen]) if a is not None]
    own: dict[str, float] = {}
    if labelled:
        named = Frames(tuple(labelled), tuple(f"structure {i}" for i in range(len(labelled))))
        data = prepare(named, uncertainty.potential)
        own = evaluate_uncertainty(uncertainty, data, ("energy", "forces")).test()
    told = {
        "test": comparison.test(),
        "worst_rmse": None if worst is None else worst[1],
        "picoseconds": lasted,
        "fault": fault,
        "on_its_way": own,
    }
    return told, _distances(frames)


def _dynamics(
    start: Atoms,
    calculator: BaseCalculator,
    config: EngineTrialConfig,
    n_frames: int,
    rng: np.random.Generator,
    bar: Track,
) -> tuple[list[Atoms], str, float]:
    """Evenly spaced structures of Langevin dynamics with labels; how it broke, and after how many ps."""
    atoms = without_labels(start)
    atoms.calc = calculator
    set_velocities(atoms, config.temperature, rng)
    dynamics = langevin(atoms, config.temperature, config.timestep_fs, _FRICTION, rng)
    gap = _BREAKAGE.fragment_gap
    n_fragments = None if atoms.pbc.any() or gap is None else int(fragment_numbers(atoms, gap).max()) + 1
    steps = round(1000 * config.picoseconds / config.timestep_fs)
    kept, frames, fault = np.linspace(0, steps, n_frames + 1).round().astype(int)[1:], [], ""
    for step in kept:
        before = dynamics.nsteps
        try:
            dynamics.run(int(step) - before)
            fault = fault_of(atoms, _BREAKAGE, temperature=config.temperature, n_fragments=n_fragments)
        except (DataError, PotentialError, FloatingPointError, np.linalg.LinAlgError) as error:
            fault = str(error).partition(";")[0]
        if fault:
            break
        frames.append(_with_labels(atoms, config.temperature))
        bar.advance(int(step) - before)
    return frames, fault, dynamics.nsteps * config.timestep_fs / 1000


def _with_labels(atoms: Atoms, temperature: float) -> Atoms:
    results = {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces())}
    frame = snapshot(atoms, f"md_{temperature:g}K", temperature_K=float(temperature))
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def _distances(frames: Sequence[Atoms]) -> np.ndarray:
    """Histogram of all interatomic distances up to a reach."""
    bins = np.arange(0.0, _REACH + _BIN, _BIN)
    counts = np.zeros(len(bins) - 1)
    for atoms in frames:
        d = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
        counts += np.histogram(d[np.triu_indices(len(atoms), 1)], bins)[0]
    return counts


def _verdict(outcome: dict[str, Any]) -> str:
    """What the trial says, whichever way it went."""
    potentials = outcome["potentials"]
    loop, kelvin, wanted = potentials["loop"], outcome["temperature_K"], outcome["picoseconds"]
    ran = "ran" if not loop["fault"] else f"broke after {loop['picoseconds']:.2f} of"
    error = 1e3 * loop["test"]["forces_mae"]
    text = (
        f"The potential {ran} {wanted:g} ps at {kelvin:g} K; its force error on the dynamics of the engine "
    )
    text += f"there is {error:.3g} meV/Å"
    if "plain" not in potentials:
        return f"{text}."
    plain = potentials["plain"]
    other = 1e3 * plain["test"]["forces_mae"]
    ended = "ran, too" if not plain["fault"] else f"broke after {plain['picoseconds']:.2f} ps"
    better = "less than" if error < other else "no less than"
    text += (
        f", {better} the {other:.3g} meV/Å of {outcome['n_labels']} labels drawn from plain dynamics, whose "
    )
    steps = round(1000 * wanted / outcome["timestep_fs"])
    return (
        f"{text}potential {ended}. Those dynamics took {steps:,} calls of the engine, the loop's labels "
        f"{outcome['n_labels']}."
    )
