"""Stillinger-Weber and Tersoff potentials as files of LAMMPS, `pair_style sw` and `tersoff`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import chemical_symbols

from surefield.errors import PotentialError
from surefield.potentials.parametric.edges import pair_index
from surefield.potentials.parametric.stillinger_weber import StillingerWeber
from surefield.potentials.parametric.tersoff import Tersoff
from surefield.text_file import check_range, number, read_text

__all__ = ["TERSOFF", "read_entries", "read_sw", "read_tersoff", "sw_text", "tersoff_text", "tersoff_values"]

#: Order of the numbers of an entry.
TERSOFF: Final = (
    *("m", "gamma", "lambda3", "c", "d", "h", "n", "beta"),
    *("lambda2", "B", "Rc", "Dc", "lambda1", "A"),
)
_SW: Final = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")
#: Digits to which files of several species state mixed strengths.
_DIGITS: Final = 2e-6

Entries = Mapping[tuple[str, str, str], Mapping[str, float]]


def read_sw(path: str | Path, species: Sequence[str] | None = None) -> StillingerWeber:
    """Stillinger-Weber potential of a file for LAMMPS.

    Args:
        path: of the file.
        species: names of the file that are used; None: all of it.

    Raises:
        PotentialError: no such file, not of that format, entries missing, or numbers that the form here does
            not have: different for i, j and j, i, strengths of triplets that are not the geometric mean of
            those of their bonds, angles that differ within a triplet, or a `tol`.
    """
    path = Path(path)
    entries, names = read_entries(path, _SW, species)
    pairs = list(itertools.combinations_with_replacement(names, 2))
    strength = {key: entry["epsilon"] * entry["lambda"] for key, entry in entries.items()}
    for i, j, k in itertools.product(names, repeat=3):
        mean = np.sqrt(strength[i, j, j] * strength[i, k, k])
        cosine = 0.5 * (entries[i, j, j]["costheta0"] + entries[i, k, k]["costheta0"])
        same = abs(strength[i, j, k] - mean) <= _DIGITS * mean
        if not same or abs(entries[i, j, k]["costheta0"] - cosine) > _DIGITS or entries[i, j, k]["tol"]:
            raise PotentialError(
                "strength, angle or tol of a triplet is not that of its bonds, which is not supported",
                where=f"{path}, {i} {j} {k}",
            )
    _check_symmetric(path, entries, names, [name for name in _SW if name != "lambda"])
    of = {name: np.array([entries[i, j, j][name] for i, j in pairs]) for name in _SW}
    values = {name: of[name] for name in ("B", "p", "q", "sigma", "costheta0")} | {
        "A": of["epsilon"] * of["A"],
        "gamma": of["gamma"] * of["sigma"],
        "cutoff": of["a"] * of["sigma"],
        "lambda": of["epsilon"] * of["lambda"],
    }
    for cutoff in values["cutoff"]:
        check_range(cutoff, path)
    return StillingerWeber(values, [_symbol(name) for name in names])  # type: ignore[call-arg]


def read_tersoff(path: str | Path, species: Sequence[str] | None = None) -> Tersoff:
    """Tersoff potential of a file for LAMMPS.

    Args:
        path: of the file.
        species: names of the file that are used; None: all of it.

    Raises:
        PotentialError: no such file, not of that format, entries missing, or bonds whose energy would depend
            on the order of the atoms.
    """
    path = Path(path)
    entries, names = read_entries(path, TERSOFF, species)
    _check_symmetric(path, entries, names, ("A", "lambda1", "Rc", "Dc"))
    for i, j, k in itertools.product(names, repeat=3):
        if entries[i, j, k]["m"] not in (1, 3):
            raise PotentialError("m must be 1 or 3", where=f"{path}, {i} {j} {k}", got=entries[i, j, k]["m"])
        check_range(entries[i, j, k]["Rc"] + entries[i, j, k]["Dc"], path)
    return Tersoff(tersoff_values(entries, names), [_symbol(name) for name in names])  # type: ignore[call-arg]


def sw_text(potential: StillingerWeber) -> str:
    """File of `pair_style sw`: one entry per ordered triplet, with energies in units of 1 eV."""
    of = {name: np.asarray(value) for name, value in potential.values.items()}
    n = len(potential.symbols)
    pairs = np.asarray(pair_index(n))
    lines = [f"# element1 element2 element3 {' '.join(_SW)}"]
    for i, j, k in itertools.product(range(n), repeat=3):
        bond, other = pairs[i, j], pairs[i, k]
        strength = np.sqrt(np.abs(of["lambda"][bond] * of["lambda"][other]))
        cosine = 0.5 * (of["costheta0"][bond] + of["costheta0"][other])
        sigma = of["sigma"][bond]
        numbers = [1.0, sigma, of["cutoff"][bond] / sigma, strength, of["gamma"][bond] / sigma, cosine]
        numbers += [*(of[name][bond] for name in ("A", "B", "p", "q")), 0.0]
        lines.append(_entry(potential.symbols, (i, j, k), numbers))
    return "\n".join(lines) + "\n"


def tersoff_text(potential: Tersoff) -> str:
    """File of `pair_style tersoff`: one entry per ordered triplet."""
    n = len(potential.symbols)
    lines = []
    for i, j, k in itertools.product(range(n), repeat=3):
        place = {"ordered pair": n * i + j, "triplet": n * n * i + n * j + k}
        numbers = [np.asarray(potential.values[name])[place[potential.FORMS[name].per]] for name in TERSOFF]
        numbers[0] = int(numbers[0])  # m
        lines.append(_entry(potential.symbols, (i, j, k), numbers))
    return "\n".join(lines) + "\n"


def _entry(symbols: Sequence[str], places: Sequence[int], numbers: Sequence[float]) -> str:
    words = [str(n) if isinstance(n, int) else repr(float(n)) for n in numbers]
    return " ".join([*(symbols[place] for place in places), *words])


def tersoff_values(entries: Entries, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Values of `Tersoff` from those of the triplets; parameters of bonds i, j are those of i, j, j."""
    triplets = [(i, j, k) for i in names for j in names for k in names]
    bonds = [(i, j, j) for i in names for j in names]
    return {
        name: np.array([entries[key][name] for key in (triplets if form.per == "triplet" else bonds)])
        for name, form in Tersoff.FORMS.items()
    }


def read_entries(
    path: Path, columns: Sequence[str], species: Sequence[str] | None
) -> tuple[dict[tuple[str, str, str], dict[str, float]], list[str]]:
    """Entries of a file by their three names, and the names that are used, in the order of the file.

    Raises:
        PotentialError: no such file, malformed or repeated entries, entries missing, or other units.
    """
    text = read_text(path, "parameter file")
    if other := re.search(r"\bUNITS:\s*(?!metal\b)(\w+)", text):
        raise PotentialError("only units metal are read", where=path, got=other[1])
    words = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    width = 3 + len(columns)
    entries: dict[tuple[str, str, str], dict[str, float]] = {}
    for start in range(0, len(words), width):
        key, values = words[start : start + 3], []
        with suppress(ValueError):
            values = [number(word) for word in words[start + 3 : start + width]]
        named = all(name[0].isalpha() for name in key) and tuple(key) not in entries
        if len(values) < len(columns) or not named:
            raise PotentialError(
                "malformed or repeated entry",
                where=path,
                got=" ".join(words[start : start + width]),
                expected=f"three names and {len(columns)} numbers ({', '.join(columns)})",
            )
        entries[key[0], key[1], key[2]] = dict(zip(columns, values, strict=True))
    names = list(species or dict.fromkeys(name for key in entries for name in key))
    missing = [key for key in itertools.product(names, repeat=3) if key not in entries]
    if missing or not names:
        what = " ".join(missing[0]) if missing else "an element with itself"
        fix = "give species, the names that belong together" if species is None else ""
        raise PotentialError(f"there is no entry of {what}", where=path, fix=fix)
    if len({_symbol(name) for name in names}) < len(names):
        fix = "give species, one name of each element"
        raise PotentialError("several names of one element", where=path, got=names, fix=fix)
    return entries, names


def _symbol(name: str) -> str:
    """Chemical symbol of a name such as 'Si(D)'."""
    symbol = name.partition("(")[0]
    if symbol not in chemical_symbols[1:]:
        raise PotentialError(f"{name!r} is not a chemical symbol")
    return symbol


def _check_symmetric(path: Path, entries: Entries, names: Sequence[str], columns: Sequence[str]) -> None:
    for i, j in itertools.combinations(names, 2):
        for name in columns:
            one, other = entries[i, j, j][name], entries[j, i, i][name]
            if abs(one - other) > _DIGITS * max(abs(one), abs(other)):
                what = (
                    f"{name} of {i} {j} {j} and {j} {i} {i} differ: the energy depends on the order of atoms"
                )
                raise PotentialError(what, where=path, got=f"{one}, {other}")
