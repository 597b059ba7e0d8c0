"""The input file of chimes_lsq, `fm_setup.in`: hyperparameters of a model to be fitted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from surefield.descriptors.chimes.power_sets import PAIRS
from surefield.descriptors.chimes.settings import ChimesSettings, type_pairs
from surefield.errors import ConfigError, check_known, nearest
from surefield.formats.chimes.text_files import (
    SPECIAL,
    Lines,
    cutoff_function,
    limits_of,
    orders_of,
    read_text,
    special_rows,
)

__all__ = ["read_setup", "settings_of"]

#: Entries that steer the program's own input and speed; they are kept and have no effect here.
_OF_THE_PROGRAM: Final = (
    "TRJFILE", "WRAPTRJ", "SPLITFI", "NFRAMES", "NLAYERS", "USENEIG", "SKIP_FRAMES", "NATMTYP"
)  # fmt: skip
_SWITCHED_OFF: Final = ("FITCOUL", "FITPOVR", "FITEATM", "USECOUL", "USEPOVR", "HIERARC")
_VALUES: Final = ("PAIRTYP", "CHBTYPE", "FCUTTYP", "FITSTRS", "FITENER", *_SWITCHED_OFF, *_OF_THE_PROGRAM)
_TABLES: Final = ("TYPEIDX", "PAIRIDX")
_SPECIALS: Final = tuple(f"SPECIAL {m}B {side}" for m in (3, 4) for side in ("S_MINIM", "S_MAXIM"))
_EXCLUDES: Final = tuple(f"EXCLUDE {m}B" for m in (1, 2, 3, 4))
_EXCLUDE: Final = re.compile(r"EXCLUDE\s+([1-4])B(?:\s+INTERACTION)?\s*:\s*(\S+)")
_NAME: Final = re.compile(r"#\s*([A-Z0-9_]+)\s*#")


def read_setup(path: str | Path) -> dict[str, Any]:
    """Read `fm_setup.in` into a dictionary that `settings_of` takes, fit for JSON.

    Values are texts; `TYPEIDX` and `PAIRIDX` are lists of dictionaries with the names of their columns,
    `SPECIAL 3B S_MAXIM` and so on 'ALL v' or lists of rows, `EXCLUDE 3B` and so on lists of lists of symbols.

    Raises:
        DataError: no such file, or a line that is not understood; the message has its number.
    """
    lines = Lines(read_text(path), Path(path).name)
    entries: dict[str, Any] = {}
    while lines.peek():
        line = lines.next("an entry")
        names = _NAME.findall(line)
        special, exclude = SPECIAL.fullmatch(line), _EXCLUDE.fullmatch(line)
        if special:
            key = f"SPECIAL {special[1]}B {special[2]}"
            entries[key] = special_rows(lines, int(special[1]), special[3])
        elif exclude:
            rows = [lines.next("an excluded cluster").split() for _ in range(lines.count(exclude[2]))]
            entries[f"EXCLUDE {exclude[1]}B"] = rows
        elif names and names[0] in _TABLES:
            n = lines.count(str(entries.get("NATMTYP", "0")))
            entries[names[0]] = _table(lines, names, n if names[0] == "TYPEIDX" else n * (n + 1) // 2)
        elif names and names[0] == "ENDFILE":
            break
        elif names and names[0] in _VALUES:
            entries[names[0]] = lines.next(f"the value of {names[0]}")
        elif names:
            raise lines.error("unknown entry", nearest(names[0], (*_VALUES, *_TABLES)))
        elif not line.startswith("#"):
            raise lines.error(
                "not understood", "# NAME # with the value on the next line, SPECIAL or EXCLUDE"
            )
    return entries


def _table(lines: Lines, names: Sequence[str], n_rows: int) -> list[dict[str, Any]]:
    columns = list(names)
    if columns[0] == "PAIRIDX":
        # The second atom's heading is often that of the first.
        columns[1:3] = ["ATM_TY1", "ATM_TY2"]
    if not n_rows:
        raise lines.error("NATMTYP must come first", "# NATMTYP # and the number of atom types")
    texts = ("ATM_TYP", "ATM_TY1", "ATM_TY2", "USEOVRP", "TYPEIDX", "PAIRIDX")
    rows = []
    for _ in range(n_rows):
        words = lines.next(f"{n_rows} rows of {' '.join(columns)}").split()
        if len(words) < min(len(columns), 7) or words[0].startswith("#"):
            raise lines.error(
                f"too few rows or columns below {columns[0]}", f"{n_rows} rows of {' '.join(columns)}"
            )
        row = dict(zip(columns, words, strict=False))
        rows.append(
            {k: v if k in texts else lines.numbers([v], f"a number for {k}")[0] for k, v in row.items()}
        )
    return rows


def settings_of(setup: Mapping[str, Any]) -> ChimesSettings:
    """Hyperparameters from the entries of `fm_setup.in`.

    `TRJFILE`, `WRAPTRJ`, `NFRAMES`, `NLAYERS`, `SPLITFI`, `USENEIG` and `SKIP_FRAMES` steer the program's own
    reading and speed and have no effect here.

    Raises:
        ConfigError: unknown or missing entries, values out of range, charges, what surefield does not have.
    """
    known = (*_VALUES, *_TABLES, *_SPECIALS, *_EXCLUDES)
    check_known(setup, known, "unknown entry {} of ChIMES settings")
    for key in ("PAIRTYP", "TYPEIDX", "PAIRIDX"):
        if key not in setup:
            raise ConfigError(f"ChIMES settings lack {key}; entries present: {', '.join(setup)}")
    for key in _SWITCHED_OFF:
        if str(setup.get(key, "false")).split()[:1] not in (["false"], ["False"]):
            fix = "remove the contribution from the labels first, and set it to false"
            raise ConfigError(f"{key} is not supported", got=setup[key], expected="false", fix=fix)
    types = [str(_entry(row, "ATM_TYP", "TYPEIDX")) for row in setup["TYPEIDX"]]
    charged = [
        t for t, row in zip(types, setup["TYPEIDX"], strict=True) if float(row.get("ATMCHRG", 0.0)) != 0
    ]
    if charged:
        raise ConfigError(
            f"charges are not supported: {', '.join(charged)}",
            expected="ATMCHRG 0",
            fix="subtract the Coulomb contribution from the labels, then set the charges to 0",
        )
    masses = [float(row["ATMMASS"]) for row in setup["TYPEIDX"] if "ATMMASS" in row]
    cutoff, tersoff = cutoff_function(str(setup.get("FCUTTYP", "CUBIC")))
    special = {
        (m, side): setup[key] for key in _SPECIALS if key in setup for m, side in [(int(key[8]), key[11:])]
    }
    excluded = [_kind(types, m, row) for m in (1, 2, 3, 4) for row in setup.get(f"EXCLUDE {m}B", ())]
    inner, outer, lengths = _pair_rows(types, setup["PAIRIDX"])
    return ChimesSettings(
        types=tuple(types),
        orders=orders_of(str(setup["PAIRTYP"])),
        inner=inner,
        outer=outer,
        lengths=lengths,
        masses=tuple(masses) if len(masses) == len(types) else (),
        transform=str(setup.get("CHBTYPE", "MORSE")),
        cutoff=cutoff,
        tersoff=tersoff,
        limits=limits_of(types, special),
        excluded=tuple(sorted(set(excluded))),
        fit_energy=_switch(setup, "FITENER", ("true", "false")),
        fit_stress=_switch(setup, "FITSTRS", ("true", "false", "ALL")),
    )


def _switch(setup: Mapping[str, Any], key: str, known: Sequence[str]) -> str | None:
    if key not in setup:
        return None
    value = str(setup[key]).strip()
    value = value.lower() if isinstance(setup[key], bool) else value
    if value not in known:
        fix = "choose the configurations by weights" if value.startswith("FIRST") else ""
        raise ConfigError(f"unusable {key}", got=value, expected=" or ".join(known), fix=fix)
    return value


def _entry(row: Mapping[str, Any], name: str, table: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise ConfigError(f"a row of {table} lacks {name}", got=row)
    return row[name]


def _pair_rows(
    types: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """S_MINIM, S_MAXIM, MORSE_LAMBDA in the order of `ChimesSettings.pairs`."""
    pairs = type_pairs(len(types))
    by_pair: dict[tuple[int, int], tuple[float, float, float]] = {}
    for row in rows:
        names = [str(_entry(row, key, "PAIRIDX")) for key in ("ATM_TY1", "ATM_TY2")]
        unknown = [name for name in names if name not in types]
        if unknown:
            raise ConfigError("unknown atom type", where="PAIRIDX", got=unknown[0], expected=list(types))
        a, b = sorted(types.index(name) for name in names)
        if (a, b) in by_pair:
            raise ConfigError("pair given twice", where="PAIRIDX", got="-".join(names))
        limits = [float(_entry(row, key, "PAIRIDX")) for key in ("S_MINIM", "S_MAXIM")]
        by_pair[a, b] = (limits[0], limits[1], float(row.get("MORSE_LAMBDA", 1.0)))
    missing = [types[a] + types[b] for a, b in pairs if (a, b) not in by_pair]
    if missing:
        raise ConfigError("pairs are missing", where="PAIRIDX", got=", ".join(missing))
    inner, outer, lengths = zip(*(by_pair[pair] for pair in pairs), strict=True)
    return inner, outer, lengths


def _kind(types: Sequence[str], m: int, row: Any) -> tuple[int, ...]:
    """Sorted types of an excluded cluster, from symbols or from one name made of the pairs' names."""
    words = [row] if isinstance(row, str) else [str(word) for word in row]
    kinds = list(itertools.combinations_with_replacement(range(len(types)), m))
    if len(words) == m and all(word in types for word in words):
        return tuple(sorted(types.index(word) for word in words))
    for kind in kinds:
        for order in set(itertools.permutations(kind)):
            labels = [
                types[min(order[a], order[b])] + types[max(order[a], order[b])] for a, b in PAIRS.get(m, ())
            ]
            if words == ["".join(labels)]:
                return kind
    raise ConfigError(
        "unknown excluded cluster",
        where=f"EXCLUDE {m}B",
        got=" ".join(words),
        expected=f"{m} of {', '.join(types)}, such as {' '.join([types[0]] * m)}",
    )
