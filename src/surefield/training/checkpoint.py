"""Checkpoints of training: one file of arrays, whole or not at all; exact resume, or refused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import jax
import numpy as np

from surefield.errors import PotentialError
from surefield.execution.identity import IDS, Table, changes, check_table, contents, digest
from surefield.files import read_arrays, write_arrays
from surefield.potentials.potential import Potential
from surefield.potentials.saving import arrays_hash, load_arrays, pack, save_arrays, unpack
from surefield.storage.dataset import package_version
from surefield.training.dataset import Sample
from surefield.training.epochs import History, State

__all__ = [
    "Checkpoint",
    "PartialSums",
    "changes",
    "data_digest",
    "identity_of",
    "part_of",
    "potential_entries",
    "sample_contents",
]

#: Parts of the state that are trees of arrays.
_TREES: Final = ("parameters", "optimizer", "average", "best")
_IDENTITY: Final = "identity"
#: Seconds between two files of partial sums, and how many times as long as writing one takes, at least.
SAVE_SECONDS, SAVE_SHARE = 5.0, 20.0


def identity_of(**entries: Any) -> dict[str, Any]:
    """What must be the same for a training to go on: the version of the code, and what is given.

    Args:
        entries: fit for JSON, as `execution.identity.changes` compares them.
    """
    return json.loads(json.dumps(entries | {"version": package_version()}))


def potential_entries(potential: Potential) -> dict[str, Any]:
    """Entries of an identity that a training has for the potential it starts from."""
    try:
        settings: Any = potential.config()
    except PotentialError:  # one that is not saved
        settings = digest(repr(jax.tree.structure(potential)))
    return {"potential": settings, "starting parameters": arrays_hash(potential)}


def sample_contents(samples: Iterable[Sample], *, ids: bool = False) -> dict[str, Any]:
    """All that samples bring into a training: geometry, labels of all quantities, weights.

    Args:
        samples: of one set.
        ids: whether their ids count.
    """
    return contents(_parts(sample, ids) for sample in samples)


def _parts(sample: Sample, ids: bool) -> Iterator[tuple[str, Any]]:
    s = sample.structure
    yield from (("elements", s.numbers), ("positions", s.positions), ("cell", s.cell))
    yield "pbc", sample.atoms.pbc
    yield from (*sorted(s.inputs.items()), *sorted(sample.labels.results().items()))
    yield "weights", [sample.weight, sorted(sample.factors.items())]
    yield "atom weights", sample.weights_of_atoms
    if ids:
        yield IDS, sample.id


def data_digest(*parts: Sequence[Sample]) -> str:
    """The one hash of all that samples bring into a training by which older files know it."""
    total = hashlib.sha256()
    for part in parts:
        total.update(b"part")
        for sample in part:
            for name, value in _contents(sample):
                array = np.ascontiguousarray(value)
                total.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return total.hexdigest()[:32]


def _contents(sample: Sample) -> Iterator[tuple[str, Any]]:
    s = sample.structure
    yield from (("numbers", s.numbers), ("positions", s.positions), ("cell", s.cell), ("pbc", s.periodic))
    yield "counts", s.counts
    yield from (*sorted(s.inputs.items()), *sorted(sample.labels.results().items()))
    yield from (("weight", sample.weight), *((f"factor {k}", v) for k, v in sorted(sample.factors.items())))
    if sample.atom_weights is not None:
        yield "atom_weights", sample.atom_weights


@final
class Checkpoint:
    """The file from which an interrupted training goes on, bit by bit.

    Args:
        path: of the file; None: nothing is ever written.
        kind: of the file.
        identity: what must be the same for a training to go on, see `identity_of`.
        older: what files of older versions state of it.
    """

    def __init__(self, path: Path | None, kind: str, identity: Table, older: Table | None = None) -> None:
        self.path, self.kind, self.identity, self.older = path, kind, identity, older

    def save(self, state: State, history: History) -> None:
        """Write the state; a kill at any moment leaves the old file or the new one."""
        if self.path is None:
            return
        arrays = {"history": np.array(json.dumps(history.rows))}
        for name, value in state._asdict().items():
            arrays |= pack(value, f"{name}:") if name in _TREES else {name: np.asarray(value)}
        save_arrays(self.path, self.kind, self.identity, arrays, compressed=False)

    def load(self, start: State) -> tuple[State, History] | None:
        """State and history of the file, in the shapes of the start; None without a file.

        Raises:
            PotentialError: file damaged, of a newer version, or of another training.
        """
        if self.path is None or not self.path.exists():
            return None
        header, arrays = load_arrays(self.path, self.kind)
        self.check(self.path, header)
        trees = {name: unpack(getattr(start, name), arrays, f"{name}:") for name in _TREES}
        numbers = {name: arrays[name].item() for name in State._fields if name in arrays}
        return State(**trees, **numbers), History(json.loads(str(arrays["history"])))

    def check(self, path: Path, known: Table) -> None:
        """Check that a file is of this training.

        Raises:
            PotentialError: it is not; the message says what differs.
        """
        fix = "train into another folder, remove this one to start anew, or restore what changed"
        what = f"{path} belongs to another training"
        check_table(what, known, self.identity, fix, PotentialError, self.older)


def part_of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


@final
class PartialSums:
    """Sums over structures, from which an interrupted pass goes on; the file is there for that time only.

    Args:
        path: of the file; None: nothing is ever written.
        identity: of all that enters the sums, see `identity_of`.
    """

    def __init__(self, path: Path | None, identity: Table) -> None:
        self.path, self.identity = path, identity
        self._begin, self._seconds = time.monotonic(), 0.0

    @property
    def done(self) -> int:
        """Structures whose sums are in the file."""
        if self.path is None or not self.path.exists():
            return 0
        with np.load(self.path, allow_pickle=False) as file:  # reads this number alone
            return int(file["done"])

    def load(self) -> dict[str, np.ndarray] | None:
        """Arrays of the file; None without one.

        Raises:
            DataError: file damaged.
            PotentialError: of other structures or another potential.
        """
        if self.path is None or not self.path.exists():
            return None
        arrays = read_arrays(self.path)
        Checkpoint(None, "", self.identity).check(self.path, json.loads(str(arrays.pop(_IDENTITY))))
        return arrays

    def save(self, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write the sums, if the last time is long enough ago."""
        begin = time.monotonic()
        if self.path is None or begin - self._begin < max(SAVE_SECONDS, SAVE_SHARE * self._seconds):
            return
        # Straight to the file: in memory there may be no room for a second copy.
        write_arrays(self.path, {_IDENTITY: np.array(json.dumps(self.identity)), **arrays()})
        self._begin = time.monotonic()
        self._seconds = self._begin - begin

    def remove(self) -> None:
        """Delete the file: the pass has ended, and its result is kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
