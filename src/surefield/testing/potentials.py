"""The contract of a potential, as a check that any potential can be put through."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from surefield.errors import PotentialError
from surefield.potentials import Potential, Prediction, load_potential, save_potential
from surefield.potentials.potential import HasPotential
from surefield.quantities import quantity
from surefield.structures.electrode import POTENTIAL_ALIASES
from surefield.structures.tensors import VOIGT
from surefield.testing.frames import Snapshot, random_rotation, rotated, rotated_stress, strained, translated

__all__ = ["check_potential"]

#: What stands for `tolerance` when the potential computes in float32.
SINGLE_TOLERANCE = 1e-4
#: Largest relative difference between derivatives and finite differences, in float64.
DERIVATIVE_TOLERANCE = 1e-6
#: Quantities smaller than this are compared absolutely, by their source: eV per atom, eV/Å, eV/Å^3.
_FLOORS = {"energy": 1e-3, "gradient": 1e-2, "strain": 1e-4, "output": 1e-2}
_STEP = 5e-4
#: Points and coefficients of the fourth-order central difference.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
_DIRECTIONS = 4


def check_potential(
    model: Potential | HasPotential, frames: Sequence[Atoms], *, tolerance: float = 1e-9, seed: int = 0
) -> None:
    """Check what every potential must do.

    Results (those named in `potential.supplies`) have their shapes, are finite, and atoms' energies sum to
    the total; structures stay as they are; one structure alone gives what it gives in a batch; energies,
    forces and stresses follow permutations, rotations and translations (those named in
    `potential.invariances`, by default all), and are extensive over supercells of periodic structures
    (checked with permutation and translation); forces and stress are derivatives of the energy (finite
    differences on a float64 copy, to 1e-6), and so are excess electrons, by the electrode potential, unless
    `potential.conjugate_charges` is False; saving and loading changes nothing; an unknown element is a
    `PotentialError`.

    Args:
        model: a potential with weights that give more than zero, or little is tested; or a handle of one.
        frames: small structures of its elements, best with atoms off their sites.
        tolerance: largest relative difference in float64; a potential in float32 gets
            `SINGLE_TOLERANCE` (1e-4). Differences of energies are relative to the
            sum of the atoms' energies without element offsets.
        seed: of the rotation, the translation and the order of atoms.

    Raises:
        AssertionError: a promise is broken; the message says which, in which frame and by how much.
    """
    # What answers as a potential is checked itself, not the sound one that it may hold.
    potential: Potential = model if hasattr(model, "supplies") else model.potential  # type: ignore[assignment]
    tolerance = tolerance if potential.dtype == np.float64 else max(tolerance, SINGLE_TOLERANCE)
    frames = list(frames)
    invariances = potential.invariances
    snapshot = Snapshot(frames)
    plain = potential.predict(frames)
    changed = snapshot.changed()
    _require(changed is None, f"inputs unchanged: frame {changed} was changed by predict")
    compare = _Comparison(potential, tolerance)
    for index, atoms in enumerate(frames):
        _check_shapes(index, atoms, plain[index], compare)
    extensive = {"permutation", "translation"} <= set(invariances)
    _check_batches(potential, frames, plain, compare, supercells=extensive)
    _check_symmetries(potential, frames, plain, compare, invariances, np.random.default_rng(seed))
    _check_derivatives(potential, frames, np.random.default_rng(seed))
    _check_saving(potential, frames, plain)
    _check_unknown_element(potential, frames)


def _floor(name: str) -> float:
    return _FLOORS[quantity(name).source]


class _Comparison:
    """Compares predictions to a tolerance and raises with the name of the check and the numbers."""

    def __init__(self, potential: Potential, tolerance: float) -> None:
        self.offsets = dict(
            zip(potential.species, np.asarray(potential.offsets, float).tolist(), strict=True)
        )
        self.tolerance = tolerance
        self.supplies = potential.supplies

    def __call__(self, check: str, index: int, atoms: Atoms, expected: Prediction, got: Prediction) -> None:
        for name, values in expected.results().items():
            result = getattr(got, name)
            _require(result is not None, f"{check}: no {name} of frame {index}")
            scale = self.scale(name, atoms, expected)
            self.values(f"{check}: {name} of frame {index}", name, values, result, scale)

    def values(self, what: str, name: str, expected: ArrayLike, got: ArrayLike, scale: float) -> None:
        difference = float(np.abs(np.asarray(got) - np.asarray(expected)).max(initial=0.0))
        relative = difference / max(scale, _floor(name))
        _require(
            relative <= self.tolerance,
            f"{what} differs by {difference:.3e} ({relative:.3e} relative, allowed {self.tolerance:.1e})",
        )

    def scale(self, name: str, atoms: Atoms, prediction: Prediction) -> float:
        """Size that differences of a quantity are relative to."""
        if name not in ("energy", "energies"):
            return float(np.abs(getattr(prediction, name)).max(initial=0.0))
        if prediction.energies is None:
            return abs(prediction.energy)
        offsets = np.array([self.offsets[z] for z in atoms.numbers.tolist()])
        total = float(np.abs(prediction.energies - offsets).sum())
        return total if name == "energy" else total / len(atoms)


def _check_shapes(index: int, atoms: Atoms, prediction: Prediction, compare: _Comparison) -> None:
    n = len(atoms)
    shapes = {name: quantity(name).shape(n) for name in ("energy", "energies", "forces", "stress")}
    left_out = set(shapes) - compare.supplies | (set() if atoms.pbc.all() else {"stress"})
    shapes = {name: shape for name, shape in shapes.items() if name not in left_out}
    for name, shape in shapes.items():
        value = getattr(prediction, name)
        _require(value is not None, f"results: no {name} of frame {index}")
        array = np.asarray(value)
        _require(
            array.shape == shape and array.dtype == np.float64 and bool(np.isfinite(array).all()),
            f"results: {name} of frame {index} must be finite float64 {shape}, "
            f"got {array.dtype} {array.shape}, {int((~np.isfinite(array)).sum())} not finite",
        )
    _require(
        "stress" in shapes or prediction.stress is None, f"results: frame {index} has no cell, but a stress"
    )
    if prediction.energies is None:
        return
    what = f"sum of per-atom energies: energy of frame {index}"
    scale = compare.scale("energy", atoms, prediction)
    # Totals that the offsets dominate are rounded relative to themselves.
    scale = max(scale, np.finfo(float).eps * abs(prediction.energy) / compare.tolerance * len(atoms))
    compare.values(what, "energy", prediction.energy, prediction.energies.sum(), scale)


def _check_symmetries(
    potential: Potential,
    frames: list[Atoms],
    plain: list[Prediction],
    compare: _Comparison,
    invariances: Sequence[str],
    rng: np.random.Generator,
) -> None:
    turn = random_rotation(rng)
    orders = [rng.permutation(len(atoms)) for atoms in frames]
    moved = {
        "permutation": [atoms[order] for atoms, order in zip(frames, orders, strict=True)],
        "rotation": [rotated(atoms, turn) for atoms in frames],
        "translation": [translated(atoms, rng) for atoms in frames],
    }
    for check in (name for name in moved if name in invariances):
        for index, got in enumerate(potential.predict(moved[check])):
            expected, order = plain[index], orders[index]
            assert expected.forces is not None
            if check == "permutation":
                expected = _per_atom(expected, lambda values, order=order: values[order])
            elif check == "rotation":
                stress = None if expected.stress is None else rotated_stress(expected.stress, turn)
                expected = expected.replace(forces=expected.forces @ turn.T, stress=stress)
            compare(check, index, moved[check][index], expected, got)


def _check_batches(
    potential: Potential,
    frames: list[Atoms],
    plain: list[Prediction],
    compare: _Comparison,
    *,
    supercells: bool,
) -> None:
    """A structure gives the same alone, among others and repeated."""
    (alone,) = potential.predict(frames[:1])
    compare("batch == single", 0, frames[0], plain[0], alone)
    chosen = [index for index, atoms in enumerate(frames) if supercells and atoms.pbc.any()]
    repeats = [tuple(2 if axis == int(np.argmax(frames[i].pbc)) else 1 for axis in range(3)) for i in chosen]
    cells = [frames[i].repeat(repeat) for i, repeat in zip(chosen, repeats, strict=True)]
    # Supercells in the same call: the frames meet other neighbours in the batch and another padding.
    together = potential.predict([*cells, *frames])
    for index, got in enumerate(together[len(cells) :]):
        compare("batch == single", index, frames[index], plain[index], got)
    for index, cell, got in zip(chosen, cells, together[: len(cells)], strict=True):
        small = plain[index]
        doubled = {name: 2 * small[name] for name in small if quantity(name).extensive}
        twice: Callable[[np.ndarray], np.ndarray] = lambda values: np.concatenate([values, values])  # noqa: E731
        expected = _per_atom(small.replace(**doubled), twice)
        compare("supercell", index, cell, expected, got)


def _per_atom(prediction: Prediction, change: Callable[[np.ndarray], np.ndarray]) -> Prediction:
    """Copy of a prediction with its numbers of atoms changed."""
    return prediction.replace(
        **{name: change(prediction[name]) for name in prediction if quantity(name).per == "atom"}
    )


def _check_derivatives(potential: Potential, frames: list[Atoms], rng: np.random.Generator) -> None:
    """Forces along random directions, every component of the stress, excess electrons of electrodes."""
    precise = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf, potential
    )
    predictions = precise.predict(frames)
    # Name, derivative and size of each frame where it has one, and the frames moved by a length.
    checks: list[tuple[str, list[tuple[float, float] | None], Callable[[float], list[Atoms]]]] = []
    directions = [rng.normal(size=(_DIRECTIONS, len(atoms), 3)) for atoms in frames]
    for number in range(_DIRECTIONS):
        along = [all_of[number] / np.linalg.norm(all_of[number]) for all_of in directions]
        checks.append(
            (
                "forces",
                [_force_along(p, d) for p, d in zip(predictions, along, strict=True)],
                lambda h, along=along: [_displaced(a, h * d) for a, d in zip(frames, along, strict=True)],
            )
        )
    for component, name in enumerate(VOIGT):
        checks.append(
            (
                f"stress {name}",
                [_work_of_strain(a, p, component) for a, p in zip(frames, predictions, strict=True)],
                lambda h, component=component: [strained(a, component, h) for a in frames],
            )
        )
    if potential.conjugate_charges:
        checks.append(
            (
                "excess electrons",
                [_electrons(p) for p in predictions],
                lambda h: [_charged(a, p, h) for a, p in zip(frames, predictions, strict=True)],
            )
        )
    for what, expected, moved in checks:
        if not any(expected):
            continue
        # All frames at once, as they were predicted before: batches of other shapes would be compiled anew.
        energies = [[p.energy for p in precise.predict(moved(k * _STEP))] for k, _ in _STENCIL]
        slopes = np.array([weight for _, weight in _STENCIL]) @ np.array(energies) / _STEP
        for index, (derivative, slope) in enumerate(zip(expected, slopes.tolist(), strict=True)):
            if derivative is None:
                continue
            value, size = derivative
            relative = abs(slope - value) / size
            _require(
                relative <= DERIVATIVE_TOLERANCE,
                f"finite differences: {what} of frame {index}: slope of the energy {slope:.9g} eV, predicted "
                f"{value:.9g}; off by {relative:.3e} relative, allowed {DERIVATIVE_TOLERANCE:.1e}",
            )


def _force_along(prediction: Prediction, direction: np.ndarray) -> tuple[float, float]:
    """Slope of the energy along a direction that the forces say, and the size of forces."""
    assert prediction.forces is not None
    size = max(float(np.sqrt(np.mean(prediction.forces**2))), _floor("forces"))
    return -float(np.sum(direction * prediction.forces)), size


def _work_of_strain(atoms: Atoms, prediction: Prediction, component: int) -> tuple[float, float] | None:
    """Slope of the energy by a strain that the stress says, and the size of stresses times the volume."""
    if prediction.stress is None:
        return None
    volume = atoms.get_volume()
    size = max(float(np.abs(prediction.stress).max()), _floor("stress"))
    return float(prediction.stress[component]) * volume, size * volume


def _electrons(prediction: Prediction) -> tuple[float, float] | None:
    """Slope of the energy by the electrode potential that the excess electrons say, and their size."""
    if prediction.excess_electrons is None:
        return None
    electrons = prediction.excess_electrons
    return electrons, max(abs(electrons), _floor("excess_electrons"))


def _displaced(atoms: Atoms, shift: np.ndarray) -> Atoms:
    moved = atoms.copy()
    moved.positions += shift
    return moved


def _charged(atoms: Atoms, prediction: Prediction, shift: float) -> Atoms:
    """Copy at another electrode potential, where it was predicted at one."""
    moved = atoms.copy()
    if prediction.electrode_potential is not None:
        phi = prediction.electrode_potential + shift
        moved.info |= dict.fromkeys(POTENTIAL_ALIASES) | {POTENTIAL_ALIASES[0]: phi}
    return moved


def _check_saving(potential: Potential, frames: list[Atoms], plain: list[Prediction]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "potential.npz"
        save_potential(path, potential)
        loaded = load_potential(path)
    _require(
        type(loaded) is type(potential),
        f"save and load: a {type(potential).__name__} came back as a {type(loaded).__name__}",
    )
    for index, (before, after) in enumerate(zip(plain, loaded.predict(frames), strict=True)):
        for name, value in before.results().items():
            difference = float(np.abs(np.asarray(getattr(after, name)) - np.asarray(value)).max(initial=0.0))
            _require(difference == 0.0, f"save and load: {name} of frame {index} differs by {difference:.3e}")


def _check_unknown_element(potential: Potential, frames: list[Atoms]) -> None:
    unknown = set(range(1, len(chemical_symbols))) - set(potential.species)
    if not unknown:
        return
    wrong = frames[0].copy()
    wrong.numbers[0] = min(unknown)
    symbol = chemical_symbols[min(unknown)]
    try:
        potential.predict([wrong])
    except PotentialError as error:
        _require(symbol in str(error), f"unknown element: the error must name {symbol}, got: {error}")
    else:
        raise AssertionError(f"unknown element: predicting {symbol} must be a PotentialError")


def _require(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)
