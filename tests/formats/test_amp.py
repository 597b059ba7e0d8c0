from __future__ import annotations

import json
import math

import numpy as np
import pytest

from surefield.errors import DataError, PotentialError
from surefield.formats import amp as amp_files
from surefield.formats.amp import read_amp

GAUSSIAN = "importname='.descriptor.gaussian.Gaussian'"
NETWORK = "importname='.model.neuralnetwork.NeuralNetwork'"


@pytest.fixture(scope="module")
def networks(shared):
    return shared / "reference" / "networks"


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Where a file would appear if something in a text were run."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def written(folder, model, descriptor=f"dict({GAUSSIAN})"):
    path = folder / "made.amp"
    path.write_text(f'dict(descriptor="{descriptor}",\n     model="{model}")\n')
    return path


def with_integer_layers(weights):
    return (
        {int(k) if k.isdigit() else k: with_integer_layers(w) for k, w in weights.items()}
        if isinstance(weights, dict)
        else np.array(weights)
    )


def assert_same(found, expected):
    """Nested dicts of arrays or lists with equal numbers."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["small", "small_ordereddict", "small_numpy2"])
def test_files_of_one_model(networks, name):
    model = json.loads((networks / "small" / "model.json").read_text())
    found = read_amp(networks / "amp_files" / f"{name}.amp")
    assert found.descriptor["importname"] == ".descriptor.gaussian.Gaussian"
    assert found.descriptor["cutoff"] == {"name": "Cosine", "kwargs": {"Rc": 6.5}}
    assert found.descriptor["Gs"] == model["Gs"]
    assert found.model["hiddenlayers"] == {"Cu": (4, 3), "Pt": (5,)}
    assert found.model["scalings"] == model["scalings"]
    assert type(found.model["scalings"]["Cu"]["slope"]) is float
    assert_same(found.model["weights"], with_integer_layers(model["weights"]))
    assert_same(found.model["fprange"], model["fprange"])


def test_file_with_arrays(networks):
    weights = json.loads((networks / "small" / "functions.json").read_text())["get_random_weights"]["weights"]
    found = read_amp(networks / "amp_files" / "random_init_arrays.amp").model["weights"]
    assert isinstance(found["Pt"][1], np.ndarray)
    assert_same(found, with_integer_layers(weights))


def test_file_of_a_charge_model(networks):
    model = json.loads((networks / "charge" / "model.json").read_text())
    found = read_amp(networks / "amp_files" / "charge.amp").model
    assert found["importname"] == ".model.chargeneuralnetwork.ChargeNeuralNetwork"
    for name in ("charge_weights", "charge_scalings", "Ei", "Jii", "etas", "charge_fprange"):
        assert_same(found[name], with_integer_layers(model[name]) if "weights" in name else model[name])
    assert (found["slab_metal"], found["surface_correction"]) == ("Pt", 2.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hostile_call", r"not an Amp potential in model of .*, line 1, column 1"),
        ("hostile_attribute", r"descriptor of .*, line 1, column \d+"),
        ("hostile_comprehension", r"ListComp is not data in descriptor of .*, line 1, column 9"),
        ("hostile_importname", r"unknown descriptor 'os.system' in descriptor of .*, line 1, column 17"),
        ("truncated", r"cut short or malformed .*, line 2, column 12"),
    ],
)
def test_hostile_and_damaged_files(networks, in_empty_folder, name, message):
    with pytest.raises(DataError, match=message):
        read_amp(networks / "amp_files" / f"{name}.amp")
    assert list(in_empty_folder.iterdir()) == []


HOSTILE = [
    "open('RAN', 'w')",
    "np.load('RAN')",
    "array(open('RAN', 'w'))",
    "dict(a=open('RAN', 'w'))",
    "OrderedDict([('a', open('RAN', 'w'))])",
    "np.float64(open('RAN', 'w'))",
    "array.__class__",
    "os.float64(1)",
    "(lambda: open('RAN', 'w'))()",
    "{k: 1 for k in (open('RAN', 'w'),)}",
    "f'{open(1)}'",
    "1 if 1 else 2",
    "[1] * 1000000000",
    "9 ** 9 ** 9",
    "-'a'",
    "-True",
    "[*(1, 2)]",
    "{**{'a': 1}}",
    "dict(**{'a': 1})",
    "array([1], dtype='O')",
    "array([1], 'O')",
    "array(['a'])",
    "array([{}])",
    "array([[1], [2, 3]])",
    "array([1.0, 1" + "0" * 400 + "])",
    "matrix([[[1]]])",
    "np.float64('1')",
    "np.int64(1.5)",
    "np.float64(1" + "0" * 400 + ")",
    "{[1]: 2}",
    "{(1, [2]): 2}",
    "{'a': 1, 'a': 2}",
    "OrderedDict([('a', 1), ('a', 2)])",
    "OrderedDict([1, 2])",
    "OrderedDict('ab')",
    "numpy",
    "True or False",
    "(x := 1)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_but_data_is_refused(in_empty_folder, tmp_path, text):
    with pytest.raises(DataError, match=r"model of .*made.amp, line 2, column \d+"):
        read_amp(written(tmp_path, f"dict({NETWORK},\\n value={text})"))
    assert list(in_empty_folder.iterdir()) == []


def test_data_that_is_understood(tmp_path):
    text = (
        "[nan, -inf, +2, -1.5e-3, None, True, 'a', (1,), (), dict(a=1), dict({'b': 2}, c=3), "
        "OrderedDict({1: 2}), OrderedDict(), float64(2), np.int64(-3), matrix([1, 2]), array([[1.0, nan]])]"
    )
    found = read_amp(written(tmp_path, f"dict({NETWORK}, value={text})")).model["value"]
    assert math.isnan(found[0])
    assert found[1:5] == [-math.inf, 2, -0.0015, None]
    assert found[5:10] == [True, "a", (1,), (), {"a": 1}]
    assert found[10:15] == [{"b": 2, "c": 3}, {1: 2}, {}, 2.0, -3]
    assert isinstance(found[13], float)
    np.testing.assert_array_equal(found[15], [[1, 2]])
    np.testing.assert_array_equal(found[16], [[1.0, np.nan]])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60 + "]" * 60,
        "[" * 100_000,
        "-" * 100_000 + "1",
        "+".join("1" * 100_000),
        "a" + ".b" * 100_000,
        "a" + "()" * 100_000,
        "{1: " * 150 + "1" + "}" * 150,
        "dict(a=" * 90 + "1" + ")" * 90,
        "-" * 60 + "1",
    ],
    ids=["lists", "open", "minus", "plus", "attributes", "calls", "dicts", "keywords", "signs"],
)
def test_deep_nesting_is_no_crash(tmp_path, text):
    with pytest.raises(DataError, match=r"line \d+, column \d+"):
        read_amp(written(tmp_path, f"dict({NETWORK}, value={text})"))
    path = tmp_path / "outer.amp"
    path.write_text(f"dict(model={text})")
    with pytest.raises(DataError, match=r"line 1, column \d+"):
        read_amp(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "malformed.*line 1, column"),
        (b"dict(model='',\n a\xff\xfe)", "not a text file.*line 2, column 3"),
        (b"PK\x03\x04\x00\x00", "line 1, column 1"),
        (b"dict(descriptor='dict()', model=7)", "model is not a text.*line 1, column 33"),
        (b"dict(descriptor='dict()')", "no model"),
        (b"dict(descriptor='dict()', model='dict()', log='a')", "unknown entry 'log'"),
        (b"dict(descriptor='dict()', descriptor='dict()')", "'descriptor' twice"),
        (b"dict('a', descriptor='dict()')", "not an Amp potential"),
        (b"dict(descriptor='dict()', model='dict()')", "unknown descriptor None"),
        (b"dict(descriptor='dict(x=\\'\\\\ud800\\')', model='dict(\\ud800)')", "malformed"),
        (b"dict(descriptor='dict(x=1\\x00)', model='dict()')", "malformed"),
    ],
)
def test_damaged_bytes(tmp_path, data, message):
    path = tmp_path / "bad.amp"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_amp(path)


def test_other_descriptors_and_models(tmp_path):
    descriptor = "dict(importname='.descriptor.zernike.Zernike', nmax=5)"
    assert read_amp(written(tmp_path, f"dict({NETWORK})", descriptor)).descriptor["nmax"] == 5
    with pytest.raises(PotentialError, match=r"bispectrum.*not built"):
        read_amp(
            written(tmp_path, f"dict({NETWORK})", "dict(importname='.descriptor.bispectrum.Bispectrum')")
        )
    with pytest.raises(DataError, match=r"unknown model '.model.tflow.NeuralNetwork'"):
        read_amp(written(tmp_path, "dict(importname='.model.tflow.NeuralNetwork')"))
    with pytest.raises(DataError, match=r"unknown model array\(\[1, 2\]\)"):
        read_amp(written(tmp_path, "dict(importname=array([1, 2]))"))


def test_missing_and_oversized_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no .amp file"):
        read_amp(tmp_path / "absent.amp")
    with pytest.raises(DataError, match=r"no .amp file"):
        read_amp(tmp_path)
    monkeypatch.setattr(amp_files, "LARGEST", 10)
    with pytest.raises(DataError, match=r"too large.*at most 10 bytes"):
        read_amp(written(tmp_path, f"dict({NETWORK})"))
