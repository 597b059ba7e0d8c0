"""A folder of labels by what they are of: structure and oracle. Nothing in it is ever computed twice."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms

from surefield import keys
from surefield.errors import DataError, ExecutionError, SurefieldError
from surefield.execution.claim import claim
from surefield.execution.executor import SerialExecutor
from surefield.execution.identity import digest
from surefield.execution.in_flight import Finished, TasksInFlight
from surefield.files import json_text, write_atomic
from surefield.loop.oracles.oracle import (
    LabelTask,
    Oracle,
    Outcome,
    Report,
    labelled_copy,
    outcome_of,
    report_of,
)
from surefield.structures.contents import geometry_of
from surefield.structures.extxyz import extxyz_text
from surefield.structures.images import image_key
from surefield.structures.label_sources import results_of, without_labels
from surefield.structures.labels import Mapped, resolve_labels
from surefield.structures.read import read_frames

__all__ = ["LabelStore"]

_log = logging.getLogger(__name__)

#: What energies depend on beside the geometry, if a structure states it.
_STATES: Final = (*keys.CHARGE_KEYS, *keys.SPIN_KEYS)
_INITIAL: Final = ("initial_charges", "initial_magmoms")
_DIGEST: Final = "surefield_label_digest"
#: Entries of a label's file that say how it came about.
_RECORD: Final = {
    "oracle": "surefield_oracle",
    "seconds": "surefield_label_seconds",
    "core_seconds": "surefield_label_core_seconds",
    "settings": "surefield_label_settings",
}
_CLAIMS: Final = ".claims"
#: Room that is given up on a full disk, so that labels that were paid for can still be written; bytes.
_RESERVE: Final = ".reserve"
_RESERVED: Final = 4 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: Pause while other processes compute the labels that are left, s.
_PAUSE: Final = 0.2


@final
class LabelStore:
    """Labels of one oracle in a folder, one extxyz file each, under a hash of structure and oracle.

    Elements, positions and cell (to 1e-6 Å), periodicity, stated charges, spins and electrode potentials
    make a structure; other entries of `info` do not. A label is written, whole and checked by a hash, by
    whoever computed it, before anyone is told; a damaged file is set aside and its label computed again. A
    structure that another process or thread computes is waited for, also when that one is killed.

    Args:
        folder: made if missing; workers must see it under the same name.
        oracle: computes what is missing; labels of other oracles in the folder are left alone.
    """

    def __init__(self, folder: Path, oracle: Oracle) -> None:
        self.folder = Path(folder).absolute()
        self.oracle = oracle
        self._made_by = digest(json_text({"name": oracle.name, **oracle.settings}))

    def find(self, atoms: Atoms) -> Atoms | None:
        """Labelled copy of a structure; None if it has no label here."""
        kept = _read(self._path(atoms))
        return None if kept is None else labelled_copy(atoms, results_of(kept))

    def record(self, atoms: Atoms) -> dict[str, Any]:
        """How a label came about: oracle, seconds, core_seconds, changed settings; empty if there is none."""
        kept = _read(self._path(atoms))
        if kept is None:
            return {}
        record = {name: kept.info[key] for name, key in _RECORD.items()}
        return record | {"settings": json.loads(record["settings"])}

    def add(self, labelled: Sequence[Atoms], mapping: Mapped | None = None) -> list[Atoms]:
        """Keep labels that were computed elsewhere with the settings of the oracle.

        Args:
            labelled: structures with energies and forces.
            mapping: kind to key of the labels (`structures.labels.resolve_labels`).

        Returns:
            Labelled copies; a structure that has a label here keeps it.

        Raises:
            DataError: a structure without energy or forces, or labels that contradict each other.
        """
        frames = read_frames(labelled)
        labels, _ = resolve_labels(frames, mapping, require=("energy", "forces"))
        self._make_folder()
        copies = []
        for atoms, label in zip(frames, labels, strict=True):
            known = self.find(atoms)
            if known is None:
                results: dict[str, Any] = {key: np.asarray(value) for key, value in label.results().items()}
                results["energy"] = float(results["energy"])
                _write(self._path(atoms), atoms, Report(results), {"oracle": "imported", "core_seconds": 0.0})
                known = labelled_copy(atoms, results)
            copies.append(known)
        return copies

    def obtain(self, frames: Sequence[Atoms], *, executor: Executor | None = None) -> Iterator[Outcome]:
        """Labels of structures, from the folder or else from the oracle, as they are there, in any order.

        Args:
            frames: structures; they are not changed.
            executor: where labels are computed; in this process by default.

        Raises:
            ExecutionError: a label cannot be written, such as on a full disk, or the executor is lost.
            SurefieldError: nothing can be labelled, as of `Oracle.outcomes`.
        """
        self._make_folder()
        where = SerialExecutor() if executor is None or self.oracle.at_hand else executor
        task = _KeptTask(self.oracle.task(), self.folder, self._made_by, self.oracle.name, self.oracle.cores)
        waiting: dict[str, list[int]] = {}
        elsewhere: list[str] = []
        full: list[bool] = []

        def report(finished: Finished[str, _Kept]) -> Iterator[Outcome]:
            kept: _Kept = report_of(self.oracle, finished)
            if isinstance(kept, Report):  # every worker died
                kept = _Kept(kept)
            if kept.busy:
                elsewhere.append(finished.key)
                return
            full.extend([True] if kept.full else [])
            for nth, index in enumerate(waiting.pop(finished.key)):
                bare = without_labels(frames[index])
                outcome = outcome_of(self.oracle, index, bare, kept.report, finished.deaths)
                if kept.reused or nth:  # it costs once
                    again = outcome.atoms is not None
                    outcome = replace(outcome, seconds=0.0, core_seconds=0.0, reused=again)
                yield outcome

        with TasksInFlight[str, _Kept](where, task) as tasks:
            for index, atoms in enumerate(frames):
                key = self._key(atoms)
                if key in waiting:
                    waiting[key].append(index)
                    continue
                known = self.find(atoms)
                if known is not None:
                    yield Outcome(index, known, reused=True)
                    continue
                while tasks.full or (full and tasks):
                    yield from report(tasks.next())
                if full:
                    raise _disk_full(self.folder)
                waiting[key] = [index]
                tasks.submit(key, without_labels(atoms))
            while tasks or elsewhere:
                if not tasks:
                    time.sleep(_PAUSE)
                    again, elsewhere[:] = list(elsewhere), []
                    for key in again:
                        tasks.submit(key, without_labels(frames[waiting[key][0]]))
                yield from report(tasks.next())
            if full:
                raise _disk_full(self.folder)

    def _make_folder(self) -> None:
        try:
            (self.folder / _CLAIMS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder of labels {self.folder}: {error.strerror}") from error
        if not (self.folder / _RESERVE).exists():
            write_atomic(self.folder / _RESERVE, os.urandom(_RESERVED))  # zeros may take no room

    def _key(self, atoms: Atoms) -> str:
        return _key(self._made_by, atoms)

    def _path(self, atoms: Atoms) -> Path:
        return self.folder / f"{self._key(atoms)}.xyz"


@dataclass(frozen=True, eq=False)
class _Kept:
    """What a worker did for one structure.

    Attributes:
        report: of the label.
        reused: it was there already.
        busy: another process is at it.
        full: it took the reserve to write it.
    """

    report: Report
    reused: bool = False
    busy: bool = False
    full: bool = False


@dataclass(frozen=True)
class _KeptTask:
    """Labels one structure where it runs, and keeps the label in the folder, unless it is there already."""

    task: LabelTask
    folder: Path
    made_by: str
    oracle: str
    cores: int

    def __call__(self, atoms: Atoms) -> _Kept:
        key = _key(self.made_by, atoms)
        path = self.folder / f"{key}.xyz"
        with claim(self.folder / _CLAIMS / key) as claimed:
            known = _read(path)
            if known is not None:
                return _Kept(Report(results_of(known)), reused=True)
            if not claimed:
                return _Kept(Report(None), busy=True)
            report = self.task(atoms)
            if report.results is not None:
                cost = {"oracle": self.oracle, "core_seconds": report.seconds * self.cores}
                return _Kept(report, full=self._keep(path, atoms, report, cost))
            return _Kept(report)

    def _keep(self, path: Path, atoms: Atoms, report: Report, cost: Mapping[str, Any]) -> bool:
        """Write a label; whether the disk was full, so that the reserve was needed."""
        try:
            _write(path, atoms, report, cost)
        except ExecutionError as error:
            if getattr(error.__cause__, "errno", None) not in _FULL:
                raise
            (self.folder / _RESERVE).unlink(missing_ok=True)
            _write(path, atoms, report, cost)
            return True
        return False


def _disk_full(folder: Path) -> ExecutionError:
    fix = "free some space and run the same again: nothing that was computed is lost"
    return ExecutionError(f"the disk of {folder} is full; every label so far has been written", fix=fix)


def _key(made_by: str, atoms: Atoms) -> str:
    stated = [(name, digest(atoms.info[name])) for name in _STATES if atoms.info.get(name) is not None]
    stated += [(name, digest(atoms.arrays[name])) for name in _INITIAL if name in atoms.arrays]
    return digest(made_by, image_key(atoms), json_text(stated))


def _write(path: Path, atoms: Atoms, report: Report, record: Mapping[str, Any]) -> None:
    """Write a label, whole and on the disk when this returns."""
    kept = without_labels(atoms)
    kept.set_constraint()
    kept.info = {name: value for name, value in kept.info.items() if name in _STATES}
    for name in set(kept.arrays) - {"numbers", "positions", *_INITIAL}:
        del kept.arrays[name]
    assert report.results is not None
    kept = labelled_copy(kept, report.results)
    entries = {"seconds": report.seconds, "settings": json_text(report.settings), **record}
    kept.info |= {key: entries[name] for name, key in _RECORD.items()} | {_DIGEST: _digest_of(kept)}
    text, _ = extxyz_text(kept, str(path))
    write_atomic(path, text)


def _read(path: Path) -> Atoms | None:
    """The label in a file; None if there is none. A damaged file is set aside."""
    if not path.exists():
        return None
    try:
        (atoms,) = read_frames(path)
        if atoms.info.get(_DIGEST) == _digest_of(atoms) and set(_RECORD.values()) <= set(atoms.info):
            return atoms
        cause = "it is not what was written"
    except (SurefieldError, ValueError) as error:
        cause = str(error)
    aside = path.with_suffix(f".damaged-{time.time_ns()}")
    _log.warning(
        "the label in %s is damaged (%s): set aside as %s, to be computed again", path, cause, aside.name
    )
    try:
        os.replace(path, aside)
    except FileNotFoundError:  # another process has done so
        pass
    except OSError as error:
        raise DataError(
            f"the label in {path} is damaged ({cause}) and cannot be set aside: {error}"
        ) from error
    return None


def _digest_of(atoms: Atoms) -> str:
    return digest(list(geometry_of(atoms)), sorted(results_of(atoms).items()))
