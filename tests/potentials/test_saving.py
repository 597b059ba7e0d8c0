from __future__ import annotations

import json

import equinox as eqx
import numpy as np
import pytest
from tests.damaged_files import damaged

from surefield.errors import DataError, PotentialError
from surefield.loading import load_any
from surefield.potentials import ZBL, load_potential, save_potential
from surefield.potentials.saving import FORMAT, load_arrays, save_arrays


@pytest.fixture
def file(tmp_path, network):
    path = tmp_path / "potential.npz"
    save_potential(path, network + ZBL(["Cu", "Au"]))
    return path


def _rewrite(path, **changes):
    with np.load(path) as stored:
        arrays = dict(stored)
    header = json.loads(str(arrays["header"])) | changes.pop("header", {})
    np.savez(path, **arrays | {"header": np.array(json.dumps(header))} | changes)


def test_round_trip_is_exact(file, network):
    loaded = load_potential(file)
    assert eqx.tree_equal(loaded.learned, network)
    assert (loaded.baseline.inner, loaded.baseline.cutoff) == (0.7, 1.4)


def test_missing(tmp_path):
    with pytest.raises(PotentialError, match=r"no saved potential at .*nothing\.npz"):
        load_potential(tmp_path / "nothing.npz")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_cut_short(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(PotentialError, match="cut short"):
        load_potential(file)


def test_every_damaged_byte_is_noticed(file):
    data = file.read_bytes()
    for place in np.linspace(100, len(data) // 2, 12, dtype=int):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        file.write_bytes(bytes(changed))
        with pytest.raises(PotentialError):
            load_potential(file)


def fuzz(file, n_files, seed):
    """Load damaged files: each is refused, or gives the potential that was saved; how many were refused."""
    data, whole, refused = file.read_bytes(), load_potential(file), 0
    rng = np.random.default_rng(seed)
    for _ in range(n_files):
        file.write_bytes(damaged(data, rng))
        try:
            assert eqx.tree_equal(load_any(file), whole)
        except (PotentialError, DataError):
            refused += 1
    return refused


def test_damaged_files_are_refused(file):
    assert fuzz(file, 40, 0) > 20


@pytest.mark.slow
def test_five_hundred_damaged_files_are_refused(file):
    assert fuzz(file, 500, 1) > 300


def test_changed_array_does_not_match_the_hash(file):
    with np.load(file) as stored:
        name = next(name for name in stored.files if name.endswith("readout"))
        value = stored[name] + 1e-9
    _rewrite(file, **{name: value})
    with pytest.raises(PotentialError, match="hash"):
        load_potential(file)


def test_newer_version(file):
    _rewrite(file, header={"format": FORMAT + 1})
    with pytest.raises(PotentialError, match=r"newer version.*update surefield"):
        load_potential(file)


def test_unknown_kind(tmp_path):
    save_arrays(tmp_path / "a.npz", "potential", {"kind": "magic"}, {"x": np.zeros(2)})
    with pytest.raises(PotentialError, match="magic"):
        load_potential(tmp_path / "a.npz")
    with pytest.raises(PotentialError, match="holds a potential, not a checkpoint"):
        load_arrays(tmp_path / "a.npz", "checkpoint")


def test_no_code_is_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", header=np.array([object()], dtype=object))
    with pytest.raises(PotentialError, match="not a saved potential"):
        load_potential(tmp_path / "a.npz")


def test_arrays_of_another_shape(file):
    config, arrays = load_arrays(file, "potential")
    config["learned"]["n_channels"] = 2
    save_arrays(file, "potential", config, arrays)
    with pytest.raises(PotentialError, match="does not fit"):
        load_potential(file)
