"""What structures hold, as hashes: of geometry, labels and every further entry, each by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from ase import Atoms

from surefield import keys
from surefield.execution.identity import contents, digest
from surefield.structures.label_sources import results_of

__all__ = ["frame_contents", "frame_digest", "geometry_of"]

_WORDS: Final = {
    **dict.fromkeys((keys.WEIGHT, keys.STRUCTURE_WEIGHT, keys.ENERGY_WEIGHT), "weights"),
    **dict.fromkeys((keys.FORCE_WEIGHT, keys.ATOMIC_WEIGHTS), "atom weights"),
}


def frame_contents(frames: Iterable[Atoms], without: Collection[str] = ()) -> dict[str, Any]:
    """All that structures bring with them, as `execution.identity.contents` gives it.

    Args:
        frames: structures; results that a calculator has of another geometry do not count.
        without: entries of `info` and `arrays` that do not count either.
    """
    return contents(_parts(atoms, without) for atoms in frames)


def frame_digest(atoms: Atoms, without: Collection[str] = ()) -> str:
    """Hash of one structure with all that it brings with it."""
    return digest([(name, digest(value)) for name, value in _parts(atoms, without)])


def geometry_of(atoms: Atoms) -> Iterator[tuple[str, Any]]:
    """Elements, positions, cell and boundary conditions, to the last bit."""
    yield from (("elements", atoms.numbers), ("positions", atoms.positions))
    yield from (("cell", atoms.cell.array), ("pbc", atoms.pbc))


def _parts(atoms: Atoms, without: Collection[str]) -> Iterator[tuple[str, Any]]:
    yield from geometry_of(atoms)
    for place in (results_of(atoms), atoms.info, atoms.arrays):
        for key in sorted(place, key=str):
            if key not in ("numbers", "positions", *without):
                yield _WORDS.get(key, str(key)), [str(key), digest(place[key])]
