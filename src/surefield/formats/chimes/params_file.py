"""Reads the parameter file of ChIMES, `params.txt`, in any of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float

from surefield.descriptors.chimes.power_sets import PAIRS, power_codes
from surefield.descriptors.chimes.settings import ChimesSettings, CoefficientBlock, type_pairs
from surefield.errors import ConfigError
from surefield.formats.chimes.text_files import (
    SPECIAL,
    Lines,
    cutoff_function,
    limits_of,
    orders_of,
    read_text,
    special_rows,
)
from surefield.potentials.chimes.model import Chimes
from surefield.text_file import check_range

__all__ = ["EXACT", "HEADINGS", "KCAL", "OFF", "read_params"]

#: Files are in kcal/mol. Decimal numbers make the way there and back exact.
KCAL: Final = Decimal("23.060548")
EXACT: Final = Context(prec=60)
OFF: Final = ("USECOUL", "FITCOUL", "USEPOVR", "FITPOVR")
#: Orders of two, three and four bodies beyond which the tables of a damaged file would not fit into memory.
_HIGHEST: Final = (1000, 40, 10)
_UNREAD: Final = ("USE3BCH", "USE4BCH", "EXCLD1B", "EXCLD2B")
_MAPS: Final = ("PAIRMAPS", "TRIPMAPS", "QUADMAPS")
#: Headings of blocks of 3 and 4 atoms; the second is spelled like this in the files.
HEADINGS: Final = {3: "TRIPLETTYPE PARAMS", 4: "QUADRUPLETYPE PARAMS"}


def read_params(path: str | Path) -> Chimes:
    """Read a potential.

    Lines of pairs may have a column S_DELTA, power sets that are missing are zero, penalty and energy
    offsets may be missing; a file may be packed with xz.

    Raises:
        DataError: no such file, or a malformed line; the message has its number and what was expected.
        ConfigError: charges, or settings that surefield does not have.
    """
    return _Reader(Lines(read_text(path), Path(path).name)).potential()


@final
class _Reader:
    """Collects the sections of a file, which come in no fixed order up to the coefficients."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.orders = (0, 0, 0)
        self.types: list[str] = []
        self.masses: list[float] = []
        self.pairs: dict[tuple[int, int], tuple[float, float, float]] = {}
        self.transform = "MORSE"
        self.cutoff = ("CUBIC", 0.5)
        self.special: dict[tuple[int, str], Any] = {}
        self.penalty: dict[str, Any] = {}
        self.values = np.zeros(0)
        self.read: set[str] = set()

    def potential(self) -> Chimes:
        while self.lines.peek() not in ("", "ENDFILE"):
            self._section(self.lines.next("a section"))
        settings = self.settings
        self.lines.next("a section, or ENDFILE")
        for block in settings.blocks(2) if self.orders[0] else ():
            if block.label not in self.read:
                raise self.lines.error(f"no coefficients of {block.label}", "a block for every pair")
        return Chimes(settings, self.values)

    def _section(self, line: str) -> None:
        lines = self.lines
        head, _, rest = (part.strip() for part in line.partition(":"))
        special = SPECIAL.fullmatch(line)
        if special:
            self.special[int(special[1]), special[2]] = special_rows(lines, int(special[1]), special[3])
        elif head in OFF:
            if rest != "false":
                raise ConfigError(f"{head} is not supported", where=lines.name, got=rest, expected="false")
        elif head == "PAIRTYP":
            self.orders = orders_of(rest)
            if any(order > most for order, most in zip(self.orders, _HIGHEST, strict=True)):
                raise lines.error("orders that no file has", f"at most {_HIGHEST}", rest)
        elif head == "FCUT TYPE":
            self.cutoff = cutoff_function(rest)
        elif head == "ATOM TYPES":
            self._read_types(lines.count(rest))
        elif head == "ATOM PAIRS":
            self._read_pairs(lines.count(rest))
        elif head.startswith("PAIR CHEBYSHEV ") and rest:
            self._read_scale(head.removeprefix("PAIR CHEBYSHEV "), rest)
        elif head == "PAIRTYPE PARAMS":
            self._read_pair_block(rest)
        elif head in HEADINGS.values():
            self._read_block(3 if head == HEADINGS[3] else 4)
        elif head in _MAPS:
            for _ in range(lines.count(rest)):
                lines.next(f"{rest} lines of {head}")
        elif head == "NO ENERGY OFFSETS":
            self._read_offsets(lines.count(rest))
        elif head in _UNREAD or head.startswith(("ATOM PAIR ", "#")) or head.endswith("CHEBYSHEV PARAMS"):
            return
        else:
            raise lines.error("unknown section", "a heading of a ChIMES parameter file, or ENDFILE")

    def _rows(self, n: int, expected: str) -> list[list[str]]:
        rows: list[list[str]] = []
        while len(rows) < n:
            line = self.lines.next(expected)
            if not line.startswith("#"):
                row = line.split()
                if not row[0].isdecimal() or len(row) < 4:
                    raise self.lines.error("not a row of the table", expected)
                rows.append(row)
        return rows

    def _read_types(self, n: int) -> None:
        for row in self._rows(n, f"{n} rows of index, type, charge, mass"):
            charge, mass = self.lines.numbers(row[2:4], "charge and mass")
            if charge != 0:
                raise ConfigError("charges are not supported", where=self.lines.name, got=" ".join(row))
            self.types.append(row[1])
            self.masses.append(mass)

    def _read_pairs(self, n: int) -> None:
        expected = f"{n} rows of index, two types, S_MINIM, S_MAXIM, [S_DELTA], transformation, length"
        for row in self._rows(n, expected):
            if len(row) not in (7, 8) or any(name not in self.types for name in row[1:3]):
                raise self.lines.error("unusable pair", expected)
            low, high, length = self.lines.numbers([*row[3:5], row[-1]], expected)
            if self.pairs and row[-2] != self.transform:
                raise self.lines.error("two transformations in one file", f"{self.transform} as before")
            self.transform = row[-2]
            check_range(high, self.lines.name)
            a, b = sorted(self.types.index(name) for name in row[1:3])
            self.pairs[a, b] = (low, high, length)

    def _read_scale(self, name: str, text: str) -> None:
        (value,) = self.lines.numbers([text], f"a number for {name}")
        if name == "PENALTY DIST":
            self.penalty["penalty_distance"] = value
        elif name == "PENALTY SCALING":
            self.penalty["penalty_scale"] = _from_file(text)
        elif name != "CUBIC SCALING" or value != 1:
            raise self.lines.error("not supported", "PENALTY DIST, PENALTY SCALING, or CUBIC SCALING 1")

    @cached_property
    def settings(self) -> ChimesSettings:
        """Everything that stands before the coefficients, once it is known."""
        n = len(self.types)
        places = type_pairs(n)
        missing = [self.types[a] + self.types[b] for a, b in places if (a, b) not in self.pairs]
        if missing or not n:
            what = f"pairs {', '.join(missing)} are missing" if n else "ATOM TYPES are missing"
            raise self.lines.error(what, "ATOM TYPES and ATOM PAIRS before the coefficients")
        inner, outer, lengths = zip(*(self.pairs[p] for p in places), strict=True)
        settings = ChimesSettings(
            types=tuple(self.types),
            orders=self.orders,
            inner=inner,
            outer=outer,
            lengths=lengths,
            masses=tuple(self.masses),
            transform=self.transform,
            cutoff=self.cutoff[0],
            tersoff=self.cutoff[1],
            limits=limits_of(self.types, self.special),
            **self.penalty,
        )
        self.values = np.zeros(settings.n_columns)
        return settings

    def _block_of(self, m: int, names: Sequence[str]) -> CoefficientBlock:
        s = self.settings
        if len(names) == m and all(name in s.types for name in names):
            wanted = sorted(s.types.index(name) for name in names)
            for block in s.blocks(m):
                if sorted(block.types) == wanted and block.label not in self.read:
                    self.read.add(block.label)
                    return block
        expected = f"{m} of the types {', '.join(s.types)}, each once, and an order above 0 in PAIRTYP"
        raise self.lines.error("unknown cluster", expected)

    def _read_pair_block(self, rest: str) -> None:
        block = self._block_of(2, rest.split()[1:])
        n = block.sets.n_unique
        expected = f"{n} coefficients, each with a number below {n}"
        places = set()
        while (words := self.lines.peek().split()) and words[0].isdecimal():
            self.lines.next(expected)
            if len(words) != 2 or int(words[0]) >= n or int(words[0]) in places:
                raise self.lines.error("unusable coefficient", expected)
            self.lines.numbers(words[1:], expected)
            places.add(int(words[0]))
            self.values[block.first + int(words[0])] = _from_file(words[1])
        if len(places) < n:
            raise self.lines.error(f"{len(places)} coefficients of {block.label}", expected)

    def _read_block(self, m: int) -> None:
        words = self.lines.next("INDEX: n ATOMS: types").split()
        if words[:1] != ["INDEX:"] or words[2:3] != ["ATOMS:"]:
            raise self.lines.error("not understood", "INDEX: n ATOMS: types")
        names = words[3:]
        block = self._block_of(m, names)
        total = self._check_block_pairs(names)
        while self.lines.peek().startswith(("index", "--", "#")):
            self.lines.next("a power set")
        n_pairs, n = len(PAIRS[m]), block.n_powers
        expected = f"index, {n_pairs} powers below {n}, two indices, coefficient"
        codes = power_codes(block.sets.powers, n)
        known = set(codes.tolist())
        table = np.zeros(n**n_pairs)
        order = _pair_order(names, block, self.settings)
        rows: set[int] = set()
        while (row := self.lines.peek().split()) and row[0].isdecimal():
            self.lines.next(expected)
            if len(row) != n_pairs + 4:
                raise self.lines.error("unusable power set", expected)
            powers = np.array(self.lines.whole(row[1 : n_pairs + 1], expected))
            self.lines.numbers(row[-1:], expected)
            if powers.min() < 0 or powers.max() >= n:
                raise self.lines.error("power out of range", expected)
            (code,) = power_codes(powers[None, order], n).tolist()
            if code in rows:
                raise self.lines.error("a power set that is there twice", expected)
            rows.add(code)
            if code not in known:
                raise self.lines.error("the power set leaves an atom out", "a power > 0 at every atom")
            table[code] = _from_file(row[-1])
        if total is not None and len(rows) > total:
            raise self.lines.error(f"{len(rows)} power sets of {block.label}", f"{total}, as TOTAL says")
        self._share(block, table[codes])

    def _check_block_pairs(self, names: Sequence[str]) -> int | None:
        """Number of power sets that the line of the pairs states."""
        expected = "PAIRS: names of the pairs UNIQUE: n TOTAL: n"
        words = self.lines.next(expected).split()
        pairs = [{names[a] + names[b], names[b] + names[a]} for a, b in PAIRS[len(names)]]
        if words[:1] != ["PAIRS:"] or any(w not in p for w, p in zip(words[1:], pairs, strict=False)):
            raise self.lines.error("pairs that do not fit the atoms", expected)
        return self.lines.count(words[-1]) if "TOTAL:" in words[-2:-1] else None

    def _share(self, block: CoefficientBlock, table: Float[np.ndarray, " n_sets"]) -> None:
        """Coefficients from the values of all sets; those that share one must agree."""
        coefficients = table[block.sets.representatives]
        wrong = np.flatnonzero(table != coefficients[block.sets.unique])
        if len(wrong):
            powers = " ".join(map(str, block.sets.powers[wrong[0]].tolist()))
            expected = "one value for power sets that differ by exchanging equal atoms"
            raise self.lines.error(f"two coefficients for the powers {powers} of {block.label}", expected)
        self.values[block.columns] = coefficients

    def _read_offsets(self, n: int) -> None:
        first = self.settings.n_coefficients
        expected = "ENERGY OFFSET type value"
        for _ in range(n):
            words = self.lines.next(expected).split()
            if words[:2] != ["ENERGY", "OFFSET"] or len(words) != 4:
                raise self.lines.error("not an energy offset", expected)
            kind = self.lines.count(words[2]) - 1
            if not 0 <= kind < len(self.types):
                raise self.lines.error("unknown type", f"1 to {len(self.types)}")
            self.lines.numbers(words[3:], expected)
            self.values[first + kind] = _from_file(words[3])


def _pair_order(names: Sequence[str], block: CoefficientBlock, settings: ChimesSettings) -> list[int]:
    """For each pair of the block, its place among the pairs of the atoms in a file's order."""
    left = [settings.types.index(name) for name in names]
    atoms = []
    for kind in block.types:
        place = left.index(kind)
        atoms.append(place)
        left[place] = -1
    pairs = PAIRS[len(names)]
    return [pairs.index((min(atoms[a], atoms[b]), max(atoms[a], atoms[b]))) for a, b in pairs]


def _from_file(text: str) -> float:
    """kcal/mol to eV."""
    return float(EXACT.divide(Decimal(text), KCAL))
