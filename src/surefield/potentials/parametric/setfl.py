"""Setfl files (eam/alloy and eam/fs of LAMMPS): tables of embedded-atom potentials, read and written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Float, Int

from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.potentials.parametric.edges import pair_index
from surefield.text_file import check_range, number, read_text, whole

__all__ = ["Setfl", "read_tables", "write_tables"]

#: Units other than those of LAMMPS's style 'metal' (eV, Å), as its files state them in their first line.
_OTHER_UNITS: Final = re.compile(r"\bUNITS:\s*(?!metal\b)(\w+)")


class Setfl(NamedTuple):
    """What a setfl file holds; eV, Å, tables as `EAM` takes them.

    Attributes:
        symbols: species in the order of the tables.
        embedding: of each species.
        density: of each species, or of each pair: those that a species feels, one after the other.
        pair: r times pair energies, pairs 11, 12, .., 22, ..
        dr: spacing of densities and pair energies.
        drho: spacing of embedding energies.
        cutoff: range.
    """

    symbols: tuple[str, ...]
    embedding: Float[np.ndarray, "n_species n_rho"]
    density: Float[np.ndarray, "n_densities n_r"]
    pair: Float[np.ndarray, "n_pairs n_r"]
    dr: float
    drho: float
    cutoff: float


def read_tables(path: str | Path) -> Setfl:
    """Tables of a setfl file, line by line as LAMMPS reads it: every table begins on a line of its own.

    Three lines of comments; number and names of the elements; numbers and spacings of the points, and the
    cutoff; for each element a line with number, mass and what else there is, its embedding energies and its
    densities: one (eam/alloy), or one for every element that feels it (eam/fs); then r times pair energies.

    Raises:
        PotentialError: no such file, not of that format, values missing or left over, as in files of adp.
    """
    path = Path(path)
    text = read_text(path, "setfl file")
    if other := _OTHER_UNITS.search(text.partition("\n")[0]):
        raise PotentialError("only units metal are read", where=path, got=other[1])
    lines = [(i, words) for i, line in enumerate(text.split("\n"), 1) if (words := line.split()) and i > 3]
    file = _Tables(path, lines)
    header, spacings = file.next("number and names of the elements"), file.next("five numbers")
    try:
        count, symbols = whole(header[0]), header[1:]
        n_rho, n_r = whole(spacings[0]), whole(spacings[2])
        drho, dr, cutoff = (number(spacings[i]) for i in (1, 3, 4))
        if count < 1 or min(n_rho, n_r) < 5:
            raise ValueError("fewer than five points")
    except (ValueError, IndexError) as error:
        fix = "a file of pair_style eam (funcfl) is none"
        raise PotentialError(f"{path} is not a setfl file: {error}", fix=fix) from None
    if count != len(symbols):
        raise PotentialError(f"{path}: {count} elements announced in line 4, {len(symbols)} named")
    if len(spacings) > 5:
        what, got = "not a file of eam/alloy or eam/fs, but perhaps of eam/he", f"{len(spacings)} numbers"
        raise PotentialError(what, where=f"{path}, line 5", got=got)
    check_range(cutoff, path)
    # LAMMPS takes the last value of a table beyond its end, which no file means for more than a step or two;
    # nor has one tables of which most cannot be reached.
    if not 0.25 * dr * n_r < cutoff <= dr * (n_r + 2):
        got = f"cutoff {cutoff}, tables that end at {dr * (n_r - 1):.6g}"
        raise PotentialError(
            "the cutoff lies beyond the tables, or far before their end", where=path, got=got
        )
    tables = _read_tables(file, count, n_rho, n_r)
    return Setfl(tuple(symbols), *tables, dr=dr, drho=drho, cutoff=cutoff)


class _Tables:
    """A walk over the lines of a file with tables."""

    def __init__(self, path: Path, lines: list[tuple[int, list[str]]]) -> None:
        self.path, self._lines, self.place = path, lines, 0

    def next(self, expected: str) -> list[str]:
        """Words of the next line."""
        if self.place >= len(self._lines):
            raise PotentialError(f"{self.path} is cut short", expected=expected)
        self.place += 1
        return self._lines[self.place - 1][1]

    @property
    def where(self) -> str:
        """The present line."""
        return f"{self.path}, line {self._lines[self.place - 1][0]}"

    def left(self) -> int:
        """Number of words that have not been read."""
        return sum(len(words) for _, words in self._lines[self.place :])

    def take(self, size: int, what: str) -> Float[np.ndarray, " size"]:
        """The table on the next lines."""
        values: list[float] = []
        while len(values) < size:
            words = self.next(f"{size - len(values)} more values of {what}")
            try:
                values += [number(word) for word in words]
            except ValueError as error:
                raise PotentialError(f"not a value of {what}", where=self.where, got=error) from None
        if len(values) > size:
            got = f"{len(values) - size} values left over on its last line"
            raise PotentialError(f"unusable table of {what}", where=self.where, got=got, expected=f"{size}")
        return np.array(values)

    def element(self, symbol: str) -> None:
        """The line before the tables of an element: number, mass, and words that nobody reads."""
        words = self.next(f"number and mass of {symbol}")
        try:
            whole(words[0])
            fine = number(words[1]) > 0 and not any(word[0] in "+-.0123456789" for word in words[3:])
        except (ValueError, IndexError):
            fine = False
        if not fine:
            expected = f"number and mass of {symbol}, after tables of the length that line 5 states"
            raise PotentialError(
                "malformed setfl file", where=self.where, got=" ".join(words), expected=expected
            )


def _read_tables(file: _Tables, n: int, n_rho: int, n_r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embedding energies, densities and pair energies, in the form that fits."""
    start = file.place
    forms = (n, 1) if file.path.suffix == ".fs" else (1, n)
    errors = []
    for densities in dict.fromkeys(forms):
        file.place = start
        try:
            return _read_form(file, n, n_rho, n_r, densities)
        except PotentialError as error:
            errors.append(error)
    raise errors[0]


def _read_form(
    file: _Tables, n: int, n_rho: int, n_r: int, densities: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    embedding, density = [], []
    for element in range(1, n + 1):
        file.element(f"element {element}")
        embedding.append(file.take(n_rho, f"the embedding energy of element {element}"))
        density.append([file.take(n_r, f"the density of element {element}") for _ in range(densities)])
    pair = np.empty((n * (n + 1) // 2, n_r))
    for place in _lower_to_upper(n):
        pair[place] = file.take(n_r, "the pair energies")
    if left := file.left():
        got = f"{left} values after the last table"
        if left == n * (n + 1) * n_r:
            got += ", as many as the dipole and quadrupole tables of a file of adp"
        raise PotentialError(
            "tables are left over: not an eam/alloy or eam/fs file", where=file.path, got=got
        )
    # A file has the densities of an element for all that feel it, the potential those that an element feels.
    tables = np.array(density).transpose(1, 0, 2).reshape(-1, n_r)
    return np.array(embedding), tables, pair


def write_tables(path: str | Path, tables: Setfl, comment: str) -> None:
    """Write a setfl file, of eam/fs if densities depend on pairs; reading it gives the same numbers."""
    symbols, embedding, density, pair, dr, drho, cutoff = tables
    n = len(symbols)
    by_source = density.reshape(-1, n, density.shape[1]).transpose(1, 0, 2).reshape(n, -1)
    spacings = f"{embedding.shape[1]} {drho!r} {density.shape[1]} {dr!r}"
    first = comment.replace("\n", " ")
    form = "eam/alloy" if len(density) == n else "eam/fs"
    lines = [first, f"{form}: embedding energies, densities, r times pair energies; eV, Å", ""]
    lines += [f"{n} {' '.join(symbols)}", f"{spacings} {cutoff!r}"]
    for row, symbol in enumerate(symbols):
        atomic_number = chemical_symbols.index(symbol)
        lines.append(f"{atomic_number} {atomic_masses[atomic_number]!s} 0.0 none")
        lines += [repr(value) for value in (*embedding[row].tolist(), *by_source[row].tolist())]
    for place in _lower_to_upper(n).tolist():
        lines += [repr(value) for value in pair[place].tolist()]
    write_atomic(path, "\n".join(lines) + "\n")


def _lower_to_upper(n: int) -> Int[np.ndarray, " n_pairs"]:
    """Place in the order 11, 12, .., 22, .. of the tables in a file: 11, 21, 22, 31, .."""
    return np.asarray(pair_index(n))[np.tril_indices(n)]
