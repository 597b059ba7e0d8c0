"""Random structures through extxyz: our writer, then our reader and ASE's; and what others write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tests.damaged_files import damaged

from surefield.errors import DataError
from surefield.structures.labels import resolve_labels
from surefield.structures.read import read_frames, write_frames

#: Entries with what ASE's reader has no place for.
BESIDE = ("surefield_arrays", "surefield_info")
#: What ASE's reader takes for results or for the structure itself.
MEANT = {*all_properties, "virial", "initial_charges", "initial_magmoms", "masses", "momenta"}
MEANT |= {"numbers", "positions", *BESIDE}

TEXT = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=" \t\n\r\"'\\=,:{}[]_T1.é😀\u2028\x00\x85", max_size=8),
    st.sampled_from(["12", "1.5", "nan", "T", "F F", "None", "_JSON {", "_JSON 1", "", " ", "a b", "1_0"]),
)
NAMES = TEXT | st.sampled_from(["a", "a0", "pos", "Z", "charge", "Lattice", "lattice", "pbc", "uid"])
NAMES = NAMES.filter(lambda name: name not in MEANT)
INTEGERS = st.one_of(st.integers(-5, 5), st.integers(-(2**70), 2**70))
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXT)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DTYPES = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "u1", "u8", "?", "U", "O", "c16"])
SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def array(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    if dtype == "U":  # NumPy drops zeros at the end of text
        size = int(np.prod(shape))
        texts = st.lists(TEXT.map(lambda text: text.rstrip("\x00")), min_size=size, max_size=size)
        return texts.map(lambda words: np.array(words, dtype=str).reshape(shape))
    return st_numpy.arrays(dtype, shape, elements=NESTED if dtype == "O" else None)


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    n = draw(st.integers(0, 4))
    atoms = Atoms(
        draw(st.lists(st.integers(0, 118), min_size=n, max_size=n)),
        draw(st_numpy.arrays("f8", (n, 3))),
        cell=draw(st.one_of(st.just(np.zeros((3, 3))), st_numpy.arrays("f8", (3, 3)))),
        pbc=draw(st.lists(st.booleans(), min_size=3, max_size=3)),
    )
    values = NESTED | st.tuples(DTYPES, SHAPES).flatmap(lambda kind: array(*kind))
    atoms.info = draw(st.dictionaries(NAMES, values, max_size=4))
    for name in draw(st.lists(NAMES, max_size=3)):
        tail = draw(st.sampled_from([(), (), (1,), (2,), (3,), (0,), (2, 2)]))
        atoms.arrays[name] = draw(array(draw(DTYPES), (n, *tail)))
    if draw(st.booleans()):
        results: dict[str, Any] = {
            "energy": draw(st.floats(allow_nan=False)),
            "forces": draw(st_numpy.arrays("f8", (n, 3))),
            "stress": draw(st_numpy.arrays("f8", 6)),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def alike(a: Any, b: Any) -> bool:
    a, b = (x.tolist() if isinstance(x, np.ndarray | np.generic) else x for x in (a, b))
    if isinstance(a, dict) or isinstance(b, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(alike, a, b))
    if a is None or isinstance(a, str):
        return type(a) is type(b) and a == b
    return a == b or (a != a and b != b)


def check(before: Atoms, path: Path) -> None:
    write_frames(path, [before])
    ours, theirs = read_frames(path)[0], ase.io.read(path, index=0, format="extxyz")
    beside: dict[str, Any] = {}
    for key in BESIDE:
        beside |= theirs.info.pop(key, {})
    for after in (ours, theirs):
        assert alike(after.cell.array, before.cell.array)
        assert alike(after.pbc, before.pbc)
        assert alike(after.numbers, before.numbers)
        assert alike(after.positions, before.positions)
        assert {*after.info} <= {*before.info}
        assert {*after.arrays} <= {*before.arrays}
        for name, result in (before.calc.results if before.calc else {}).items():
            assert alike(after.calc.results[name], result), name
    for name, value in before.info.items():
        assert alike(ours.info[name], value), name
        assert not isinstance(value, np.ndarray) or np.shape(ours.info[name]) == value.shape, name
        assert name in beside or alike(theirs.info[name], value), name
    for name, value in before.arrays.items():
        assert ours.arrays[name].shape == value.shape
        assert alike(ours.arrays[name], value), name
        if name in theirs.arrays:
            assert alike(theirs.arrays[name].reshape(value.shape), value), name
        else:
            assert name in beside


SETTINGS = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@given(before=structures())
@settings(SETTINGS, max_examples=60)
def test_random_structures_come_back_through_our_reader_and_that_of_ase(tmp_path: Path, before: Atoms):
    check(before, tmp_path / "a.xyz")


def objects(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Array that holds lists and dictionaries, which NumPy would take for further axes."""
    values = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        values[i] = item
    return values.reshape(shape)


OBJECTS = [
    objects([[None]], ()),
    objects([[1]], (1,)),
    objects([[]], ()),
    objects([[], []], (2,)),
    objects([[[], []]], (1,)),
    objects([{"a": [1]}], ()),
    objects([{}, {"b": None}], (2, 1)),
    objects([[1, 2], [3]], (2,)),
    objects([[1.5, "x"], None, {"a": [[]]}, True], (2, 2)),
    objects([], (0, 2)),
]


@pytest.mark.parametrize("name", ["a.xyz", "a.db", "a.traj"])
@pytest.mark.parametrize("value", OBJECTS, ids=str)
def test_arrays_of_lists_keep_their_shape(tmp_path: Path, name: str, value: np.ndarray):
    atoms = Atoms(f"H{len(value)}" if value.shape else "", info={"entry": value, "nested": {"a": [value, 1]}})
    if value.shape:
        atoms.arrays["site"] = value
    write_frames(tmp_path / name, [atoms])
    after = read_frames(tmp_path / name)[0]
    entries = [after.info["entry"], after.info["nested"]["a"][0], after.arrays.get("site", value)]
    for back in entries:
        assert np.shape(back) == value.shape
        assert alike(back, value)
    if name == "a.xyz":
        check(atoms, tmp_path / name)


@pytest.mark.slow
@given(before=structures())
@settings(SETTINGS, max_examples=2000, derandomize=False)
def test_two_thousand_random_structures_come_back(tmp_path: Path, before: Atoms):
    check(before, tmp_path / "a.xyz")


@pytest.mark.parametrize("name", ["a.xyz", "a.db", "a.traj"])
def test_what_is_no_data_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], info={"count": 1, "object": object(), 5: "number"})
    atoms.arrays["when"] = np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]")
    atoms.arrays["site"] = np.array(["H 1", ""])
    atoms.info |= {"words": np.array(["a", "b c"]), "nested": {"a": [1, {"b": None}], "c": np.array(["d"])}}
    write_frames(tmp_path / name, [Atoms("H"), atoms, atoms])
    after = read_frames(tmp_path / name)[2]
    assert {*after.info} == {"count", "words", "nested"}
    assert alike(after.info["words"], ["a", "b c"])
    assert alike(after.info["nested"], {"a": [1, {"b": None}], "c": ["d"]})
    assert after.arrays["site"].tolist() == ["H 1", ""]
    for entry in ("object", "5", "when"):
        assert f"'{entry}' is no data that a file can hold; left out (first in frame 1)" in caplog.text


def test_texts_with_blanks_shift_nothing(tmp_path: Path):
    atoms = Atoms("H3", np.arange(9.0).reshape(3, 3))
    atoms.arrays |= {"site": np.array(["H 1", "", "H\t3"]), "residue": np.array(["12", "None", "T"])}
    atoms.arrays["forces"] = np.arange(9.0).reshape(3, 3) / 7
    write_frames(tmp_path / "a.xyz", [atoms])
    for after in (read_frames(tmp_path / "a.xyz")[0], ase.io.read(tmp_path / "a.xyz", index=0)):
        assert np.array_equal(after.get_forces(), atoms.arrays["forces"])
        assert after.arrays["residue"].tolist() == ["12", "None", "T"]
    assert read_frames(tmp_path / "a.xyz")[0].arrays["site"].tolist() == ["H 1", "", "H\t3"]


def test_arrays_of_atoms_that_another_program_removed_are_dropped(tmp_path: Path):
    atoms = Atoms("H3", np.arange(9.0).reshape(3, 3))
    atoms.arrays["site"] = np.array(["H 1", "", "H 3"])
    write_frames(tmp_path / "a.xyz", [atoms])
    again = ase.io.read(tmp_path / "a.xyz", index=0)
    del again[0]
    again.info["surefield_arrays"]["site"] = {"__ndarray__": [[3], "<U3", ["H 1", "", "H 3"]]}
    ase.io.write(tmp_path / "b.xyz", again)
    after = read_frames(tmp_path / "b.xyz")[0]
    assert len(after) == 2
    assert {*after.arrays} == {"numbers", "positions"}
    assert not after.info


LATTICE = "3.6 0 0 0.1 3.7 0 0.2 0.3 3.8"
ROWS = "Cu 0 0 0 0.1 0 0\nCu 1.8 1.8 0 -0.1 0 0\n"


def one(path: Path, comment: str, rows: str = ROWS) -> Atoms:
    count = rows.count("\n")
    path.write_text(f"{count}\n{comment}\n{rows}")
    return read_frames(path)[0]


@pytest.mark.parametrize(
    "comment",
    [
        f'energy=0.4 lattice="{LATTICE}" properties=species:S:1:pos:R:3:forces:R:3',
        f'ENERGY=0.4 LATTICE="{LATTICE}" PBC="1 1 1" PROPERTIES=Species:S:1:Pos:R:3:Forces:r:3',
        f"Energy = 0.4 lattice={{{LATTICE}}} Pbc=[True True True] properties=Species:S:1:POS:R:3:FORCES:R:3",
        f"energy=0.4 note= Lattice='{LATTICE}' pbc=T Properties=\"species:S:1:pos:R:3:force:R:3\"",
    ],
)
def test_keys_are_read_whatever_their_case(tmp_path: Path, comment: str):
    atoms = one(tmp_path / "a.xyz", comment)
    (labels,), _ = resolve_labels([atoms])
    assert atoms.pbc.all()
    assert np.array_equal(atoms.cell.array, np.array(LATTICE.split(), dtype=float).reshape(3, 3))
    assert labels.energy == 0.4
    assert np.array_equal(labels.forces, [[0.1, 0, 0], [-0.1, 0, 0]])


def test_entries_that_only_look_like_a_cell_stay_entries(tmp_path: Path):
    atoms = one(tmp_path / "a.xyz", "lattice=fcc Pbc=surface Properties=species:S:1:pos:R:3:POS:R:3")
    assert atoms.info == {"lattice": "fcc", "Pbc": "surface"}
    assert not atoms.pbc.any()
    assert atoms.arrays["POS"][0, 0] == 0.1


@pytest.mark.parametrize(
    ("entry", "stress"),
    [
        ('stress="1 6 5 6 2 4 5 4 3"', [1, 2, 3, 4, 5, 6]),
        ('stress="1 2 3 4 5 6"', [1, 2, 3, 4, 5, 6]),
        ('virial="1 2 3 4 5 6"', [-1, -2, -3, -4, -5, -6]),
        ('virials="1 6 5 6 2 4 5 4 3"', [-1, -2, -3, -4, -5, -6]),
        ('REF_virial="1 2 3 4 5 6"', [-1, -2, -3, -4, -5, -6]),
        ('REF_stress="_JSON [[1, 6, 5], [6, 2, 4], [5, 4, 3]]"', [1, 2, 3, 4, 5, 6]),
        ("stress=[[1,6,5],[6,2,4],[5,4,3]]", [1, 2, 3, 4, 5, 6]),
        ("virial=[[1, 6, 5], [6, 2, 4], [5, 4, 3]]", [-1, -2, -3, -4, -5, -6]),
        ('REF_stress="1 6 5; 6 2 4; 5 4 3"', [1, 2, 3, 4, 5, 6]),
        ('DFT_Stress="_JSON [[1, 2, 3, 4, 5, 6]]"', [1, 2, 3, 4, 5, 6]),
        ("stress=None", None),
        ("REF_stress=None", None),
        ('stress="1 2 3"', None),
        ("virial", None),
    ],
)
def test_stress_and_virial_of_six_or_nine_numbers(tmp_path: Path, entry: str, stress: list[float] | None):
    head = 'Lattice="1 0 0 0 1 0 0 0 1" Properties=species:S:1:pos:R:3:forces:R:3 energy=-7.5'
    frames = [one(tmp_path / "a.xyz", f"{head} {entry}")]
    (labels,), _ = resolve_labels(frames)
    assert (labels.stress is None) if stress is None else np.allclose(labels.stress, stress, rtol=1e-14)
    assert resolve_labels(frames, {"stress": None})[0][0].stress is None


def test_a_stress_that_is_not_symmetric_is_refused(tmp_path: Path):
    head = "Lattice=[[1,0,0],[0,1,0],[0,0,1]] energy=-7.5"
    frames = [one(tmp_path / "a.xyz", f'{head} stress="1 6 5 7 2 4 5 4 3"', "H 0 0 0\n")]
    assert frames[0].cell.array.tolist() == np.eye(3).tolist()
    with pytest.raises(DataError, match=r"stress .* not symmetric in frame 0"):
        resolve_labels(frames, require=())
    assert resolve_labels(frames, {"stress": None}, require=())[0][0].energy == -7.5


@pytest.mark.parametrize(
    ("comment", "rows", "message"),
    [
        ("Properties=species:S:1:pos:R:3", ROWS, r"frame 0 of .*a.xyz \(line 3\).*expected 4 columns"),
        ("Properties=species:S:1:pos:R:3:f:R:2", ROWS, "blanks within a text"),
        ("Properties=species:S:1:pos:R", ROWS, r"unreadable comment line in frame 0 of .*a.xyz \(line 2\)"),
        ("Properties=species:S:1:pos:R:3:f:X:3", ROWS, "columns are R, I, S or L"),
        ("Properties=pos:R:3:f:R:3:s:S:1", ROWS, "no symbols and positions"),
        ("Properties=species:S:1:pos:R:3:f:R:1:f:R:2", ROWS, "a name twice"),
        ('Lattice="1 2 3"', ROWS, "Lattice must be nine numbers"),
        ('lattice="1 2 3"', ROWS, "lattice must be nine numbers"),
        ("pbc=maybe", ROWS, "pbc must look like"),
        ('key="_JSON {"', ROWS, "unreadable comment line in frame 0"),
        ("Properties=species:S:1:pos:R:3:on:L:1", "H 0 0 0 X\n", r"in frame 0 of .*; got KeyError: 'X'"),
        ("", "H 0 0 1_5\n", "a number with an underscore"),
        ("", "Hq 0 0 0\n", r"unreadable extxyz in frame 0 of .*; got KeyError: 'Hq'"),
    ],
)
def test_faults_name_file_and_frame(tmp_path: Path, comment: str, rows: str, message: str):
    with pytest.raises(DataError, match=message):
        one(tmp_path / "a.xyz", comment, rows)


def test_cell_vectors_behind_the_atoms(tmp_path: Path):
    (tmp_path / "a.xyz").write_text("1\nwords\nH 0 0 0\nVEC1 2 0 0\nVEC2 0 3 0\n1\n\nH 0 0 1\n")
    frames = read_frames(tmp_path / "a.xyz")
    assert frames[0].cell.array.tolist() == [[2, 0, 0], [0, 3, 0], [0, 0, 0]]
    assert frames[0].pbc.tolist() == [True, True, False]
    assert frames[1].positions.tolist() == [[0, 0, 1]]


def fuzz(path: Path, n_files: int, seed: int) -> int:
    """Read damaged files; the number of those that are refused."""
    rng = np.random.default_rng(seed)
    atoms = Atoms("HCN", rng.normal(size=(3, 3)), cell=rng.normal(size=(3, 3)), pbc=True)
    atoms.info |= {"text": "two words", "nested": {"a": [1, "b"]}, "list": [[1], [2, 3]], "config_type": "x"}
    atoms.arrays |= {
        "site": np.array(["a b", "", "c"]),
        "on": np.array([True, False, True]),
        "n": np.arange(3),
    }
    results = {"energy": -1.0, "forces": rng.normal(size=(3, 3)), "stress": np.arange(6.0)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    write_frames(path, [atoms, Atoms("H2", np.eye(3)[:2]), atoms])
    text, refused = path.read_bytes(), []
    for _ in range(n_files):
        path.write_bytes(damaged(text, rng))
        try:
            resolve_labels(read_frames(path), require=())
        except DataError as error:
            refused.append(str(error))
    assert all(str(path) in message for message in refused)
    return len(refused)


def test_damaged_files_give_an_answer_or_a_data_error(tmp_path: Path):
    assert fuzz(tmp_path / "a.xyz", 60, 0) > 20


@pytest.mark.slow
def test_five_hundred_damaged_files(tmp_path: Path):
    assert fuzz(tmp_path / "a.xyz", 500, 1) > 200
