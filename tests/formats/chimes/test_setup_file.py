"""Hyperparameters from `fm_setup.in` and from dictionaries with its keys."""

from __future__ import annotations

import json

import pytest

from surefield.errors import ConfigError, DataError
from surefield.formats.chimes import read_params, read_setup, settings_of

TEXT = """
####### CONTROL VARIABLES #######
# TRJFILE #  ! the data
	water.xyzf
# FITSTRS #
	ALL
# FITENER #
	true
# PAIRTYP #
	CHEBYSHEV 8 4 2 -1 1
# CHBTYPE #
	MORSE

EXCLUDE 3B INTERACTION: 2
OOOOOO
H H O

# NATMTYP #
	2

# TYPEIDX #	# ATM_TYP #	# ATMCHRG #	# ATMMASS #
1	O	0.0	15.9994
2	H	0.0	1.0079

# PAIRIDX #	# ATM_TY1 #	# ATM_TY1 #	# S_MINIM #	# S_MAXIM #	# S_DELTA #	# MORSE_LAMBDA #
1	O	O	0.75	6.0	0.1	1.25
2	H	O	0.76	6.1	0.1	1.26
3	H	H	0.77	6.2	0.1	1.27

SPECIAL 3B S_MAXIM: ALL 4.5
SPECIAL 4B S_MINIM: SPECIFIC 1
OHOHOHHHHHHH HH HH OH HH OH OH 0.9 0.9 0.8 0.9 0.8 0.8

# FCUTTYP #
	TERSOFF 0.5
# ENDFILE #
nothing below is read
"""


@pytest.fixture
def setup(tmp_path):
    """A function that reads the text with one change."""

    def read(old="", new=""):
        assert old in TEXT
        (tmp_path / "fm_setup.in").write_text(TEXT.replace(old, new, 1))
        return read_setup(tmp_path / "fm_setup.in")

    return read


def test_all_entries(setup):
    settings = settings_of(setup())
    assert settings.types == ("O", "H")
    assert settings.masses == (15.9994, 1.0079)
    assert settings.orders == (8, 4, 2)
    assert settings.inner == (0.75, 0.77, 0.76)  # O-O, H-H, O-H
    assert settings.outer == (6.0, 6.2, 6.1)
    assert settings.lengths == (1.25, 1.27, 1.26)
    assert (settings.cutoff, settings.tersoff) == ("TERSOFF", 0.5)
    assert settings.excluded == ((0, 0, 0), (0, 1, 1))
    assert (settings.fit_energy, settings.fit_stress) == ("true", "ALL")
    blocks = {b.label: b for m in (3, 4) for b in settings.blocks(m)}
    assert blocks["H-O-O"].outer == (4.5, 4.5, 4.5)
    assert blocks["H-H-H-O"].inner == (0.9, 0.9, 0.8, 0.9, 0.8, 0.8)
    assert blocks["H-H-O-O"].inner == (0.77, 0.76, 0.76, 0.76, 0.76, 0.75)


def test_a_dictionary_is_the_same_as_the_file(setup):
    found = setup()
    assert settings_of(json.loads(json.dumps(found))) == settings_of(found)


def test_as_few_entries_as_possible():
    settings = settings_of(
        {
            "PAIRTYP": "CHEBYSHEV 4",
            "TYPEIDX": [{"ATM_TYP": "Si"}],
            "PAIRIDX": [
                {"ATM_TY1": "Si", "ATM_TY2": "Si", "S_MINIM": 1.5, "S_MAXIM": 4.0, "MORSE_LAMBDA": 2.3}
            ],
        }
    )
    assert settings.orders == (4, 0, 0)
    assert (settings.transform, settings.cutoff) == ("MORSE", "CUBIC")
    assert settings.masses == pytest.approx((28.085,))


@pytest.mark.parametrize("name", ["water", "cho"])
def test_settings_are_those_of_the_parameters(reference, name):
    settings = settings_of(read_setup(reference / "inputs" / "chimes" / "fit" / f"{name}.in"))
    fitted = read_params(reference / "expected" / "chimes" / f"params_{name}_svd_w.txt.xz").settings
    assert settings.names == fitted.names
    for m in (2, 3, 4):
        assert settings.blocks(m) == fitted.blocks(m)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("# CHBTYPE #", "# CHBTYP #", r"fm_setup.in:11.*did you mean 'CHBTYPE'"),
        ("2	H	0.0	1.0079\n", "", "too few rows or columns below TYPEIDX"),
        ("0.76	6.1", "0.76	far", r"fm_setup.in:27.*a number for S_MAXIM"),
        ("SPECIFIC 1", "SPECIFIC 2", r"too few special cutoffs in fm_setup.in:34"),
        ("SPECIFIC 1", "SPECIFIC 0", r"too many special cutoffs in fm_setup.in:32"),
        ("SPECIFIC 1", "SOME", "ALL v or SPECIFIC n"),
        ("# NATMTYP #\n	2\n", "", "NATMTYP must come first"),
        ("EXCLUDE 3B INTERACTION: 2", "EXCLUDE 3B INTERACTION: two", "not a whole number"),
        ("EXCLUDE 3B INTERACTION: 2", "EXCLUDE 3B INTERACTION: 1", "not understood"),
    ],
)
def test_damaged_files_name_the_line(setup, old, new, text):
    with pytest.raises(DataError, match=text):
        setup(old, new)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"CHBTYP": "MORSE"}, "did you mean 'CHBTYPE'"),
        ({"PAIRTYP": None}, "lack PAIRTYP"),
        ({"PAIRTYP": "CHEBYSHEV 8 4.5"}, "unusable PAIRTYP"),
        ({"FITCOUL": "true"}, "FITCOUL is not supported"),
        ({"TYPEIDX": [{"ATM_TYP": "O", "ATMCHRG": -0.8}, {"ATM_TYP": "H"}]}, "charges are not supported: O"),
        ({"TYPEIDX": [{"ATM": "O"}]}, "lacks ATM_TYP"),
        (
            {"TYPEIDX": [{"ATM_TYP": "O"}, {"ATM_TYP": "Fe"}], "EXCLUDE 3B": []},
            "unknown atom type in PAIRIDX; got H",
        ),
        ({"EXCLUDE 3B": [["O", "O", "Fe"]]}, "unknown excluded cluster"),
        ({"FITSTRS": "FIRSTALL 3"}, "unusable FITSTRS"),
        ({"FCUTTYP": "TERSOFF"}, "unusable FCUTTYP"),
        ({"SPECIAL 3B S_MAXIM": [["x", "OO", "OO", "OH", 4, 4, 4]]}, "form no cluster"),
        ({"SPECIAL 3B S_MAXIM": [["x", "OO", "OH", "OH", 4, 4, 5]]}, "two values for one kind of pair"),
        ({"SPECIAL 3B S_MAXIM": [["x", "OO", "OFe", "OH", 4, 4, 5]]}, "unusable special cutoff"),
    ],
)
def test_unusable_settings(setup, change, text):
    found = {k: v for k, v in (setup() | change).items() if v is not None}
    with pytest.raises(ConfigError, match=text):
        settings_of(found)


def test_missing_and_repeated_pairs(setup):
    found = setup()
    with pytest.raises(ConfigError, match="pairs are missing in PAIRIDX; got OH"):
        settings_of(found | {"PAIRIDX": [found["PAIRIDX"][0], found["PAIRIDX"][2]]})
    with pytest.raises(ConfigError, match="pair given twice"):
        settings_of(found | {"PAIRIDX": found["PAIRIDX"][:1] * 2})
