"""Damaged files: an answer, or one of the four errors; never another exception, or numbers of a cut table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from tests.formats.chimes.conftest import SETTINGS, chimes
from tests.formats.test_pair_styles import COEFFICIENTS, PARAMETERS
from tests.formats.test_pair_styles import ZBL as COMMANDS
from tests.formats.test_triplet_file import SW, TERSOFF
from tests.potentials.parametric.test_setfl import text as setfl_text

from surefield.errors import ConfigError, DataError, ExecutionError, PotentialError
from surefield.formats.chimes import read_params, write_params
from surefield.formats.dunn import read_dropout_files, write_dropout_files
from surefield.formats.snap import read_snap, write_snap
from surefield.formats.triplet_file import read_sw, read_tersoff
from surefield.networks import load_model
from surefield.potentials.dropout_network import DropoutNetwork, draw_masks
from surefield.potentials.parametric.eam import EAM

__all__ = ["SETTINGS", "chimes"]

OURS = (ConfigError, DataError, ExecutionError, PotentialError)
KINDS = ["setfl", "fs", "snap", "lammps_snap", "sw", "tersoff", "chimes", "dunn", "amp"]
SHORT, LONG = 25, 500


@pytest.fixture
def files(tmp_path, chimes, shared) -> Callable[[str], tuple[list[Path], Callable]]:
    """Whole files of a kind, and what reads them."""

    def make(kind: str) -> tuple[list[Path], Callable]:
        match kind:
            case "setfl" | "fs":
                (tmp_path / "x").write_text(setfl_text(2 if kind == "fs" else 1))
                return [tmp_path / "x"], lambda: EAM.read(tmp_path / "x")
            case "snap" | "lammps_snap":
                texts = {"coeff": COEFFICIENTS, "param": PARAMETERS + "bzeroflag 1\n"}
                for suffix, content in texts.items():
                    (tmp_path / f"x.snap{suffix}").write_text(content)
                (tmp_path / "x.mod").write_text(COMMANDS)
                if kind == "snap":
                    write_snap(tmp_path / "x", read_snap(tmp_path / "x"))
                paths = [tmp_path / f"x{suffix}" for suffix in (".snapcoeff", ".snapparam", ".mod")]
                return paths, lambda: read_snap(tmp_path / "x")
            case "sw":
                (tmp_path / "x").write_text(SW)
                return [tmp_path / "x"], lambda: read_sw(tmp_path / "x")
            case "tersoff":
                (tmp_path / "x").write_text(TERSOFF)
                return [tmp_path / "x"], lambda: read_tersoff(tmp_path / "x")
            case "chimes":
                write_params(tmp_path / "x", chimes)
                return [tmp_path / "x"], lambda: read_params(tmp_path / "x")
            case "dunn":
                from tests.formats.test_dunn import LISTS, behler_functions

                network = DropoutNetwork(behler_functions(["Si"], LISTS, 4.7), (3, 2), dropout=0.15, seed=1)
                network = network.with_masks(draw_masks((3, 2), 2, 0.15, seed=2), 0.15)
                fitted = eqx.tree_at(lambda p: p.fitted, network, np.ones((), bool))
                paths = write_dropout_files(tmp_path, fitted, "Si")[:3]
                return paths, lambda: read_dropout_files(tmp_path)
        path = shared / "reference" / "networks" / "amp_files" / "small.amp"
        (tmp_path / "x").write_bytes(path.read_bytes())
        return [tmp_path / "x"], lambda: load_model(tmp_path / "x").potential

    return make


def damaged(data: bytes, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Cut, with a few other bytes, or with two lines exchanged; and whether it was cut."""
    way = rng.integers(3)
    if way == 0:
        return data[: rng.integers(len(data))], True
    if way == 1:
        changed = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            changed[place] ^= 1 << rng.integers(8)
        return bytes(changed), False
    lines = data.splitlines(keepends=True)
    i, j = rng.integers(len(lines), size=2)
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines), False


def numbers(potential) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(potential)]


def check(files, kind: str, n: int, seed: int) -> None:
    paths, read = files(kind)
    rng = np.random.default_rng(seed)
    whole = read()
    refused = 0
    for _ in range(n):
        path = paths[rng.integers(len(paths))]
        data = path.read_bytes()
        content, cut = damaged(data, rng)
        path.write_bytes(content)
        try:
            potential = read()
        except OURS:
            refused += 1
        else:
            assert all(np.isfinite(a).all() for a in numbers(potential) if a.dtype.kind == "f")
            # Whole lines that are missing from parameters of SNAP have defaults in LAMMPS.
            if cut and path.suffix != ".snapparam":
                assert eqx.tree_equal(potential, whole), content[-200:]
        path.write_bytes(data)
    assert refused > n // 5


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(files, kind):
    check(files, kind, SHORT, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(files, kind):
    check(files, kind, LONG, seed=2)
