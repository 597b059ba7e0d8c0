"""What the folder of a loop says while it runs: its journal, walkers and picks, as data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from surefield.errors import DataError, SurefieldError
from surefield.exploration.explore import read_walkers
from surefield.exploration.walker import FINISHED, WalkerRecord
from surefield.files import read_jsonl
from surefield.report.reasons import plain_number, sentence
from surefield.report.run import Run
from surefield.report.scores import mapping
from surefield.structures.read import read_frames

__all__ = ["Choice", "LoopRound", "LoopState", "Tally", "ends_of", "load_loop", "loop_of", "written_at"]

#: Events that choose structures for labels: what for, and the file of the round with the structures.
_CHOSEN: Final = {"initial": "initial", "drawn": "audit", "picked": "pick"}
_SCORES: Final = (("errors", "test"), ("calibration", "calibration"))
_FILES: Final = {"initial": "initial.xyz", "drawn": "audits.xyz", "picked": "picked.xyz"}


@dataclass(frozen=True)
class LoopRound:
    """One round.

    Attributes:
        number: of the round.
        n_labels: that its potential was fitted to.
        errors: names such as forces_mae (eV/Å) to numbers, on the test set or else in the audit.
        calibration: quantity to scores.
        judged: "test set", or "audit of n"; empty where nothing was.
        n_candidates: to choose from; None: not known.
        n_picked: structures that were chosen.
        walkers: of its exploration.
    """

    number: int
    n_labels: int
    errors: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    judged: str = ""
    n_candidates: int | None = None
    n_picked: int = 0
    walkers: tuple[WalkerRecord, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A structure that was chosen for a label.

    Attributes:
        structure: its key.
        formula: of it.
        gain: of the pick, NaN for none.
        reason: of the pick, in words.
        state: 'labelled', 'failed' or 'waiting'.
        atoms: the structure; None: its file is not there.
    """

    structure: str
    formula: str
    gain: float
    reason: str
    state: str
    atoms: Atoms | None = None


#: Purpose, round, and what was chosen for it.
Choices = tuple[str, int, tuple[Choice, ...]]


@dataclass(frozen=True)
class Tally:
    """Labels of one purpose: how many, and what they cost."""

    purpose: str
    n_labelled: int = 0
    n_failed: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class LoopState:
    """A loop as its folder shows it.

    Attributes:
        folder: of the run.
        events: of the journal.
        rounds: in their order.
        latest: what was chosen last, with its purpose and round: 'pick' or another.
        tallies: by purpose.
        error: last line of error.log.
    """

    folder: Path
    events: Sequence[Mapping[str, Any]]
    rounds: tuple[LoopRound, ...] = ()
    latest: Choices = ("", 0, ())
    tallies: tuple[Tally, ...] = ()
    error: str = ""

    def of(self, event: str, **entries: Any) -> list[Mapping[str, Any]]:
        """Events of a kind, oldest first."""
        return [
            e
            for e in self.events
            if e.get("event") == event and all(e.get(k) == v for k, v in entries.items())
        ]

    def choices(self) -> list[Choices]:
        """All that was chosen for labels, oldest first; their files are read anew."""
        return list(_choices(self.folder, self.events))[::-1]

    @property
    def is_one_arm(self) -> bool:
        """Whether all labels are used for one potential; a comparison of methods has other journals."""
        return any(int(event.get("version") or 1) > 1 for event in self.of("start"))

    @property
    def n_labelled(self) -> int:
        """Labels that were paid for."""
        return sum(tally.n_labelled for tally in self.tallies)

    @property
    def n_failed(self) -> int:
        """Labels that failed."""
        return sum(tally.n_failed for tally in self.tallies)

    @property
    def n_imported(self) -> int:
        """Labels that were there before."""
        return sum(len(e.get("structures") or ()) for e in self.of("imported"))

    @property
    def core_hours(self) -> float:
        """Of all labels, failed ones too."""
        return sum(tally.core_seconds for tally in self.tallies) / 3600

    @property
    def ended(self) -> str:
        """Why the loop ended; empty while it goes on."""
        last = max((k for k, e in enumerate(self.events) if e.get("event") == "end"), default=None)
        if last is None:
            return ""
        later = {"round", "labelled", "failed", "explored", "picked", "drawn", "changed", "initial", "again"}
        later.add("unfitted")
        gone_on = any(e.get("event") in later for e in self.events[last + 1 :])
        return "" if gone_on else str(self.events[last].get("reason") or "all rounds are done")

    def phase(self) -> str:
        """What the loop does now, in words."""
        if self.error:
            return f"The loop failed: {self.error}"
        if self.ended:
            return f"The loop has ended by {self.ended}."
        last = next((e for e in reversed(self.events) if e.get("event") in _PHASES), None)
        if last is None:
            return "The loop has not begun to label."
        if last["event"] == "unfitted":
            return f"The loop stopped: {last.get('fit')} has no potential: {last.get('cause')}"
        if last["event"] == "changed":
            return "The loop goes on with other settings."
        if last["event"] in ("labelled", "failed", *_CHOSEN) and self.latest[2]:
            return self._labelling()
        return f"Round {int(last.get('round') or 0)}: {_PHASES[str(last['event'])]}."

    def _labelling(self) -> str:
        purpose, number, choices = self.latest
        done, failed, waiting = (
            sum(choice.state == state for choice in choices) for state in ("labelled", "failed", "waiting")
        )
        if waiting:
            lost = f", {failed} failed" if failed else ""
            return f"Round {number}: labelling {_WORDS[purpose]}, {done} of {len(choices)} done{lost}."
        if purpose == "audit":
            return f"Round {number}: choosing what to label."
        return f"Round {number + (purpose == 'pick')}: fitting the potential."


_WORDS: Final = {"initial": "the first structures", "audit": "the audit", "pick": "the picks"}
#: What a loop does after an event.
_PHASES: Final = {
    "round": "exploring with its potential",
    "explored": "choosing what to label",
    "audited": "choosing what to label",
    **dict.fromkeys(("labelled", "failed", *_CHOSEN), "labelling"),
    **dict.fromkeys(("unfitted", "changed"), "fitting the potential"),
}


def load_loop(folder: str | Path) -> LoopState:
    """Read the folder of a loop; what is missing or cannot be read is left out.

    Raises:
        DataError: no such folder, or a journal that is damaged.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise DataError("no run folder", where=folder, fix="give the folder runs/NAME of a loop")
    events = read_jsonl(folder / "journal.jsonl")
    error = folder / "error.log"
    lines = error.read_text(errors="replace").split("\n") if error.is_file() else []
    return LoopState(
        folder,
        events,
        _rounds(folder, events),
        next(_choices(folder, events), ("", 0, ())),
        _tallies(events),
        next((line.strip() for line in reversed(lines) if line.strip()), ""),
    )


def loop_of(run: Run) -> LoopState | None:
    """The loop of a run, if that was one whose labels are all used."""
    if run.verb != "loop":
        return None
    try:
        state = load_loop(run.folder)
    except DataError:  # the run says so
        return None
    return state if state.is_one_arm else None


def ends_of(walkers: Sequence[WalkerRecord]) -> dict[str, int]:
    """How many walkers finished, passed the limit, broke, and were lost with their workers, if any."""
    ends = {"finished": 0, "passed the limit": 0, "broke": 0}
    for walker in walkers:
        end = "finished" if walker.ended == FINISHED else _end(walker)
        ends[end] = ends.get(end, 0) + 1
    return ends


def _end(walker: WalkerRecord) -> str:
    if walker.ended.startswith("its worker"):
        return "lost"
    return "passed the limit" if walker.ended.startswith("sigma limit") else "broke"


def _rounds(folder: Path, events: Sequence[Mapping[str, Any]]) -> tuple[LoopRound, ...]:
    """Rounds of a loop with one method and seed; of a comparison those of the first."""
    rounds: dict[int, dict[str, Any]] = {}
    arm: tuple[Any, Any] | None = None
    for event in events:
        kind, number = event.get("event"), int(event.get("round") or 0)
        if kind == "round":
            arm = arm or (event.get("method"), event.get("seed"))
            if (event.get("method"), event.get("seed")) != arm:
                continue
            entry = {"number": number, "n_labels": int(event.get("n_labels") or 0)}
            entry["n_picked"] = len(event.get("picks") or ())
            if event.get("test"):
                entry |= {"errors": mapping(event["test"]), "judged": "test set"}
                entry["calibration"] = mapping(event.get("calibration"))
            rounds[number] = entry
        elif number not in rounds:
            continue
        elif kind == "audited" and "errors" not in rounds[number]:
            rounds[number] |= {name: mapping(event.get(key)) for name, key in _SCORES}
            rounds[number]["judged"] = f"audit of {event.get('n', '?')}"
        elif kind == "explored":
            rounds[number]["n_candidates"] = event.get("n_candidates")
        elif kind == "picked":
            rounds[number]["n_picked"] = len(event.get("structures") or ())
    return tuple(
        LoopRound(**entry, walkers=_walkers(folder / "rounds" / f"{number:03d}" / "walkers.json"))
        for number, entry in sorted(rounds.items())
    )


def _walkers(path: Path) -> tuple[WalkerRecord, ...]:
    try:
        return read_walkers(path)
    except (SurefieldError, KeyError, TypeError):
        return ()


def _choices(folder: Path, events: Sequence[Mapping[str, Any]]) -> Iterator[Choices]:
    """What was chosen, latest first."""
    states = {e.get("structure"): "failed" for e in events if e.get("event") == "failed"}
    states |= {e.get("structure"): "labelled" for e in events if e.get("event") == "labelled"}
    for event in reversed(events):
        if event.get("event") not in _CHOSEN or not event.get("structures"):
            continue
        kind, number, keys = str(event["event"]), int(event.get("round") or 0), event["structures"]
        place = folder if kind == "initial" else folder / "rounds" / f"{number:03d}"
        frames: list[Atoms] = []
        with suppress(SurefieldError, OSError):  # they are drawn when they are there
            frames = list(read_frames(place / _FILES[kind]))
        gains, reasons, formulas = (event.get(name) or [] for name in ("gains", "reasons", "formulas"))
        choices = [
            Choice(
                structure=str(key),
                formula=str(formulas[k]) if k < len(formulas) else "",
                gain=plain_number(gains[k]) if k < len(gains) else float("nan"),
                reason=sentence(reasons[k]) if k < len(reasons) else "",
                state=states.get(key, "waiting"),
                atoms=frames[k] if len(frames) == len(keys) else None,
            )
            for k, key in enumerate(keys)
        ]
        yield _CHOSEN[kind], number, tuple(choices)


def _tallies(events: Sequence[Mapping[str, Any]]) -> tuple[Tally, ...]:
    sums: dict[str, dict[str, float]] = {}
    for event in events:
        kind = event.get("event")
        if kind not in ("labelled", "failed"):
            continue
        own = sums.setdefault(str(event.get("purpose", "labels")), {})
        own[f"n_{kind}"] = own.get(f"n_{kind}", 0) + 1
        for name in ("seconds", "core_seconds"):
            own[name] = own.get(name, 0.0) + float(event.get(name) or 0.0)
    return tuple(Tally(purpose, **own) for purpose, own in sums.items())  # type: ignore[arg-type]


def written_at() -> str:
    """Now, for a page."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
