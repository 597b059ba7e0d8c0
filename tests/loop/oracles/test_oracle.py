from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from pydantic import TypeAdapter

from surefield.config import Config, parse
from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.loop.oracles import CalculatorOracle, ReplayOracle, ase_calculator, emt, tblite
from surefield.loop.oracles.config import OracleConfig, ReplayOracleConfig, make_oracle
from surefield.loop.oracles.replay import POOL_INDEX
from surefield.structures.label_sources import without_labels


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.info["tag"] = seed
    return atoms


def labelled() -> list[Atoms]:
    frames = [copper(seed) for seed in range(4)]
    for i, atoms in enumerate(frames):
        forces = np.full((4, 3), float(i))
        stress = np.full(6, i / 10)
        atoms.calc = SinglePointCalculator(atoms, energy=-float(i), forces=forces, stress=stress)
    return frames


class Fickle(Calculator):
    """Fails for the frames and attempts that it is told to."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    attempts: dict[int, int] = {}  # noqa: RUF012

    def __init__(self, bad: dict[int, int], value: float = 0.0) -> None:
        super().__init__()
        self.bad = bad
        self.value = value

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        tag = self.atoms.info["tag"]
        Fickle.attempts[tag] = Fickle.attempts.get(tag, 0) + 1
        if Fickle.attempts[tag] <= self.bad.get(tag, 0):
            raise RuntimeError(f"SCF of {tag} did not converge")
        self.results = {"energy": self.value, "forces": np.zeros((len(self.atoms), 3))}


@pytest.fixture(autouse=True)
def _no_attempts() -> None:
    Fickle.attempts = {}


def test_replay_reveals_by_pool_index() -> None:
    frames = labelled()
    oracle = ReplayOracle(frames)
    pool = oracle.pool
    assert all(atoms.calc is None for atoms in pool)
    revealed = oracle.label([pool[2], pool[0]])
    for index, atoms in zip([2, 0], revealed, strict=True):
        assert atoms is not None
        assert atoms.get_potential_energy() == -index
        np.testing.assert_array_equal(atoms.get_forces(), np.full((4, 3), index))
        np.testing.assert_array_equal(atoms.get_stress(), np.full(6, index / 10))
        assert atoms.info["tag"] == index
    assert POOL_INDEX not in frames[0].info
    assert pool[2].calc is None


def test_replay_hides_every_label() -> None:
    frames = [copper(0)]
    frames[0].info |= {"REF_energy": -1.0, "mine": -2.0}
    frames[0].arrays["REF_forces"] = np.ones((4, 3))
    (hidden,) = ReplayOracle(frames, mapping={"energy": "mine"}).pool
    assert set(hidden.info) == {"tag", POOL_INDEX}
    assert set(hidden.arrays) == {"numbers", "positions"}
    assert set(frames[0].info) == {"tag", "REF_energy", "mine"}
    (revealed,) = ReplayOracle(frames, mapping={"energy": "mine"}).label([hidden])
    assert revealed is not None
    assert revealed.get_potential_energy() == -2.0


def test_replay_refuses_strangers() -> None:
    oracle = ReplayOracle(labelled())
    with pytest.raises(DataError, match=r"to label \(Cu4\); got None; expected 0 to 3"):
        oracle.label([copper(0)])
    moved = oracle.pool[1]
    moved.positions += 0.1
    with pytest.raises(DataError, match="another than entry 1"):
        oracle.label([moved])
    with pytest.raises(DataError, match="energy"):
        ReplayOracle([copper(0)])


def test_a_calculator_labels_copies() -> None:
    frames = [copper(seed) for seed in range(2)]
    before = [atoms.copy() for atoms in frames]
    oracle = emt()
    results = oracle.label(frames)
    for atoms, old, new in zip(frames, before, results, strict=True):
        assert atoms == old
        assert atoms.calc is None
        assert new is not None
        reference = atoms.copy()
        reference.calc = EMT()
        assert new.get_potential_energy() == reference.get_potential_energy()
        np.testing.assert_array_equal(new.get_forces(), reference.get_forces())
        np.testing.assert_array_equal(new.get_stress(), reference.get_stress())
        assert isinstance(new.calc, SinglePointCalculator)
        assert new.info == atoms.info
    assert oracle.failures == ()


def test_no_stress_without_a_periodic_cell() -> None:
    (result,) = emt().label([molecule("H2O")])
    assert result is not None
    assert set(result.calc.results) == {"energy", "forces"}


def test_constraints_do_not_hide_forces() -> None:
    atoms = copper(1)
    (free,) = emt().label([atoms])
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    (fixed,) = emt().label([atoms])
    assert free is not None
    assert fixed is not None
    np.testing.assert_array_equal(fixed.calc.results["forces"], free.calc.results["forces"])
    assert np.abs(free.get_forces()).max() > 0.1


def test_old_labels_do_not_survive_a_new_calculation() -> None:
    atoms = copper(0)
    atoms.info |= {"REF_energy": 1.0, "dft_stress": np.zeros(6)}
    atoms.arrays["REF_forces"] = np.zeros((4, 3))
    (result,) = emt().label([atoms])
    assert result is not None
    assert set(result.info) == {"tag"}
    assert "REF_forces" not in result.arrays
    assert "REF_forces" in atoms.arrays


def test_a_failed_frame_is_reported_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    oracle = CalculatorOracle(lambda: Fickle({1: 1, 2: 9}), "fickle", retries=1)
    with caplog.at_level(logging.WARNING):
        results = oracle.label([copper(seed) for seed in range(4)])
    assert [result is None for result in results] == [False, False, True, False]
    (failure,) = oracle.failures
    assert (failure.index, failure.formula) == (2, "Cu4")
    assert failure.cause == "RuntimeError: SCF of 2 did not converge"
    assert "fickle could not label frame 2 (Cu4)" in caplog.text
    assert Fickle.attempts == {0: 1, 1: 2, 2: 2, 3: 1}
    oracle.label([copper(0)])
    assert oracle.failures == ()


def test_what_cannot_be_computed_is_a_failure_and_no_label() -> None:
    oracle = emt()
    apart = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])
    assert [a is None for a in oracle.label([apart, Atoms("Cu2"), Atoms("Cu", pbc=True)])] == [
        False,
        True,
        True,
    ]
    assert [failure.index for failure in oracle.failures] == [1, 2]
    assert "0.000 Å apart in this structure" in oracle.failures[0].cause
    assert "cell has no volume" in oracle.failures[1].cause
    stored = Atoms("Cu2")
    stored.calc = SinglePointCalculator(stored, energy=1.0)
    with pytest.raises(DataError, match=r"0\.000 Å apart in frame 0"):
        ReplayOracle([stored])


def test_a_label_that_is_not_finite_is_a_failure() -> None:
    oracle = CalculatorOracle(lambda: Fickle({}, value=float("nan")), "fickle", retries=0)
    assert oracle.label([copper(0)]) == [None]
    assert "energy is not finite" in oracle.failures[0].cause


def test_a_calculator_that_cannot_be_made_is_fatal() -> None:
    def broken() -> Calculator:
        raise FileNotFoundError("no model file")

    with pytest.raises(ExecutionError, match="no model file"):
        CalculatorOracle(broken, "broken").label([copper(0)])
    with pytest.raises(ConfigError, match="retries"):
        CalculatorOracle(EMT, "EMT", retries=-1)


def test_labels_do_not_depend_on_the_executor() -> None:
    frames = [copper(seed) for seed in range(3)]
    serial = emt().label(frames)
    with ThreadPoolExecutor(2) as executor:
        parallel = emt().label(frames, executor=executor)
    for a, b in zip(serial, parallel, strict=True):
        assert a is not None
        assert b is not None
        assert a.get_potential_energy() == b.get_potential_energy()


def test_tblite_of_water() -> None:
    pytest.importorskip("tblite")
    oracle = tblite()
    assert oracle.name == "tblite GFN2-xTB"
    (result,) = oracle.label([molecule("H2O")])
    assert result is not None
    # printed in tblite's own documentation of its ASE interface
    assert result.get_potential_energy() == pytest.approx(-137.96777594361677, abs=1e-6)
    assert result.get_forces()[0, 2] == pytest.approx(-0.749527168, abs=1e-5)


def test_tblite_labels_do_not_depend_on_the_order() -> None:
    pytest.importorskip("tblite")
    frames = [molecule("H2O") for _ in range(2)]
    frames[1].rattle(0.1, seed=1)
    forward = tblite().label(frames)
    backward = tblite().label(frames[::-1])[::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a is not None
        assert b is not None
        assert a.get_potential_energy() == b.get_potential_energy()


def test_tblite_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(ConfigError, match=r"pip install 'surefield\[tblite\]'"):
        tblite()


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("ase.calculators.lj.LennardJones", {}, "'module:Class'"),
        ("ase.calculators.ljj:LennardJones", {}, "cannot import"),
        ("ase.calculators.lj:LennardJone", {}, "did you mean 'LennardJones'"),
        ("ase.calculators.singlepoint:SinglePointCalculator", {"a": 1}, "cannot be made with {'a': 1}"),
    ],
)
def test_wrong_calculators(path: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ase_calculator(path, arguments)


class Section(Config):
    oracle: OracleConfig = ReplayOracleConfig()


def test_oracles_of_configurations() -> None:
    ase = {"kind": "ase", "calculator": "ase.calculators.lj:LennardJones", "arguments": {"sigma": 2.0}}
    oracle = make_oracle(parse(Section, {"oracle": ase}).oracle)
    assert oracle.name == "LennardJones"
    assert oracle.settings == {"calculator": ase["calculator"], "arguments": {"sigma": 2.0}}
    assert oracle.label([molecule("H2")])[0] is not None
    assert make_oracle(parse(Section, {"oracle": {"kind": "emt"}}).oracle).name == "EMT"
    assert isinstance(make_oracle(Section().oracle, labelled()), ReplayOracle)
    with pytest.raises(ConfigError, match="labelled structures"):
        make_oracle(Section().oracle)
    with pytest.raises(ConfigError, match="did you mean 'method'"):
        parse(Section, {"oracle": {"kind": "tblite", "methd": "GFN1-xTB"}})
    assert TypeAdapter(OracleConfig).json_schema()["discriminator"]["propertyName"] == "kind"


def test_tblite_of_a_configuration() -> None:
    pytest.importorskip("tblite")
    config = parse(Section, {"oracle": {"kind": "tblite", "method": "GFN1-xTB", "charge": 1}}).oracle
    assert make_oracle(config).settings["method"] == "GFN1-xTB"
    assert make_oracle(config).settings["charge"] == 1.0


def test_without_labels_keeps_the_rest() -> None:
    atoms = copper(3)
    atoms.arrays["charges"] = np.ones(4)
    atoms.info |= {"energy": 1.0, "own": 2.0}
    bare = without_labels(atoms, extra=["own"])
    assert set(bare.info) == {"tag"}
    assert "charges" in bare.arrays
    assert set(atoms.info) == {"tag", "energy", "own"}
