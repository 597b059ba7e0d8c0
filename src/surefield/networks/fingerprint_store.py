"""Fingerprints of images, one image at a time, when they are asked for; kept in memory and in a folder."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from ase import Atoms

from surefield.descriptors.atomic_descriptor import AtomicDescriptor
from surefield.descriptors.derivatives import atomic_features, dense_derivatives
from surefield.errors import DataError, ExecutionError
from surefield.files import atomic_path, json_text, read_arrays
from surefield.structures.neighbors import neighborhood

__all__ = ["Computed", "Fingerprinted", "LazyMapping", "Recipe"]

#: Changes with the meaning of the numbers in a file, so that files of older programs are never read.
_FORMAT: Final = "surefield fingerprints 1"
V = TypeVar("V")


class LazyMapping(Mapping[str, V], Generic[V]):
    """Read-only mapping whose values are made at the first look, once each."""

    def __init__(self) -> None:
        self._makers: dict[str, tuple[Hashable, Callable[[], V]]] = {}
        self._made: dict[str, V] = {}

    def add(self, key: str, content: Hashable, make: Callable[[], V]) -> None:
        """Promise a value; it replaces an older one of this key, unless that is of the same content."""
        if key not in self._makers or self._makers[key][0] != content:
            self._makers[key] = (content, make)
            self._made.pop(key, None)

    def __getitem__(self, key: str) -> V:
        if key not in self._made:
            self._made[key] = self._makers[key][1]()
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"<{len(self)} images, {len(self._made)} of them evaluated>"


class Fingerprinted(Protocol):
    """Something that has fingerprints and derivatives, and stands for a certain content."""

    @property
    def content(self) -> Hashable:
        """Equal where fingerprints and derivatives are."""
        ...

    def fingerprints(self) -> Any:
        """Fingerprints of one image."""
        ...

    def primes(self) -> Any:
        """Derivatives of the fingerprints of one image."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How fingerprints are to be made.

    Attributes:
        descriptor: atomic descriptor.
        compiled: False evaluates operation by operation.
        folder: where values are kept, None for nowhere.
    """

    descriptor: AtomicDescriptor
    compiled: bool = True
    folder: Path | None = None

    @functools.cached_property
    def settings(self) -> bytes:
        """All settings of the descriptor, and the format of the files."""
        return f"{_FORMAT}\n{json_text(self.descriptor.config())}\n".encode()


class Computed:
    """Features and derivatives of one image.

    Attributes:
        atoms: the image as it was when this was made; the caller may move it later.
        recipe: how they are made.
        digest: name for exactly these atoms and all settings of the descriptor.
        content: the digest, and where the numbers come from.
    """

    def __init__(self, atoms: Atoms, recipe: Recipe) -> None:
        self.atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.recipe = recipe
        digest = hashlib.sha256(recipe.settings)
        for values, kind in (
            (atoms.numbers, "<i4"),
            (atoms.pbc, "u1"),
            (atoms.cell.array, "<f8"),
            (atoms.positions, "<f8"),
        ):
            digest.update(np.asarray(values, kind).tobytes())
        self.digest = digest.hexdigest()[:40]
        self.content = (self.digest, recipe.compiled, recipe.folder)

    def fingerprints(self) -> list[tuple[str, list[float]]]:
        """Element and functions of each atom."""
        rows = self._array("features", self._features).tolist()
        return [(symbol, row[: self._count(symbol)]) for symbol, row in zip(self._symbols, rows, strict=True)]

    def primes(self) -> dict[tuple[int, str, int, str, int], list[float]]:
        """dG_n/dR_m,x by (m, symbol of m, n, symbol of n, x); derivatives that are all zero are left out."""
        primes = self._array("derivatives", self._derivatives)
        symbols = self._symbols
        m, x, n = np.nonzero(np.any(primes != 0, axis=-1))
        values = primes[m, x, n].tolist()
        return {
            (i, symbols[i], k, symbols[k], direction): value[: self._count(symbols[k])]
            for i, direction, k, value in zip(m.tolist(), x.tolist(), n.tolist(), values, strict=True)
        }

    def _count(self, symbol: str) -> int:
        descriptor = self.recipe.descriptor
        return descriptor.n_features[descriptor.place(symbol)]

    @property
    def _symbols(self) -> list[str]:
        return self.atoms.get_chemical_symbols()

    def _features(self) -> np.ndarray:
        structure = neighborhood(self.atoms, self.recipe.descriptor.cutoff)
        return atomic_features(self.recipe.descriptor, [structure], compiled=self.recipe.compiled)[0]

    def _derivatives(self) -> np.ndarray:
        structure = neighborhood(self.atoms, self.recipe.descriptor.cutoff)
        return dense_derivatives(self.recipe.descriptor, [structure], compiled=self.recipe.compiled)[1][0]

    def _array(self, kind: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Array from the folder, or computed and put there."""
        if self.recipe.folder is None:
            return compute()
        path = self.recipe.folder / kind / f"{self.digest}.npz"
        if path.exists():
            try:
                return read_arrays(path)["values"]
            except (DataError, KeyError):  # damaged from outside: computed anew
                pass
        values = compute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "give another dblabel, or None to keep no fingerprints"
            raise ExecutionError(
                "cannot make the folder of fingerprints", where=path.parent, got=error, fix=fix
            ) from error
        with atomic_path(path) as temporary:
            np.savez(temporary, values=values)
        return values
