"""Writes the parameter file of ChIMES, `params.txt`, for the public calculator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np

from surefield.descriptors.chimes.power_sets import PAIRS
from surefield.descriptors.chimes.settings import ChimesSettings, CoefficientBlock
from surefield.errors import ConfigError
from surefield.files import write_atomic
from surefield.formats.chimes.params_file import EXACT, HEADINGS, KCAL, OFF
from surefield.potentials.chimes.model import Chimes

__all__ = ["params_text", "write_params"]

#: Digits behind the point: they outlast the rounding of the way back.
_DIGITS: Final = 24


def _to_file(value: float) -> str:
    """eV to kcal/mol; 0 stays short."""
    return f"{EXACT.multiply(Decimal(value), KCAL):.{_DIGITS}e}" if value else "0.0"


def write_params(path: str | Path, potential: Chimes, comment: str = "") -> None:
    """Write a potential for the public ChIMES calculator; reading it back gives the same numbers.

    Raises:
        ConfigError: a transformation that the calculator does not read.
        ExecutionError: the file cannot be written.
    """
    write_atomic(path, params_text(potential, comment))


def params_text(potential: Chimes, comment: str = "") -> str:
    """What `write_params` writes."""
    s = potential.settings
    if s.transform != "MORSE":
        raise ConfigError(
            "the public ChIMES calculator reads MORSE only",
            got=s.transform,
            fix="save the potential with save_potential instead",
        )
    values = [_to_file(float(c)) for c in potential.coefficients]
    lines = [f"! {line}" for line in comment.splitlines()]
    lines += [*_head(s), *_special_lines(s), ""]
    lines += [f"ATOM PAIR TRIPLETS: {len(s.blocks(3))}", f"ATOM PAIR QUADRUPLETS: {len(s.blocks(4))}", ""]
    lines += ["PAIR CHEBYSHEV PARAMS", ""]
    for place, block in enumerate(s.blocks(2)):
        columns = values[block.columns] if block.active else ["0.0"] * block.sets.n_unique
        a, b = (s.types[t] for t in s.pairs[place])
        rows = [f"{k} {value}" for k, value in enumerate(columns)]
        lines += [f"PAIRTYPE PARAMS: {place} {a} {b}", "", *rows, ""]
    for m, name in ((3, "TRIPLET"), (4, "QUADRUPLET")):
        if s.blocks(m):
            lines += [f"{name} CHEBYSHEV PARAMS", ""]
        for place, block in enumerate(s.blocks(m)):
            lines += [f"{HEADINGS[m]}:", *_block_lines(s, place, block, values), ""]
    lines += _map_lines(s)
    offsets = np.zeros(len(s.types)).tolist()
    for column, kind in enumerate(s.offset_types, s.n_coefficients):
        offsets[kind] = float(potential.coefficients[column])
    if any(offsets):
        lines += [f"NO ENERGY OFFSETS: {len(offsets)}"]
        lines += [f"ENERGY OFFSET {t} {_to_file(value)}" for t, value in enumerate(offsets, start=1)]
    return "\n".join([*lines, "ENDFILE", ""])


def _head(s: ChimesSettings) -> list[str]:
    o2, o3, o4 = s.orders
    lines = [f"{name}: false" for name in OFF]
    lines += [f"USE3BCH: {str(o3 > 0).lower()}", f"USE4BCH: {str(o4 > 0).lower()}", ""]
    lines += [f"PAIRTYP: CHEBYSHEV {o2} {o3} {o4} -1 1", "", f"ATOM TYPES: {len(s.types)}", ""]
    lines += ["# TYPEIDX # # ATM_TYP # # ATMCHRG # # ATMMASS #"]
    lines += [f"{t} {name} 0 {mass!r}" for t, (name, mass) in enumerate(zip(s.types, s.masses, strict=True))]
    lines += ["", f"ATOM PAIRS: {len(s.pairs)}", ""]
    lines += ["# PAIRIDX # # ATM_TY1 # # ATM_TY2 # # S_MINIM # # S_MAXIM # # CHBDIST # # MORSE_LAMBDA #"]
    for place, (a, b) in enumerate(s.pairs):
        limits = f"{s.inner[place]!r} {s.outer[place]!r} {s.transform} {s.lengths[place]!r}"
        lines.append(f"{place} {s.types[a]} {s.types[b]} {limits}")
    lines += ["", f"PAIR CHEBYSHEV PENALTY DIST: {s.penalty_distance!r}"]
    lines += [f"PAIR CHEBYSHEV PENALTY SCALING: {_to_file(s.penalty_scale)}", ""]
    lines += [f"FCUT TYPE: {s.cutoff}" + (f" {s.tersoff!r}" if s.cutoff == "TERSOFF" else ""), ""]
    return lines


def _special_lines(s: ChimesSettings) -> list[str]:
    lines = []
    for m, side in itertools.product((3, 4), ("inner", "outer")):
        special = [limit for limit in s.limits if limit[:2] == (m, side)]
        if special:
            lines.append(
                f"SPECIAL {m}B {'S_MINIM' if side == 'inner' else 'S_MAXIM'}: SPECIFIC {len(special)}"
            )
        for _, _, kind, values in special:
            ordered = sorted(kind, key=lambda t: s.types[t])
            pairs = [tuple(sorted((ordered[a], ordered[b]))) for a, b in PAIRS[m]]
            default = s.inner if side == "inner" else s.outer
            numbers = [dict(values).get((a, b), default[s.pair_place(a, b)]) for a, b in pairs]
            name = "".join(s.types[kind[a]] + s.types[kind[b]] for a, b in PAIRS[m])
            labels = " ".join(s.types[a] + s.types[b] for a, b in pairs)
            lines.append(f"{name} {labels} {' '.join(map(repr, numbers))}")
    return lines


def _block_lines(s: ChimesSettings, place: int, block: CoefficientBlock, values: Sequence[str]) -> list[str]:
    sets = block.sets
    labels = [s.types[a] + s.types[b] for a, b in (s.pairs[p] for p in block.pairs)]
    lines = [f"   INDEX: {place} ATOMS: {' '.join(s.types[t] for t in block.types)}"]
    lines += [f"   PAIRS: {' '.join(labels)} UNIQUE: {sets.n_unique} TOTAL: {len(sets.unique)}"]
    lines += [
        "     index  |  powers  |  equiv index  |  param index  |       parameter       ",
        "   " + "-" * 76,
    ]
    first = sets.representatives
    for index, (powers, unique) in enumerate(zip(sets.powers.tolist(), sets.unique.tolist(), strict=True)):
        numbers = " ".join(map(str, powers))
        lines.append(f"{index} {numbers} {first[unique]} {unique} {values[block.first + unique]}")
    return lines


def _map_lines(s: ChimesSettings) -> list[str]:
    """Block of every ordered choice of types, by the names of its pairs."""
    lines = []
    n = len(s.types)
    for m, name in ((2, "PAIRMAPS"), (3, "TRIPMAPS"), (4, "QUADMAPS")):
        blocks = {tuple(sorted(b.types)): place for place, b in enumerate(s.blocks(m))}
        places = {}
        for kind in itertools.product(range(n), repeat=m):
            pairs = [(kind[a], kind[b]) for a, b in PAIRS[m]]
            if m > 2:
                pairs = [(min(pair), max(pair)) for pair in pairs]
            label = "".join(s.types[a] + s.types[b] for a, b in pairs)
            if tuple(sorted(kind)) in blocks:
                places[label] = blocks[tuple(sorted(kind))]
        if places:
            lines += [f"{name}: {len(places)}", *(f"{places[label]} {label}" for label in sorted(places)), ""]
    return lines
