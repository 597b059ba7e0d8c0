"""SNAP potentials as files of LAMMPS: .snapcoeff, .snapparam, and .mod with the commands that use them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, PotentialError, nearest
from surefield.files import write_atomic
from surefield.potentials.potential import SumPotential
from surefield.potentials.snap.snap import Snap
from surefield.potentials.zbl import ZBL

__all__ = ["FLAGS", "read_snap", "reference_potential", "write_snap"]

#: Numbers and switches of .snapparam, with what LAMMPS takes where they are missing.
_NUMBERS: Final = {"rcutfac": None, "rfac0": 0.99363, "rmin0": 0.0}
FLAGS: Final = {
    "switchflag": True,
    "bzeroflag": True,
    "quadraticflag": False,
    "chemflag": False,
    "bnormflag": False,
    "wselfallflag": False,
    "switchinnerflag": False,
}
#: Lists, and settings of LAMMPS that change speed only.
_LISTS, _OTHERS = ("sinner", "dinner"), ("chunksize", "parallelthresh")


def write_snap(
    prefix: str | Path, potential: Snap | SumPotential, types: Sequence[str] | None = None
) -> list[Path]:
    """Write `prefix`.snapcoeff, .snapparam and .mod.

    Args:
        prefix: path without suffix; its folder is there.
        potential: SNAP, or its sum with ZBL of the switch 'lammps'.
        types: element of each LAMMPS atom type; ascending atomic numbers by default.

    Raises:
        ConfigError: types that are not the elements of the potential.
        PotentialError: a sum that LAMMPS' pair styles cannot give.
    """
    prefix = Path(prefix)
    snap, zbl = _parts(potential)
    order = _order(types, snap.species)
    symbols = [chemical_symbols[snap.species[place]] for place in order]
    reference = _pair_lines(symbols, zbl)
    texts = {
        ".snapcoeff": _coefficients_text(snap, order),
        ".snapparam": _parameters_text(snap, order, reference),
        ".mod": _commands_text(prefix.name, symbols, reference),
    }
    paths = [prefix.with_name(prefix.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def read_snap(prefix: str | Path, *, reference: bool = True) -> Snap | SumPotential:
    """Read `prefix`.snapcoeff and .snapparam of this package, FitSNAP or LAMMPS.

    Args:
        prefix: path without suffix, or of the .snapcoeff file.
        reference: add the reference potential that .mod states, or without that file the comments that
            FitSNAP leaves in .snapparam.

    Raises:
        PotentialError: a file is missing or malformed.
        ConfigError: a pair style other than zero, zbl and snap.
    """
    prefix = Path(str(prefix).removesuffix(".snapcoeff"))
    symbols, radii, weights, table = _read_coefficients(prefix.with_name(prefix.name + ".snapcoeff"))
    parameters = prefix.with_name(prefix.name + ".snapparam")
    settings = _read_parameters(parameters, len(symbols))
    ascending = sorted(range(len(symbols)), key=lambda i: atomic_numbers[symbols[i]])
    quadratic = settings.pop("quadraticflag")
    settings |= {name: tuple(settings[name][i] for i in ascending) for name in _LISTS if name in settings}
    descriptor = Bispectrum(
        species=tuple(atomic_numbers[symbols[i]] for i in ascending),
        radelem=tuple(radii[i] for i in ascending),
        wj=tuple(weights[i] for i in ascending),
        **settings,
    )
    snap = Snap(descriptor, quadratic)
    if table.shape[1] != snap.n_solvable + 1:
        raise PotentialError(
            "coefficients do not fit the parameters",
            where=prefix,
            got=f"{table.shape[1]} per element",
            expected=f"{snap.n_solvable + 1} for twojmax {descriptor.twojmax} and the flags",
        )
    order = [ascending.index(i) for i in range(len(symbols))]
    values = table[ascending]
    columns = np.argsort(_columns(descriptor, order)) if descriptor.chemflag else slice(None)
    arrays = jnp.asarray(values[:, 0]), jnp.asarray(values[:, 1:][:, columns])
    snap = eqx.tree_at(lambda p: (p.bias, p.readout), snap, arrays)
    zbl = None
    if reference:
        style, pairs = _pair_commands(prefix.with_name(prefix.name + ".mod"), parameters)
        zbl = reference_potential(style, pairs, _types_of(pairs) or symbols)
    return snap if zbl is None else SumPotential(snap, zbl)


def reference_potential(style: str, pairs: Iterable[str], types: Sequence[str]) -> ZBL | None:
    """What the pair styles zero and zbl (others: an error) of LAMMPS add; None: nothing.

    Args:
        style: arguments of `pair_style`, such as 'hybrid/overlay zero 10.0 zbl 4.0 4.8'.
        pairs: arguments of each `pair_coeff`, such as '* * zbl 73 73'.
        types: element of each atom type.

    Raises:
        ConfigError: another style, malformed arguments, or charges that are not those of the elements.
    """
    styles: dict[str, list[str]] = {}
    name = ""
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
        styles[name] = []
    if "zbl" not in styles:
        return None
    try:
        inner, outer = map(float, styles["zbl"])
    except ValueError:
        raise ConfigError("unusable pair_style", got=style, expected="zbl r1 r2 (Å)") from None
    _check_charges(style, pairs, types)
    return ZBL(types, inner, outer, switch="lammps")


def _check_charges(style: str, pairs: Iterable[str], types: Sequence[str]) -> None:
    missing = set(itertools.combinations_with_replacement(range(1, len(types) + 1), 2))
    alone = style.split()[0] == "zbl"
    for line in pairs:
        words = line.split()
        if not alone and words[2:3] != ["zbl"]:
            continue
        try:
            first, second = words[:2]
            z_first, z_second = map(float, words[2 if alone else 3 :])
        except ValueError:
            raise ConfigError("unusable pair_coeff", got=line, expected="i j zbl Zi Zj") from None
        for i, j in itertools.product(_range(first, len(types)), _range(second, len(types))):
            charges = atomic_numbers[types[i - 1]], atomic_numbers[types[j - 1]]
            if i <= j and (z_first, z_second) != charges:
                raise ConfigError(
                    "zbl charges are not the atomic numbers of the types",
                    got=line,
                    expected=f"{charges[0]} {charges[1]} for types {i} {j} ({types[i - 1]}, {types[j - 1]})",
                )
            missing.discard((min(i, j), max(i, j)))
    if missing:
        i, j = min(missing)
        raise ConfigError(f"zbl has no pair_coeff for the types {i} {j} ({types[i - 1]}, {types[j - 1]})")


def _range(text: str, n: int) -> range:
    """Atom types of '*', '2', '1*2', '*2' or '2*'."""
    matched = re.fullmatch(r"(\d*)(\*?)(\d*)", text)
    if not matched or not text:
        raise ConfigError(f"unusable atom types {text!r} in pair_coeff")
    first, star, last = matched.groups()
    return range(int(first or 1), (int(last or n) if star else int(first)) + 1)


def _parts(potential: Snap | SumPotential) -> tuple[Snap, ZBL | None]:
    zbl = None
    if isinstance(potential, SumPotential):
        zbl, potential = potential.baseline, potential.learned  # type: ignore[assignment]
        if not (isinstance(zbl, ZBL) and zbl.switch == "lammps"):
            raise PotentialError("LAMMPS adds ZBL with switch='lammps' to SNAP, no other baseline")
    if not isinstance(potential, Snap):
        raise PotentialError(f"a {type(potential).__name__} is no SNAP potential")
    return potential, zbl


def _order(types: Sequence[str] | None, species: tuple[int, ...]) -> list[int]:
    """Place in `species` of each type."""
    elements = [chemical_symbols[z] for z in species]
    names = elements if types is None else list(types)
    if sorted(names) != sorted(elements):
        raise ConfigError(f"types {names} are not the elements {elements} of the potential")
    return [elements.index(name) for name in names]


def _columns(descriptor: Bispectrum, order: Sequence[int]) -> Int[np.ndarray, " width"]:
    """Own column of each column that LAMMPS has, whose triples of elements go by its atom types."""
    n = descriptor.n_channels
    each = descriptor.width // n**3
    triples = [(e1 * n + e2) * n + e3 for e1 in order for e2 in order for e3 in order]
    return (each * np.array(triples)[:, None] + np.arange(each)).ravel()


def _shared_evenly(snap: Snap) -> Float[np.ndarray, "n_species n_columns"]:
    """Coefficients, of which those of equal columns are replaced by their mean.

    With `chemflag` some triples differ in their order only. Energies do not change, but the forces of LAMMPS
    are their derivatives only where such columns have equal coefficients.
    """
    readout = np.asarray(snap.readout)
    if not snap.descriptor.chemflag:
        return readout
    _, group, counts = np.unique(
        np.sort(snap.descriptor.triples, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    sums = np.stack([np.bincount(group, weights=row) for row in readout])
    return (sums / counts)[:, group]


def _pair_lines(symbols: Sequence[str], zbl: ZBL | None) -> list[str]:
    """Commands of the reference potential."""
    if zbl is None:
        return []
    lines = [f"pair_style hybrid/overlay zbl {zbl.inner!r} {zbl.cutoff!r}"]
    for i, j in itertools.combinations_with_replacement(range(len(symbols)), 2):
        lines.append(
            f"pair_coeff {i + 1} {j + 1} zbl {atomic_numbers[symbols[i]]} {atomic_numbers[symbols[j]]}"
        )
    return lines


def _coefficients_text(snap: Snap, order: Sequence[int]) -> str:
    descriptor, width = snap.descriptor, snap.n_solvable
    columns = _columns(descriptor, order) if descriptor.chemflag else np.arange(width)
    readout = _shared_evenly(snap)
    names = descriptor.names(descriptor.symbols[0])
    names += (
        [f"{a}; {b}" for a, b in itertools.combinations_with_replacement(names, 2)] if snap.quadratic else []
    )
    constants = np.asarray(snap.bias + snap.offsets)
    lines = ["# SNAP coefficients, written by surefield", "", f"{len(order)} {width + 1}"]
    for place in order:
        lines.append(f"{descriptor.symbols[place]} {descriptor.radelem[place]!r} {descriptor.wj[place]!r}")
        values = [constants[place], *readout[place, columns]]
        labels = ["constant", *(names[c] for c in columns)]
        lines += [f"{float(v)!r}  # {label}" for v, label in zip(values, labels, strict=True)]
    return "\n".join([*lines, "", "# end", ""])


def _parameters_text(snap: Snap, order: Sequence[int], reference: Sequence[str]) -> str:
    d = snap.descriptor
    flags = vars(d) | {"quadraticflag": snap.quadratic, "switchinnerflag": bool(d.sinner)}
    lines = ["# SNAP parameters, written by surefield", f"rcutfac {d.rcutfac!r}", f"twojmax {d.twojmax}"]
    lines += [f"rfac0 {d.rfac0!r}", f"rmin0 {d.rmin0!r}"]
    lines += [f"{name} {int(flags[name])}" for name in FLAGS]
    if d.sinner:
        for name in _LISTS:
            lines.append(" ".join([name, *(repr(getattr(d, name)[place]) for place in order)]))
    return "\n".join([*lines, *(f"# {line}" for line in reference), ""])


def _commands_text(name: str, symbols: Sequence[str], reference: Sequence[str]) -> str:
    lines = [f"# LAMMPS, units metal: include {name}.mod"]
    style, *pairs = reference or ["pair_style"]
    lines += [f"{style} snap", *pairs]
    sub = "snap " if reference else ""
    return "\n".join(
        [*lines, f"pair_coeff * * {sub}{name}.snapcoeff {name}.snapparam {' '.join(symbols)}", ""]
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PotentialError(f"cannot read {path}: {error}") from None


def _read_coefficients(
    path: Path,
) -> tuple[list[str], list[float], list[float], Float[np.ndarray, "n_species n_coefficients"]]:
    """Elements, radii, weights and coefficients."""
    lines = [
        (i, words) for i, line in enumerate(_lines(path), 1) if (words := line.partition("#")[0].split())
    ]

    def bad(place: int, expected: str) -> PotentialError:
        number, words = lines[place] if place < len(lines) else ("last", ["nothing"])
        return PotentialError(
            "malformed file", where=f"{path}, line {number}", got=" ".join(words), expected=expected
        )

    try:
        n, count = (int(word) for word in lines[0][1])
        if n < 1 or count < 1:
            raise ValueError
    except (IndexError, ValueError):
        raise bad(0, "number of elements and of coefficients") from None
    symbols, radii, weights, table = [], [], [], []
    for place in range(1, 1 + n * (count + 1), count + 1):
        try:
            symbol, radius, weight = lines[place][1]
            radii.append(float(radius))
            weights.append(float(weight))
        except (IndexError, ValueError):
            raise bad(place, "element, radius and weight") from None
        if symbol not in chemical_symbols[1:] or symbol in symbols:
            raise bad(place, "a chemical symbol, each once")
        symbols.append(symbol)
        for row in range(place + 1, place + 1 + count):
            try:
                (number,) = lines[row][1]
                table.append(float(number))
            except (IndexError, ValueError):
                raise bad(row, f"one of {count} coefficients of {symbol}") from None
    if len(lines) > 1 + n * (count + 1):
        raise bad(1 + n * (count + 1), "the end of the file")
    return symbols, radii, weights, np.array(table).reshape(n, count)


def _read_parameters(path: Path, n_elements: int) -> dict[str, Any]:
    """Arguments of `Bispectrum` besides elements, radii and weights; `quadraticflag`."""
    entries: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(path), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        known = (*_NUMBERS, "twojmax", *FLAGS, *_LISTS, *_OTHERS)
        if words[0] not in known:
            raise PotentialError(f"{path}, line {number}: unknown {words[0]!r}; {nearest(words[0], known)}")
        entries[words[0]] = words[1:]
    for name in ("rcutfac", "twojmax"):
        if name not in entries:
            raise PotentialError(f"{path} has no {name}")
    name = ""
    try:
        settings: dict[str, Any] = {}
        for name, default in _NUMBERS.items():
            settings[name] = _one(entries[name], float) if name in entries else default
        for name, default in FLAGS.items():
            settings[name] = bool(_one(entries[name], int)) if name in entries else default
        name = "twojmax"
        settings[name] = _one(entries[name], int)
        inner = settings.pop("switchinnerflag")
        for name in _LISTS if inner else ():
            settings[name] = [float(word) for word in entries.get(name, [])]
            if len(settings[name]) != n_elements:
                raise ValueError(f"{n_elements} values are needed")
    except ValueError as error:
        raise PotentialError(f"unusable {name}", where=path, got=str(error)) from None
    return settings


def _one(words: Sequence[str], kind: type) -> Any:
    (word,) = words
    return kind(word)


def _pair_commands(commands: Path, parameters: Path) -> tuple[str, list[str]]:
    """Arguments of `pair_style` and of each `pair_coeff`."""
    lines = (
        _lines(commands) if commands.exists() else [x.lstrip("# ") for x in _lines(parameters) if "#" in x]
    )
    commands_of_pairs = [line.partition("#")[0].split(maxsplit=1) for line in lines]
    styles = [words[1] for words in commands_of_pairs if words[:1] == ["pair_style"] and len(words) == 2]
    return (styles or [""])[-1], [w[1] for w in commands_of_pairs if w[:1] == ["pair_coeff"] and len(w) == 2]


def _types_of(pairs: Iterable[str]) -> list[str]:
    """Elements of the atom types, from the command that assigns the files."""
    for line in pairs:
        _, _, tail = line.partition(".snapparam")
        if tail.strip():
            return tail.split()
    return []
