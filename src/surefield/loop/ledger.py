"""Labels of a loop: what was labelled, for which purpose, at which cost; in the journal and in a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, final

from ase import Atoms

from surefield.errors import ExecutionError
from surefield.execution.identity import check_table, digest
from surefield.loop.failures import AGAIN
from surefield.loop.journal import TIMES, Journal
from surefield.loop.oracles.label_store import LabelStore
from surefield.loop.oracles.oracle import Oracle, Outcome
from surefield.structures.images import image_key
from surefield.structures.label_sources import results_of
from surefield.structures.read import Frames, write_frames

__all__ = ["LABELLED", "LabelLedger"]

_log = logging.getLogger(__name__)

LABELLED: Final = "labelled.xyz"
#: Causes of failures that a message names.
_CAUSES: Final = 3
_FIX: Final = "run the loop in another folder, or start anew with --overwrite"


@final
class LabelLedger:
    """Labels in the order of the journal; each is paid for once.

    Args:
        folder: of the run; labels are in `labels/`.
        journal: of the run.
        oracle: who labels.
        executor: where; None: in this process.
        watch: is called after every label.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        oracle: Oracle,
        executor: Executor | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.journal, self.oracle, self.executor = folder, journal, oracle, executor
        self.store = LabelStore(folder / "labels", oracle)
        self._watch = watch or (lambda: None)
        self._labels: dict[str, Atoms] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, atoms: Atoms) -> bool:
        return image_key(atoms) in self._labels

    @property
    def frames(self) -> Frames:
        """All labelled structures, in the order in which they came."""
        labels = tuple(self._labels.values())
        return Frames(labels, tuple(f"label {i}" for i in range(len(labels))))

    @property
    def paid(self) -> int:
        """Labels that the oracle computed, as far as the journal knows."""
        return len(self.journal.find(event="labelled"))

    @property
    def core_seconds(self) -> float:
        """What they cost, with the failed ones."""
        events = [*self.journal.find(event="labelled"), *self.journal.find(event="failed")]
        return float(sum(event.get("core_seconds") or 0.0 for event in events))

    def timed(self) -> tuple[list[Atoms], list[float]]:
        """Labelled structures and the core seconds of each label, of those that the oracle computed."""
        pairs = [
            (self._labels[event["structure"]], float(event.get("core_seconds") or 0.0))
            for event in self.journal.find(event="labelled")
            if event["structure"] in self._labels
        ]
        return [atoms for atoms, _ in pairs], [seconds for _, seconds in pairs]

    def take(self, labelled: Sequence[Atoms], source: str) -> int:
        """Labels that were computed elsewhere with the same settings; those that are new are journalled.

        Raises:
            DataError: a structure without energy or forces.
        """
        fresh = []
        for atoms in self.store.add(labelled):
            key = image_key(atoms)
            if key not in self._labels:
                fresh.append(key)
            self._labels.setdefault(key, _told(atoms, key, "imported"))
        known = {key for event in self.journal.find(event="imported") for key in event["structures"]}
        new = [key for key in fresh if key not in known]
        if new:
            event = {"event": "imported", "source": source, "n": len(new), "structures": new}
            self.journal.append(event)
        return len(new)

    def obtain(self, frames: Frames, purpose: str, number: int, *, needed: bool = True) -> list[Atoms]:
        """Labels of structures that were chosen; a failed one is journalled and left out, see `failures`.

        Args:
            frames: structures.
            purpose: "initial", "audit", "pick" or "again".
            number: of the round.
            needed: whether the loop cannot go on without any of these labels.

        Raises:
            ExecutionError: none that are needed could be labelled; the message names the causes.
            ConfigError: a label is no longer that of the journal.
        """
        place = {"purpose": purpose, "round": number}
        failed = self._given_up(place)
        if needed and not self.journal.find(event="labelled", **place):
            failed = set()  # what made all of them fail may have been mended since
        keys = [image_key(atoms) for atoms in frames]
        left = [index for index, key in enumerate(keys) if key not in failed]
        labelled = []
        for nth, outcome in self._in_order(frames[left]):
            index = left[nth]
            key, where = keys[index], place | {"index": index}
            if outcome.atoms is None:
                self._failed(frames[index], key, outcome, where)
            else:
                told = _told(outcome.atoms, key, purpose, number)
                self._entered(told, key, outcome, where)
                labelled.append(self._labels.setdefault(key, told))
            self._watch()
        if needed and not labelled and len(frames):
            raise self._none(keys, place)
        return labelled

    def write(self) -> None:
        """Write all labels as a file that `data.train` reads."""
        write_frames(self.folder / LABELLED, list(self._labels.values()))

    def _given_up(self, place: dict[str, Any]) -> set[str]:
        """Structures that have failed in a stage, since they were last tried again there."""
        given_up: set[str] = set()
        for event in self.journal.find(round=place["round"]):
            if event["event"] == place["purpose"] == AGAIN:
                given_up -= set(event["structures"])
            elif event["event"] == "failed" and event["purpose"] == place["purpose"]:
                given_up.add(event["structure"])
        return given_up

    def _in_order(self, frames: Frames) -> Iterator[tuple[int, Outcome]]:
        """Outcomes in the order of the structures, each as soon as those before it are there."""
        waiting: dict[int, Outcome] = {}
        next_index = 0
        for outcome in self.store.obtain(list(frames), executor=self.executor):
            waiting[outcome.index] = outcome
            while next_index in waiting:
                yield next_index, waiting.pop(next_index)
                next_index += 1

    def _entered(self, atoms: Atoms, key: str, outcome: Outcome, place: dict[str, Any]) -> None:
        facts = {"energy": float(atoms.get_potential_energy()), "label": digest(results_of(atoms))}
        known = self.journal.last(event="labelled", structure=key)
        if known is not None:
            what = f"the label of structure {key} is no longer that of the journal"
            check_table(what, known, facts, _FIX)
            return
        record = self.store.record(atoms)  # also of what was computed before a kill
        event = {"event": "labelled", **place, "structure": key, **facts}
        for name in TIMES:
            event[name] = record.get(name, getattr(outcome, name))
        if record.get("settings"):
            event["settings"] = record["settings"]
        self.journal.append(event)

    def _failed(self, atoms: Atoms, key: str, outcome: Outcome, place: dict[str, Any]) -> None:
        formula = atoms.get_chemical_formula()
        _log.warning("%s could not label %s (%s): %s", self.oracle.name, key, formula, outcome.cause)
        event = {"event": "failed", **place, "structure": key, "formula": formula, "cause": outcome.cause}
        event["attempts"] = [dict(attempt) for attempt in outcome.attempts]
        event |= {name: getattr(outcome, name) for name in TIMES}
        event["killed"] = outcome.killed
        self.journal.append(event, once=["event", "structure", "cause", "purpose", "round"])

    def _none(self, keys: Sequence[str], place: dict[str, Any]) -> ExecutionError:
        events = [e for e in self.journal.find(event="failed", **place) if e["structure"] in keys]
        causes = [*dict.fromkeys(event["cause"] for event in events)]
        more = f" and {len(causes) - _CAUSES} more" if len(causes) > _CAUSES else ""
        return ExecutionError(
            f"{self.oracle.name} could not label any of {len(keys)} structures of round {place['round']}",
            got="; ".join(causes[:_CAUSES]) + more,
            fix="mend what they name (engine, loop.oracle, structures), then run the same command again",
        )


def _told(atoms: Atoms, key: str, purpose: str, number: int | None = None) -> Atoms:
    """The structure itself, which says from here on what it was labelled for."""
    atoms.info |= {"surefield_structure": key, "surefield_purpose": purpose}
    if number is not None:
        atoms.info["surefield_round"] = number
    return atoms
