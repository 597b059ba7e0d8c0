"""Stored labels that are revealed one by one, as if they were computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, final

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.execution.identity import contents
from surefield.loop.oracles.oracle import LabelTask, Oracle, Report
from surefield.structures.geometry import check_geometry
from surefield.structures.images import image_key
from surefield.structures.label_sources import without_labels
from surefield.structures.labels import Mapped, resolve_labels
from surefield.structures.read import read_frames

__all__ = ["POOL_INDEX", "ReplayOracle"]

#: Entry of `atoms.info` with the place of a structure in the pool.
POOL_INDEX: Final = "pool_index"


@final
class ReplayOracle(Oracle):
    """Reveals the labels of a labelled set, as if they were computed.

    Labelling raises `DataError` for a structure without `info["pool_index"]`, or another structure than the
    one with this index.

    Args:
        frames: labelled structures; each must have an energy.
        mapping: kind to key of the labels (`structures.labels.resolve_labels`).
        units: units of the labels (the same).
        name: for logs.

    Raises:
        DataError: a structure that cannot be computed or has no energy, or labels that contradict each other.
    """

    at_hand: ClassVar[bool] = True

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
    def attempts(self) -> Mapping[str, Any]:
        """None: its labels are there."""
        return {}

    @property
    def pool(self) -> list[Atoms]:
        """Copies of the structures without labels; `info["pool_index"]` is what labelling goes by."""
        return [atoms.copy() for atoms in self._frames]

    def task(self) -> LabelTask:
        """Look-up of the stored label."""
        return self._reveal

    def _reveal(self, atoms: Atoms) -> Report:
        return Report(self._labels[self._pool_index(atoms)].results())

    def _pool_index(self, atoms: Atoms) -> int:
        index = atoms.info.get(POOL_INDEX)
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self._frames):
            raise DataError(
                f"no usable info[{POOL_INDEX!r}]",
                where=f"a structure to label ({atoms.get_chemical_formula()})",
                got=repr(index),
                expected=f"0 to {len(self._frames) - 1}",
                fix="take the frames from ReplayOracle.pool",
            )
        known = self._frames[index]
        if image_key(known) != image_key(atoms):
            raise DataError(
                f"a structure to label has info[{POOL_INDEX!r}] {index} but is another than entry {index} of "
                f"the labelled set ({atoms.get_chemical_formula()} against {known.get_chemical_formula()})"
            )
        return int(index)


def _as_tuple(value: str | Sequence[str] | None) -> Sequence[str]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value
