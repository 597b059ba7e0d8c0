"""Oracles: what labels structures. Stored labels that are revealed, or any calculator of ASE."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, ExecutionError, nearest
from surefield.execution.executor import SerialExecutor, map_ordered
from surefield.execution.identity import contents
from surefield.execution.progress import Track
from surefield.structures.geometry import check_geometry
from surefield.structures.images import image_key
from surefield.structures.label_sources import without_labels
from surefield.structures.labels import Mapped, resolve_labels
from surefield.structures.read import Frames, read_frames

__all__ = [
    "POOL_INDEX",
    "CalculatorOracle",
    "Failure",
    "Oracle",
    "ReplayOracle",
    "ase_calculator",
    "emt",
    "tblite",
]

_log = logging.getLogger(__name__)

#: Entry of `atoms.info` with the place of a structure in the pool.
POOL_INDEX: Final = "pool_index"

MakeCalculator = Callable[[], BaseCalculator]


@dataclass(frozen=True)
class Failure:
    """A structure that an oracle could not label.

    Attributes:
        index: place in the list that was to be labelled.
        formula: chemical formula.
        cause: what the last attempt ended with.
    """

    index: int
    formula: str
    cause: str


class Oracle(ABC):
    """Labels structures with energies (eV), forces (eV/Å) and, where it can, stresses (eV/Å^3)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for logs and reports, such as "tblite GFN2-xTB"."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What the labels depend on, as plain values; two oracles with the same settings agree."""

    @abstractmethod
    def label(
        self, frames: Sequence[Atoms], *, executor: Executor | None = None, progress: Track | None = None
    ) -> list[Atoms | None]:
        """Label structures.

        Args:
            frames: structures; they are not changed.
            executor: where independent labels are computed; in this process by default.
            progress: is advanced by one for each structure.

        Returns:
            Copies with the labels in a `SinglePointCalculator`, in the same order; None for a structure that
            cannot be labelled, which is logged.
        """


@final
class ReplayOracle(Oracle):
    """Reveals the labels of a labelled set, as if they were computed.

    Args:
        frames: labelled structures; each must have an energy.
        mapping: kind to key of the labels (`structures.labels.resolve_labels`).
        units: units of the labels (the same).
        name: for logs.

    Raises:
        DataError: a structure that cannot be computed or has no energy, or labels that contradict each other.
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        *,
        mapping: Mapped | None = None,
        units: Mapping[str, str] | None = None,
        name: str = "replay",
    ) -> None:
        frames = read_frames(frames)
        check_geometry(frames)
        self._labels, _ = resolve_labels(frames, mapping, units, require=("energy",))
        extra = [key for value in (mapping or {}).values() for key in _as_tuple(value)]
        self._frames = [without_labels(atoms, extra) for atoms in frames]
        for index, atoms in enumerate(self._frames):
            atoms.info[POOL_INDEX] = index
        self._name = name

    @property
    def name(self) -> str:
        """Name given by the caller."""
        return self._name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Number of structures, and hashes of their labels."""
        labels = contents(sorted(label.results().items()) for label in self._labels)
        return {"kind": "replay", "n_frames": len(self._frames), "labels": labels}

    @property
    def pool(self) -> list[Atoms]:
        """Copies of the structures without labels; `info["pool_index"]` is what `label` goes by."""
        return [atoms.copy() for atoms in self._frames]

    def label(
        self, frames: Sequence[Atoms], *, executor: Executor | None = None, progress: Track | None = None
    ) -> list[Atoms | None]:
        """Reveal the labels of structures of `pool`.

        Raises:
            DataError: no `info["pool_index"]`, or another structure than the one with this index.
        """
        labelled: list[Atoms | None] = []
        for i, atoms in enumerate(frames):
            index = self._pool_index(i, atoms)
            labels = self._labels[index]
            copy = without_labels(atoms)
            copy.calc = SinglePointCalculator(copy, **labels.results())
            labelled.append(copy)
            if progress is not None:
                progress.advance()
        return labelled

    def _pool_index(self, i: int, atoms: Atoms) -> int:
        index = atoms.info.get(POOL_INDEX)
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self._frames):
            raise DataError(
                f"no usable info[{POOL_INDEX!r}]",
                where=f"frame {i}",
                got=repr(index),
                expected=f"0 to {len(self._frames) - 1}",
                fix="take the frames from ReplayOracle.pool",
            )
        known = self._frames[index]
        if image_key(known) != image_key(atoms):
            raise DataError(
                f"frame {i} has info[{POOL_INDEX!r}] {index} but is another structure than entry {index} of "
                f"the labelled set ({atoms.get_chemical_formula()} against {known.get_chemical_formula()})"
            )
        return int(index)


@final
class CalculatorOracle(Oracle):
    """Labels structures by a calculator of ASE, with a fresh one for each, so that order does not matter.

    Args:
        make_calculator: returns a calculator; importable (no lambda) when worker processes are to label.
        name: for logs.
        settings: what the labels depend on.
        retries: further attempts after a failed one.
    """

    def __init__(
        self,
        make_calculator: MakeCalculator,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        retries: int = 1,
    ) -> None:
        if retries < 0:
            raise ConfigError(f"retries must be 0 or more, got {retries}")
        self.make_calculator = make_calculator
        self._name = name
        self._settings = dict(settings or {})
        self._retries = retries
        #: structures that the latest `label` could not label
        self.failures: tuple[Failure, ...] = ()

    @property
    def name(self) -> str:
        """Name given by the caller."""
        return self._name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings given by the caller."""
        return dict(self._settings)

    def label(
        self, frames: Sequence[Atoms], *, executor: Executor | None = None, progress: Track | None = None
    ) -> list[Atoms | None]:
        """Compute labels; what fails after the retries, or cannot be computed, becomes None and a failure.

        Raises:
            ExecutionError: no calculator can be made, or a worker process died.
        """
        job = partial(_label_one, self.make_calculator, self._retries)
        bare = [without_labels(atoms) for atoms in frames]
        outcomes = map_ordered(executor or SerialExecutor(), job, bare, progress)
        failures = []
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                failures.append(Failure(i, frames[i].get_chemical_formula(), outcome))
                _log.warning(
                    "%s could not label frame %d (%s): %s", self.name, i, failures[-1].formula, outcome
                )
        self.failures = tuple(failures)
        return [outcome if isinstance(outcome, Atoms) else None for outcome in outcomes]


def ase_calculator(
    path: str, arguments: Mapping[str, Any] | None = None, *, retries: int = 1
) -> CalculatorOracle:
    """Oracle of any calculator of ASE that can be imported.

    Args:
        path: "module:Class", such as "ase.calculators.lj:LennardJones".
        arguments: of the class.
        retries: further attempts after a failed one.

    Raises:
        ConfigError: no such module or class, or arguments that it does not take.
    """
    arguments = dict(arguments or {})
    make = partial(_import(path), **arguments)
    try:
        make()
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be made with {arguments}", got=f"{type(error).__name__}: {error}"
        ) from error
    return CalculatorOracle(
        make, path.rpartition(":")[2], {"calculator": path, "arguments": arguments}, retries=retries
    )


def tblite(
    method: str = "GFN2-xTB",
    *,
    charge: float = 0.0,
    multiplicity: int | None = None,
    accuracy: float = 1.0,
    electronic_temperature: float = 300.0,
    max_iterations: int = 250,
    retries: int = 1,
) -> CalculatorOracle:
    """Oracle of semiempirical tight binding by tblite.

    GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput. 15 (2019) 1652.

    Args:
        method: "GFN2-xTB", "GFN1-xTB" or "IPEA1-xTB".
        charge: total charge in e.
        multiplicity: 2S + 1; the lowest possible by default.
        accuracy: tblite's accuracy; smaller is tighter.
        electronic_temperature: K.
        max_iterations: of the self-consistent field.
        retries: further attempts after a failed one.

    Raises:
        ConfigError: tblite is not installed.
    """
    try:
        calculator = import_module("tblite.ase").TBLite
    except ImportError as error:
        raise ConfigError(
            f"the oracle 'tblite' needs tblite: pip install 'surefield[tblite]' ({error})"
        ) from error
    settings = {
        "method": method,
        "charge": charge,
        "multiplicity": multiplicity,
        "accuracy": accuracy,
        "electronic_temperature": electronic_temperature,
        "max_iterations": max_iterations,
    }
    make = partial(calculator, **settings, verbosity=0)
    return CalculatorOracle(make, f"tblite {method}", settings, retries=retries)


def emt() -> CalculatorOracle:
    """Oracle of ASE's effective medium theory: for trying things out with Al, Cu, Ag, Au, Ni, Pd, Pt."""
    return CalculatorOracle(_import("ase.calculators.emt:EMT"), "EMT", retries=0)


def _as_tuple(value: str | Sequence[str] | None) -> Sequence[str]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _label_one(make_calculator: MakeCalculator, retries: int, atoms: Atoms) -> Atoms | str:
    """Labelled copy, or the cause of the failure; runs in a worker."""
    try:
        check_geometry(Frames((atoms,), ("this structure",)))
    except DataError as error:
        return f"DataError: {error}"
    cause = ""
    for _ in range(retries + 1):
        calculator = make_calculator()
        try:
            results = _results(calculator, atoms)
        except Exception as error:  # a code of others may raise anything
            cause = f"{type(error).__name__}: {error}"
        else:
            atoms.calc = SinglePointCalculator(atoms, **results)
            return atoms
    return cause


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
    if results["forces"].shape != (len(atoms), 3):
        raise ExecutionError(
            f"the calculator's forces have shape {results['forces'].shape}, not (n_atoms, 3)"
        )
    for name, value in results.items():
        if not np.all(np.isfinite(value)):
            raise ExecutionError(f"the calculator's {name} is not finite")
    return results


def _import(path: str) -> Callable[..., BaseCalculator]:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"a calculator is given as 'module:Class', got {path!r}")
    try:
        loaded = import_module(module)
    except ImportError as error:
        raise ConfigError(f"cannot import the module of the calculator {path!r}: {error}") from error
    if not hasattr(loaded, name):
        raise ConfigError(f"no {name!r} in the module {module}, {nearest(name, vars(loaded))}")
    return getattr(loaded, name)
