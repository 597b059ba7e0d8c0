"""Weights of structures and atoms in a loss: those that structures carry, and those of `per_atom_weights`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError
from surefield.keys import ATOMIC_WEIGHTS, ENERGY_WEIGHT, FORCE_WEIGHT, STRUCTURE_WEIGHT, WEIGHT

__all__ = ["FrameWeights", "frame_weights", "read_atom_weights"]

_FORMS = "False, True, a list or array, the path of a file, or {configuration id: array}"


class FrameWeights(NamedTuple):
    """Factors of the squared residuals of one structure.

    Attributes:
        structure: of all its terms.
        energy: of its energy, besides.
        atoms: (n_atoms,) of the forces on each atom, besides; None: all 1.
        relative: whether `atoms` are relative to their sum (`force_weight`), or absolute (`atomic_weights`).
    """

    structure: float
    energy: float
    atoms: Float[np.ndarray, " n_atoms"] | None
    relative: bool


def frame_weights(atoms: Atoms, where: object) -> FrameWeights:
    """Read the weights of a structure; 1 where it has none.

    `weight`, `energy_weight` (info) and `force_weight` (arrays; info in formats that keep no arrays) multiply
    squared residuals; `structure_weight` (info) and `atomic_weights` (arrays) multiply residuals and are
    squared here.

    Args:
        atoms: the structure.
        where: its origin, for messages.

    Raises:
        DataError: a weight is negative, not finite or of the wrong shape, or both kinds are there.
    """
    squared = [key for key in (WEIGHT, ENERGY_WEIGHT, FORCE_WEIGHT) if key in {*atoms.info, *atoms.arrays}]
    plain = [key for key in (STRUCTURE_WEIGHT, ATOMIC_WEIGHTS) if key in {*atoms.info, *atoms.arrays}]
    if squared and plain:
        raise DataError(
            "two kinds of weights",
            where=where,
            got=", ".join(squared + plain),
            expected=f"either {WEIGHT}, {ENERGY_WEIGHT}, {FORCE_WEIGHT} (of squared residuals) or "
            f"{STRUCTURE_WEIGHT}, {ATOMIC_WEIGHTS} (of residuals)",
        )
    structure = _number(atoms, WEIGHT, where) * _number(atoms, STRUCTURE_WEIGHT, where) ** 2
    energy = _number(atoms, ENERGY_WEIGHT, where)
    forces, absolute = _per_atom(atoms, FORCE_WEIGHT, where), _per_atom(atoms, ATOMIC_WEIGHTS, where)
    if absolute is not None:
        return FrameWeights(structure, energy, absolute**2, relative=False)
    return FrameWeights(structure, energy, forces, relative=forces is not None)


def _number(atoms: Atoms, key: str, where: object) -> float:
    value: Any = atoms.info.get(key, 1.0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number >= 0):
        raise DataError(f"unusable {key}", where=where, got=repr(value), expected="a finite number >= 0")
    return number


def _per_atom(atoms: Atoms, key: str, where: object) -> Float[np.ndarray, " n_atoms"] | None:
    weights = atoms.arrays.get(key, atoms.info.get(key))
    if weights is None:
        return None
    values = np.asarray(weights)
    fine = values.shape == (len(atoms),) and values.dtype.kind in "iuf"
    if not fine or not np.all(np.isfinite(values)) or np.any(values < 0):
        expected = f"one finite number >= 0 for each of {len(atoms)} atoms"
        raise DataError(f"unusable {key}", where=where, got=values, expected=expected)
    return values.astype(np.float64)


def read_atom_weights(
    given: Any, ids: Sequence[str], frames: Sequence[Atoms]
) -> list[Float[np.ndarray, " n_atoms"]] | None:
    """Weights of the atoms of each configuration; None where none are used.

    Args:
        given: False or None; True (`atomic_weights` of the configurations); one number per atom of the whole
            data as a list, array or file (text for `np.loadtxt`, or .npy); or {configuration id: array}.
        ids: of the configurations.
        frames: the configurations, in stored order.

    Raises:
        ConfigError: none of these forms.
        DataError: wrong number of weights, a field that is missing, or a weight that is not >= 0 and finite.
    """
    if given is None or given is False:
        return None
    if given is True:
        weights = [_stored(atoms, name) for atoms, name in zip(frames, ids, strict=True)]
    elif isinstance(given, Mapping):
        weights = _by_id(given, ids, frames)
    elif isinstance(given, str | Path):
        weights = _cut(_from_file(Path(given)), frames, str(given))
    elif isinstance(given, list | tuple | np.ndarray):
        weights = _cut(_flat(given, "per_atom_weights"), frames, "per_atom_weights")
    else:
        got = f"{type(given).__name__} {given!r}"
        raise ConfigError("unusable per_atom_weights", got=got, expected=_FORMS)
    for values, name in zip(weights, ids, strict=True):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            raise DataError(
                "unusable atomic weight",
                where=f"atom {wrong[0]} of configuration {name}",
                got=values[wrong[0]],
                expected="a finite number >= 0",
            )
    return weights


def _flat(given: Any, where: str) -> Float[np.ndarray, " n"]:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: not an array of numbers; accepted: {_FORMS}") from None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError("unusable atomic weights", where=where, got=values.shape, expected="(n_atoms,)")
    return values


def _from_file(path: Path) -> Float[np.ndarray, " n"]:
    if not path.is_file():
        raise DataError(f"per_atom_weights: there is no file {path.resolve()}")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is not a file of numbers: {error}") from None
    return _flat(values, str(path))


def _cut(values: Float[np.ndarray, " n"], frames: Sequence[Atoms], where: str) -> list[np.ndarray]:
    counts = [len(atoms) for atoms in frames]
    if len(values) != sum(counts):
        raise DataError(
            f"{where}: {len(values)} weights given, the dataset has {sum(counts)} atoms in "
            f"{len(frames)} configurations"
        )
    return np.split(values, np.cumsum(counts)[:-1])


def _stored(atoms: Atoms, name: str) -> Float[np.ndarray, " n_atoms"]:
    weights = atoms.arrays.get(ATOMIC_WEIGHTS, atoms.info.get(ATOMIC_WEIGHTS))
    if weights is None:
        raise DataError(
            f"per_atom_weights=True, but configuration {name} has no {ATOMIC_WEIGHTS!r} in arrays or info"
        )
    return _checked(weights, atoms, name)


def _by_id(given: Mapping[Any, Any], ids: Sequence[str], frames: Sequence[Atoms]) -> list[np.ndarray]:
    missing = [name for name in ids if name not in given]
    unknown = [str(name) for name in given if name not in set(ids)]
    if missing or unknown:
        what = f"missing: {', '.join(missing[:5])}" if missing else f"unknown: {', '.join(unknown[:5])}"
        raise DataError(f"per_atom_weights needs one array for every configuration id; {what}")
    return [_checked(given[name], atoms, name) for name, atoms in zip(ids, frames, strict=True)]


def _checked(weights: Any, atoms: Atoms, name: str) -> Float[np.ndarray, " n_atoms"]:
    values = _flat(weights, f"configuration {name}")
    if len(values) != len(atoms):
        raise DataError(
            f"configuration {name}: {len(values)} atomic weights given, it has {len(atoms)} atoms"
        )
    return values
