"""The contract of a potential, as a check that any potential can be put through."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from surefield.errors import PotentialError
from surefield.potentials import Potential, Prediction, load_potential, save_potential
from surefield.testing.frames import Snapshot, random_rotation, rotated, rotated_stress, translated

__all__ = ["check_potential"]

#: What stands for `tolerance` when the potential computes in float32.
SINGLE_TOLERANCE = 1e-4
#: Largest relative difference between derivatives and finite differences, in float64.
DERIVATIVE_TOLERANCE = 1e-6
#: Quantities smaller than this are compared absolutely: eV per atom, eV/Å, eV/Å^3.
FLOORS = {"energy": 1e-3, "energies": 1e-3, "forces": 1e-2, "stress": 1e-4}
_STEP = 5e-4
#: Points and coefficients of the fourth-order central difference.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
_DIRECTIONS = 4
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def check_potential(
    potential: Potential, frames: Sequence[Atoms], *, tolerance: float = 1e-9, seed: int = 0
) -> None:
    """Check what every potential must do.

    Results have their shapes, are finite, and atoms' energies sum to the total; structures stay as they
    are; one structure alone gives what it gives in a batch; energies, forces and stresses follow
    permutations, rotations and translations (those named in `potential.invariances`, by default all), and
    are extensive over supercells of periodic structures (checked with permutation and translation);
    forces and stress are derivatives of the energy (finite differences on a float64 copy, to 1e-6);
    saving and loading changes nothing; an unknown element is a `PotentialError`.

    Args:
        potential: with weights that give more than zero, or little is tested.
        frames: small structures of its elements, best with atoms off their sites.
        tolerance: largest relative difference in float64; a potential in float32 gets `SINGLE_TOLERANCE`. Differences
            of energies are relative to the sum of the atoms' energies without element offsets.
        seed: of the rotation, the translation and the order of atoms.

    Raises:
        AssertionError: a promise is broken; the message says which, in which frame and by how much.
    """
    tolerance = tolerance if potential.dtype == np.float64 else max(tolerance, SINGLE_TOLERANCE)
    frames = list(frames)
    invariances = getattr(potential, "invariances", ("permutation", "rotation", "translation"))
    snapshot = Snapshot(frames)
    plain = potential.predict(frames)
    changed = snapshot.changed()
    _require(changed is None, f"inputs unchanged: frame {changed} was changed by predict")
    compare = _Comparison(potential, tolerance)
    _check_shapes(potential, frames, plain, compare)
    for index in range(min(2, len(frames))):
        (alone,) = potential.predict([frames[index]])
        compare("batch == single", index, plain[index], alone)
    _check_symmetries(potential, frames, plain, compare, invariances, np.random.default_rng(seed))
    if {"permutation", "translation"} <= set(invariances):
        _check_supercells(potential, frames, plain, compare)
    _check_derivatives(potential, frames, np.random.default_rng(seed))
    _check_saving(potential, frames, plain)
    _check_unknown_element(potential, frames)


class _Comparison:
    """Compares predictions to a tolerance and raises with the name of the check and the numbers."""

    def __init__(self, potential: Potential, tolerance: float) -> None:
        self.offsets = dict(zip(potential.species, np.asarray(potential.offsets, float).tolist(), strict=True))
        self.tolerance = tolerance

    def without_offsets(self, energies: np.ndarray, atoms: Atoms) -> np.ndarray:
        return energies - np.array([self.offsets[z] for z in atoms.numbers.tolist()])

    def __call__(self, check: str, index: int, expected: Prediction, got: Prediction) -> None:
        for name, values in expected.results().items():
            found = getattr(got, name)
            _require(found is not None, f"{check}: frame {index} has no {name}")
            self.values(f"{check}: {name} of frame {index}", name, values, found, self.scale(name, expected))

    def values(self, what: str, name: str, expected: ArrayLike, got: ArrayLike, scale: float) -> None:
        difference = float(np.abs(np.asarray(got) - np.asarray(expected)).max(initial=0.0))
        scale = max(scale, FLOORS[name])
        _require(
            difference <= self.tolerance * scale,
            f"{what} differs by {difference:.3e} = {difference / scale:.3e} relative, "
            f"allowed {self.tolerance:.1e}",
        )

    def scale(self, name: str, prediction: Prediction) -> float:
        """Size that differences of a quantity are relative to."""
        if name in ("energy", "energies"):
            assert prediction.energies is not None
            offsets = max((abs(v) for v in self.offsets.values()), default=0.0)
            total = np.abs(prediction.energies).sum() if offsets == 0 else self._cohesive(prediction)
            return float(total if name == "energy" else total / len(prediction.energies))
        return float(np.abs(getattr(prediction, name)).max(initial=0.0))
