"""Properties by LAMMPS: where the user names one, it computes all energies, forces and stresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from surefield.foreign.lammps_potential import lammps_potential
from surefield.foreign.lammps_run import lammps_command
from surefield.formats.lammps_form import write_lammps_form
from surefield.potentials.potential import Potential

__all__ = ["check_form", "check_simulator", "simulated"]

_INSTALL: Final = "pip install 'surefield[lammps]', or leave simulator_path out: surefield needs no LAMMPS"


def check_simulator(simulator_path: str | None) -> None:
    """Refuse a LAMMPS that is not there.

    Raises:
        ConfigError: no such program.
    """
    if simulator_path is not None:
        lammps_command(simulator_path, "simulator_path", _INSTALL)


def check_form(potential: Potential, simulator_path: str | None) -> None:
    """Refuse a potential that LAMMPS has no form of, where one is named.

    Raises:
        PotentialError: see `write_lammps_form`.
    """
    if simulator_path is not None:
        with TemporaryDirectory(prefix="lammps-potential-") as folder:
            write_lammps_form(potential, Path(folder))


@contextmanager
def simulated(potential: Potential, simulator_path: str | None) -> Iterator[Potential]:
    """The potential as LAMMPS computes it while the context lasts; itself without a `simulator_path`.

    Args:
        potential: of this package.
        simulator_path: the program, or the words that start it; 'lmp' is also that of the package `lammps`.

    Raises:
        ConfigError: no such program.
        PotentialError: LAMMPS has no form of this potential.
        ExecutionError: LAMMPS ended with an error.
    """
    if simulator_path is None:
        yield potential
        return
    command = lammps_command(simulator_path, "simulator_path", _INSTALL)
    with TemporaryDirectory(prefix="lammps-potential-") as folder:
        form = write_lammps_form(potential, Path(folder))
        with lammps_potential(potential, command, form.commands, form.symbols, Path(folder)) as through:
            yield through
