"""Potentials as what LAMMPS computes by itself: commands, and the files that they name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.formats.snap import write_snap
from surefield.formats.triplet_file import sw_text, tersoff_text
from surefield.potentials.parametric.eam import EAM
from surefield.potentials.parametric.lennard_jones import LennardJones
from surefield.potentials.parametric.morse import Morse
from surefield.potentials.parametric.pair import PairPotential
from surefield.potentials.parametric.stillinger_weber import StillingerWeber
from surefield.potentials.parametric.tersoff import Tersoff
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.snap.snap import Snap
from surefield.potentials.zbl import ZBL

__all__ = ["LammpsForm", "write_lammps_form"]

_NAME: Final = "potential"


@dataclass(frozen=True)
class LammpsForm:
    """How LAMMPS is told a potential, in units metal.

    Attributes:
        commands: `pair_style`, `pair_coeff`, or an `include`; files are named as in the folder of the form.
        symbols: element of each atom type.
    """

    commands: tuple[str, ...]
    symbols: tuple[str, ...]


def write_lammps_form(potential: Potential, folder: Path) -> LammpsForm:
    """Write a potential for LAMMPS's own pair styles.

    Args:
        potential: Stillinger-Weber, Tersoff, EAM, Lennard-Jones, Morse, ZBL as LAMMPS switches it, or SNAP,
            also with ZBL.
        folder: for files; it is there.

    Raises:
        PotentialError: LAMMPS has no pair style that computes it.
    """
    writer = _WRITERS.get(type(potential))
    if writer is None:
        raise PotentialError(
            f"LAMMPS has no pair style that computes a {type(potential).__name__}",
            expected=", ".join(kind.__name__ for kind in _WRITERS if kind is not SumPotential)
            + " (alone or, SNAP, with ZBL)",
            fix="leave simulator_path out: surefield computes every potential by itself",
        )
    return writer(potential, folder)


def _snap(potential: Any, folder: Path) -> LammpsForm:
    write_snap(folder / _NAME, potential)
    return LammpsForm((f"include {_NAME}.mod",), tuple(chemical_symbols[z] for z in potential.species))


def _of_file(style: str, write: Callable[[Any, Path], Any]) -> Callable[[Any, Path], LammpsForm]:
    """Writer for a style whose parameters are one file."""

    def written(potential: Any, folder: Path) -> LammpsForm:
        write(potential, folder / _NAME)
        coefficients = f"pair_coeff * * {_NAME} {' '.join(potential.symbols)}"
        return LammpsForm((f"pair_style {style}", coefficients), potential.symbols)

    return written


def _eam(potential: EAM, folder: Path) -> LammpsForm:
    paired = len(potential.values["density"]) > len(potential.symbols)
    return _of_file("eam/fs" if paired else "eam/alloy", EAM.write)(potential, folder)


def _pair(potential: PairPotential, _: Path) -> LammpsForm:
    values = {name: np.asarray(value).tolist() for name, value in potential.values.items()}
    morse = isinstance(potential, Morse)
    lines = [f"pair_style {'morse' if morse else 'lj/cut'} {max(values['cutoff'])!r}"]
    types = range(1, len(potential.symbols) + 1)
    for place, (i, j) in enumerate(itertools.combinations_with_replacement(types, 2)):
        of = {name: value[place] for name, value in values.items()}
        # The depth of LAMMPS's Morse potential is positive where the pair is bound.
        numbers = (-of["epsilon"], of["C"], of["Rzero"]) if morse else (of["epsilon"], of["sigma"])
        lines.append(f"pair_coeff {i} {j} {' '.join(map(repr, (*numbers, of['cutoff'])))}")
    lines.append(f"pair_modify shift {'yes' if potential.shift else 'no'}")
    return LammpsForm(tuple(lines), potential.symbols)


def _zbl(potential: ZBL, _: Path) -> LammpsForm:
    if potential.switch != "lammps":
        raise PotentialError(
            "LAMMPS switches ZBL off in another way", got=f"switch={potential.switch!r}", fix="'lammps'"
        )
    numbers = list(enumerate(potential.species, 1))
    pairs = [
        f"pair_coeff {i} {j} {a} {b}"
        for (i, a), (j, b) in itertools.combinations_with_replacement(numbers, 2)
    ]
    symbols = tuple(chemical_symbols[z] for z in potential.species)
    return LammpsForm((f"pair_style zbl {potential.inner!r} {potential.outer!r}", *pairs), symbols)


_WRITERS: Final[Mapping[type[Potential], Callable[[Any, Path], LammpsForm]]] = {
    StillingerWeber: _of_file("sw", lambda potential, path: write_atomic(path, sw_text(potential))),
    Tersoff: _of_file("tersoff", lambda potential, path: write_atomic(path, tersoff_text(potential))),
    EAM: _eam,
    LennardJones: _pair,
    Morse: _pair,
    ZBL: _zbl,
    Snap: _snap,
    SumPotential: _snap,
}
