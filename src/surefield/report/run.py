"""Read a run folder: whatever is there, as arrays; pieces that are missing stay empty."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import yaml
from jaxtyping import Float64, Int64

from surefield.errors import DataError
from surefield.files import read_arrays
from surefield.report.reasons import plain_number, sentence

__all__ = ["Curve", "Pick", "Run", "load_run"]

T = TypeVar("T")
Values = Float64[np.ndarray, " n"]

#: A folder is a run if it holds one of these.
PIECES: Final = (
    "config.yaml",
    "versions.json",
    "summary.json",
    "journal.jsonl",
    "metrics.csv",
    "predictions.npz",
    "selection.json",
    "doctor.json",
    "comparison.json",
    "replay.json",
    "score.json",
    "properties.json",
    "error.log",
)
TEST_SCORES: Final = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse")
#: What averages hide; journals of version 0.1 do not have them.
TAILS: Final = ("forces_q95", "forces_worst")


@dataclass(frozen=True, eq=False)
class Curve:
    """One method and seed of a loop, a row per round in the order of the rounds.

    Attributes:
        method: selection method.
        seed: seed of this repetition.
        rounds: round numbers (n_rounds,).
        n_labels: labels the potential of the round was trained on (n_rounds,).
        test: `energy_mae`, `energy_rmse` (eV/atom), `forces_mae`, `forces_rmse` (eV/Å), each (n_rounds,),
            NaN where unknown.
        calibration: per kind (`energy`, `forces`, `stress`) the scores of the journal, each (n_rounds,).
        finished: whether the loop of this method and seed came to its end.
        tails: names of `TAILS` (eV/Å), each (n_rounds,), NaN where unknown.
        groups: of the last round, errors of the forces by group and name, eV/Å.
    """

    method: str
    seed: int
    rounds: Int64[np.ndarray, " n_rounds"]
    n_labels: Int64[np.ndarray, " n_rounds"]
    test: Mapping[str, Values]
    calibration: Mapping[str, Mapping[str, Values]]
    finished: bool
    tails: Mapping[str, Values] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pick:
    """One structure that was chosen.

    Attributes:
        method: selection method.
        seed: seed of the repetition, None outside a loop.
        round: round that made the choice; 0 is the initial set.
        order: place within the round, from 0.
        index: index in the pool.
        n_labels: labels there were before this round's picks.
        gain: what the method expected of it, NaN if it gives none.
        reason: the method's words.
        formula: chemical formula, empty if not recorded.
    """

    method: str
    seed: int | None
    round: int
    order: int
    index: int
    n_labels: int
    gain: float
    reason: str
    formula: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """The content of a run folder.

    Attributes:
        folder: where it was read.
        verb: what was run (`loop`, `train`, `eval`, `uq`, `select`, `doctor`), inferred if not recorded.
        config_text: resolved configuration as YAML text.
        config: the same as a mapping.
        versions: package versions.
        start: `start` event of the journal.
        curves: test errors and calibration of a loop, per method and seed.
        picks: chosen structures of a loop or of `select`.
        metrics: training history, column name to values (n_steps,), NaN where not evaluated.
        predictions: arrays of `predictions.npz` (eV, eV/Å).
        summary: final numbers.
        selection: `selection.json`.
        map: arrays of `map.npz`: training set, pool and picks in the plane of their features.
        doctor: `doctor.json`.
        comparison: `comparison.json`: several uncertainties side by side.
        replay: `replay.json`: what selection methods saved on labelled data.
        score: `score.json`: what `score` computed, in words.
        scored: arrays of `score.npz`: its values, or its matrix.
        properties: `properties.json`: rows of values with their sigmas.
        compared: arrays of `comparison.npz`: residuals and sigmas of each.
        error: last line of `error.log`, empty if the run did not fail.
        notes: pieces that could not be read, in words.
    """

    folder: Path
    verb: str
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    picks: tuple[Pick, ...] = ()
    metrics: Mapping[str, Values] = field(default_factory=dict)
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    map: Mapping[str, np.ndarray] = field(default_factory=dict)
    doctor: Mapping[str, Any] = field(default_factory=dict)
    comparison: Mapping[str, Any] = field(default_factory=dict)
    replay: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, np.ndarray] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    scored: Mapping[str, np.ndarray] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def load_run(folder: str | Path) -> Run:
    """Read a run folder.

    Missing pieces stay empty and unreadable ones are named in `Run.notes`, so that a run that is under way or
    broken off can be looked at.

    Raises:
        DataError: the folder does not exist or holds none of the files of a run.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise DataError("no run folder", where=folder, fix="give the folder runs/NAME of an earlier run")
    if not any((folder / piece).is_file() for piece in PIECES):
        entries = sorted(path.name for path in folder.iterdir())[:8]
        raise DataError(
            "not a run folder",
            where=folder,
            got=", ".join(entries) or "an empty folder",
            expected=f"at least one of {', '.join(PIECES)}",
        )
    notes: list[str] = []

    def piece(name: str, read: Callable[[Path], T], default: T) -> T:
        return _read(folder / name, read, default, notes)

    config_text = piece("config.yaml", _text, "")
    summary = piece("summary.json", _mapping, {})
    selection = piece("selection.json", _mapping, {})
    doctor = piece("doctor.json", _doctor, {})
    events = piece("journal.jsonl", _events, [])
    metrics = piece("metrics.csv", _table, {})
    predictions = piece("predictions.npz", read_arrays, {})
    versions = piece("versions.json", _mapping, {})
    curves = _curves(events)
    inferred = _infer_verb(doctor, selection, curves, metrics, predictions)
    return Run(
        folder=folder,
        verb=str(summary.get("verb") or inferred),
        config_text=config_text,
        config=piece("config.yaml", _yaml, {}),
        versions={str(key): str(value) for key, value in versions.items()},
        start=next((event for event in reversed(events) if event.get("event") == "start"), {}),
        curves=curves,
        picks=_loop_picks(events) or _selection_picks(selection),
        metrics=metrics,
        predictions=_agreeing(predictions, notes),
        summary=summary,
        selection=selection,
        map=piece("map.npz", read_arrays, {}),
        doctor=doctor,
        comparison=piece("comparison.json", _mapping, {}),
        replay=piece("replay.json", _mapping, {}),
        compared=piece("comparison.npz", read_arrays, {}),
        score=piece("score.json", _mapping, {}),
        scored=piece("score.npz", read_arrays, {}),
        properties=piece("properties.json", _mapping, {}),
        error=piece("error.log", _last_line, ""),
        notes=tuple(dict.fromkeys(notes)),
    )


def _read(path: Path, read: Callable[[Path], T], default: T, notes: list[str]) -> T:
    if not path.is_file():
        return default
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, DataError) as error:
        notes.append(f"{path.name} could not be read: {' '.join(str(error).split())[:200]}")
        return default


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    return lines[-1] if lines else "the run failed without a message"


def _mapping(path: Path) -> dict[str, Any]:
    content = json.loads(_text(path))
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping, got {type(content).__name__}")
    return content


def _doctor(path: Path) -> dict[str, Any]:
    content = json.loads(_text(path))
    return {"findings": content} if isinstance(content, list) else _mapping(path)


def _yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(_text(path))
    return content if isinstance(content, dict) else {}


def _events(path: Path) -> list[dict[str, Any]]:
    lines = _text(path).splitlines()
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError:
            if number == len(lines):  # torn by a crash; the format says to drop it
                break
            raise ValueError(f"line {number} is not JSON") from None
        if isinstance(event, dict):
            events.append(event)
    return events


def _table(path: Path) -> dict[str, Values]:
    rows = list(csv.reader(_text(path).splitlines()))
    if not rows:
        return {}
    header, *body = rows
    whole = [row for row in body if len(row) == len(header)]  # a torn last line has fewer cells
    columns = {
        name: np.array([plain_number(row[k]) for row in whole], dtype=np.float64)
        for k, name in enumerate(header)
    }
    if "step" not in columns:
        return columns
    # a resumed training repeats the steps since its checkpoint: the later row counts
    last = {step: row for row, step in enumerate(columns["step"].tolist())}
    kept = sorted(last.values(), key=lambda row: columns["step"][row])
    return {name: values[kept] for name, values in columns.items()}


def _agreeing(predictions: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """Predictions without the arrays that do not fit their reference."""
    kept = dict(predictions)
    for reference in [name for name in predictions if name.endswith("_reference")]:
        kind = reference.removesuffix("_reference")
        names = [name for name in (reference, kind, f"{kind}_uncertainty") if name in kept]
        if kind == "energy" and "n_atoms" in kept:
            names.append("n_atoms")
        if len({kept[name].shape for name in names}) > 1:
            shapes = ", ".join(f"{name} {kept[name].shape}" for name in names)
            notes.append(f"predictions.npz: arrays of the {kind} differ in shape ({shapes}) and are left out")
            for name in names:
                del kept[name]
    return kept


def _curves(events: Iterable[Mapping[str, Any]]) -> tuple[Curve, ...]:
    rounds: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    ended: set[tuple[str, int]] = set()
    for event in events:
        key = (str(event.get("method", "")), int(event.get("seed") or 0))
        if event.get("event") == "round":
            rounds.setdefault(key, {})[int(event.get("round") or 0)] = event
        elif event.get("event") == "end":
            ended.add(key)
    return tuple(
        _curve(method, seed, [by_round[number] for number in sorted(by_round)], (method, seed) in ended)
        for (method, seed), by_round in rounds.items()
    )


def _curve(method: str, seed: int, rounds: list[Mapping[str, Any]], finished: bool) -> Curve:
    calibrations = [event.get("calibration") or {} for event in rounds]
    kinds = dict.fromkeys(kind for entry in calibrations for kind in entry)
    tails = [event.get("tails") or {} for event in rounds]
    return Curve(
        method=method,
        seed=seed,
        rounds=np.array([int(event.get("round") or 0) for event in rounds], dtype=np.int64),
        n_labels=np.array([int(event.get("n_labels") or 0) for event in rounds], dtype=np.int64),
        test=_columns([event.get("test") or {} for event in rounds], TEST_SCORES),
        calibration={kind: _columns([entry.get(kind) or {} for entry in calibrations]) for kind in kinds},
        finished=finished,
        tails=_columns([{k: v for k, v in one.items() if k in TAILS} for one in tails], TAILS),
        groups=(tails[-1].get("groups") or {}) if tails else {},
    )


def _columns(rows: list[Mapping[str, Any]], names: Iterable[str] = ()) -> dict[str, Values]:
    names = dict.fromkeys([*names, *(name for row in rows for name in row)])
    return {name: np.array([plain_number(row.get(name)) for row in rows], dtype=np.float64) for name in names}


def _loop_picks(events: Iterable[Mapping[str, Any]]) -> tuple[Pick, ...]:
    by_round: dict[tuple[str, int, int], tuple[Pick, ...]] = {}
    for event in events:
        if event.get("event") not in ("initial", "round", "picked"):
            continue
        initial = event["event"] == "initial"
        method, seed = str(event.get("method", "")), int(event.get("seed") or 0)
        number = 0 if initial else int(event.get("round") or 0)
        by_round[method, seed, -1 if initial else number] = _picks(
            event,
            method=method,
            seed=seed,
            number=number,
            n_labels=0 if initial else int(event.get("n_labels") or 0),
            reason="initial set" if initial else "",
        )
    return tuple(pick for picks in by_round.values() for pick in picks)


def _selection_picks(selection: Mapping[str, Any]) -> tuple[Pick, ...]:
    return _picks(selection, method=str(selection.get("method", "")), seed=None, number=0, n_labels=0)


def _picks(
    source: Mapping[str, Any], *, method: str, seed: int | None, number: int, n_labels: int, reason: str = ""
) -> tuple[Pick, ...]:
    gains, reasons = source.get("gains") or [], source.get("reasons") or []
    formulas = source.get("formulas") or []
    return tuple(
        Pick(
            method=method,
            seed=seed,
            round=number,
            order=order,
            index=int(index),
            n_labels=n_labels,
            gain=plain_number(gains[order]) if order < len(gains) else math.nan,
            reason=sentence(reasons[order]) if order < len(reasons) else reason,
            formula=str(formulas[order]) if order < len(formulas) else "",
        )
        for order, index in enumerate(source.get("picks") or [])
    )


def _infer_verb(
    doctor: Mapping[str, Any],
    selection: Mapping[str, Any],
    curves: tuple[Curve, ...],
    metrics: Mapping[str, Values],
    predictions: Mapping[str, np.ndarray],
) -> str:
    for verb, present in (
        ("doctor", bool(doctor)),
        ("select", bool(selection)),
        ("loop", bool(curves)),
        ("train", bool(metrics)),
        ("uq", any(name.endswith("_uncertainty") for name in predictions)),
        ("eval", bool(predictions)),
    ):
        if present:
            return verb
    return "run"
