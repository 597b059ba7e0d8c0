"""Labels by the program LAMMPS: any of its pair styles, and KIM models where it has the package KIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

from ase import Atoms
from ase.data import atomic_numbers

from surefield.errors import ConfigError
from surefield.execution.program import run_program
from surefield.foreign.lammps_run import LammpsSettings, lammps_command
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle
from surefield.loop.oracles.engine import MakeEngine, file_digests

__all__ = ["lammps"]


def lammps(
    commands: Sequence[str],
    species: Sequence[str],
    *,
    units: str = "metal",
    setup: Sequence[str] = (),
    command: str = "lmp",
    folder: Path | None = None,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of LAMMPS (Thompson et al., Comput. Phys. Commun. 271 (2022) 108171).

    Args:
        commands: lines that define the potential: pair_style, pair_coeff, or `kim interactions`.
        species: elements in the order of LAMMPS's atom types.
        units: "metal" or "real".
        setup: lines in place of `units` and `atom_style`, such as `kim init`.
        command: the program, with what starts it.
        folder: in which it runs, and that files of `commands` are relative to; the current one by default.
        attempts: see `Attempts`; a further attempt may change `commands`.

    Raises:
        ConfigError: no such program, element or units.
    """
    command = lammps_command(command)
    if units not in ("metal", "real"):
        raise ConfigError("unknown units of LAMMPS", got=units, expected="metal or real")
    for symbol in species:
        if symbol not in atomic_numbers:
            raise ConfigError(f"species of LAMMPS: there is no element {symbol!r}")
    place = (folder or Path()).resolve()
    what = {"commands": list(commands), "setup": list(setup), "species": list(species), "units": units}
    words = dict.fromkeys(word for line in (*setup, *commands) for word in line.split())
    files = file_digests({word: place / word for word in words if (place / word).is_file()})
    make = MakeEngine(lammps_results, {**what, "command": command, "folder": str(place)}, stress=True)
    name = f"LAMMPS {' '.join(commands[0].split()[:2])}" if commands else "LAMMPS"
    settings = {"kind": "lammps", **what, "files": files}
    return CalculatorOracle(make, name, settings, **attempts)


def lammps_results(
    atoms: Atoms,
    *,
    commands: Sequence[str],
    setup: Sequence[str],
    species: Sequence[str],
    units: str,
    command: str,
    folder: str,
) -> Mapping[str, Any]:
    """Energy (eV), forces (eV/Å) and stress (eV/Å^3; periodic structures) by a run of its own.

    Raises:
        ExecutionError: an element that is not among the species, or LAMMPS ended with an error.
    """
    with TemporaryDirectory(prefix="lammps-") as temporary:
        there = Path(temporary)
        told = LammpsSettings(commands, species, units, setup)
        structure = told.script(there, atoms, there / "thermo")
        (there / "input").write_text(structure.text)
        run_program(f"{command} -in {there / 'input'} -log {there / 'log'}", Path(folder), there / "out")
        answer = there / "thermo"
        return structure.results(answer.read_text() if answer.is_file() else "")
