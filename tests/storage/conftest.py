"""Fixtures of the storage tests: small labelled frames, and a real PostgreSQL server of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.spacegroup import Spacegroup


@pytest.fixture(scope="session")
def labelled() -> Callable[..., list[Atoms]]:
    """Maker of rattled copper cells with labels held by a calculator."""

    def make(count: int, seed: int = 0, repeat: int = 1) -> list[Atoms]:
        rng = np.random.default_rng(seed)
        frames = []
        for i in range(count):
            atoms = bulk("Cu").repeat((2, 1, repeat))
            atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
            atoms.info["step"] = i
            atoms.arrays["atomic_weights"] = rng.random(len(atoms))
            forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=6)
            atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces, stress=stress)
            frames.append(atoms)
        return frames

    return make


def _user_exists(name: str) -> bool:
    return any(line.startswith(f"{name}:") for line in Path("/etc/passwd").read_text("utf-8").splitlines())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Maker of fresh databases in a PostgreSQL server that runs for this session, on a socket in a file."""
    pytest.importorskip("psycopg2", reason="needs psycopg2: pip install 'surefield[db]' psycopg2-binary")
    pytest.importorskip("ase_db_backends", reason="needs ase-db-backends: pip install 'surefield[db]'")
    found = shutil.which("pg_ctl") or next(
        iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None
    )
    if found is None:
        pytest.skip("needs a PostgreSQL server: apt install postgresql")
    if os.getuid() == 0 and not (shutil.which("runuser") and _user_exists("postgres")):
        pytest.skip("as root, needs the program runuser on the path and the user postgres")
    programs = Path(found).resolve().parent
    # The server refuses to run as root, and its user cannot enter pytest's folders.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = tempfile.mkdtemp(prefix="sf-pg-")

    def call(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60)

    try:
        if user:
            shutil.chown(folder, "postgres")
        data, name = f"{folder}/data", "tester"
        call("initdb", "-D", data, "-U", name, "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses= -F"
        call("pg_ctl", "start", "-w", "-D", data, "-l", f"{folder}/log", "-o", options)
        numbers = iter(range(1000))

        def fresh() -> str:
            database = f"db{next(numbers)}"
            call("createdb", "-h", folder, "-U", name, database)
            return f"postgresql://{name}@/{database}?host={folder}"

        try:
            yield fresh
        finally:
            call("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty storage of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "store" / "datasets.db")
    return request.getfixturevalue("postgres")()


@pytest.fixture
def everything() -> Atoms:
    """A structure with all that a format may lose."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.pbc = (True, False, True)
    atoms.positions[1, 2] = 0.1 + 0.2
    atoms.set_celldisp([0.1, 0.2, 0.3])
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_array("tensor", np.arange(18.0).reshape(2, 3, 3) / 7)
    atoms.set_array("big", np.array([2**40, -1]))
    atoms.set_array("single", np.array([0.1, 0.2], np.float32))
    atoms.set_array("name", np.array(["a", "äö"]))
    atoms.set_array("free", np.array([True, False]))
    atoms.set_initial_magnetic_moments([[0, 0, 1.0], [0, 1.0, 0]])
    atoms.info |= {
        "zero": -0.0,
        "nan": float("nan"),
        "text": 'a "b"\n\x00',
        "flag": np.bool_(True),
        "number": np.int64(7),
        "array": np.array([[1.0, np.nan, -0.0]]),
        "nested": {"@array": (1, [2.5, None]), 3: b"\x00\xff"},
        "complex": 1 + 2j,
        "spacegroup": Spacegroup(225),
        "atomic_weights": [1.0, 2.0],
    }
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results = {
        "energy": np.float64(1 / 3),
        "forces": np.full((2, 3), 1e-17),
        "stress": np.arange(9.0).reshape(3, 3),
        "energy_uncertainty": 0.1,
        "forces_ensemble": np.ones((4, 2, 3)),
    }
    atoms.calc.name = "vasp"
    return atoms
