"""Properties of Stillinger-Weber silicon, which are known, and their derivatives through the relaxation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from tests.conftest import SW

from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.potentials.parametric import StillingerWeber
from surefield.properties import (
    CohesiveEnergy,
    ElasticConstants,
    EquationOfState,
    LatticeConstant,
    PhononFrequencies,
    Property,
    StackingFaultEnergy,
    SurfaceEnergy,
    Tolerances,
    VacancyFormationEnergy,
)

DIAMOND = (5.43, "diamond", "Si")
CUBIC = ("C11", "C12", "C44")


@pytest.fixture(scope="module")
def model() -> StillingerWeber:
    return StillingerWeber(SW, ["Si"])


def value(prop: Property, model: StillingerWeber) -> np.ndarray:
    return prop.calculate_property(model).value


def test_lattice_constant_does_not_depend_on_the_start(model: StillingerWeber) -> None:
    found = [value(LatticeConstant(a, "diamond", "Si"), model)[0] for a in (4.9, 5.43, 5.8)]
    assert found == pytest.approx([5.43094978] * 3, abs=1e-8)


def test_a_structure_may_be_given(model: StillingerWeber) -> None:
    cube = bulk("Si", cubic=True, a=5.5)
    before = cube.copy()
    lengths = value(LatticeConstant(structure=cube), model)
    assert lengths == pytest.approx([5.43094978] * 3, abs=1e-7)
    assert cube == before


@pytest.mark.slow
def test_conventional_and_primitive_cell_are_equally_stiff(model: StillingerWeber) -> None:
    cube = bulk("Si", cubic=True, a=5.5)
    given = value(ElasticConstants(structure=cube, components=CUBIC), model)
    assert given == pytest.approx(value(ElasticConstants(*DIAMOND, components=CUBIC), model), rel=1e-6)


def test_cohesive_energy(model: StillingerWeber) -> None:
    result = CohesiveEnergy(*DIAMOND).calculate_property(model)
    assert (result.converged, result.message, result.units) == (True, "", ("eV/atom",))
    assert result.value == pytest.approx([-4.3364], abs=2e-5)
    shifted = CohesiveEnergy(*DIAMOND, free_atoms={"Si": -1.0})
    assert value(shifted, model) == pytest.approx(result.value + 1.0, abs=1e-12)


def test_elastic_constants_of_the_reference(model: StillingerWeber, shared: Path) -> None:
    text = (shared / "reference" / "scores" / "expected" / "scalars.json").read_text()
    expected = json.loads(text)["elastic_constants_si_sw"]["C11_C12_C44"]
    found = value(ElasticConstants(*DIAMOND, components=CUBIC), model)
    assert found == pytest.approx(expected, rel=3e-5)


def test_elastic_constants_in_gigapascal_and_in_the_limit(model: StillingerWeber) -> None:
    gigapascal = value(ElasticConstants(*DIAMOND, components=CUBIC, unit="GPa"), model)
    assert gigapascal == pytest.approx([151.4, 76.4, 56.4], abs=0.06)
    limit = value(ElasticConstants(*DIAMOND, None, unit="GPa"), model).reshape(6, 6)
    assert limit[[0, 0, 3], [0, 1, 3]] == pytest.approx(gigapascal, rel=1e-6)
    # A cubic crystal: three numbers, everything else zero.
    cubic = np.zeros((6, 6))
    cubic[:3, :3] = gigapascal[1]
    np.fill_diagonal(cubic, [gigapascal[0]] * 3 + [gigapascal[2]] * 3)
    np.testing.assert_allclose(limit, cubic, atol=1e-3)


def test_clamped_shear_is_stiffer(model: StillingerWeber) -> None:
    # Cowley, PRL 60, 2379 (1988): 117.2 GPa, where C11 is 161.6 GPa, for bonds 6.7 % stronger.
    clamped = [
        value(ElasticConstants(*DIAMOND, d, components=("C44", "C11"), unit="GPa", clamped=True), model)
        for d in (1e-4, None)
    ]
    assert clamped[0] == pytest.approx([117.2 * 151.4 / 161.6, 151.4], abs=0.2)
    assert clamped[1] == pytest.approx(clamped[0], rel=1e-6)


def test_elastic_constants_of_a_cell_under_stress(model: StillingerWeber) -> None:
    a = 5.35
    prop = ElasticConstants(a, "diamond", "Si", components=("C11", "C12"), fixed_cell=True)
    stresses = []
    for sign in (1, -1):
        atoms = bulk("Si", a=a)
        atoms.set_cell(atoms.cell.array @ np.diag([1 + sign * 1e-4, 1, 1]), scale_atoms=True)
        stresses.append(model.predict([atoms])[0].stress[:2])
    assert value(prop, model) == pytest.approx((stresses[0] - stresses[1]) / 2e-4, rel=1e-9)


def test_equation_of_state_agrees_with_the_elastic_constants(model: StillingerWeber) -> None:
    energy, volume, modulus, slope = value(EquationOfState(*DIAMOND), model)
    c11, c12 = value(ElasticConstants(*DIAMOND, components=("C11", "C12"), unit="GPa"), model)
    assert energy == pytest.approx(-4.3364, abs=2e-5)
    assert volume == pytest.approx(5.43094978**3 / 8, rel=1e-5)
    assert modulus == pytest.approx((c11 + 2 * c12) / 3, rel=1e-3)
    assert 2 < slope < 4


def test_surfaces_and_faults(model: StillingerWeber) -> None:
    # One broken bond an atom of area sqrt(3)/4 a^2, and of energy -2 E_coh/4.
    area = np.sqrt(3) / 4 * 5.43094978**2
    bond = 4.3364 / 2
    expected = bond / 2 / area * 16.021766
    assert value(SurfaceEnergy(*DIAMOND, (1, 1, 1)), model) == pytest.approx([expected], rel=1e-4)
    other = value(SurfaceEnergy(*DIAMOND, (1, 1, 1), cut=1), model)
    assert other == pytest.approx([3 * expected], rel=1e-4)
    # Its third neighbours do not interact, so that the fault of the narrow gap costs nothing.
    assert value(StackingFaultEnergy(*DIAMOND, cut=1), model) == pytest.approx([0.0], abs=1e-9)
    halfway = StackingFaultEnergy(*DIAMOND, shift=(1 / 12, 1 / 12, -1 / 6), cut=1)
    rigid = StackingFaultEnergy(*DIAMOND, shift=(1 / 12, 1 / 12, -1 / 6), cut=1, relaxed=False)
    assert 0.1 < value(halfway, model)[0] < value(rigid, model)[0]


def test_vacancy(model: StillingerWeber) -> None:
    # Four bonds are broken, half of their energy belongs to the atom that joins the crystal elsewhere; the
    # ideal vacancy is a minimum, and a lower one is reached from elsewhere.
    ideal = value(VacancyFormationEnergy(*DIAMOND), model)
    assert ideal == pytest.approx([4.3364], abs=1e-4)
    assert value(VacancyFormationEnergy(*DIAMOND, rattle=0.3), model)[0] < ideal[0] - 0.05


def test_phonons_agree_with_displaced_atoms(model: StillingerWeber) -> None:
    q = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0))
    found = value(PhononFrequencies(*DIAMOND, q), model).reshape(2, 6)
    assert found[0] == pytest.approx([0, 0, 0, 17.8323, 17.8323, 17.8323], abs=1e-3)
    larger = value(PhononFrequencies(*DIAMOND, q, (4, 4, 2)), model).reshape(2, 6)
    np.testing.assert_allclose(found, larger, atol=1e-6)
    # At X every other plane moves the other way: a supercell's own vibrations have these frequencies, too.
    atoms = bulk("Si", a=5.430949777) * (2, 2, 2)
    atoms.calc = model.calculator()
    step, n = 1e-4, len(atoms)
    matrix = np.zeros((3 * n, 3 * n))
    for row in range(3 * n):
        for sign in (1, -1):
            atoms.positions.reshape(-1)[row] += sign * step
            matrix[row] -= sign * atoms.get_forces().reshape(-1) / (2 * step)
            atoms.positions.reshape(-1)[row] -= sign * step
    squares = np.linalg.eigvalsh(0.5 * (matrix + matrix.T)) / atoms.get_masses()[0]
    all_of_it = 15.633302 * np.sqrt(np.abs(squares))
    for frequency in found[1]:
        assert np.abs(all_of_it - frequency).min() < 2e-3


DERIVED = [LatticeConstant(*DIAMOND), ElasticConstants(*DIAMOND, components=CUBIC)]
LONGER = [
    CohesiveEnergy(*DIAMOND),
    ElasticConstants(*DIAMOND, None, components=CUBIC),
    EquationOfState(*DIAMOND),
    SurfaceEnergy(*DIAMOND, (1, 1, 0)),
    VacancyFormationEnergy(*DIAMOND),
    StackingFaultEnergy(*DIAMOND, shift=(1 / 12, 1 / 12, -1 / 6), cut=1),
    PhononFrequencies(*DIAMOND, ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.5, 0.5))),
]


def richardson(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, column: int) -> np.ndarray:
    """Derivative of sixth order."""

    def fourth(h: float) -> np.ndarray:
        e = np.zeros(len(at))
        e[column] = h
        two, one = function(at + 2 * e) - function(at - 2 * e), function(at + e) - function(at - e)
        return (8 * one - two) / (12 * h)

    h = 2e-3 * max(abs(at[column]), 0.5)
    return (16 * fourth(h / 2) - fourth(h)) / 15


def check_derivatives(prop: Property, model: StillingerWeber) -> None:
    free = model.with_free([("A", 0), ("gamma", 0), ("lambda", 0), ("costheta0", 0)])
    at = np.asarray(free.vector)
    near = prop.near(free)
    exact = np.asarray(jax.jit(jax.jacfwd(lambda v: near(free.with_vector(v))))(jnp.asarray(at)))
    numerical = np.stack(
        [richardson(lambda v: value(prop, free.with_vector(jnp.asarray(v))), at, j) for j in range(4)], axis=1
    )
    sizes = np.abs(numerical).max(axis=1, keepdims=True)
    np.testing.assert_allclose(exact, numerical, rtol=0, atol=1e-12 + 1e-7 * sizes.max())


@pytest.mark.parametrize("prop", DERIVED, ids=lambda prop: type(prop).__name__)
def test_derivatives_go_through_the_relaxation(prop: Property, model: StillingerWeber) -> None:
    check_derivatives(prop, model)


@pytest.mark.slow
@pytest.mark.parametrize("prop", LONGER, ids=lambda prop: type(prop).__name__)
def test_derivatives_of_larger_cells(prop: Property, model: StillingerWeber) -> None:
    check_derivatives(prop, model)


def test_unconverged_relaxations_are_refused(model: StillingerWeber) -> None:
    hasty = LatticeConstant(5.0, "diamond", "Si", tolerances=Tolerances(max_steps=2))
    with pytest.raises(ExecutionError, match=r"did not converge in 2 steps.*largest stress"):
        hasty.calculate_property(model)
    with pytest.raises(ExecutionError, match="leaving the neighbourhood of the start"):
        LatticeConstant(4.1, "diamond", "Si").calculate_property(model)
    with pytest.raises(ExecutionError, match="flat"):
        LatticeConstant(9.5, "diamond", "Si").calculate_property(model)


def test_bad_input(model: StillingerWeber) -> None:
    with pytest.raises(PotentialError, match="Cu"):
        LatticeConstant(3.6, "fcc", "Cu").calculate_property(model)
    for wrong, words in (
        (lambda: LatticeConstant(5.43, "diamnod", "Si"), "lattice_type"),
        (lambda: LatticeConstant(-5.43, "diamond", "Si"), "lattice_param"),
        (lambda: LatticeConstant(5.43, "diamond", ["Ga", "As"]), "GaAs"),
        (lambda: LatticeConstant(5.43), "needs lattice_param"),
        (lambda: LatticeConstant(5.43, structure=bulk("Si")), "give a structure"),
        (lambda: ElasticConstants(*DIAMOND, components=("C47",)), "C47"),
        (lambda: ElasticConstants(*DIAMOND, unit="kbar"), "kbar"),
        (lambda: ElasticConstants(*DIAMOND, deformation_mag=0.2), "deformation_mag"),
        (lambda: ElasticConstants(*DIAMOND, None, fixed_cell=True), "under stress"),
        (lambda: EquationOfState(*DIAMOND, n_points=3), "n_points"),
        (lambda: VacancyFormationEnergy(5.65, "zincblende", ["Ga", "As"]), "elements only"),
        (lambda: VacancyFormationEnergy(*DIAMOND, site=2), "site"),
        (lambda: SurfaceEnergy(*DIAMOND, (0, 0, 0)), "miller"),
        (lambda: SurfaceEnergy(*DIAMOND, vacuum=3.0).calculate_property(model), "see each other"),
        (lambda: SurfaceEnergy(*DIAMOND, cut=1).calculate_property(model), "gap"),
        (lambda: StackingFaultEnergy(*DIAMOND, shift=(0.1, 0.0, 0.0)), "leaves the plane"),
        (lambda: PhononFrequencies(*DIAMOND, ((0.0, 0.0),)), "q must be"),
        (lambda: Tolerances(max_force=0.0), "max_force"),
        (lambda: CohesiveEnergy(*DIAMOND, {"Ge": 0.0}).calculate_property(model), "lacks Si"),
        (lambda: LatticeConstant(*DIAMOND).calculate_property(model, workflows=1), "workflows"),
    ):
        with pytest.raises(ConfigError, match=words):
            wrong()
