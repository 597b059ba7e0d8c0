"""Stillinger-Weber and Tersoff files of LAMMPS: what the form here has, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from surefield.errors import PotentialError
from surefield.formats.triplet_file import read_sw, read_tersoff

#: Two species; strengths of mixed triplets are geometric means.
SW = """# UNITS: metal
A A A 1.0 2.0 1.8 16.0 1.2 -0.33 7.0 0.6 4.0 0.0 0.0
A B B 2.0 1.9 1.7 18.0 1.1 -0.33 6.0 0.5 4.0 0.0 0.0
B A A 2.0 1.9 1.7 18.0 1.1 -0.33 6.0 0.5 4.0 0.0 0.0
B B B 3.0 1.8 1.6 27.0 1.0 -0.33
      5.0 0.4 4.0 0.0 0.0
A A B 1.0 0 0 24.0 0 -0.33 0 0 0 0 0
A B A 4.0 0 0 6.0 0 -0.33 0 0 0 0 0   # order and split do not matter
B A B 1.0 0 0 54.0 0 -0.33 0 0 0 0 0
B B A 1.0 0 0 54.0 0 -0.33 0 0 0 0 0
""".replace("A", "Ga").replace("B", "N")
TERSOFF = "Si Si Si 3.0 1.0 1.3 4.8 2.0 0.1 22.9 0.33\n 1.3 95.3 3.0 0.2 3.2 3264.7\n"


def test_numbers_of_stillinger_weber(tmp_path):
    (tmp_path / "x.sw").write_text(SW)
    potential = read_sw(tmp_path / "x.sw")
    assert potential.symbols == ("Ga", "N")
    expected = {
        "A": [7, 12, 15], "lambda": [16, 36, 81], "sigma": [2.0, 1.9, 1.8], "cutoff": [3.6, 3.23, 2.88],
        "gamma": [2.4, 2.09, 1.8], "B": [0.6, 0.5, 0.4], "p": [4] * 3, "q": [0] * 3, "costheta0": [-0.33] * 3,
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(potential.values[name], values, rtol=1e-14)
    assert read_sw(tmp_path / "x.sw", ["N"]).symbols == ("N",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Ga Ga N 1.0", "Ga Ga N 1.1", "strength, angle or tol.*Ga Ga N"),
        ("N N Ga 1.0 0 0 54.0 0 -0.33", "N N Ga 1.0 0 0 54.0 0 -0.5", "angle.*N N Ga"),
        ("4.0 0.0 0.0\nGa N N", "4.0 0.0 0.1\nGa N N", "tol"),
        ("N Ga Ga 2.0 1.9", "N Ga Ga 2.0 1.8", "sigma of Ga N N and N Ga Ga differ"),
        ("Ga Ga N 1.0 0 0 24.0 0 -0.33 0 0 0 0 0\n", "", "no entry of Ga Ga N"),
        ("N Ga N 1.0", "N Ga N", "malformed"),
        ("N Ga N", "N N Ga", "malformed or repeated"),
        ("metal", "real", "only units metal"),
        ("0.6 4.0", "nan 4.0", "malformed"),
        ("2.0 1.8", "200 1.8", "range of interaction"),
        ("0 0\n", "0", "malformed"),
    ],
)
def test_what_the_form_does_not_have_is_refused(tmp_path, old, new, message):
    assert old in SW
    (tmp_path / "x.sw").write_text(SW.replace(old, new, 1) if old != "0 0\n" else SW.rstrip()[:-1])
    with pytest.raises(PotentialError, match=message):
        read_sw(tmp_path / "x.sw")


def test_tersoff(tmp_path):
    (tmp_path / "x.tersoff").write_text(TERSOFF)
    potential = read_tersoff(tmp_path / "x.tersoff")
    assert {n: float(potential.values[n][0]) for n in ("m", "n", "beta", "Rc", "A")} == {
        "m": 3, "n": 22.9, "beta": 0.33, "Rc": 3.0, "A": 3264.7
    }  # fmt: skip
    for old, new, message in (("Si 3.0", "Si 2.0", "m must be 1 or 3"), ("Si 3.0", "3.0", "malformed")):
        (tmp_path / "y.tersoff").write_text(TERSOFF.replace(old, new, 1))
        with pytest.raises(PotentialError, match=message):
            read_tersoff(tmp_path / "y.tersoff")
