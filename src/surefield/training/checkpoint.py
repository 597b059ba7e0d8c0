"""Checkpoints of training: one file of arrays, whole or not at all; exact resume, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from surefield.errors import PotentialError
from surefield.potentials.saving import load_arrays, pack, save_arrays, unpack
from surefield.storage.dataset import package_version
from surefield.training.dataset import Sample
from surefield.training.epochs import History, State

__all__ = ["Checkpoint", "changes", "check_identity", "data_digest", "identity_of"]

#: Parts of the state that are trees of arrays.
_TREES: Final = ("parameters", "optimizer", "average", "best")


def identity_of(*parts: Sequence[Sample], **entries: Any) -> dict[str, Any]:
    """What must be the same for a training to go on: its data, the version of the code, and further entries.

    Args:
        parts: samples of training and validation.
        entries: fit for JSON; a dictionary of settings is compared entry by entry.
    """
    entries |= {"samples": data_digest(*parts), "version": package_version()}
    return json.loads(json.dumps(entries))


def data_digest(*parts: Sequence[Sample]) -> str:
    """Hash of all that samples bring into a training: geometry, labels of all quantities, weights."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"part")
        for sample in part:
            for name, value in _contents(sample):
                array = np.ascontiguousarray(value)
                digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()[:32]


def _contents(sample: Sample) -> Iterator[tuple[str, Any]]:
    s = sample.structure
    yield from (("numbers", s.numbers), ("positions", s.positions), ("cell", s.cell), ("pbc", s.periodic))
    yield "counts", s.counts
    yield from (*sorted(s.inputs.items()), *sorted(sample.labels.results().items()))
    yield from (("weight", sample.weight), *((f"factor {k}", v) for k, v in sorted(sample.factors.items())))
    if sample.atom_weights is not None:
        yield "atom_weights", sample.atom_weights


def changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words; what the first does not state is not compared.

    Files of older versions state less.
    """
    texts = []
    for key, value in now.items():
        before = known.get(key, value)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            changed = {name: new for name, new in value.items() if before.get(name, new) != new}
            texts += [f"{name} was {before[name]!r}, now {new!r}" for name, new in changed.items()]
        elif before != value:
            texts.append(f"another {key}")
    return texts


@final
class Checkpoint:
    """The file from which an interrupted training goes on, bit by bit.

    Args:
        path: of the file; None: nothing is ever written.
        kind: of the file.
        identity: what must be the same for a training to go on, see `identity_of`.
    """

    def __init__(self, path: Path | None, kind: str, identity: Mapping[str, Any]) -> None:
        self.path, self.kind, self.identity = path, kind, identity

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
        check_identity(self.path, header, self.identity)
        trees = {name: unpack(getattr(start, name), arrays, f"{name}:") for name in _TREES}
        numbers = {name: arrays[name].item() for name in State._fields if name in arrays}
        return State(**trees, **numbers), History(json.loads(str(arrays["history"])))


def check_identity(path: Path, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a file is of this training.

    Raises:
        PotentialError: it is not; the message says what differs.
    """
    changed = changes(known, now)
    if changed:
        fix = "train into another folder, or restore what changed"
        raise PotentialError(f"{path} belongs to another training", got="; ".join(changed), fix=fix)
