"""SNAP files beside commands of LAMMPS: a reference that is stated is read or refused, never dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surefield.errors import ConfigError, PotentialError
from surefield.formats.snap import read_snap
from surefield.potentials.potential import SumPotential
from surefield.potentials.snap.snap import Snap

COEFFICIENTS = """# two elements, 2J = 2
2 6
Ta 0.5 1.0
0.1
0.2
0.3
0.4
0.5
0.6
W 0.4 0.9
1.1
1.2
1.3
1.4
1.5
1.6
# end
"""
PARAMETERS = "# required\nrcutfac 4.0\ntwojmax 2\n"
SNAP = "pair_coeff * * snap x.snapcoeff x.snapparam Ta W\n"
PAIRS = "pair_coeff 1 1 zbl 73 73\npair_coeff 1 2 zbl 73 74\npair_coeff 2 2 zbl 74 74\n"
ZBL = f"pair_style hybrid/overlay zbl 3.0 3.5 snap\n{PAIRS}{SNAP}"
VARIABLES = f"""variable inner equal 6/2
variable outer index 3.5
variable z equal 73   # tantalum
pair_style hybrid/overlay &
  zbl ${{inner}} ${{outer}} &
  snap
pair_coeff 1 1 zbl $z ${{z}}
pair_coeff 1 2 zbl $z $(v_z+1)
pair_coeff 2 2 zbl 74 74
{SNAP}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.snapcoeff").write_text(COEFFICIENTS)
    (tmp_path / "x.snapparam").write_text(PARAMETERS)
    return tmp_path


@pytest.mark.parametrize("suffix", [".mod", ".snap"])
@pytest.mark.parametrize(
    "text",
    [
        ZBL,
        VARIABLES,
        ZBL.replace("zbl", "zbl/kk").replace("pair_style", "units metal\npair_style zero 1.0\npair_style"),
        ZBL.replace("x.snapcoeff", '"x.snapcoeff"').replace("zbl 74 74", "zbl 74.0 '74'"),
        ZBL.replace(PAIRS, "include pairs.in\n"),
        ZBL.replace("x.snapcoeff", "x.snapcoeff Ta W"),
        ZBL.replace("snap\n", "snap/kk\n").replace("* * snap", "* * snap/kk"),
        ZBL.replace(SNAP, f'if "1" then "{SNAP.strip()}" else "{SNAP.strip()}"'),
    ],
)
def test_a_reference_beside_the_coefficients_is_read(folder, text, suffix):
    (folder / "pairs.in").write_text(PAIRS)
    (folder / f"x{suffix}").write_text(text)
    for path in (folder / "x", folder / f"x{suffix}", folder / "x.snapcoeff", folder / "x.snapparam"):
        potential = read_snap(path)
        assert isinstance(potential, SumPotential)
        assert (potential.baseline.inner, potential.baseline.cutoff) == (3.0, 3.5)
    assert isinstance(read_snap(folder / "x", reference=False), Snap)


def test_files_are_those_that_the_commands_name(folder, tmp_path_factory):
    (folder / "y.snap").write_text(ZBL)
    assert isinstance(read_snap(folder / "y"), SumPotential)
    moved = tmp_path_factory.mktemp("moved")
    for name in ("x.snapcoeff", "x.snapparam"):
        (folder / name).rename(moved / name)
    (moved / "y.mod").write_text(ZBL.replace("x.snapcoeff", "/elsewhere/x.snapcoeff"))
    assert isinstance(read_snap(moved / "y.mod"), SumPotential)


def test_names_of_files_are_free(folder):
    (folder / "x.snapcoeff").rename(folder / "a.txt")
    (folder / "x.snapparam").rename(folder / "b.txt")
    (folder / "x.mod").write_text("pair_style snap\npair_coeff * * a.txt b.txt Ta W\n")
    assert read_snap(folder / "x").species == (73, 74)


def test_elements_without_an_atom_type_are_left_out(folder):
    only = "pair_style hybrid/overlay zbl 3.0 3.5 snap\npair_coeff 2 2 zbl 74 74\n"
    (folder / "x.mod").write_text(only + SNAP.replace("Ta W", "NULL W NULL"))
    potential = read_snap(folder / "x")
    assert potential.species == (74,)
    np.testing.assert_array_equal(potential.learned.readout, [[1.2, 1.3, 1.4, 1.5, 1.6]])
    assert potential.learned.descriptor.wj == (0.9,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ZBL.replace("zbl 3.0 3.5", "zbl 3.0 3.5 table spline 100"), "'table' is not supported"),
        (ZBL.replace("hybrid/overlay", "hybrid"), "'hybrid' is not supported"),
        (ZBL.replace("zbl 3.0 3.5", "zbl 3.0 3.5 zbl 1.0 2.0"), "there twice"),
        (ZBL.replace("zbl 74 74", "zbl 73 74"), "expected 74 74"),
        (ZBL.replace("2 2 zbl", "3 3 zbl"), "more than the 2 atom types"),
        (ZBL.replace("Ta W", "NULL W"), "leaves out"),
        (ZBL.replace("Ta W", "Ta Mo"), "no such elements"),
        (ZBL.replace("pair_style hybrid", "units real\npair_style hybrid"), "only units metal"),
        (ZBL.replace("3.0", "${r}"), "variable 'r' is not defined"),
        (ZBL.replace(PAIRS, f'if "1" then "{PAIRS.splitlines()[0]}"\n'), "'if' around"),
        (ZBL.replace(PAIRS, "include x.mod\n"), "includes itself"),
        (ZBL.partition("\n")[2], "no pair_style and pair_coeff of SNAP"),
        (ZBL.removesuffix(SNAP), "no pair_style and pair_coeff of SNAP"),
        ("# nothing\n", "no pair_style and pair_coeff of SNAP"),
        (ZBL.replace("snap x.", "1 x."), "no pair_style and pair_coeff of SNAP"),
        (ZBL.replace("* * snap", "1 2 snap"), "unusable pair_coeff of SNAP"),
        (ZBL.replace(" Ta W", ""), "unusable pair_coeff of SNAP"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, text, message):
    (folder / "x.mod").write_text(text)
    with pytest.raises((PotentialError, ConfigError), match=message):
        read_snap(folder / "x")


def test_two_statements_must_agree(folder):
    comments = "".join(f"# {line}\n" for line in ZBL.splitlines()[:4])
    (folder / "x.snapparam").write_text(PARAMETERS + comments)
    assert isinstance(read_snap(folder / "x"), SumPotential)
    (folder / "x.mod").write_text(ZBL)
    assert isinstance(read_snap(folder / "x"), SumPotential)
    for text in (ZBL.replace("3.5", "3.6"), "pair_style snap\n" + SNAP.replace("snap x", "x")):
        (folder / "x.snap").write_text(text)
        with pytest.raises(PotentialError, match="stated in two ways"):
            read_snap(folder / "x")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("x.snapparam", "twojmax 2", "twojmax 2000000", "coefficients do not fit"),
        ("x.snapparam", "rcutfac 4.0", "rcutfac 400", "range of interaction"),
        ("x.snapparam", "rcutfac 4.0", "rcutfac 4_0", "unusable rcutfac"),
        ("x.snapparam", "twojmax 2", "twojmax 2\nbzeroflag 7", "unusable bzeroflag"),
        ("x.snapcoeff", "0.3", "nan", "one of 6 coefficients of Ta"),
        ("x.snapcoeff", "0.3", "0.\0", "not a text file"),
    ],
)
def test_damaged_numbers_are_refused(folder, file, old, new, message):
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(PotentialError, match=message):
        read_snap(folder / "x")
