"""Exploration with the current potential: candidates for labels, from walkers, variations and files."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.execution.executor import SerialExecutor
from surefield.execution.in_flight import map_ordered
from surefield.execution.progress import Track
from surefield.exploration.config import (
    DynamicsConfig,
    ExplorationConfig,
    PoolFilesConfig,
    RattleConfig,
    RelaxationConfig,
    StrainConfig,
    SurfacesConfig,
)
from surefield.exploration.sigma_bias import biased_calculator
from surefield.exploration.sigma_window import SigmaWindow, with_sigmas
from surefield.exploration.variations import alternate, from_files, rattled, slabs, strained, turns
from surefield.exploration.walker import WalkerRecord, evenly, lost_walker, walk
from surefield.files import json_text, read_json, write_atomic
from surefield.potentials.evaluate import check_frames
from surefield.structures.geometry import check_geometry
from surefield.structures.read import Frames
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["Exploration", "WalkerRecord", "explore", "read_walkers", "write_walkers"]

_log = logging.getLogger(__name__)
#: Structures whose sigmas are one task.
_CHUNK: Final = 16
#: Of the folders of files for workers.
_PREFIX: Final = "exploring-"


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes:
        frames: candidates without labels. `info` has config_type, start (place in the list of starts) and
            sigma (the largest of an atom, of sigma_quantity); of walkers also walker, step, time_fs and
            temperature_K. Predictions and sigmas stand under names with the prefix `surefield_`.
        walkers: what became of each.
    """

    frames: list[Atoms]
    walkers: tuple[WalkerRecord, ...]


def explore(
    uncertainty: Uncertainty,
    starts: Sequence[Atoms],
    config: Sequence[ExplorationConfig],
    *,
    seed: int,
    n_frames: int | None = None,
    executor: Executor | None = None,
    progress: Track | None = None,
    folder: str | Path | None = None,
) -> Exploration:
    """Candidates for labels, by all that is configured: walkers, random changes of starts, slabs, files.

    The same for the same seed, whatever the executor and its number of workers (of processors of one kind).
    Each walker is one task; workers load the potential from a file once. A walker whose worker is killed is
    run again some times; where that does not help, its record says so, and the others go on.

    Args:
        uncertainty: the current potential and its sigmas.
        starts: structures that walkers, displacements and slabs start from; not changed.
        config: what to do; structures come in this order.
        seed: of all that is random.
        n_frames: candidates at most, evenly thinned; None: all.
        executor: where tasks run; None: here, one after the other.
        progress: is advanced by one for each task.
        folder: for the file that workers load the potential from, where they cannot see the temporary folder
            of this machine; what a killed call has left there is removed.

    Raises:
        ConfigError: no start where one is needed, an ensemble that a start is not made for, or a window that
            neither the configuration nor the calibration set tells.
        DataError: a start that cannot be computed, or a file that cannot be read.
        ExecutionError: a task failed; a walker that breaks, or whose worker dies, is no failure.
        PotentialError: an element that the potential does not know.
    """
    starts = list(starts)
    check_geometry(Frames(tuple(starts), tuple(f"start {i}" for i in range(len(starts)))))
    check_frames(uncertainty.potential, starts, "start")
    needed = [entry.kind for entry in config if not isinstance(entry, PoolFilesConfig)]
    if needed and not starts:
        raise ConfigError(f"exploration by {needed[0]} needs at least one start", got="none")
    if executor is None or isinstance(executor, SerialExecutor):
        results = map_ordered(
            executor or SerialExecutor(),
            _run,
            _tasks(uncertainty, uncertainty, starts, config, seed),
            progress,
        )
    else:
        with TemporaryDirectory(prefix=_PREFIX, dir=_cleared(folder)) as temporary:
            path = Path(temporary) / "uncertainty.npz"
            uncertainty.save(path)
            tasks = _tasks(uncertainty, str(path), starts, config, seed)
            results = map_ordered(executor, _run, tasks, progress, lost=partial(_lost, uncertainty))
    frames = [frame for part, _ in results for frame in part]
    walkers = tuple(record for _, record in results if record is not None)
    return Exploration([frames[i] for i in evenly(len(frames), n_frames)], walkers)


def write_walkers(path: str | os.PathLike[str], walkers: Sequence[WalkerRecord], **entries: Any) -> None:
    """Write the records of walkers as JSON, with further entries such as the round."""
    write_atomic(path, json_text({**entries, "walkers": [walker.to_dict() for walker in walkers]}))


def read_walkers(path: str | os.PathLike[str]) -> tuple[WalkerRecord, ...]:
    """What `write_walkers` wrote.

    Raises:
        DataError: missing, or no JSON.
    """
    return tuple(WalkerRecord.from_dict(entries) for entries in read_json(path)["walkers"])


def _cleared(folder: str | Path | None) -> Path | None:
    """A folder without files of calls that were killed; absolute, for workers that run elsewhere."""
    if folder is None:
        return None
    folder = Path(folder).resolve()
    for left in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class _Task:
    """A walker, or structures whose sigmas are wanted."""

    model: Uncertainty | str
    run: Callable[..., tuple[list[Atoms], WalkerRecord | None]]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def _run(task: _Task) -> tuple[list[Atoms], WalkerRecord | None]:
    model = task.model
    if isinstance(model, str):
        model = _loaded(model)
    return task.run(model, *task.arguments, **task.options)


def _lost(uncertainty: Uncertainty, task: _Task, how: str) -> tuple[list[Atoms], WalkerRecord | None]:
    """What stands for a task that no worker outlived: nothing but a record."""
    if task.run is walk:
        start, entry = task.arguments
        place = {name: task.options[name] for name in ("walker", "place", "temperature")}
        record = lost_walker(uncertainty, start, entry, f"its worker {how}, at every attempt", **place)
        _log.warning("walker %d from start %d: %s", record.walker, record.start, record.ended)
        return [], record
    origin = task.arguments[0][0].info.get("origin", "candidates")
    _log.warning("%s and what follows: left out: their worker %s, at every attempt", origin, how)
    return [], None


@lru_cache(maxsize=2)
def _loaded(path: str) -> Uncertainty:
    """Of a path that has one content for ever: it is that of a temporary folder."""
    return load_uncertainty(path)


def _tasks(
    uncertainty: Uncertainty,
    model: Uncertainty | str,
    starts: Sequence[Atoms],
    config: Sequence[ExplorationConfig],
    seed: int,
) -> list[_Task]:
    tasks: list[_Task] = []
    n_walkers = 0
    for number, entry in enumerate(config):
        own = (seed, number)
        if isinstance(entry, DynamicsConfig | RelaxationConfig):
            _check_walkers(uncertainty, starts, entry)
            for i, place in enumerate(turns(len(starts), entry.n_walkers, own).tolist()):
                temperature = None
                if isinstance(entry, DynamicsConfig):
                    kelvins = entry.temperatures
                    temperature = kelvins[alternate(i, len(starts), len(kelvins))]
                options = {
                    "walker": n_walkers,
                    "place": place,
                    "temperature": temperature,
                    "first": i < len(starts),
                    "seed": (*own, i),
                }
                tasks.append(_Task(model, walk, (starts[place], entry), options))
                n_walkers += 1
            continue
        if isinstance(entry, PoolFilesConfig):
            frames = from_files(entry, own)
            check_frames(uncertainty.potential, frames, "structure")
        else:
            frames = _varied(starts, entry, own)
        # There may be very many in files, and sigmas of energies cost less.
        asked = "energies" if isinstance(entry, PoolFilesConfig) else "auto"
        for begin in range(0, len(frames), _CHUNK):
            part = frames[begin : begin + _CHUNK]
            tasks.append(_Task(model, _looked_at, (part,), {"asked": asked}))
    return tasks


def _check_walkers(
    uncertainty: Uncertainty, starts: Sequence[Atoms], entry: DynamicsConfig | RelaxationConfig
) -> None:
    """Refuse, before anything runs, what no walker could do."""
    SigmaWindow.of(uncertainty, entry.window)
    if isinstance(entry, RelaxationConfig):
        return
    if entry.bias is not None:
        biased_calculator(uncertainty, entry.bias)
    for place, atoms in enumerate(starts):
        if entry.ensemble == "npt" and not atoms.pbc.all():
            what, fix = f"start {place} ({atoms.symbols})", "ensemble: nvt for molecules and slabs"
            raise ConfigError("npt needs periodic structures", got=what, fix=fix)


def _varied(
    starts: Sequence[Atoms], entry: RattleConfig | StrainConfig | SurfacesConfig, seed: tuple[int, ...]
) -> list[Atoms]:
    if isinstance(entry, RattleConfig):
        return rattled(starts, entry, seed)
    if isinstance(entry, StrainConfig):
        return strained(starts, entry, seed)
    return slabs(starts, entry, seed)


def _looked_at(uncertainty: Uncertainty, frames: list[Atoms], asked: str) -> tuple[list[Atoms], None]:
    """Structures with their sigmas; those that the potential refuses are left out, and said."""
    window = SigmaWindow.unbounded(uncertainty, asked)
    known: list[Atoms] = []
    try:
        predictions = uncertainty.predict(frames, **window.asked())
    except DataError as error:
        if len(frames) == 1:
            _log.warning("%s: left out: %s", frames[0].info.get("origin", "a candidate"), error)
            return [], None
        for frame in frames:
            known += _looked_at(uncertainty, [frame], asked)[0]
        return known, None
    for frame, prediction in zip(frames, predictions, strict=True):
        value = window.value(prediction, len(frame))
        known.append(with_sigmas(frame, prediction, value, window.quantity))
    return known, None
