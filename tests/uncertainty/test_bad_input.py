"""What an LLPR is given that it cannot use: the class of the error, and a message that names the culprit."""

from __future__ import annotations

import equinox as eqx
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.sensitivity import RowCovariance
from surefield.uncertainty import LLPR


@pytest.fixture(scope="module")
def llpr(copper_network, copper):
    return fitted(copper_network, copper)


def fitted(potential, copper, train=None, calibration=None, **keys):
    train, calibration = (copper[:3], copper[4:6]) if train is None else (train, calibration or copper[4:6])
    return LLPR.fit(potential, train, calibration, progress=False, **keys)


def relabelled(atoms, **changes):
    """A copy with other labels; None takes one away."""
    copy = atoms.copy()
    results = {**atoms.calc.results, **changes}
    copy.calc = SinglePointCalculator(copy, **{k: v for k, v in results.items() if v is not None})
    return copy


def test_no_structures_or_no_labels(copper_network, copper):
    bare = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True, info={"E": 1.0}) for a in copper[:2]]
    with pytest.raises(DataError, match="no structures to use"):
        LLPR.fit(copper_network, [], copper[4:])
    with pytest.raises(DataError, match="no structures to use"):
        LLPR.fit(copper_network, copper[:3], [])
    with pytest.raises(DataError, match=r"no energy in frame 0.*keys present: E"):
        fitted(copper_network, copper, bare)


def test_labels_that_are_not_known(copper_network, copper):
    """Single ones are masked and counted; none at all of a kind that is asked for is an error."""
    holes = np.array(copper[0].get_forces())
    holes[0, 1] = np.nan
    some = fitted(copper_network, copper, [relabelled(copper[0], forces=holes), *copper[1:3]])
    assert some.statistics["rows"]["forces"] == 3 * 6 - 1
    assert some.statistics["masked"] == {"forces": {"NaN": 1}}
    energyless = fitted(copper_network, copper, [relabelled(copper[0], energy=np.nan), *copper[1:3]])
    assert energyless.statistics["rows"]["energy"] == 2
    assert energyless.statistics["rows"]["forces"] == 3 * 6
    for kinds, name, shape in ((["energy", "forces"], "forces", (2, 3)), (["energy"], "energy", ())):
        nothing = [relabelled(a, **{name: np.full(shape, np.nan)}) for a in copper[:3]]
        with pytest.raises(DataError, match=f"row_kinds asks for {name}, of which no value is known"):
            fitted(copper_network, copper, nothing, row_kinds=kinds)
    without = [relabelled(a, stress=None) for a in copper[:6]]
    with pytest.raises(DataError, match="row_kinds asks for stress, but no structure has such a label"):
        fitted(copper_network, copper, without[:3], without[4:], row_kinds=["energy", "stress"])


@pytest.mark.parametrize(("name", "value"), [("energy", np.inf), ("forces", np.full((2, 3), np.inf))])
def test_infinite_labels(copper_network, copper, name, value):
    with pytest.raises(DataError, match=rf"{name} is not finite.*frame 1.*Cu2"):
        fitted(copper_network, copper, [copper[0], relabelled(copper[1], **{name: value})])


def test_predictions_and_features_that_are_not_finite(copper_network, copper):
    """The structure is named by its number and formula."""
    diverged = eqx.tree_at(lambda p: p.bias, copper_network, copper_network.bias * np.nan)
    with pytest.raises(PotentialError, match=r"prediction of the energy not finite.*frame 0.*Cu2"):
        fitted(diverged, copper)
    flat = eqx.tree_at(lambda p: p.scale, copper_network, copper_network.scale * 0)
    with pytest.raises(PotentialError, match=r"not finite.*frame 0.*Cu2"):
        fitted(flat, copper)


def test_other_elements_and_layers(llpr, copper):
    gold = relabelled(copper[0])
    gold.numbers[:] = 79
    gold.calc = SinglePointCalculator(gold, energy=1.0, forces=np.zeros((2, 3)))
    for ask in (llpr.predict, llpr.update, llpr.covariance):
        with pytest.raises(PotentialError, match="does not know Au"):
            ask([gold])
    with pytest.raises(PotentialError, match="another layer or model; got 4 features; expected 3"):
        RowCovariance(3).add(np.ones((2, 4)))
    with pytest.raises(DataError, match="different fingerprint; got 'two'; expected 'one'"):
        RowCovariance(3, "one").merge(RowCovariance(3, "two"))


def test_regularizers(copper_network, copper):
    with pytest.raises(ConfigError, match=r"regularizer.*got -1"):
        fitted(copper_network, copper, regularizer=-1.0)
    with pytest.raises(ConfigError, match=r"regularizer.*rank.*null"):
        fitted(copper_network, copper, regularizer=0.0, row_kinds=["energy"])


def test_stress_of_a_molecule(llpr):
    """Predictions leave it out; what is asked for it by name says so."""
    molecule = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])
    (p,) = llpr.predict([molecule], stress=True)
    assert p.stress_uncertainty is None
    with pytest.raises(DataError, match="there is no stress in frame 0"):
        llpr.covariance([molecule], kinds=("stress",))
    with pytest.raises(DataError, match="there is no stress in frame 0"):
        llpr.propagate(lambda stress: stress, [molecule])


def test_labels_that_are_predictions(copper_network, copper):
    """Errors of zero calibrate nothing."""
    own = [
        relabelled(a, energy=p.energy, forces=p.forces, stress=p.stress)
        for a, p in zip(copper[:6], copper_network.predict(copper[:6]), strict=True)
    ]
    with pytest.raises(DataError, match="all residuals of energy are zero"):
        fitted(copper_network, copper, own[:3], own[3:])


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_files(llpr, tmp_path, damage):
    path = tmp_path / "llpr.npz"
    llpr.save(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        arrays = dict(np.load(path))
        arrays["varsigma2"] = arrays["varsigma2"] * 2
        np.savez(path, **arrays)
    words = "cut short" if damage == "cut" else "do not match its hash"
    with pytest.raises(PotentialError, match=words):
        LLPR.load(path)
