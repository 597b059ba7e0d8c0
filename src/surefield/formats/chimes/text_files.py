"""Lines of ChIMES's text files with their numbers, and what its two kinds of files have in common."""

from __future__ import annotations

import itertools
import lzma
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from surefield.descriptors.chimes.power_sets import PAIRS
from surefield.descriptors.chimes.settings import CUTOFFS, Limits
from surefield.errors import ConfigError, DataError
from surefield.text_file import number, whole

__all__ = ["SPECIAL", "Lines", "cutoff_function", "limits_of", "orders_of", "read_text", "special_rows"]

#: Heading of special cutoffs: bodies, side, rest.
SPECIAL = re.compile(r"SPECIAL\s+([34])B\s+(S_MINIM|S_MAXIM)\s*:\s*(.*)")


def read_text(path: str | Path) -> str:
    """Content of a text file, which may be packed with xz.

    Raises:
        DataError: no such file, or not text.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}")
    try:
        data = path.read_bytes()
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
    except (UnicodeDecodeError, lzma.LZMAError) as error:
        raise DataError(f"{path} is not a text file: {error}") from None


@final
class Lines:
    """A walk over the lines of a file that are not empty.

    Args:
        text: content of the file.
        name: of the file, for messages.
        comments: drop what stands behind '!'.
    """

    def __init__(self, text: str, name: str, *, comments: bool = True) -> None:
        stripped = ((line.split("!", 1)[0] if comments else line).strip() for line in text.splitlines())
        self._lines = [(n, line) for n, line in enumerate(stripped, start=1) if line]
        self._place = -1
        self.name = name

    def peek(self) -> str:
        """The line after the present one; empty at the end."""
        return self._lines[self._place + 1][1] if self._place + 1 < len(self._lines) else ""

    def next(self, expected: str) -> str:
        """Go to the next line; an error says what was expected there."""
        self._place += 1
        if self._place >= len(self._lines):
            raise self.error("the file ends too early", expected)
        return self._lines[self._place][1]

    def error(self, what: str, expected: object, got: object = None) -> DataError:
        """The error for the present line."""
        if self._place < len(self._lines):
            number, line = self._lines[max(self._place, 0)] if self._lines else (1, "")
            return DataError(what, where=f"{self.name}:{number}", got=got or repr(line), expected=expected)
        last = self._lines[-1][0] if self._lines else 0
        return DataError(what, where=f"{self.name}:{last}", got="end of file", expected=expected)

    def numbers(self, words: Sequence[str], expected: str) -> list[float]:
        """Words of the present line as numbers."""
        try:
            return [number(word) for word in words]
        except ValueError:
            raise self.error("not a finite number", expected) from None

    def whole(self, words: Sequence[str], expected: str) -> list[int]:
        """Words of the present line as whole numbers."""
        try:
            return [whole(word) for word in words]
        except ValueError:
            raise self.error("not a whole number", expected) from None

    def count(self, word: str) -> int:
        """A word of the present line as a number of things."""
        (n,) = self.whole([word], "a number")
        if n < 0:
            raise self.error("negative number", "a number >= 0")
        return n


def special_rows(lines: Lines, bodies: int, rest: str) -> str | list[list[Any]]:
    """What follows the heading of special cutoffs: 'ALL v', or n rows of name, pair names, values.

    Raises:
        DataError: not n rows of that form; also when there are more.
    """
    n_pairs = len(PAIRS[bodies])
    words = rest.split()
    if len(words) == 2 and words[0] == "ALL":
        lines.numbers(words[1:], "ALL and a distance")
        return rest
    if len(words) != 2 or words[0] != "SPECIFIC":
        raise lines.error("unusable special cutoffs", "ALL v or SPECIFIC n")
    expected = f"{words[1]} lines of a name, {n_pairs} pairs and {n_pairs} distances"
    rows = []
    for _ in range(lines.count(words[1])):
        row = lines.next(expected).split()
        if not _is_special_row(row, n_pairs):
            raise lines.error("too few special cutoffs", expected)
        rows.append([*row[: n_pairs + 1], *lines.numbers(row[n_pairs + 1 :], expected)])
    if _is_special_row(lines.peek().split(), n_pairs):
        lines.next(expected)
        raise lines.error("too many special cutoffs", expected)
    return rows


def _is_special_row(row: Sequence[str], n_pairs: int) -> bool:
    if len(row) != 2 * n_pairs + 1 or row[0].startswith("#"):
        return False
    try:
        [number(word) for word in row[n_pairs + 1 :]]
    except ValueError:
        return False
    return True


def limits_of(types: Sequence[str], special: Mapping[tuple[int, str], Any]) -> Limits:
    """Special cutoffs of `ChimesSettings` from what `special_rows` gave.

    Args:
        types: chemical symbols in the order of the file.
        special: by bodies and 'S_MINIM' or 'S_MAXIM'.

    Raises:
        ConfigError: pairs that form no cluster, or two values for pairs of one kind in a cluster.
    """
    names = {types[a] + types[b]: tuple(sorted((a, b))) for a in range(len(types)) for b in range(len(types))}
    limits = []
    for (bodies, side), value in special.items():
        where = f"SPECIAL {bodies}B {side}"
        name = "inner" if side == "S_MINIM" else "outer"
        by_pairs = {
            tuple(sorted(tuple(sorted((kind[a], kind[b]))) for a, b in PAIRS[bodies])): kind
            for kind in itertools.combinations_with_replacement(range(len(types)), bodies)
        }
        if isinstance(value, str):
            limit = float(value.split()[1])
            limits += [
                (bodies, name, k, tuple((p, limit) for p in sorted(set(pairs))))
                for pairs, k in by_pairs.items()
            ]
            continue
        n_pairs = len(PAIRS[bodies])
        for row in value:
            labels, values = [str(x) for x in row[1 : n_pairs + 1]], [float(x) for x in row[n_pairs + 1 :]]
            unknown = [label for label in labels if label not in names]
            if unknown or len(values) != n_pairs:
                expected = f"{n_pairs} of the pairs {', '.join(names)}, and a distance for each"
                raise ConfigError("unusable special cutoff", where=where, got=row, expected=expected)
            kind = by_pairs.get(tuple(sorted(names[label] for label in labels)))
            if kind is None:
                raise ConfigError("these pairs form no cluster", where=where, got=row)
            table = dict(zip((names[label] for label in labels), values, strict=True))
            if any(table[names[label]] != v for label, v in zip(labels, values, strict=True)):
                fix = "pairs of the same elements cannot be told apart: give them one value"
                raise ConfigError("two values for one kind of pair", where=where, got=row, fix=fix)
            limits.append((bodies, name, kind, tuple(sorted(table.items()))))
    return tuple(limits)  # type: ignore[return-value]


def orders_of(text: str) -> tuple[int, int, int]:
    """O2, O3, O4 of 'CHEBYSHEV O2 O3 O4 -1 1'.

    Raises:
        ConfigError: another interaction, other numbers, or another range of the variable than -1 to 1.
    """
    words = text.split()
    expected = "CHEBYSHEV O2 [O3 [O4]] [-1 1]"
    fine = words[:1] == ["CHEBYSHEV"] and len(words) > 1
    try:
        values = [number(word) for word in words[1:]]
    except ValueError:
        values, fine = [], False
    if len(values) > 3 or values[-2:] == [-1, 1]:
        fine = fine and values[-2:] == [-1, 1]
        values = values[:-2]
    if not fine or not 1 <= len(values) <= 3 or any(v < 0 or v != int(v) for v in values):
        raise ConfigError("unusable PAIRTYP", got=repr(text), expected=expected)
    padded = [int(v) for v in values] + [0, 0]
    return padded[0], padded[1], padded[2]


def cutoff_function(text: str) -> tuple[str, float]:
    """Name and fraction of 'CUBIC' or 'TERSOFF v'.

    Raises:
        ConfigError: anything else.
    """
    words = text.split()
    if words[:1] == ["CUBIC"] and len(words) == 1:
        return "CUBIC", 0.5
    try:
        name, value = words
        fraction = number(value)
    except ValueError:
        name, fraction = "", 0.0
    if name != "TERSOFF":
        expected = f"one of {', '.join(CUTOFFS)}; TERSOFF with a fraction"
        raise ConfigError("unusable FCUTTYP", got=repr(text), expected=expected)
    return name, fraction
