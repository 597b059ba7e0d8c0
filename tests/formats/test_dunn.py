from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.behler import behler_functions
from surefield.errors import PotentialError
from surefield.formats.dunn import (
    FILES,
    dropout_network_from_text,
    read_dropout_files,
    write_dropout_files,
)
from surefield.potentials import predict
from surefield.potentials.dropout_network import DropoutNetwork, draw_masks

LISTS = {"g2": [{"eta": 1 / 3, "Rs": 0.1}], "g4": [{"zeta": 2, "lambda": -1, "eta": 0.7}]}


@pytest.fixture(scope="module")
def silicon(shared):
    """Texts of the network that KLIFF trained, and what KIM's driver makes of it."""
    folder = shared / "reference/trainers"
    texts = [lzma.decompress((folder / f"inputs/dunn_si/{name}.xz").read_bytes()).decode() for name in FILES]
    return texts, np.load(folder / "expected/dunn_si.npz")


@pytest.fixture(scope="module")
def small():
    """Two layers of odd numbers, with members and an offset."""
    network = DropoutNetwork(behler_functions(["Si"], LISTS, 4.7), (3, 2), dropout=0.15, seed=1)
    network = network.with_masks(draw_masks((3, 2), 4, 0.15, seed=2), 0.15)
    values = (jnp.array([0.1, 1 / 7]), jnp.array([2 / 3, 1.1]), jnp.ones((), bool))
    return eqx.tree_at(lambda p: (p.mean, p.scale, p.fitted), network, values)


def equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("member", [0, 1, 20, -1])
def test_members_agree_with_the_driver(silicon, member):
    texts, expected = silicon
    network = dropout_network_from_text(*texts).of_member(member)
    atoms = Atoms("Si64", positions=expected["positions"], cell=expected["cell"], pbc=True)
    (found,) = predict(network, [atoms])
    for name, key in (("energy", "E"), ("forces", "F"), ("stress", "S")):
        np.testing.assert_allclose(getattr(found, name), expected[f"{key}_{member}"], rtol=0, atol=1e-10)


def test_round_trip_is_exact(silicon, small, tmp_path):
    for network in (dropout_network_from_text(*silicon[0]), small):
        folder = tmp_path / f"a folder {network.descriptor.width}"
        paths = write_dropout_files(folder, network, "Some_name_1")
        assert [path.name for path in paths] == [*FILES, "CMakeLists.txt"]
        texts = [path.read_text() for path in paths]
        again = read_dropout_files(folder)
        equal(network, again)
        write_dropout_files(folder, again, "Some_name_1")
        assert [path.read_text() for path in paths] == texts
    assert "project(Some_name_1)" in texts[-1]
    assert '"DUNN__MD_292677547454_000"' in texts[-1]


def test_offset_becomes_part_of_the_bias(small, tmp_path):
    shifted = eqx.tree_at(lambda p: p.offsets, small, jnp.array([-4.5]))
    write_dropout_files(tmp_path, shifted, "x")
    again = read_dropout_files(tmp_path)
    assert float(again.offsets[0]) == 0.0
    assert float(again.bias[0]) == float(small.bias[0]) - 4.5


def test_without_members_and_normalisation(tmp_path):
    network = DropoutNetwork(behler_functions(["Si"], LISTS, 4.7), (3,), norm=False)
    write_dropout_files(tmp_path, network, "x")
    assert (tmp_path / FILES[2]).read_text().split("#")[1].split("\n")[1] == "0  "
    again = read_dropout_files(tmp_path)
    (tmp_path / FILES[2]).unlink()
    equal(again, read_dropout_files(tmp_path))
    equal(again.layers, network.layers)
    assert (again.norm, again.dropout, again.n_members) == (False, 0.0, 0)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (0, "cos  #", "exp  #", "unusable type of cutoff.*got exp; expected cos"),
        (0, "1  # number of species", "2 # number of species", "has 2 species.*only files of one element"),
        (0, "Si Si 4.7", "Si Ge 4.7", "unusable pair of species"),
        (0, "g2 1 2", "g3 1 1", "unusable function type.*got g3"),
        (0, "g2 1 2", "g2 1 3", "unusable size of g2"),
        (0, "2  # size of the descriptor", "3  # size", "unusable size of the descriptor.*got 3; expected 2"),
        (0, "center_and_normalize True", "center_and_normalize maybe", "unusable center_and_normalize"),
        (1, "tanh", "relu", "unusable activation.*got relu; expected tanh"),
        (1, "3 2 1", "3 2 2", r"unusable layer sizes.*\[3, 2, 2\]"),
        (1, "1 0.8", "0.8 0.8", "unusable keep probabilities"),
        (1, "3  # number", "x  # number", "unusable number of layers in NN.params; got x"),
        (2, "4  # ensemble", "5  # ensemble", "cut short: masks needs 35 numbers, 28 are left"),
        (2, "\n1 1\n", "\n1 2\n", "unusable masks"),
        (2, "\n1 1\n", "\n0 1\n", "unusable masks of layer 0"),
    ],
)
def test_files_that_cannot_be_read(small, tmp_path, file, old, new, message):
    write_dropout_files(tmp_path, small, "x")
    text = (tmp_path / FILES[file]).read_text()
    assert old in text
    (tmp_path / FILES[file]).write_text(text.replace(old, new, 1))
    with pytest.raises(PotentialError, match=message):
        read_dropout_files(tmp_path)


def test_cut_short_or_missing(small, tmp_path):
    write_dropout_files(tmp_path, small, "x")
    text = (tmp_path / "NN.params").read_text()
    (tmp_path / "NN.params").write_text(text[: len(text) // 2])
    with pytest.raises(PotentialError, match=r"NN.params is cut short: (weights|biases) of layer \d needs"):
        read_dropout_files(tmp_path)
    (tmp_path / "NN.params").write_text("")
    with pytest.raises(PotentialError, match=r"NN.params is cut short: number of layers is missing"):
        read_dropout_files(tmp_path)
    (tmp_path / "NN.params").unlink()
    with pytest.raises(PotentialError, match=r"files of a dropout network are missing.*NN\.params"):
        read_dropout_files(tmp_path)


def test_what_the_driver_cannot_have(small, tmp_path):
    alloy = DropoutNetwork(behler_functions(["Cu", "Au"], LISTS, 4.0), (3,))
    with pytest.raises(PotentialError, match="a network of Cu, Au has no such files"):
        write_dropout_files(tmp_path, alloy, "x")
    with pytest.raises(PotentialError, match="cannot name a KIM model"):
        write_dropout_files(tmp_path, small, "9 lives")


@pytest.mark.slow
def test_kim_gives_the_same_numbers(small, tmp_path):
    """The folder installs with the KIM tools, and the driver reads from it what we wrote."""
    tools = ("kim-api-collections-management", "cmake", "g++", "pkg-config")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install libkim-api-dev openkim-models cmake g++")

    def run(*command, text=""):
        done = subprocess.run(command, cwd=tmp_path, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    flags = run("pkg-config", "--cflags", "--libs", "libkim-api").split()
    program = Path(__file__).with_name("kim_energy.c")
    run("gcc", str(program), "-o", "kim_energy", *flags)
    write_dropout_files(tmp_path / "Surefield_Si", small, "Surefield_Si")
    run("kim-api-collections-management", "install", "CWD", "Surefield_Si")
    cluster = Atoms("Si9", positions=np.random.default_rng(0).uniform(0, 5, (9, 3)))
    coordinates = " ".join(map(repr, cluster.positions.ravel().tolist()))
    values = np.array(run("./kim_energy", "Surefield_Si", "9", text=coordinates).split(), float)
    (expected,) = predict(small, [cluster])
    np.testing.assert_allclose(values[0], expected.energy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values[1:].reshape(-1, 3), expected.forces, rtol=0, atol=1e-12)
