"""Labels by any program: an input from a template, a run in a folder of its own, results from its output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Unpack

import ase.io
import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.program import check_program, last_lines, run_program
from surefield.loop.oracles.attempts import check_same_structure
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle
from surefield.loop.oracles.engine import MakeEngine, file_digests
from surefield.loop.oracles.user_code import script_digests
from surefield.structures.labels import resolve_labels
from surefield.structures.read import read_frames
from surefield.units import parse_unit

__all__ = ["command"]

_PLACE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_GEOMETRY: Final = ("n_atoms", "atoms", "cell", "formula")
_LOG: Final = "log.txt"
_UNITS: Final[Mapping[str, str]] = {"energy": "eV", "forces": "eV/Ang", "stress": "eV/Ang^3"}


def command(
    command: str,
    *,
    structure: str | None = None,
    template: str | None = None,
    values: Mapping[str, Any] | None = None,
    files: tuple[str, ...] = (),
    output: str = _LOG,
    patterns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    requires: str | None = None,
    folder: Path | None = None,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of a program that reads a file and writes one.

    Args:
        command: what to run, in a new folder for each structure; words as in a shell, `{here}` is `folder`.
            Scripts that it names by `{here}` or an absolute path are part of what labels depend on.
        structure: file to write the structure to, in the format of ASE that its name says.
        template: file, whose `{{n_atoms}}`, `{{atoms}}` (lines of symbol x y z in Å), `{{cell}}` (three
            lines), `{{formula}}` and names of `values` are filled in; written under its name.
        values: further places of the template; a further attempt may change them.
        files: to be copied beside it.
        output: what is read: structures in a format of ASE with energy and forces, or a text for `patterns`;
            what the program prints is in log.txt.
        patterns: regular expressions for `energy` (one group), `forces` (three groups, one match an atom, the
            last ones count) and `stress` (groups xx yy zz yz xz xy or nine, positive in tension).
        units: of them, such as `{"energy": "Hartree", "forces": "Hartree/Bohr", "stress": "kbar"}`.
        requires: regular expression without which the output is no label, such as "SCF converged".
        folder: of template and files; the current one by default.
        attempts: see `Attempts`.

    Raises:
        ConfigError: a file, program or place of the template is not there, or an unusable pattern or unit.
    """
    place = (folder or Path()).resolve()
    patterns = dict(patterns or {})
    shown = command.replace("{here}", str(place))
    check_program(shown, "give its full path, or {here}/program for one beside the configuration")
    if structure is None and template is None:
        raise ConfigError("a command needs its structure: set `structure`, `template` or both")
    needed = {name: place / name for name in (*files, *([template] if template else ()))}
    digests = file_digests(needed)
    values = dict(values or {})
    if template is not None:
        places = set(_PLACE.findall((place / template).read_text(encoding="utf-8")))
        if unknown := places - {*_GEOMETRY, *values}:
            known = ", ".join((*_GEOMETRY, *values))
            raise ConfigError(f"{template} has the places {', '.join(sorted(unknown))}; known: {known}")
    if patterns:
        _check_patterns(patterns)
    factors = {name: _factor(name, (units or {}).get(name, unit)) for name, unit in _UNITS.items()}
    what = {
        "structure": structure,
        "template": template,
        "values": values,
        "output": output,
        "patterns": patterns,
        "factors": factors,
        "requires": requires,
    }
    where = {"command": shown, "files": list(files), "folder": str(place)}
    make = MakeEngine(program_results, {**what, **where}, stress="stress" in patterns or not patterns)
    settings = {"kind": "command", **what, "command": command, "files": digests}
    if scripts := script_digests(command, place):
        settings["scripts"] = scripts
    name = Path(shown.split()[0]).name
    return CalculatorOracle(make, name, settings, **attempts)


def program_results(
    atoms: Atoms,
    *,
    command: str,
    structure: str | None,
    template: str | None,
    values: Mapping[str, Any],
    files: list[str],
    output: str,
    patterns: Mapping[str, str],
    factors: Mapping[str, float],
    requires: str | None,
    folder: str,
) -> Mapping[str, Any]:
    """Energy (eV), forces (eV/Å) and, where the program gives it, stress (eV/Å^3).

    Raises:
        ExecutionError: the program failed, left no output, or one of another structure or without energy.
    """
    source = Path(folder)
    with TemporaryDirectory(prefix="label-") as temporary:
        there = Path(temporary)
        for name in files:
            (there / name).write_bytes((source / name).read_bytes())
        if structure is not None:
            ase.io.write(there / structure, atoms)
        if template is not None:
            text = (source / template).read_text(encoding="utf-8")
            (there / template).write_text(_filled(text, atoms, values), encoding="utf-8")
        printed = run_program(command, there, there / _LOG)
        path = there / output
        if not path.exists():
            raise ExecutionError(f"the program left no {output}: {last_lines(printed)}")
        text = path.read_bytes().decode(errors="replace")
        if requires is not None and not (re.search(requires, text) or re.search(requires, printed)):
            raise ExecutionError(f"the output has no {requires!r}: {last_lines(printed or text)}")
        return _by_patterns(text, patterns, factors, len(atoms)) if patterns else _by_file(path, atoms)


def _filled(text: str, atoms: Atoms, values: Mapping[str, Any]) -> str:
    rows = zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    geometry = {
        "n_atoms": len(atoms),
        "atoms": "\n".join(" ".join([symbol, *(f"{x:.12f}" for x in row)]) for symbol, row in rows),
        "cell": "\n".join(" ".join(f"{x:.12f}" for x in row) for row in atoms.cell.array),
        "formula": atoms.get_chemical_formula(),
    }
    table = {**geometry, **values}
    return _PLACE.sub(lambda place: str(table[place.group(1)]), text)


def _by_file(path: Path, atoms: Atoms) -> dict[str, Any]:
    try:
        (returned,) = read_frames(path, index="-1:")
        (labels,), _ = resolve_labels([returned])
    except DataError as error:
        raise ExecutionError(f"the program's output {path.name} is no label: {error}") from error
    check_same_structure(atoms, returned)
    return dict(labels.results())


def _by_patterns(
    text: str, patterns: Mapping[str, str], factors: Mapping[str, float], n_atoms: int
) -> dict[str, Any]:
    energies = re.findall(patterns["energy"], text, re.MULTILINE)
    rows = re.findall(patterns["forces"], text, re.MULTILINE)
    if not energies:
        raise ExecutionError(f"no energy in the output by {patterns['energy']!r}: {last_lines(text)}")
    if not rows or len(rows) % n_atoms:
        raise ExecutionError(f"the output has {len(rows)} rows of forces for {n_atoms} atoms")
    results: dict[str, Any] = {
        "energy": _number(energies[-1]) * factors["energy"],
        "forces": np.array([[_number(x) for x in row] for row in rows[-n_atoms:]]) * factors["forces"],
    }
    if "stress" in patterns:
        stresses = re.findall(patterns["stress"], text, re.MULTILINE)
        if stresses:
            numbers = np.array([_number(x) for x in stresses[-1]]) * factors["stress"]
            results["stress"] = numbers if len(numbers) == 6 else numbers[[0, 4, 8, 5, 2, 1]]
    return results


def _number(text: str) -> float:
    """A number as Fortran writes it too."""
    try:
        return float(re.sub("[dD]", "e", text))
    except ValueError:
        raise ExecutionError(f"no number where the pattern looks for one: {text!r}") from None


def _check_patterns(patterns: Mapping[str, str]) -> None:
    groups = {"energy": (1,), "forces": (3,), "stress": (6, 9)}
    for name in patterns:
        if name not in groups:
            raise ConfigError(f"patterns are of {', '.join(groups)}, got {name!r}")
    for name in ("energy", "forces"):
        if name not in patterns:
            raise ConfigError(f"patterns need one for {name}")
    for name, pattern in patterns.items():
        try:
            n = re.compile(pattern).groups
        except re.error as error:
            raise ConfigError(f"the pattern of {name} is no regular expression: {error}") from error
        if n not in groups[name]:
            expected = " or ".join(map(str, groups[name]))
            raise ConfigError(f"the pattern of {name}", got=f"{n} groups", expected=expected)


def _factor(name: str, unit: str) -> float:
    try:
        parsed, expected = parse_unit(unit), parse_unit(_UNITS[name])
    except DataError as error:
        raise ConfigError(f"units.{name}: {error}") from error
    if (parsed.energy, parsed.length) != (expected.energy, expected.length):
        raise ConfigError(f"units.{name} {unit!r} is no unit of {name}")
    return parsed.factor
