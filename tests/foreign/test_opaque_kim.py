"""KIM as a witness: the same ids, the same numbers; and models that only KIM knows. Compiles kimpy once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.formats.kim import write_kim_model
from surefield.formats.kim_models import MODELS, find_model
from surefield.potentials.evaluate import predict
from surefield.potentials.parametric import Tersoff
from surefield.scores.fim import FIMTrainingSetScore
from surefield.sensitivity.rows import structure_rows
from surefield.testing import check_potential
from surefield.trainers.parametric import KIMPotential, ParametricModelTrainer

pytestmark = pytest.mark.slow

SILICON = "SW_StillingerWeber_1985_Si"
EDIP = "EDIP_JustoBazantKaxiras_1998_Si"


@pytest.fixture(scope="module", autouse=True)
def kim() -> None:
    """kimpy: installed, or compiled once (minutes) into the user's cache folder."""
    if importlib.util.find_spec("kimpy") is not None:
        return
    tools = shutil.which("pkg-config") and shutil.which("kim-api-collections-management")
    if not tools or subprocess.run(["pkg-config", "--exists", "libkim-api"], check=False).returncode:
        pytest.skip("needs the KIM API with models: apt install libkim-api-dev openkim-models g++")
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "surefield"
    target = root / f"kimpy-{sys.implementation.cache_tag}"
    if not target.is_dir():
        made = root / f"{target.name}.{os.getpid()}"
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(made), "kimpy"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"kimpy does not compile here: {done.stderr.strip().splitlines()[-1]}")
        try:
            made.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(made)
            assert target.is_dir()
    sys.path.insert(0, str(target))


@pytest.fixture(scope="module")
def opaque():
    """A model that KIM computes."""
    from surefield.foreign.opaque_kim import OpaqueKIM

    return lambda name, species=("Si",): OpaqueKIM(None, species, model_id=name)


def shaken(name: str, structure: str, a: float):
    atoms = bulk(name, structure, a=a, cubic=True).repeat(2)
    atoms.rattle(0.1, seed=3)
    strain = np.eye(3) + np.random.default_rng(4).normal(0, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    ("name", "crystal"),
    [
        (SILICON, ("Si", "diamond", 5.43)),
        ("LJ_Shifted_Bernardes_1958LowCutoff_Ar", ("Ar", "fcc", 5.3)),
        ("Morse_Shifted_GirifalcoWeizer_1959LowCutoff_Cu", ("Cu", "fcc", 3.6)),
        ("Tersoff_LAMMPS_Tersoff_1988T2_Si", ("Si", "diamond", 5.43)),
        ("Tersoff_LAMMPS_Tersoff_1988T3_Si", ("Si", "diamond", 5.43)),
        ("Tersoff_LAMMPS_Tersoff_1989_SiC", ("SiC", "zincblende", 4.36)),
    ],
)
def test_the_same_id_gives_the_same_numbers(name, crystal, opaque):
    atoms = shaken(*crystal)
    ours = find_model(name).make()
    (found,), (expected,) = predict(ours, [atoms]), predict(opaque(name, ours.symbols), [atoms])
    assert found.energy == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-11 * np.abs(expected.forces).max())
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-11 * np.abs(expected.stress).max())


def test_all_known_models_have_the_published_parameters(opaque):
    for name, known in MODELS.items():
        ours, theirs = known.make(), opaque(name, known.species)
        for parameter, values in theirs.values.items():
            expected, found = np.asarray(values), np.asarray(ours.values[parameter])
            if isinstance(ours, Tersoff) and len(known.species) > 1:
                # Files leave numbers out that no triplet uses, and those of bonds stand with i, j, j only.
                expected, found = expected[expected != 0], found[expected != 0]
            np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=f"{name} {parameter}")


def test_forces_of_the_reference_structures(shared, opaque):
    from surefield.structures.read import read_frames

    folder = shared / "reference" / "scores" / "inputs" / "si_t900"
    frames = [atoms for file in sorted(folder.glob("*.xyz")) for atoms in read_frames(file)][:3]
    ours, theirs = predict(find_model(SILICON).make(), frames), predict(opaque(SILICON), frames)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found.forces, expected.forces, atol=2e-6 * np.abs(expected.forces).max())


@pytest.mark.parametrize(
    "name", [SILICON, "Tersoff_LAMMPS_Tersoff_1989_SiC", "Morse_Shifted_Jelinek_1972_Ar"]
)
def test_written_models_run_in_kim(name, tmp_path):
    ours = find_model(name).make()
    free = next(iter(ours.forms))
    ours = ours.with_values({free: np.asarray(ours.values[free]) * 1.02})
    write_kim_model(tmp_path, "written_model", ours)
    command = ["kim-api-collections-management", "install", "CWD", str(tmp_path / "written_model")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    atoms = shaken(*{"Si": ("Si", "diamond", 5.43), "Ar": ("Ar", "fcc", 5.3)}.get(ours.symbols[0], ()))
    if len(ours.symbols) == 2:
        atoms = shaken("SiC", "zincblende", 4.36)
    atoms.write(tmp_path / "atoms.traj")
    paths = [path for path in sys.path if "kimpy" in path]
    lines = (
        f"import sys; sys.path[:0] = {paths!r}",
        "from ase.io import read",
        "from ase.calculators.kim import KIM",
        "atoms = read('atoms.traj')",
        "atoms.calc = KIM('written_model')",
        "print(repr(float(atoms.get_potential_energy())))",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert predict(ours, [atoms])[0].energy == pytest.approx(float(run.stdout), rel=1e-11)


def test_versions(opaque):
    assert KIMPotential(SILICON, backend="kim").kim_id.endswith("_005")
    with pytest.raises(PotentialError, match=r"no version 006 .*MO_405512056662_005"):
        KIMPotential("SW_StillingerWeber_1985_Si__MO_405512056662_006", backend="kim")
    with pytest.raises(PotentialError, match="is no model of this package"):
        KIMPotential("EDIP_JustoBazantKaxiras_1998_Sj")
    with pytest.raises(ConfigError, match="does not know C; it knows Si"):
        opaque(EDIP, ["Si", "C"])


def test_contract_of_an_opaque_model(opaque, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    molecule = atoms.copy()
    molecule.pbc = False
    check_potential(opaque(EDIP), [atoms, molecule], tolerance=1e-8)
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    with pytest.raises(DataError, match="periodic in three directions"):
        predict(opaque(EDIP), [slab])
    assert list(tmp_path.iterdir()) == []  # KIM would like to write kim.log


def test_rows_by_differences_are_the_exact_ones(opaque):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    exact = find_model(SILICON).make()
    numerical = opaque(SILICON).with_free(exact.free)
    structure = exact.neighborhood(atoms)
    (expected,) = structure_rows(exact.last_layer(), [structure], ("energy", "forces", "stress"))
    (found,) = structure_rows(numerical.last_layer(), [structure], ("energy", "forces", "stress"))
    for kind in ("energy", "forces", "stress"):
        rows = getattr(expected, kind)
        np.testing.assert_allclose(getattr(found, kind), rows, atol=1e-9 * np.abs(rows).max())


def test_training_an_opaque_model(opaque, tmp_path):
    frames = [shaken("Si", "diamond", 5.43)[:8] for _ in range(2)]
    for i, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=i)
        atoms.calc = KIMPotential(SILICON).calculator()
        atoms.get_stress()
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(tmp_path / "runs")}}
    trainer = ParametricModelTrainer(SILICON, {"A": [[14.5]], "lambda": [[44.0]]})
    result = trainer.train("kim", KIMPotential(SILICON, backend="kim"), frames, None, flow, register=False)
    assert result.success
    assert result.notes["parameters"]["A"] == pytest.approx(15.2848479197914, rel=1e-5)
    assert result.potential.kim_id.endswith("_005")
    refused = KIMPotential(EDIP)
    with pytest.raises(ConfigError, match="cannot write its parameters"):
        ParametricModelTrainer(EDIP, ["A"]).train("edip", refused, frames, None, flow)
    assert not (tmp_path / "runs" / "ParametricModelTrainer" / "edip").exists()


def test_fisher_information_by_finite_differences():
    """The same model, differentiated numerically through KIM and exactly here."""
    kim = {"potential_type": "KIM", "potential_args": {"kim_id": SILICON, "backend": "kim"}}
    ours = {"potential_type": "KIM", "potential_args": {"kim_id": SILICON}}
    asked = {name: [["default"]] for name in ("A", "q", "sigma", "lambda")}
    frames = [bulk("Si", a=5.43, cubic=True) for _ in range(2)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    score = FIMTrainingSetScore()
    exact = score.compute_batch(frames, "SENSITIVITY", ours, asked)
    fine = {"method": "CD4", "step": 1e-3}
    numerical = score.compute_batch(frames, "SENSITIVITY", kim, asked, derivative_kwargs=fine)
    for fim, expected in zip(numerical, exact, strict=True):
        size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.abs((fim - expected) / size).max() < 1e-8
    with pytest.warns(UserWarning, match="sigma"):
        default = score.compute_batch(frames, "SENSITIVITY", kim, asked)
    with pytest.warns(UserWarning, match="sigma"):
        stated = score.compute_batch(
            frames, "SENSITIVITY", ours, asked, derivative_kwargs={"method": "central"}
        )
    np.testing.assert_allclose(default, stated, rtol=0, atol=1e-9 * np.abs(stated).max())


def test_exact_derivatives_of_kim_models_are_refused(opaque):
    with pytest.raises(ConfigError, match="no exact derivatives"):
        FIMTrainingSetScore().compute(
            bulk("Si"), "SENSITIVITY", opaque(EDIP), None, derivative_kwargs={"method": "autodiff"}
        )
