"""Setfl files: tables read back exactly, in both forms; what is none is refused for what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.potentials.parametric.conftest import alloy_eam

from surefield.errors import PotentialError
from surefield.potentials.parametric import EAM

__all__ = ["alloy_eam"]

R, N = 5.0, 40


def numbers(table: np.ndarray) -> str:
    return "\n".join(" ".join(f"{v:.12e}" for v in table[i : i + 5]) for i in range(0, N, 5)) + "\n"


def text(densities: int = 1, tail: str = "", lattice: str = " 3.52 fcc", cutoff: float = R) -> str:
    """A file of two elements with so many densities for each."""
    fade = (1 - np.linspace(0, 1, N)) ** 3
    lines = f"c1\nc2\nc3\n2 Ni Cu\n{N} 0.2 {N} {R / (N - 1)!r} {cutoff!r}\n"
    for element in (1, 2):
        lines += f"28 58.69{lattice}\n" + numbers(-element * np.sqrt(np.arange(N)))
        lines += "".join(numbers(fade * (10 * element + neighbor)) for neighbor in range(densities))
    return lines + "".join(numbers(fade * pair) for pair in (1, 2, 3)) + tail


def test_setfl_files_read_back_exactly(alloy_eam, tmp_path: Path):
    paired = {
        **alloy_eam.values,
        "density": np.vstack([alloy_eam.values["density"]] * 2) * [[1], [2], [3], [4]],
    }
    sizes = {"dr": alloy_eam.dr, "drho": alloy_eam.drho, "reach": alloy_eam.reach}
    for source in (alloy_eam, EAM(paired, ["Cu", "Au"], **sizes)):
        source.write(tmp_path / "CuAu.eam")
        potential = EAM.read(tmp_path / "CuAu.eam")
        assert potential.symbols == ("Cu", "Au")
        assert potential.options() == sizes
        for name, table in source.values.items():
            np.testing.assert_array_equal(potential.values[name], table)
    content = (tmp_path / "CuAu.eam").read_text()
    (tmp_path / "short").write_text(content[: len(content) // 2])
    for path in ("short", "none"):
        with pytest.raises(PotentialError, match=path):
            EAM.read(tmp_path / path)


@pytest.mark.parametrize("lattice", [" 3.52 fcc", "", " 3.52"])
@pytest.mark.parametrize("densities", [1, 2])
def test_both_forms_with_and_without_lattice(tmp_path, densities, lattice):
    (tmp_path / "x").write_text(text(densities, lattice=lattice).replace("\n28", "\n\n28"))
    potential = EAM.read(tmp_path / "x")
    # The species that feels the density comes first, in the file the one that it is of.
    np.testing.assert_array_equal(
        potential.values["density"][:, 0], [10, 20, 11, 21] if densities == 2 else [10, 20]
    )
    np.testing.assert_array_equal(potential.values["pair"][:, 0], [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text(tail=numbers(np.ones(N)) * 6), "left over.*240 values.*file of adp"),
        (text(tail="1.0\n"), "left over.*1 values"),
        (text().replace("\n2 Ni Cu", "\n3 Ni Cu"), "3 elements announced"),
        (text()[:-100], "cut short"),
        (text().rstrip("\n")[:-3], "may be cut short: it ends within a line"),
        (text().replace("40 0.2 40", "40 0.2 39"), "1 values left over on its last line"),
        (text().replace("40 0.2 40", "39 0.2 40"), "1 values left over on its last line"),
        (text().replace("-1.0", "-1.0x", 1), "not a value of the embedding energy of element 1"),
        (text().replace("-1.0", "nan", 1), "not a finite number|could not convert"),
        (text(cutoff=8.0), "beyond the tables"),
        (text(cutoff=1.0), "far before their end"),
        (text().replace("c1", "UNITS: real", 1), "only units metal"),
        (text().replace("\n2 Ni Cu", "\n2 Ni Xx"), "chemical symbols"),
        (text().replace(f" {R!r}\n", f" {R!r} 7.0\n", 1), "eam/he"),
        ("", "cut short"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.eam.alloy").write_text(content)
    with pytest.raises(PotentialError, match=message):
        EAM.read(tmp_path / "x.eam.alloy")
