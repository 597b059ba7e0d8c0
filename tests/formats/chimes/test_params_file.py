"""Reading parameter files: all versions, all kinds of damage."""

from __future__ import annotations

import lzma
import re

import numpy as np
import pytest

from surefield.errors import ConfigError, DataError
from surefield.formats.chimes import params_text, read_params

KCAL = 23.060548


@pytest.fixture
def edited(chimes, tmp_path):
    """A function that writes the potential, changes the text and reads it again."""

    def read(old="", new="", count=1):
        text = params_text(chimes)
        assert old in text
        path = tmp_path / "params.txt"
        path.write_text(text.replace(old, new, count))
        return read_params(path)

    return read


@pytest.mark.parametrize(("name", "file"), [("water", "params_water_svd_w"), ("cho", "params_cho_svd_w")])
def test_files_of_the_peer(reference, name, file):
    potential = read_params(reference / "expected" / "chimes" / f"{file}.txt.xz")
    data = np.load(reference / "expected" / "chimes" / f"fit_{name}.npz")
    x = potential.coefficients[: data["A"].shape[1]] * KCAL
    np.testing.assert_allclose(x, data["x_svd_w"], rtol=0, atol=1e-12 * np.abs(x).max())
    predicted, expected = data["A"] @ x, data["A"] @ data["x_svd_w"]
    np.testing.assert_allclose(predicted, expected, atol=1e-9 * np.abs(expected).max())


def test_a_published_file_with_quadruplets(reference):
    potential = read_params(reference / "inputs" / "chimes" / "params" / "CO2400K_2b3b4b.txt.xz")
    settings = potential.settings
    assert settings.orders == (12, 8, 4)
    assert settings.penalty_scale == pytest.approx(1e5 / KCAL, rel=1e-15)
    assert settings.cutoff == "TERSOFF"
    assert [b.outer for b in settings.blocks(3)][1] == (4.4, 4.0, 4.0)
    assert np.count_nonzero(potential.coefficients[settings.blocks(4)[0].columns]) == 256
    np.testing.assert_allclose(potential.coefficients[-2:] * KCAL, -19.850572438, rtol=1e-14)


def test_power_sets_that_are_missing_are_zero(chimes, tmp_path):
    text = params_text(chimes)
    start = text.index("ATOMS: Cu Cu Cu\n")
    body = re.sub(r"(?m)^\d+ \d \d \d 0 0 \S+\n", "", text[start:], count=3)
    (tmp_path / "sparse.txt").write_text(text[:start] + body)
    first = chimes.settings.blocks(3)[0].first
    expected = chimes.coefficients.copy()
    expected[first] = 0
    np.testing.assert_array_equal(read_params(tmp_path / "sparse.txt").coefficients, expected)


def test_defaults_where_lines_are_missing(edited, chimes):
    text = params_text(chimes)
    lines = "".join(line + "\n" for line in text.splitlines() if "PENALTY" in line)
    found = edited(lines, "")
    assert found.settings.penalty_distance == 0.01
    assert found.settings.penalty_scale == pytest.approx(1e4 / KCAL)
    assert edited("2.2 4.5 MORSE", "2.2 4.5 0.01 MORSE").settings == chimes.settings


def test_atoms_of_a_block_in_another_order(chimes, tmp_path):
    """A block Cu Cu Au has its pairs CuCu CuAu CuAu where ours, alphabetical, has AuCu AuCu CuCu."""
    text = params_text(chimes)
    start = text.index("ATOMS: Au Cu Cu\n")
    head, body = text[:start], text[start:]
    body = body.replace("ATOMS: Au Cu Cu", "ATOMS: Cu Cu Au", 1)
    body = body.replace("PAIRS: CuAu CuAu CuCu", "PAIRS: CuCu CuAu CuAu", 1)
    end = body.index("TRIPLETTYPE")
    turned = re.sub(r"(?m)^(\d+) (\d) (\d) (\d) ", r"\1 \4 \3 \2 ", body[:end])
    (tmp_path / "turned.txt").write_text(head + turned + body[end:])
    np.testing.assert_array_equal(read_params(tmp_path / "turned.txt").coefficients, chimes.coefficients)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "PAIRTYPE PARAMS: 0 Cu Cu\n\n0 ",
            "PAIRTYPE PARAMS: 0 Cu Cu\n\n0 x",
            r"params.txt:\d+.*not a number|expected",
        ),
        ("PAIRTYPE PARAMS: 0 Cu Cu\n\n0 ", "PAIRTYPE PARAMS: 0 Cu Cu\n\n9 ", "number below 6"),
        ("PAIRTYPE PARAMS: 0 Cu Cu", "PAIRTYPE PARAMS: 0 Cu Fe", "unknown cluster"),
        ("INDEX: 0 ATOMS: Cu Cu Cu\n", "ATOMS Cu Cu Cu\n", "INDEX: n ATOMS"),
        ("PAIRS: CuCu CuCu CuCu UNIQUE", "PAIRS: CuCu CuAu CuCu UNIQUE", "do not fit the atoms"),
        ("0 0 1 1 0 0", "0 0 1 7 0 0", "power out of range"),
        ("0 0 1 1 0 0", "0 0 0 1 0 0", "leaves an atom out"),
        ("0 0 1 1 0 0", "0 0 1 1 0", "two indices, coefficient"),
        ("0 0 1 1 0 0 ", "0 0 1 1 0 0 1", "two coefficients for the powers"),
        ("ATOM PAIRS: 3", "ATOM PAIRS: 4", "not a row of the table|unusable pair"),
        ("ATOM TYPES: 2", "ATOM TYPES: two", "not a whole number"),
        ("1 Au Au 2.1 4.4 MORSE 1.6", "1 Au Au 2.1 4.4 DEFAULT 1.6", "two transformations"),
        ("1 Au Au 2.1 4.4 MORSE 1.6", "1 Au Pt 2.1 4.4 MORSE 1.6", "unusable pair"),
        ("1 Au Au 2.1 4.4 MORSE 1.6", "1 Au Cu 2.1 4.4 MORSE 1.6", "pairs AuAu are missing"),
        ("S_MAXIM: SPECIFIC 4", "S_MAXIM: SPECIFIC 3", "too many special cutoffs"),
        ("S_MAXIM: SPECIFIC 4", "S_MAXIM: SPECIFIC 5", "too few special cutoffs"),
        ("FCUT TYPE:", "FCUT:", "unknown section"),
        ("NO ENERGY OFFSETS: 2", "NO ENERGY OFFSETS: 3", "not an energy offset"),
        ("ENERGY OFFSET 2", "ENERGY OFFSET 7", "unknown type"),
    ],
)
def test_damaged_files_name_the_line(edited, old, new, text):
    with pytest.raises(DataError, match=text) as error:
        edited(old, new)
    assert re.search(r"params\.txt:\d+", str(error.value))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("USECOUL: false", "USECOUL: true", "USECOUL is not supported"),
        ("0 Cu 0 ", "0 Cu 1.5 ", "charges are not supported"),
        ("CHEBYSHEV 6", "SPLINE 6", "unusable PAIRTYP"),
        ("-1 1", "0 1", "unusable PAIRTYP"),
        ("TERSOFF 0.5", "COSINE", "unusable FCUTTYP"),
    ],
)
def test_what_surefield_does_not_have(edited, old, new, text):
    with pytest.raises(ConfigError, match=text):
        edited(old, new)


def test_files_that_end_too_early_or_are_missing(chimes, tmp_path):
    text = params_text(chimes)
    (tmp_path / "cut.txt").write_text(text[: text.index("NO ENERGY") + 20] + "\n")
    with pytest.raises(DataError, match="ends too early"):
        read_params(tmp_path / "cut.txt")
    with pytest.raises(DataError, match="there is no file"):
        read_params(tmp_path / "absent.txt")
    (tmp_path / "binary.txt.xz").write_bytes(lzma.compress(text.encode())[:40])
    with pytest.raises(DataError, match="not a text file"):
        read_params(tmp_path / "binary.txt.xz")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="ATOM TYPES are missing"):
        read_params(tmp_path / "empty.txt")
