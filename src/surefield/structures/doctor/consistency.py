"""Energies against the work of the forces: units, signs, and kinetic energy hidden in the label."""

from __future__ import annotations

import numpy as np

from surefield import units
from surefield.structures.doctor.finding import Finding
from surefield.structures.doctor.pairs import Pairs
from surefield.structures.doctor.temperatures import temperature_words
from surefield.structures.read import Frames

__all__ = ["check_force_work"]

_FEWEST = 8
#: Largest rms of dE - slope W, as a share of the rms of dE, for energies that follow the forces.
_LOOSE = 0.4


def check_force_work(frames: Frames, pairs: Pairs) -> list[Finding]:
    """Compare energy differences of nearby structures with the work of the forces, dE against W = -sum F.u.

    A slope of 1 is right; one of 23.06 means energies in kcal/mol but forces in eV/Å, and so on. Scatter
    beyond the error of the trapezoidal rule means that the energy is of another kind than the
    forces, for instance potential plus kinetic energy.
    """
    unstrained = np.abs(pairs.strain).max(axis=1, initial=0.0) < 1e-4
    some = pairs[unstrained & np.isfinite(pairs.force_work) & (pairs.displacement > 1e-4)]
    if len(some) < _FEWEST:
        message = f"only {len(some)} pairs of structures are near enough to compare energies with forces"
        return [Finding("force work undecidable", "note", message, (), float(len(some)), "")]
    change, work = some.energy_change, some.force_work
    # The rule's error grows with the third power of the displacement.
    weights = 1.0 / (0.05**2 + some.displacement**2)
    slope = _slope(work, change, weights)
    total = np.sqrt(np.average(change**2, weights=weights))
    scatter = np.sqrt(np.average((change - slope * work) ** 2, weights=weights))
    where = some.members
    numbers = f"over {len(some)} pairs of nearby structures dE = {slope:.4g} W"
    if total < 1e-12:
        return [Finding("energy", "error", "energies do not change with the positions", where, 0.0, "")]
    if scatter > _LOOSE * total:
        return [_unrelated(frames, some, where, slope, float(scatter), float(total))]
    if abs(slope - 1) < 0.2:
        return []
    return [_wrong_slope(slope, numbers, where)]


def _wrong_slope(slope: float, numbers: str, where: tuple[int, ...]) -> Finding:
    if abs(slope + 1) < 0.2:
        remedy = "the forces are gradients: multiply them by -1"
        return Finding("force sign", "error", f"{numbers}: forces point uphill", where, slope, remedy)
    # An energy of 1 eV reads 1/factor in another unit, and so does a force.
    bohr = units.ANGSTROM_PER_BOHR
    candidates = [
        *(
            (f"energies look like {n}, forces like eV/Å", "energy", n, f, 1 / f)
            for n, f in units.ENERGY.items()
        ),
        *(
            (f"forces look like {n}/{length}, energies like eV", "force", f"{n}/{length}", f / a, f / a)
            for n, f in units.ENERGY.items()
            for length, a in (("Å", 1.0), ("Bohr", bohr))
            if (n, length) != ("eV", "Bohr")
        ),
        (
            "forces are per Bohr, as in atomic units (Hartree and Hartree/Bohr; eV and eV/Bohr are rare)",
            "force",
            "Hartree/Bohr",
            units.EV_PER_HARTREE / bohr,
            1 / bohr,
        ),
    ]
    text, kind, name, factor, expected = min(candidates, key=lambda c: abs(np.log(abs(slope) / c[4])))
    if slope > 0 and abs(np.log(slope / expected)) < 0.1:
        unit = "eV" if kind == "energy" else "eV/Å"
        remedy = f"convert them: 1 {name} = {factor:.6g} {unit}"
        return Finding(f"{kind} unit", "error", f"{numbers}: {text}", where, slope, remedy)
    remedy = "energies and forces come from different methods or units; find out which before training"
    return Finding("force work", "error", f"{numbers} instead of 1", where, slope, remedy)


def _unrelated(
    frames: Frames, some: Pairs, where: tuple[int, ...], slope: float, scatter: float, total: float
) -> Finding:
    """Energies that do not follow the forces; names kinetic energy where temperature words show it."""
    message = (
        f"energy differences of {len(some)} pairs of nearby structures do not follow the work of the forces: "
        f"rms(dE - {slope:.3g} W) is {scatter:.3g} eV, rms(dE) {total:.3g} eV"
    )
    kelvin = temperature_words(frames)
    steps = kelvin[some.second] - kelvin[some.first]
    hot = np.isfinite(steps) & (np.abs(steps) > 1)
    if hot.sum() >= 5:
        n_atoms = np.array([len(frames[i]) for i in some.first[hot]])
        kinetic = 1.5 * units.BOLTZMANN * (n_atoms - 1) * steps[hot]
        excess = (some.energy_change - some.force_work)[hot]
        share = _slope(kinetic, excess, np.ones(len(kinetic)))
        if 0.6 < share < 1.4:
            message += f"; between temperatures dE - W is {share:.2f} of 3/2 kT (n - 1), the kinetic energy"
            remedy = "subtract the kinetic energy of each frame, or recalculate the potential energies"
            return Finding("kinetic energy in label", "error", message, where, scatter, remedy)
    # Canonical kinetic energies of two frames differ by sqrt(3 n) kT in the mean square.
    guess = _canonical_scatter(frames, some, kelvin)
    if np.isfinite(guess) and 0.5 < scatter / guess < 1.5 and abs(slope - 1) < 0.3:
        message += f"; the kinetic energy at the stated temperatures would scatter by {guess:.3g} eV"
        remedy = "the energy probably contains the kinetic one: subtract it frame by frame"
        return Finding("kinetic energy in label", "error", message, where, scatter, remedy)
    remedy = "find out what the energy is (total with kinetic energy? another method? shuffled frames?)"
    return Finding("force work", "error", message, where, scatter, remedy)


def _canonical_scatter(frames: Frames, some: Pairs, kelvin: np.ndarray) -> float:
    warm = np.isfinite(kelvin[some.first]) & np.isfinite(kelvin[some.second])
    if not warm.any():
        return np.nan
    freedom = np.array([3.0 * len(frames[i]) - 3.0 for i in some.first[warm]])
    squares = 0.25 * freedom * (kelvin[some.first[warm]] ** 2 + kelvin[some.second[warm]] ** 2)
    return float(units.BOLTZMANN * np.sqrt(2 * squares.mean()))


def _slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    square = float((weights * x * x).sum())
    return float((weights * x * y).sum()) / square if square > 0 else 0.0
