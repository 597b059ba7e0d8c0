"""What a worker does for one label: attempts with changed settings, time limits, checks of what comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from surefield.errors import DataError, ExecutionError
from surefield.execution.worker_process import WorkerProcess
from surefield.loop.oracles.oracle import Report
from surefield.structures.geometry import check_geometry
from surefield.structures.read import Frames

__all__ = ["CalculatorTask", "MakeCalculator", "check_same_structure"]

#: Makes a calculator; keywords are the changed settings of a further attempt.
MakeCalculator = Callable[..., BaseCalculator]

#: Positions that a program has written and read differ by less, Å.
_ROUNDING: Final = 1e-3
#: The process in which this thread runs engines that have a time limit.
_ENGINE: Final = threading.local()


@final
@dataclass(frozen=True)
class CalculatorTask:
    """Labels one structure by a calculator of ASE; a fresh one each time, so that order does not matter.

    Attributes:
        make: makes the calculator.
        attempts: changed settings of each attempt; the first has none.
        time_limit: s of one attempt, after which its process is killed; None: it runs in the worker itself.
    """

    make: MakeCalculator
    attempts: tuple[Mapping[str, Any], ...] = ({},)
    time_limit: float | None = None

    def __call__(self, atoms: Atoms) -> Report:
        """Attempt after attempt until one succeeds.

        Raises:
            ExecutionError: no calculator can be made.
        """
        try:
            check_geometry(Frames((atoms,), ("this structure",)))
        except DataError as error:
            return Report(None, f"DataError: {error}")
        begin, failed, cause, killed = time.perf_counter(), [], "", False
        for changes in self.attempts:
            results, cause, killed = self._attempt(atoms, changes)
            if results is not None:
                return Report(results, "", tuple(failed), changes, time.perf_counter() - begin)
            failed.append({"settings": dict(changes), "cause": cause})
        return Report(None, cause, tuple(failed), {}, time.perf_counter() - begin, killed)

    def _attempt(self, atoms: Atoms, changes: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str, bool]:
        """Results, or the cause of the failure, and whether it ended with the process."""
        if self.time_limit is None:
            return *compute(self.make, changes, atoms), False
        engine: WorkerProcess = _ENGINE.__dict__.setdefault("process", WorkerProcess())
        try:
            return *engine.call(compute, self.make, changes, atoms, time_limit=self.time_limit), False
        except TimeoutError as error:
            return None, f"TimeoutError: {error}", False
        except BrokenExecutor as error:
            return None, f"the process of the engine {error}", True


def compute(
    make: MakeCalculator, changes: Mapping[str, Any], atoms: Atoms
) -> tuple[dict[str, Any] | None, str]:
    """Results of one structure, or the cause of a failure.

    Raises:
        ExecutionError: the calculator cannot be made, with no settings changed.
    """
    try:
        calculator = make(**changes)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        if changes:
            return None, f"no calculator with {dict(changes)}: {cause}"
        raise ExecutionError("the calculator cannot be made", got=cause) from error
    try:
        return _results(calculator, atoms), ""
    except Exception as error:  # a code of others may raise anything
        return None, f"{type(error).__name__}: {error}"


def _results(calculator: BaseCalculator, atoms: Atoms) -> dict[str, Any]:
    # Constraints are of the trajectory, not of the labels: they would set forces to zero.
    work = atoms.copy()
    work.set_constraint()
    work.calc = calculator
    results: dict[str, Any] = {
        "energy": float(work.get_potential_energy()),
        "forces": np.array(work.get_forces(), dtype=np.float64),
    }
    if work.pbc.all() and "stress" in calculator.implemented_properties:
        results["stress"] = np.array(work.get_stress(), dtype=np.float64)
    for returned in (work, getattr(calculator, "atoms", None)):
        if isinstance(returned, Atoms):
            check_same_structure(atoms, returned)
    # GPAW and others have a method of this name, which is no answer.
    if getattr(calculator, "converged", True) is False:
        raise ExecutionError("the self-consistent field did not converge")
    if results["forces"].shape != (len(atoms), 3):
        raise ExecutionError(
            f"the calculator's forces have shape {results['forces'].shape}, not (n_atoms, 3)"
        )
    for name, value in results.items():
        if not np.all(np.isfinite(value)):
            raise ExecutionError(f"the calculator's {name} is not finite")
    return results


def check_same_structure(asked: Atoms, returned: Atoms) -> None:
    """Refuse results of other atoms than those that were asked for.

    Args:
        asked: structure that was to be labelled.
        returned: structure that the engine says its results are of; periodic images may differ.

    Raises:
        ExecutionError: another number or order of atoms, other elements, positions or cell.
    """
    if len(asked) != len(returned):
        raise ExecutionError(
            "the engine returned other atoms", got=len(returned), expected=f"{len(asked)} atoms"
        )
    if not np.array_equal(asked.numbers, returned.numbers):
        same = np.array_equal(np.sort(asked.numbers), np.sort(returned.numbers))
        what = "the atoms in another order" if same else "other elements"
        got, expected = returned.get_chemical_formula("reduce"), asked.get_chemical_formula("reduce")
        raise ExecutionError(f"the engine returned {what}", got=got, expected=expected)
    if not np.allclose(asked.cell.array, returned.cell.array, rtol=0, atol=_ROUNDING) and asked.pbc.any():
        raise ExecutionError("the engine returned another cell")
    apart = returned.positions - asked.positions
    if asked.pbc.any():
        fractional = asked.cell.scaled_positions(apart) if asked.cell.rank == 3 else np.zeros_like(apart)
        apart = apart - np.where(asked.pbc, np.rint(fractional), 0.0) @ asked.cell.array
    farthest = float(np.linalg.norm(apart, axis=1).max(initial=0.0))
    if not farthest < _ROUNDING:
        raise ExecutionError(
            "the engine returned other positions", got=f"an atom {farthest:.3g} Å away from where it was"
        )
