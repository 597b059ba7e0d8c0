"""Checkpoints of full-batch training: arrays only, written whole or not at all, refused for another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from surefield.errors import ConfigError
from surefield.execution.identity import Table, changes
from surefield.networks.full_batch.outcome import Progress
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_arrays, save_arrays, save_potential
from surefield.training.checkpoint import part_of

__all__ = ["CheckpointState", "Checkpoints"]

_KIND: Final = "full-batch checkpoint"


@dataclass(frozen=True, eq=False)
class CheckpointState:
    """All that is needed to go on.

    Attributes:
        fingerprint: texts and hashes of data and settings, and tables of them.
        progress: evaluations so far.
        boundary: the same when the latest iteration of the optimizer began.
        optimizer: state of the optimizer at that moment; empty if it cannot be restarted.
        random_state: of NumPy's global generator.
        status: how the training ended, or None.
        reason: one line.
    """

    fingerprint: Table
    progress: Progress
    boundary: Progress
    optimizer: Mapping[str, np.ndarray]
    random_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    status: str | None = None
    reason: str = ""


class Checkpoints:
    """Where checkpoints of a training are and how often they are written.

    Args:
        label: start of the file names: `<label>-checkpoint`, or `<label>-checkpoints/<step>` when all are
            kept, and `<label>-initial-parameters`.
        every: evaluations between two checkpoints; negative: keep all of them; None or 0: no checkpoints.

    Raises:
        ConfigError: `every` is no integer.
    """

    def __init__(self, label: str | Path, every: int | None = 100) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int | np.integer)):
            expected = "an integer (negative: keep all), or None"
            raise ConfigError("unusable number", where="checkpoints", got=repr(every), expected=expected)
        self.label, self.every = str(label), int(every or 0)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after so many evaluations."""
        return self.every != 0 and step % abs(self.every) == 0

    def save_initial(self, potential: Potential) -> None:
        """Write the potential that training starts from."""
        if self.every:
            save_potential(f"{self.label}-initial-parameters", potential)

    def save(self, state: CheckpointState) -> None:
        """Write a checkpoint; nothing if there are to be none.

        Raises:
            ExecutionError: disk full, no permission, no such folder.
        """
        if not self.every:
            return
        header = {"fingerprint": dict(state.fingerprint), "status": state.status, "reason": state.reason}
        parts = {"optimizer:": state.optimizer, "random:": state.random_state}
        arrays = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
        arrays |= state.progress.arrays("progress:") | state.boundary.arrays("boundary:")
        path = self._last
        if self.every < 0:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / str(state.progress.step)
        save_arrays(path, _KIND, header, arrays, compressed=False)

    def load(self, fingerprint: Table, older: Table | None = None) -> CheckpointState | None:
        """The latest checkpoint, in whichever form; None if there is none.

        Args:
            fingerprint: of this training; what the file does not state is not compared.
            older: what files of older versions state of it.

        Raises:
            ConfigError: it is of other data or settings.
            PotentialError: damaged, or written by a newer version.
        """
        if not self.every:
            return None
        kept = self._folder.iterdir() if self._folder.is_dir() else ()
        paths = [path for path in kept if path.name.isdigit()]
        newest = max(paths, key=lambda path: int(path.name), default=None)
        written = [_read(path) for path in (self._last, newest) if path is not None and path.is_file()]
        if not written:
            return None
        path, state = max(written, key=lambda entry: entry[1].progress.step)
        changed = _changes(state.fingerprint, fingerprint) or _changes(state.fingerprint, older or {})
        if changed:
            raise ConfigError(
                f"{path} is the checkpoint of another training",
                got=f"changed: {'; '.join(changed)}",
                fix="restore that, use another label, or remove the checkpoint to start anew",
            )
        return state

    @property
    def _last(self) -> Path:
        return Path(f"{self.label}-checkpoint")

    @property
    def _folder(self) -> Path:
        return Path(f"{self.label}-checkpoints")


def _changes(known: Table, now: Table) -> list[str]:
    texts = []
    for name, value in now.items():
        before = known.get(name, value)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            texts += changes({name: before}, {name: value})
        elif before != value:
            readable = all(str(text).startswith(("[", "{")) for text in (before, value))
            texts.append(f"{name} (then {before}, now {value})" if readable else name)
    return texts


def _read(path: Path) -> tuple[Path, CheckpointState]:
    header, arrays = load_arrays(path, _KIND)
    return path, CheckpointState(
        fingerprint=header["fingerprint"],
        progress=Progress.from_arrays(arrays, "progress:"),
        boundary=Progress.from_arrays(arrays, "boundary:"),
        optimizer=part_of(arrays, "optimizer:"),
        random_state=part_of(arrays, "random:"),
        status=header["status"],
        reason=header["reason"],
    )
