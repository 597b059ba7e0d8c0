"""What all oracles share: structures in, labelled copies or recorded failures out, on any executor."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ExecutionError, SurefieldError
from surefield.execution.executor import SerialExecutor
from surefield.execution.in_flight import Finished, TasksInFlight
from surefield.structures.label_sources import without_labels

if TYPE_CHECKING:
    from surefield.execution.progress import Track

__all__ = ["Failure", "LabelTask", "Oracle", "Outcome", "Report", "labelled_copy", "outcome_of"]

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one structure.

    Attributes:
        index: place in the list of structures.
        atoms: labelled copy with a `SinglePointCalculator`; None if it could not be labelled.
        cause: of the failure.
        attempts: changed settings and cause of each failed attempt, oldest first.
        seconds: wall time of all attempts.
        core_seconds: the same times the cores that were in use.
        reused: whether the label was there already, so that nothing was computed.
        killed: whether the last attempt ended with its process, which says nothing about the structure.
    """

    index: int
    atoms: Atoms | None
    cause: str = ""
    attempts: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    core_seconds: float = 0.0
    reused: bool = False
    killed: bool = False


@dataclass(frozen=True, eq=False)
class Report:
    """What a worker says of one structure.

    Attributes:
        results: energy (eV), forces (eV/Å) and, where the engine has it, stress (eV/Å^3); None: failed.
        cause: of the failure.
        attempts: failed ones, as in `Outcome`.
        settings: changed settings of the attempt that succeeded.
        seconds: wall time.
        killed: the last attempt ended with its process: no memory, a node that went down, a crash.
    """

    results: Mapping[str, Any] | None
    cause: str = ""
    attempts: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    killed: bool = False


#: Labels one structure in a worker; it is sent there, so it is importable and holds plain data.
LabelTask = Callable[[Atoms], Report]


class Oracle(ABC):
    """Labels structures with energies (eV), forces (eV/Å) and, where it can, stresses (eV/Å^3).

    A subclass says what it is and what a worker has to do; order, executors, failures are taken care of here.
    """

    #: whether labels are at hand in this process, so that no worker is needed
    at_hand: ClassVar[bool] = False
    #: cores that a label takes, for its cost
    cores: int = 1
    #: structures that the latest `label` could not label
    failures: tuple[Failure, ...] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for logs and reports, such as "tblite GFN2-xTB"."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What the labels depend on, as plain values; two oracles with the same settings agree."""

    @property
    @abstractmethod
    def attempts(self) -> Mapping[str, Any]:
        """How often and how long a label is tried, as plain values; what it is does not depend on it."""

    @abstractmethod
    def task(self) -> LabelTask:
        """What labels one structure, for workers."""

    @final
    def outcomes(self, frames: Iterable[Atoms], *, executor: Executor | None = None) -> Iterator[Outcome]:
        """Label structures and tell of each as soon as it is done, in any order.

        Structures are taken as workers get free; a structure whose worker dies is begun again.

        Args:
            frames: structures; they are not changed.
            executor: where labels are computed; in this process by default.

        Raises:
            SurefieldError: nothing can be labelled: no calculator can be made, or the executor is lost.
        """
        where = SerialExecutor() if executor is None or self.at_hand else executor
        with TasksInFlight[tuple[int, Atoms], Report](where, self.task()) as tasks:
            for index, atoms in enumerate(frames):
                while tasks.full:
                    yield self._outcome(tasks.next())
                bare = without_labels(atoms)
                tasks.submit((index, bare), bare)
            while tasks:
                yield self._outcome(tasks.next())

    @final
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
            cannot be labelled, which is logged and kept in `failures`.

        Raises:
            SurefieldError: as `outcomes`.
        """
        labelled: list[Atoms | None] = [None] * len(frames)
        failures = []
        for outcome in self.outcomes(frames, executor=executor):
            labelled[outcome.index] = outcome.atoms
            if outcome.atoms is None:
                formula = frames[outcome.index].get_chemical_formula()
                failures.append(Failure(outcome.index, formula, outcome.cause))
                text = "%s could not label frame %d (%s): %s"
                _log.warning(text, self.name, outcome.index, formula, outcome.cause)
            if progress is not None:
                progress.advance()
        self.failures = tuple(sorted(failures, key=lambda failure: failure.index))
        return labelled

    def _outcome(self, finished: Finished[tuple[int, Atoms], Report]) -> Outcome:
        index, bare = finished.key
        return outcome_of(self, index, bare, report_of(self, finished), finished.deaths)


def report_of(oracle: Oracle, finished: Finished[Any, Any]) -> Any:
    """What a task returned, or the failure of a structure that took every worker with it.

    Raises:
        SurefieldError: the task itself raised: no structure can be labelled.
    """
    if finished.error is None:
        return finished.value
    if finished.deaths:
        return Report(None, f"its worker {finished.deaths[-1]}, at every attempt", killed=True)
    if isinstance(finished.error, SurefieldError):
        raise finished.error
    cause = f"{type(finished.error).__name__}: {finished.error}"
    raise ExecutionError(f"{oracle.name} cannot label", got=cause) from finished.error


def outcome_of(
    oracle: Oracle, index: int, bare: Atoms, report: Report, deaths: Sequence[str] = ()
) -> Outcome:
    """Outcome of a structure from what its worker says."""
    attempts = (*({"settings": {}, "cause": f"its worker {death}"} for death in deaths), *report.attempts)
    labelled = None if report.results is None else labelled_copy(bare, report.results)
    seconds = report.seconds
    cost = seconds * oracle.cores
    return Outcome(index, labelled, report.cause, attempts, seconds, cost, killed=report.killed)


def labelled_copy(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    """Copy of a structure with results."""
    copy = without_labels(atoms)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy
