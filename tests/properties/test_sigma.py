"""Sigmas of properties: by derivatives through the relaxation, over members, and where there are none."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from tests.conftest import SW

from surefield.calibration.maps import AlphaMap, IsotonicMap, StructureFloorMap
from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.potentials.parametric import StillingerWeber
from surefield.properties import CohesiveEnergy, ElasticConstants, LatticeConstant
from surefield.properties.sigma import calibration_factor, sigma_of_samples
from surefield.uncertainty import LLPR, ConstantUncertainty, DeepEnsemble

DIAMOND = (5.43, "diamond", "Si")


@pytest.fixture(scope="module")
def model() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"], free=[("A", 0), ("gamma", 0), ("lambda", 0)])


@pytest.fixture(scope="module")
def noisy(silicon: list[Atoms]) -> list[Atoms]:
    rng, frames = np.random.default_rng(0), []
    for atoms in silicon:
        frames.append(atoms.copy())
        frames[-1].info["REF_energy"] = atoms.get_potential_energy() + 0.01 * rng.normal()
        frames[-1].arrays["REF_forces"] = atoms.get_forces() + 0.05 * rng.normal(size=(8, 3))
    return frames


@pytest.fixture(scope="module")
def llpr(model: StillingerWeber, noisy: list[Atoms]) -> LLPR:
    return LLPR.fit(model, noisy[:5], noisy[5:], row_kinds=["energy", "forces"], progress=False)


def derivative(prop: CohesiveEnergy | ElasticConstants, model: StillingerWeber) -> np.ndarray:
    """(n, n_parameters) by relative changes: central differences, relaxed anew each time."""
    at = np.asarray(model.vector)
    columns = []
    for j, value in enumerate(at):
        h = 1e-4 * abs(value)
        ends = [
            prop.calculate_property(model.with_vector(jnp.asarray(at).at[j].add(sign * h))).value
            for sign in (1, -1)
        ]
        columns.append((ends[0] - ends[1]) / (2 * h) * abs(value))
    return np.stack(columns, axis=1)


PROPERTIES = [
    CohesiveEnergy(*DIAMOND),
    pytest.param(ElasticConstants(*DIAMOND, components=("C11", "C44")), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("prop", PROPERTIES)
def test_sigma_is_that_of_the_posterior(
    prop: CohesiveEnergy | ElasticConstants, model: StillingerWeber, llpr: LLPR
) -> None:
    result = prop.predict(llpr)
    rows = derivative(prop, model)
    factor, _ = calibration_factor(llpr.maps, prop.calibrated_as)
    covariance = llpr.posterior.factor @ llpr.posterior.factor.T
    expected = factor * np.sqrt(np.einsum("ik,kl,il->i", rows, covariance, rows))
    assert result.sigma == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(result.value, prop.calculate_property(model).value)
    assert (result.value.shape, result.sigma.shape) == ((len(prop.names),),) * 2


def test_sampled_sigma_agrees_within_its_error(llpr: LLPR) -> None:
    prop = CohesiveEnergy(*DIAMOND)
    exact = prop.predict(llpr)
    assert exact.sigma is not None
    factor, _ = calibration_factor(llpr.maps, "energy")
    sampled = factor * sigma_of_samples(llpr, lambda p: prop.calculate_property(p).value, exact.value)
    assert sampled == pytest.approx(exact.sigma, rel=0.5)


def test_members_relax_their_own_structures(model: StillingerWeber) -> None:
    members = [model.with_values({"sigma": [s]}) for s in (2.09, 2.0951, 2.10)]
    ensemble = DeepEnsemble(members)
    prop = LatticeConstant(*DIAMOND)
    result = prop.predict(ensemble)
    own = [prop.calculate_property(member).value[0] for member in members]
    assert result.sigma == pytest.approx([np.std(own, ddof=1)], rel=1e-9)
    assert "not calibrated" in result.message


def test_a_member_that_does_not_converge_is_named(model: StillingerWeber) -> None:
    members = [model, model, model.with_values({"A": [0.0], "lambda": [0.0]})]
    with pytest.raises(ExecutionError, match=r"member 3: .*flat"):
        LatticeConstant(*DIAMOND).predict(DeepEnsemble(members))


def test_uncertainties_without_covariances_are_refused(model: StillingerWeber, noisy: list[Atoms]) -> None:
    constant = ConstantUncertainty.fit(model, noisy)
    with pytest.raises(PotentialError, match="neither a posterior"):
        CohesiveEnergy(*DIAMOND).predict(constant)
    with pytest.raises(ConfigError, match=r"LLPR\.fit"):
        CohesiveEnergy(*DIAMOND).predict(model)  # pyright: ignore[reportArgumentType]


def test_factor_of_the_calibration() -> None:
    maps = {"energy": AlphaMap(2.0), "stress": StructureFloorMap(3.0, 4.0, 0.1)}
    assert calibration_factor(maps, "stress") == (5.0, True)
    assert calibration_factor(maps, "forces") == (2.0, True)
    assert calibration_factor({"energy": AlphaMap(1.0, calibrated=False)}, "energy") == (1.0, False)
    with pytest.raises(PotentialError, match="calibration_map"):
        calibration_factor({"energy": IsotonicMap((0.0, 1.0), (0.0, 1.0))}, "energy")
