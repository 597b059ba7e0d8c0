"""Structures moved in ways that change nothing, and proof that structures were left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.structures.tensors import from_voigt, to_voigt

__all__ = ["Snapshot", "random_rotation", "rotated", "rotated_stress", "strained", "translated"]


class Snapshot:
    """All that structures hold, to see later whether anything has changed."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        self.frames = list(frames)
        self.before = [_contents(atoms) for atoms in frames]

    def changed(self) -> int | None:
        """Number of the first structure that is not what it was, None if all are."""
        for index, (atoms, before) in enumerate(zip(self.frames, self.before, strict=True)):
            now = _contents(atoms)
            if now.keys() != before.keys() or not all(_equal(before[name], now[name]) for name in now):
                return index
        return None


def _contents(atoms: Atoms) -> dict[str, Any]:
    contents: dict[str, Any] = {f"arrays:{name}": value.copy() for name, value in atoms.arrays.items()}
    contents |= {f"info:{name}": np.copy(value) for name, value in atoms.info.items()}
    contents |= {"cell": atoms.cell.array.copy(), "pbc": atoms.pbc.copy(), "calc": id(atoms.calc)}
    if atoms.calc is not None:
        contents |= {f"calc:{name}": np.copy(value) for name, value in atoms.calc.results.items()}
    return contents


def _equal(first: Any, second: Any) -> bool:
    a, b = np.asarray(first), np.asarray(second)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


def random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Proper rotation, uniform over all of them; it acts on column vectors."""
    turn, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = turn * np.sign(np.diag(upper))
    return turn if np.linalg.det(turn) > 0 else -turn


def rotated(atoms: Atoms, turn: Float[np.ndarray, "3 3"]) -> Atoms:
    """Copy with positions and cell turned."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ turn.T)
    moved.positions = atoms.positions @ turn.T
    return moved


def rotated_stress(
    stress: Float[np.ndarray, " 6"], turn: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " 6"]:
    """Turn a stress in Voigt order xx yy zz yz xz xy."""
    return to_voigt(turn @ from_voigt(stress) @ turn.T)


def strained(atoms: Atoms, component: int, amount: float) -> Atoms:
    """Copy strained along one Voigt component; a shear is shared by the two halves of the tensor."""
    strain = from_voigt(np.where(np.arange(6) == component, amount if component < 3 else 0.5 * amount, 0.0))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return moved


def translated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Copy moved by a random vector; periodic structures are wrapped into their cell again."""
    moved = atoms.copy()
    moved.positions += rng.uniform(-5.0, 5.0, 3)
    if moved.pbc.any():
        moved.wrap()
    return moved
