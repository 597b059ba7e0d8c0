"""`per_atom_weights` in all its forms: one array per configuration, tied to the configuration's id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, explain
from surefield.keys import ATOMIC_WEIGHTS

__all__ = ["read_atom_weights"]

_FORMS = "False, True, a list or array, the path of a file, or {configuration id: array}"


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
        found = [_stored(atoms, name) for atoms, name in zip(frames, ids, strict=True)]
    elif isinstance(given, Mapping):
        found = _by_id(given, ids, frames)
    elif isinstance(given, str | Path):
        found = _cut(_from_file(Path(given)), frames, str(given))
    elif isinstance(given, list | tuple | np.ndarray):
        found = _cut(_flat(given, "per_atom_weights"), frames, "per_atom_weights")
    else:
        got = f"{type(given).__name__} {given!r}"
        raise ConfigError(explain("unusable per_atom_weights", got=got, expected=_FORMS))
    for values, name in zip(found, ids, strict=True):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            raise DataError(
                explain(
                    "unusable atomic weight",
                    where=f"atom {wrong[0]} of configuration {name}",
                    got=values[wrong[0]],
                    expected="a finite number >= 0",
                )
            )
    return found


def _flat(given: Any, where: str) -> Float[np.ndarray, " n"]:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: not an array of numbers; accepted: {_FORMS}") from None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            explain("unusable atomic weights", where=where, got=values.shape, expected="(n_atoms,)")
        )
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
    found = atoms.arrays.get(ATOMIC_WEIGHTS, atoms.info.get(ATOMIC_WEIGHTS))
    if found is None:
        raise DataError(
            f"per_atom_weights=True, but configuration {name} has no {ATOMIC_WEIGHTS!r} in arrays or info"
        )
    return _checked(found, atoms, name)


def _by_id(given: Mapping[Any, Any], ids: Sequence[str], frames: Sequence[Atoms]) -> list[np.ndarray]:
    missing = [name for name in ids if name not in given]
    unknown = [str(name) for name in given if name not in set(ids)]
    if missing or unknown:
        what = f"missing: {', '.join(missing[:5])}" if missing else f"unknown: {', '.join(unknown[:5])}"
        raise DataError(f"per_atom_weights needs one array for every configuration id; {what}")
    return [_checked(given[name], atoms, name) for name, atoms in zip(ids, frames, strict=True)]


def _checked(found: Any, atoms: Atoms, name: str) -> Float[np.ndarray, " n_atoms"]:
    values = _flat(found, f"configuration {name}")
    if len(values) != len(atoms):
        raise DataError(
            f"configuration {name}: {len(values)} atomic weights given, it has {len(atoms)} atoms"
        )
    return values
