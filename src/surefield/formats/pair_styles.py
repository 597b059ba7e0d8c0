"""What `pair_style` and `pair_coeff` of LAMMPS say: files and elements of SNAP, and what is added to it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ase.data import atomic_numbers, chemical_symbols

from surefield.errors import ConfigError, PotentialError
from surefield.formats.lammps_commands import Variables, commands
from surefield.potentials.zbl import ZBL
from surefield.text_file import read_text

__all__ = ["NULL", "PairCommands", "pair_commands", "reference_potential"]

#: Element of an atom type that SNAP leaves out.
NULL: Final = "NULL"
#: Versions of the same style for processors and graphics cards.
_VARIANTS: Final = re.compile(r"(zbl|snap)/(kk(/host|/device)?|omp|opt|gpu|intel)")
_DEEPEST: Final = 10


@dataclass
class PairCommands:
    """Commands about pairs, in the order of a file.

    Attributes:
        style: arguments of the last `pair_style`.
        pairs: arguments of every `pair_coeff` after it, but for those of SNAP.
        files: files of SNAP with coefficients and parameters; empty where no command names them.
        types: element of each atom type, `NULL` for those that SNAP leaves out; empty likewise.
    """

    style: str = ""
    pairs: list[str] = field(default_factory=list)
    files: tuple[str, ...] = ()
    types: list[str] = field(default_factory=list)

    def add(self, words: Sequence[str], where: Path) -> None:
        """Take a command in; those that are not about pairs leave no trace.

        Raises:
            PotentialError: other units than metal, other types than all for SNAP, or SNAP twice.
        """
        match words:
            case ["units", unit] if unit != "metal":
                raise PotentialError("only units metal are read", where=where, got=unit)
            case ["pair_style", *style]:
                self.style, self.pairs, self.files, self.types = " ".join(style), [], (), []
            case ["pair_coeff", *pair]:
                styles = _VARIANTS.sub(r"\1", " ".join([*pair[2:3], *self.style.split()[:1]])).split()
                if "snap" in styles:
                    self._add_snap(pair, where)
                else:
                    self.pairs.append(" ".join(pair))

    def _add_snap(self, pair: Sequence[str], where: Path) -> None:
        named = pair[2:3] and pair[2].partition("/")[0] == "snap"
        first, *rest = pair[3 if named else 2 :] or [""]
        # Of old, the elements to be read stood between the two files.
        place = next((i for i, word in enumerate(rest) if word not in (*chemical_symbols, NULL)), len(rest))
        types = rest[place + 1 :]
        if list(pair[:2]) != ["*", "*"] or not types or (self.files and self.types != types):
            what = "unusable pair_coeff of SNAP"
            expected = "one command, * * [snap] NAME.snapcoeff NAME.snapparam ELEMENT ..."
            raise PotentialError(what, where=where, got=" ".join(pair), expected=expected)
        self.files, self.types = self.files or (first, rest[place]), types

    def reference(self, elements: Sequence[str]) -> ZBL | None:
        """The potential that is added to SNAP; see `reference_potential`."""
        if self.pairs and not self.style:
            raise ConfigError("pair_coeff without a pair_style", got=self.pairs[0])
        return reference_potential(self.style, self.pairs, self.types or elements)


def pair_commands(path: Path) -> PairCommands:
    """Commands about pairs in a file, and in files beside it that it includes.

    Both sides of an `if` are read: they may differ in where the files of SNAP are, as those written here do.

    Raises:
        PotentialError: see `commands` and `PairCommands`.
    """
    result = PairCommands()
    _follow(path, result, {}, 0)
    return result


def _follow(path: Path, result: PairCommands, variables: Variables, depth: int) -> None:
    if depth > _DEEPEST:
        raise PotentialError(f"{path} includes itself")
    for words in commands(read_text(path, numbers=False), path, variables):
        match words:
            case ["include", name]:
                _follow(path.parent / name, result, variables, depth + 1)
            case ["if", _, "then", *branches]:
                for text in branches:
                    if text == "else":
                        continue
                    for inner in commands(text, path, variables):
                        if inner[0] != "pair_coeff" or ".snapcoeff" not in text:
                            raise PotentialError(f"'if' around {text!r} is not read", where=path)
                        result.add(inner, path)
            case _:
                result.add(words, path)


def reference_potential(style: str, pairs: Iterable[str], types: Sequence[str]) -> ZBL | None:
    """What the pair styles zero and zbl (others: an error) of LAMMPS add; None: nothing.

    Args:
        style: arguments of `pair_style`, such as 'hybrid/overlay zero 10.0 zbl 4.0 4.8'.
        pairs: arguments of each `pair_coeff`, such as '* * zbl 73 73'.
        types: element of each atom type; 'NULL' for those without SNAP.

    Raises:
        ConfigError: another style, malformed arguments, or charges that are not those of the elements.
    """
    styles: dict[str, list[str]] = {}
    name = ""
    style = _VARIANTS.sub(r"\1", style)
    for word in style.removeprefix("hybrid/overlay").split():
        if name == "zero" and word in ("full", "nocoeff"):
            continue
        if not word[0].isalpha() and name:
            styles[name].append(word)
            continue
        name = word
        if name not in ("zero", "zbl", "snap"):
            raise ConfigError(
                f"pair style {name!r} is not supported as a reference", expected="zero, zbl r1 r2"
            )
        if name in styles:
            raise ConfigError(f"pair style {name!r} is there twice", got=style)
        styles[name] = []
    if "zbl" not in styles:
        return None
    try:
        inner, outer = map(float, styles["zbl"])
    except ValueError:
        raise ConfigError("unusable pair_style", got=style, expected="zbl r1 r2 (Å)") from None
    _check_charges(style, pairs, types)
    return ZBL(list(dict.fromkeys(t for t in types if t != NULL)), inner, outer, switch="lammps")


def _check_charges(style: str, pairs: Iterable[str], types: Sequence[str]) -> None:
    numbered = [i for i, name in enumerate(types, 1) if name != NULL]
    missing = set(itertools.combinations_with_replacement(numbered, 2))
    alone = style.split()[0] == "zbl"
    for line in pairs:
        words = _VARIANTS.sub(r"\1", line).split()
        if not alone and words[2:3] != ["zbl"]:
            continue
        try:
            first, second = words[:2]
            z_first, z_second = map(float, words[2 if alone else 3 :])
        except ValueError:
            raise ConfigError("unusable pair_coeff", got=line, expected="i j zbl Zi Zj") from None
        for i, j in itertools.product(_range(first, len(types)), _range(second, len(types))):
            if i > j:
                continue
            if NULL in (types[i - 1], types[j - 1]):
                raise ConfigError("zbl acts on an atom type that SNAP leaves out (NULL)", got=line)
            charges = atomic_numbers[types[i - 1]], atomic_numbers[types[j - 1]]
            if (z_first, z_second) != charges:
                raise ConfigError(
                    "zbl charges are not the atomic numbers of the types",
                    got=line,
                    expected=f"{charges[0]} {charges[1]} for types {i} {j} ({types[i - 1]}, {types[j - 1]})",
                )
            missing.discard((i, j))
    if missing:
        i, j = min(missing)
        raise ConfigError(f"zbl has no pair_coeff for the types {i} {j} ({types[i - 1]}, {types[j - 1]})")


def _range(text: str, n: int) -> range:
    """Atom types of '*', '2', '1*2', '*2' or '2*'."""
    matched = re.fullmatch(r"(\d*)(\*?)(\d*)", text)
    if not matched or not text:
        raise ConfigError(f"unusable atom types {text!r} in pair_coeff")
    first, star, last = matched.groups()
    types = range(int(first or 1), (int(last or n) if star else int(first)) + 1)
    if types and not 1 <= types[0] <= types[-1] <= n:
        raise ConfigError(f"pair_coeff {text!r} is about more than the {n} atom types")
    return types
