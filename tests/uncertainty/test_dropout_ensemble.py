from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.behler import behler_functions
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.formats.dunn import FILES, dropout_network_from_text
from surefield.potentials import ZBL
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.potential import TrainingData
from surefield.structures.neighbors import neighborhood
from surefield.testing import check_uncertainty
from surefield.uncertainty.dropout_ensemble import DropoutEnsemble

LISTS = {
    "g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}],
}
CARBON = "DUNN_WenTadmor_2019v1_C__MO_584345505904_000"


@pytest.fixture(scope="module")
def network(copper):
    descriptor = behler_functions(["Cu"], LISTS, 3.5)
    plain = DropoutNetwork(descriptor, (6, 5), dropout=0.3, seed=3)
    ready = plain.prepared(
        TrainingData([neighborhood(atoms, 3.5) for atoms in copper], [None] * 8, {29: 0.5})
    )
    return eqx.tree_at(lambda p: p.readout, ready, 3 * ready.readout)


@pytest.fixture(scope="module")
def ensemble(network, copper):
    return DropoutEnsemble.fit(network, copper[:6], M=20, seed=2)


def compare_with_the_driver(texts, expected, symbol):
    atoms = Atoms(f"{symbol}64", positions=expected["positions"], cell=expected["cell"], pbc=True)
    ensemble = DropoutEnsemble.of_members(dropout_network_from_text(*texts))
    (found,) = ensemble.predict([atoms], forces=True, ensemble=True)
    near = dict(rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.energy_ensemble, expected["E_members"], **near)
    np.testing.assert_allclose(found.forces_ensemble.mean(axis=0), expected["F_mean"], **near)
    np.testing.assert_allclose(found.forces_ensemble.std(axis=0), expected["F_std"], **near)
    for name, key in (("energy", "E"), ("forces", "F"), ("stress", "S")):
        np.testing.assert_allclose(getattr(found, name), expected[f"{key}_-1"], **near)
    for member in (int(key[2:]) for key in expected if key[:2] == "F_" and key[2:].isdigit()):
        (alone,) = ensemble.predict([atoms], member=member)
        np.testing.assert_allclose(alone.energy, expected[f"E_{member}"], **near)
        np.testing.assert_allclose(alone.forces, expected[f"F_{member}"], **near)
        np.testing.assert_allclose(alone.stress, expected[f"S_{member}"], **near)
        if member > 0:
            np.testing.assert_allclose(found.forces_ensemble[member - 1], alone.forces, **near)
    return found


def test_silicon_reference(shared):
    folder = shared / "reference/trainers"
    texts = [lzma.decompress((folder / f"inputs/dunn_si/{name}.xz").read_bytes()).decode() for name in FILES]
    compare_with_the_driver(texts, np.load(folder / "expected/dunn_si.npz"), "Si")


@pytest.mark.slow
def test_carbon_reference(shared):
    libraries = list(Path("/usr/lib").glob(f"*/kim-api/portable-models/{CARBON}/*.so"))
    if not libraries or not shutil.which("nm"):
        pytest.skip(f"needs {CARBON}: apt install openkim-models binutils")
    found = parameter_files(libraries[0])
    expected = np.load(shared / "reference/trainers/expected/dunn_carbon.npz")
    texts = [found[name.replace(".", "_")] for name in FILES]
    prediction = compare_with_the_driver(texts, expected, "C")
    assert prediction.energy / 64 == pytest.approx(-7.5394876, abs=1e-7)
    assert prediction.energy_ensemble.std() / 64 == pytest.approx(0.0397052, abs=1e-7)


def parameter_files(library):
    """Texts inside a portable model; in .rodata the address is the file offset."""
    table = subprocess.run(["nm", "-D", "-S", str(library)], capture_output=True, text=True, check=True)
    content, found = library.read_bytes(), {}
    for address, size, _, name in (line.split() for line in table.stdout.splitlines() if line[:1] == "0"):
        if name.endswith("_params"):
            start = int(address, 16)
            found[name] = content[start : start + int(size, 16)].decode()
    return found


def test_contract(ensemble, copper):
    check_uncertainty(ensemble, copper[:3])


def test_prediction_is_the_mean_and_sigma_the_calibrated_spread(ensemble, copper):
    (found,) = ensemble.predict(copper[:1], forces=True, stress=True, per_atom=True, ensemble=True)
    assert found.energy_ensemble.mean() == pytest.approx(found.energy, abs=1e-12)
    assert found.forces_ensemble.shape == (20, 2, 3)
    np.testing.assert_allclose(found.forces_ensemble.mean(axis=0), found.forces, rtol=0, atol=1e-12)
    u = found.energy_ensemble.std(ddof=1) / 2
    assert found.energy_uncertainty == pytest.approx(2 * float(ensemble.maps["energy"].sigma(u)), rel=1e-12)
    expected = ensemble.maps["forces"].sigma(found.forces_ensemble.std(axis=0, ddof=1))
    np.testing.assert_allclose(found.forces_uncertainty, expected, rtol=1e-10)
    written = found.written_to(copper[0])
    assert not any("ensemble" in name for name in {**written.info, **written.arrays})
    members = [ensemble.predict(copper[:1], member=k)[0] for k in range(1, 21)]
    np.testing.assert_allclose([m.energy for m in members], found.energy_ensemble, rtol=0, atol=1e-12)
    stress = np.array([m.stress for m in members])
    expected = ensemble.maps["stress"].sigma(stress.std(axis=0, ddof=1))
    np.testing.assert_allclose(found.stress_uncertainty, expected, rtol=1e-9)


def test_alpha_is_that_of_the_residuals(ensemble, copper):
    """alpha^2 = mean (r/u)^2 over the calibration set, energies per atom."""
    raw = DropoutEnsemble(ensemble.potential, M=20, seed=2)
    assert not raw.maps["energy"].calibrated
    ratios = []
    for atoms, p in zip(copper[:6], raw.predict(copper[:6]), strict=True):
        ratios.append((p.energy - atoms.get_potential_energy()) / p.energy_uncertainty)
    assert ensemble.maps["energy"].alpha == pytest.approx(np.sqrt(np.mean(np.square(ratios))), rel=1e-10)
    committee = raw.calibrated(copper[:6], calibration_map={"energy": "committee"})
    expected = 17 / 19 * np.mean(np.square(ratios)) - 1 / 20
    assert committee.maps["energy"].alpha == pytest.approx(np.sqrt(expected), rel=1e-10)


def test_members_depend_on_seed_and_number_alone(network, copper):
    few = DropoutEnsemble(network, M=5, seed=2).predict(copper[:2], ensemble=True, forces=True)
    many = DropoutEnsemble(network, M=20, seed=2).predict(copper[1:2], ensemble=True, forces=True)
    np.testing.assert_allclose(few[1].energy_ensemble, many[0].energy_ensemble[:5], rtol=0, atol=1e-12)
    np.testing.assert_allclose(few[1].forces_ensemble, many[0].forces_ensemble[:5], rtol=0, atol=1e-12)
    other = DropoutEnsemble(network, M=5, seed=3).predict(copper[:2], ensemble=True, forces=True)
    assert np.abs(other[1].energy_ensemble - few[1].energy_ensemble).min() > 1e-6


def test_rate_of_the_training_is_the_default(network):
    assert DropoutEnsemble(network, M=2).potential.dropout == 0.3
    assert DropoutEnsemble(network, M=2, rate=0.2).potential.dropout == 0.2
    trained_without = DropoutNetwork(network.descriptor, (4,))
    assert DropoutEnsemble(trained_without, M=2).potential.dropout == 0.1


def test_a_baseline_does_not_change_the_spread(network, copper):
    plain = DropoutEnsemble(network, M=4).predict(copper[:1], forces=True, ensemble=True)[0]
    both = DropoutEnsemble(network + ZBL(("Cu",), 1.0, 3.0), M=4).predict(
        copper[:1], forces=True, ensemble=True
    )[0]
    assert abs(both.energy - plain.energy) > 1e-3
    np.testing.assert_allclose(both.forces_uncertainty, plain.forces_uncertainty, rtol=1e-10)
    shift = both.energy - plain.energy
    np.testing.assert_allclose(both.energy_ensemble, plain.energy_ensemble + shift, rtol=0, atol=1e-10)


def test_symmetry_zero_forces_have_no_uncertainty(ensemble):
    perfect = Atoms("Cu", cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=True)
    (found,) = ensemble.predict([perfect], forces=True)
    np.testing.assert_array_equal(found.forces_uncertainty, 0.0)
    assert found.energy_uncertainty > 0


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, 2])
def test_rate_outside(network, rate):
    with pytest.raises(ConfigError, match=f"rate must lie between 0 and 1, both excluded, got {rate}"):
        DropoutEnsemble(network, rate=rate)


def test_bad_input(network, ensemble, copper, copper_network):
    linear = DropoutNetwork(network.descriptor, ())
    with pytest.raises(ConfigError, match="needs a network with hidden layers, and this one has none"):
        DropoutEnsemble(linear)
    for members in (1, 2.5, True):
        with pytest.raises(ConfigError, match="M, the number of members, must be at least 2"):
            DropoutEnsemble(network, M=members)
    with pytest.raises(ConfigError, match="seed must be a whole number, not negative; got -1"):
        DropoutEnsemble(network, seed=-1)
    with pytest.raises(PotentialError, match="needs a dropout network; got MomentNetwork"):
        DropoutEnsemble(copper_network)
    with pytest.raises(ConfigError, match="holds too few members; got 0"):
        DropoutEnsemble.of_members(network)
    with pytest.raises(PotentialError, match="no such member; got 21"):
        ensemble.predict(copper[:1], member=21)
    with pytest.raises(ConfigError, match="unknown kind 'force'"):
        ensemble.calibrated(copper, calibration_map={"force": "alpha"})
    bare = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in copper[:2]]
    with pytest.raises(DataError, match="no structure for the calibration has a label"):
        ensemble.calibrated(bare)


def test_weights_of_zero_leave_rows_out(network, copper):
    frames = [atoms.copy() for atoms in copper[:3]]
    for frame, atoms in zip(frames, copper, strict=False):
        frame.calc = atoms.calc
    spoiled = frames[0].copy()
    spoiled.calc = copper[1].calc
    spoiled.info["structure_weight"] = 0.0
    plain = DropoutEnsemble.fit(network, frames[1:], M=5)
    found = DropoutEnsemble.fit(network, [spoiled, *frames[1:]], M=5)
    for kind in ("energy", "forces", "stress"):
        assert found.maps[kind].alpha == pytest.approx(plain.maps[kind].alpha, rel=1e-6)
