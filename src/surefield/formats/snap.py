"""SNAP potentials as files of LAMMPS: .snapcoeff, .snapparam, and .mod with the commands that use them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
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
from surefield.formats.pair_styles import NULL, PairCommands, pair_commands, reference_potential
from surefield.potentials.potential import SumPotential
from surefield.potentials.snap.snap import Snap
from surefield.potentials.zbl import ZBL
from surefield.text_file import check_range, number, read_text, whole

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
#: First line of parameters written here, which state all of these.
_HEADING: Final = "# SNAP parameters, written by surefield"
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
        ".mod": _commands_text(prefix, symbols, reference),
    }
    paths = [prefix.with_name(prefix.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def read_snap(prefix: str | Path, *, reference: bool = True) -> Snap | SumPotential:
    """Read `prefix`.snapcoeff and .snapparam of this package, FitSNAP or LAMMPS.

    Args:
        prefix: path without suffix, or of one of the files. Of .mod or .snap, a file with commands, the files
            are read that it names, beside it.
        reference: add the reference potential that is stated in .mod or .snap beside the coefficients, or in
            the comments that FitSNAP leaves in .snapparam; elements that no atom type has there are left out.

    Raises:
        PotentialError: a file is missing or malformed, or the reference is stated in two ways.
        ConfigError: a pair style other than zero, zbl and snap.
    """
    coefficients, parameters, stated = _files(Path(prefix), reference)
    symbols, radii, weights, table = _read_coefficients(coefficients)
    settings = _read_parameters(parameters, len(symbols))
    zbl, elements = None, symbols
    if reference:
        zbl, elements = _stated(stated, parameters, symbols)
    if elements != symbols:
        if settings["chemflag"]:
            fix = "its components depend on all elements: give each an atom type"
            raise PotentialError("chemflag with elements left out", where=parameters, got=elements, fix=fix)
        kept = [symbols.index(symbol) for symbol in elements]
        symbols, radii, weights = elements, [radii[i] for i in kept], [weights[i] for i in kept]
        table = table[kept]
        settings |= {name: [settings[name][i] for i in kept] for name in _LISTS if name in settings}
    snap = _potential(symbols, radii, weights, table, settings, coefficients)
    return snap if zbl is None else SumPotential(snap, zbl)


def _files(path: Path, reference: bool) -> tuple[Path, Path, list[PairCommands]]:
    """Coefficients, parameters, and what the files with commands beside them say."""
    if path.suffix in (".mod", ".snap") and path.is_file():
        sources = [path]
    else:
        name = path.name.removesuffix(".snapcoeff").removesuffix(".snapparam")
        paths = [path.with_name(name + suffix) for suffix in (".snapcoeff", ".snapparam", ".mod", ".snap")]
        sources = [p for p in paths[2:] if p.is_file()]
        if paths[0].is_file() or not sources:
            return paths[0], paths[1], [pair_commands(p) for p in sources] if reference else []
    stated = [pair_commands(p) for p in sources]
    if not stated[0].files:
        raise PotentialError(f"{sources[0]} names no files of SNAP (pair_coeff * * NAME.snapcoeff ...)")
    coefficients, parameters = (
        here if (here := path.parent / Path(file).name).is_file() else path.parent / file
        for file in stated[0].files
    )
    return coefficients, parameters, stated


def _stated(
    sources: Sequence[PairCommands], parameters: Path, symbols: list[str]
) -> tuple[ZBL | None, list[str]]:
    """The reference potential, and the elements of the atom types in the order of the coefficients."""
    for source in sources:
        if not (source.style and source.files):
            fix = "the file with commands beside the coefficients may be cut short"
            raise PotentialError(f"no pair_style and pair_coeff of SNAP beside {parameters}", fix=fix)
    comments = PairCommands()
    for line in read_text(parameters).splitlines():
        if line.startswith("#") and (words := line.lstrip("# ").split())[:1] in (
            ["pair_style"],
            ["pair_coeff"],
        ):
            comments.add(words, parameters)
    stated = [source for source in (*sources, comments) if source.style or source.pairs]
    if not stated:
        return None, symbols
    types = next((source.types for source in stated if source.types), symbols)
    unknown = [name for name in types if name not in (*symbols, NULL)]
    if unknown or all(name == NULL for name in types):
        raise PotentialError(
            "no such elements in the coefficients", where=parameters, got=types, expected=symbols
        )
    potentials = [source.reference(types) for source in stated]
    configs = [None if potential is None else potential.config() for potential in potentials]
    if any(config != configs[0] for config in configs):
        raise PotentialError(
            "the reference potential is stated in two ways",
            where=f".mod, .snap or comments beside {parameters}",
            got=configs,
            fix="remove the wrong one",
        )
    return potentials[0], [symbol for symbol in symbols if symbol in types]


def _potential(
    symbols: list[str],
    radii: list[float],
    weights: list[float],
    table: Float[np.ndarray, "n_species n_coefficients"],
    settings: dict[str, Any],
    where: Path,
) -> Snap:
    """Elements in ascending order, columns in that of the elements."""
    ascending = sorted(range(len(symbols)), key=lambda i: atomic_numbers[symbols[i]])
    quadratic = settings.pop("quadraticflag")
    settings |= {name: tuple(settings[name][i] for i in ascending) for name in _LISTS if name in settings}
    got = f"{table.shape[1]} per element"
    # The number of components grows as twojmax^3/24; a damaged number is not worth its tables.
    if settings["twojmax"] ** 3 > 24 * table.shape[1]:
        raise PotentialError("coefficients do not fit the parameters", where=where, got=got)
    descriptor = Bispectrum(
        species=tuple(atomic_numbers[symbols[i]] for i in ascending),
        radelem=tuple(radii[i] for i in ascending),
        wj=tuple(weights[i] for i in ascending),
        **settings,
    )
    check_range(descriptor.cutoff, where)
    snap = Snap(descriptor, quadratic)
    if table.shape[1] != snap.n_solvable + 1:
        expected = f"{snap.n_solvable + 1} for twojmax {descriptor.twojmax} and the flags"
        raise PotentialError(
            "coefficients do not fit the parameters", where=where, got=got, expected=expected
        )
    order = [ascending.index(i) for i in range(len(symbols))]
    values = table[ascending]
    columns = np.argsort(_columns(descriptor, order)) if descriptor.chemflag else slice(None)
    arrays = jnp.asarray(values[:, 0]), jnp.asarray(values[:, 1:][:, columns])
    return eqx.tree_at(lambda p: (p.bias, p.readout), snap, arrays)


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
    lines = [f"pair_style hybrid/overlay zbl {zbl.inner!r} {zbl.outer!r}"]
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
    lines = [_HEADING, f"rcutfac {d.rcutfac!r}", f"twojmax {d.twojmax}"]
    lines += [f"rfac0 {d.rfac0!r}", f"rmin0 {d.rmin0!r}"]
    lines += [f"{name} {int(flags[name])}" for name in FLAGS]
    if d.sinner:
        for name in _LISTS:
            lines.append(" ".join([name, *(repr(getattr(d, name)[place]) for place in order)]))
    return "\n".join([*lines, *(f"# {line}" for line in reference), ""])


def _commands_text(prefix: Path, symbols: Sequence[str], reference: Sequence[str]) -> str:
    style, *pairs = reference or ["pair_style"]
    lines = ["# LAMMPS, units metal: include FOLDER/NAME.mod, from any folder", f"{style} snap", *pairs]
    start = f"pair_coeff * * {'snap ' if reference else ''}"
    elements = " ".join(symbols)
    here, place = f"{start}{prefix.name}.snapcoeff {prefix.name}.snapparam {elements}", prefix.resolve()
    if re.fullmatch(r"[\w/. +=@:~-]+", str(place)) is None:  # no way to quote it in LAMMPS
        return "\n".join([*lines, here, ""])
    # LAMMPS looks for files from the folder it runs in. A folder that was moved has to be that one.
    there = f"{start}'{place}.snapcoeff' '{place}.snapparam' {elements}"
    choice = f'if "$(is_file({place}.snapcoeff)) == 1" then "{there}" else "{here}"'
    return "\n".join([*lines, choice, ""])


def _read_coefficients(
    path: Path,
) -> tuple[list[str], list[float], list[float], Float[np.ndarray, "n_species n_coefficients"]]:
    """Elements, radii, weights and coefficients."""
    lines = [
        (i, words)
        for i, line in enumerate(read_text(path).splitlines(), 1)
        if (words := line.partition("#")[0].split())
    ]

    def bad(place: int, expected: str) -> PotentialError:
        line, words = lines[place] if place < len(lines) else ("last", ["nothing"])
        return PotentialError(
            "malformed file", where=f"{path}, line {line}", got=" ".join(words), expected=expected
        )

    try:
        n, count = (whole(word) for word in lines[0][1])
        if n < 1 or count < 1:
            raise ValueError
    except (IndexError, ValueError):
        raise bad(0, "number of elements and of coefficients") from None
    symbols, radii, weights, table = [], [], [], []
    for place in range(1, 1 + n * (count + 1), count + 1):
        try:
            symbol, radius, weight = lines[place][1]
            radii.append(number(radius))
            weights.append(number(weight))
        except (IndexError, ValueError):
            raise bad(place, "element, radius and weight") from None
        if symbol not in chemical_symbols[1:] or symbol in symbols:
            raise bad(place, "a chemical symbol, each once")
        symbols.append(symbol)
        for row in range(place + 1, place + 1 + count):
            try:
                (value,) = lines[row][1]
                table.append(number(value))
            except (IndexError, ValueError):
                raise bad(row, f"one of {count} coefficients of {symbol}") from None
    if len(lines) > 1 + n * (count + 1):
        raise bad(1 + n * (count + 1), "the end of the file")
    return symbols, radii, weights, np.array(table).reshape(n, count)


def _read_parameters(path: Path, n_elements: int) -> dict[str, Any]:
    """Arguments of `Bispectrum` besides elements, radii and weights; `quadraticflag`."""
    entries: dict[str, list[str]] = {}
    text = read_text(path)
    for place, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        known = (*_NUMBERS, "twojmax", *FLAGS, *_LISTS, *_OTHERS)
        if words[0] not in known:
            raise PotentialError(f"{path}, line {place}: unknown {words[0]!r}; {nearest(words[0], known)}")
        entries[words[0]] = words[1:]
    required = ("rcutfac", "twojmax")
    if text.startswith(_HEADING):
        required += (*_NUMBERS, *FLAGS)
    for name in required:
        if name not in entries:
            raise PotentialError(f"{path} has no {name}")
    name = ""
    try:
        settings: dict[str, Any] = {}
        for name, default in _NUMBERS.items():
            settings[name] = _one(entries[name], number) if name in entries else default
        for name, default in FLAGS.items():
            settings[name] = _one(entries[name], _flag) if name in entries else default
        name = "twojmax"
        settings[name] = _one(entries[name], whole)
        inner = settings.pop("switchinnerflag")
        for name in _LISTS if inner else ():
            settings[name] = [number(word) for word in entries.get(name, [])]
            if len(settings[name]) != n_elements:
                raise ValueError(f"{n_elements} values are needed")
    except ValueError as error:
        raise PotentialError(f"unusable {name}", where=path, got=str(error)) from None
    return settings


def _one(words: Sequence[str], kind: Callable[[str], Any]) -> Any:
    (word,) = words
    return kind(word)


def _flag(word: str) -> bool:
    if word not in ("0", "1"):
        raise ValueError(f"{word!r} is not 0 or 1")
    return word == "1"
