"""The contract of an uncertainty: a potential's predictions with standard deviations added to them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError
from surefield.potentials import Prediction
from surefield.quantities import quantity, uncertain
from surefield.testing.frames import Snapshot, random_rotation, rotated
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["check_uncertainty"]

#: Largest relative differences of sigmas. Inverting a covariance of condition 1e9 costs half of the digits.
TOLERANCES = {"float64": 1e-6, "float32": 1e-2}
#: Of values from two programs, absolute (eV, eV/Å, ...) and relative.
ROUNDING = {"float64": 1e-9, "float32": 1e-4}
#: A component of a force may have no uncertainty where symmetry makes it less than this times the largest.
SYMMETRY_ZERO = 1e-6


def check_uncertainty(
    uncertainty: Uncertainty, frames: Sequence[Atoms], *, isotropic: bool = True, seed: int = 0
) -> None:
    """Check what every uncertainty must do.

    Predictions are those of the potential to rounding, whatever sigmas are asked for; sigmas are finite,
    positive (zero only for forces that vanish by symmetry) and have the shapes of their quantities; inputs
    stay as they are; a structure alone has the sigmas it has in a batch; sigmas of atoms follow a
    permutation, those of energies do not change under rotation (where the potential has these
    `invariances`); values of members, where there are any, have the shapes of their quantities with the
    members first, and are those of the members alone; the calculator gives the same under the same names;
    saving and loading changes nothing.

    Args:
        uncertainty: fitted.
        frames: small structures of its elements, best with atoms off their sites.
        isotropic: the variances of an atom's three force components add up to the same in every
            orientation, as they do when sigma^2 is linear in the spread (not for isotonic maps).
        seed: of the rotation and the order of atoms.

    Raises:
        AssertionError: a promise is broken; the message says which, in which frame and by how much.
    """
    frames = list(frames)
    tolerance = TOLERANCES[uncertainty.potential.dtype.name]
    snapshot = Snapshot(frames)
    bare = uncertainty.potential.predict(frames)
    options = _available(uncertainty, frames)
    full = uncertainty.predict(frames, **options)
    changed = snapshot.changed()
    _require(changed is None, f"inputs unchanged: frame {changed} was changed by predict")
    for some in (uncertainty.predict(frames), full):
        _check_predictions(bare, some, ROUNDING[uncertainty.potential.dtype.name])
    for index, (atoms, prediction) in enumerate(zip(frames, full, strict=True)):
        _check_sigmas(index, atoms, prediction, options, uncertainty.potential.supplies)
    for index in range(min(2, len(frames))):
        (alone,) = uncertainty.predict([frames[index]], **options)
        _compare("batch independence", index, full[index], alone, tolerance)
    _check_members(uncertainty, frames, bare, options, tolerance)
    rng = np.random.default_rng(seed)
    invariances = uncertainty.potential.invariances
    if "permutation" in invariances:
        _check_permutation(uncertainty, frames, full, options, tolerance, rng)
    if "rotation" in invariances:
        _check_rotation(uncertainty, frames, full, options, tolerance, rng, isotropic)
    _check_calculator(uncertainty, frames[0], full[0], options, tolerance)
    _check_saving(uncertainty, frames, full, options)


def _available(uncertainty: Uncertainty, frames: list[Atoms]) -> dict[str, Any]:
    """Options of `predict` that this uncertainty was fitted for; it must refuse the others."""
    options: dict[str, Any] = {"per_atom": True}
    for name in ("forces", "stress"):
        asked: dict[str, Any] = {name: True}
        try:
            uncertainty.predict(frames[:1], **asked)
        except ConfigError:
            continue
        options |= asked
    return options


def _sigmas(prediction: Prediction) -> dict[str, np.ndarray]:
    results = prediction.results().items()
    return {name: np.asarray(value) for name, value in results if name.endswith("_uncertainty")}


def _check_predictions(bare: list[Prediction], full: list[Prediction], rounding: float) -> None:
    """Asking for sigmas changes no value beyond rounding, which two programs need not share."""
    _require(len(full) == len(bare), f"predictions: {len(bare)} structures gave {len(full)} predictions")
    for index, (before, after) in enumerate(zip(bare, full, strict=True)):
        for name, value in before.results().items():
            expected, got = np.asarray(value), np.asarray(getattr(after, name))
            same = expected.shape == got.shape and np.allclose(got, expected, rtol=rounding, atol=rounding)
            _require(same, f"predictions: asking for uncertainty changed {name} of frame {index}")


def _check_sigmas(
    index: int,
    atoms: Atoms,
    prediction: Prediction,
    options: dict[str, Any],
    supplies: frozenset[str],
) -> None:
    n = len(atoms)
    asked = {**options, "stress": options.get("stress") and atoms.pbc.all()}
    names = [name for name in uncertain(supplies) if asked.get(name, name not in ("forces", "stress"))]
    names += ["energies"] if "energies" in supplies else []
    expected = {f"{name}_uncertainty": quantity(name).shape(n) for name in names}
    sigmas = _sigmas(prediction)
    _require(
        sigmas.keys() == expected.keys(),
        f"sigmas: frame {index} must have {sorted(expected)}, got {sorted(sigmas)}",
    )
    for name, sigma in sigmas.items():
        _require(
            sigma.shape == expected[name],
            f"sigmas: {name} of frame {index} must be {expected[name]}, got {sigma.shape}",
        )
        _require(bool(np.isfinite(sigma).all()), f"sigmas: {name} of frame {index} is not finite")
        zero = sigma == 0
        if name == "forces_uncertainty":
            assert prediction.forces is not None
            size = np.abs(prediction.forces)
            zero &= size > SYMMETRY_ZERO * size.max()
        _require(
            bool((sigma >= 0).all()) and not zero.any(),
            f"sigmas: {name} of frame {index} must be positive, least is {sigma.min():.3e}",
        )


def _check_members(
    uncertainty: Uncertainty,
    frames: list[Atoms],
    bare: list[Prediction],
    options: dict[str, Any],
    tolerance: float,
) -> None:
    """Values of members have their shapes, are those of a structure alone, and none are invented."""
    n_members = uncertainty.n_members
    if not n_members:
        return
    members = uncertainty.predict(frames, ensemble=True, **options)
    for index, (before, after) in enumerate(zip(bare, members, strict=True)):
        values = {k: np.asarray(v) for k, v in after.results().items() if k.endswith("_ensemble")}
        _require("energy_ensemble" in values, f"members: frame {index} has no energy_ensemble")
        for name, value in values.items():
            expected = (n_members, *quantity(name.removesuffix("_ensemble")).shape(len(frames[index])))
            _require(
                value.shape == expected,
                f"members: {name} of frame {index} must be {expected}, got {value.shape}",
            )
            _require(bool(np.isfinite(value).all()), f"members: {name} of frame {index} is not finite")
        (alone,) = uncertainty.member(n_members).predict([frames[index]])
        scale = np.abs(values["energy_ensemble"]).max()
        _require(
            abs(alone.energy - values["energy_ensemble"][-1]) <= tolerance * scale,
            f"members: the last energy of frame {index} is not that of the last member alone",
        )
        _require(before.energy == after.energy, f"members: asking for them changed energy of frame {index}")


def _compare(check: str, index: int, expected: Prediction, got: Prediction, tolerance: float) -> None:
    for name, sigma in _sigmas(expected).items():
        value = getattr(got, name)
        _require(value is not None, f"{check}: no {name} of frame {index}")
        _close(f"{check}: {name} of frame {index}", sigma, np.asarray(value), tolerance)


def _close(what: str, expected: np.ndarray, got: np.ndarray, tolerance: float) -> None:
    relative = float((np.abs(got - expected) / np.maximum(np.abs(expected).max(), 1e-300)).max())
    _require(relative <= tolerance, f"{what} differs by {relative:.3e} relative, allowed {tolerance:.1e}")


def _check_permutation(
    uncertainty: Uncertainty,
    frames: list[Atoms],
    full: list[Prediction],
    options: dict[str, Any],
    tolerance: float,
    rng: np.random.Generator,
) -> None:
    orders = [rng.permutation(len(atoms)) for atoms in frames]
    moved = [atoms[order] for atoms, order in zip(frames, orders, strict=True)]
    for index, got in enumerate(uncertainty.predict(moved, **options)):
        order = orders[index]
        per_atom = {
            name: sigma[order]
            for name, sigma in _sigmas(full[index]).items()
            if name.startswith(("energies", "forces"))
        }
        _compare("permutation", index, full[index].replace(**per_atom), got, tolerance)


def _check_rotation(
    uncertainty: Uncertainty,
    frames: list[Atoms],
    full: list[Prediction],
    options: dict[str, Any],
    tolerance: float,
    rng: np.random.Generator,
    isotropic: bool,
) -> None:
    turn = random_rotation(rng)
    moved = [rotated(atoms, turn) for atoms in frames]
    for index, got in enumerate(uncertainty.predict(moved, **options)):
        before, after = _sigmas(full[index]), _sigmas(got)
        for name in ("energy_uncertainty", "energies_uncertainty"):
            _close(f"rotation: {name} of frame {index}", before[name], after[name], tolerance)
        if isotropic and "forces_uncertainty" in before:
            first, second = (np.sum(s["forces_uncertainty"] ** 2, axis=1) for s in (before, after))
            _close(f"rotation: sum of an atom's force variances in frame {index}", first, second, tolerance)


def _check_calculator(
    uncertainty: Uncertainty,
    atoms: Atoms,
    expected: Prediction,
    options: dict[str, Any],
    tolerance: float,
) -> None:
    # The structures of a check need not be like those of the training set.
    both = []
    asked: dict[str, Any]
    for asked in ({}, options):
        calculator = uncertainty.calculator(extrapolation="ignore", max_sigma=None, **asked)
        calculator.calculate(atoms.copy())
        both.append(calculator.results)
    usual, results = both
    _require("energy_uncertainty" in usual, "calculator: no energy_uncertainty in the usual results")
    _require("forces_uncertainty" not in usual, "calculator: force sigmas though nobody asked for them")
    _compare("calculator", 0, expected, _named(results), tolerance)
    if expected.forces_uncertainty is not None:
        largest = np.linalg.norm(expected.forces_uncertainty, axis=1).max()
        got = np.asarray(results.get("max_force_uncertainty", np.nan))
        _require(bool(np.isfinite(got)), "calculator: no max_force_uncertainty in the results")
        _close("calculator: max_force_uncertainty", np.asarray(largest), got, tolerance)


def _named(results: dict[str, Any]) -> Prediction:
    return Prediction(**{name: value for name, value in results.items() if Prediction.knows(name)})


def _check_saving(
    uncertainty: Uncertainty, frames: list[Atoms], full: list[Prediction], options: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "uncertainty.npz"
        uncertainty.save(path)
        loaded = type(uncertainty).load(path)
    for index, (before, after) in enumerate(zip(full, loaded.predict(frames, **options), strict=True)):
        for name, value in before.results().items():
            _require(
                np.array_equal(np.asarray(value), np.asarray(getattr(after, name))),
                f"save and load: {name} of frame {index} has changed",
            )


def _require(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)
