"""Stresses against energies: sign, unit, order of the shear components, constant offset, noise.

For two cells that differ by a strain e, dE = V sigma:e - sum F.u (`pairs`). dE is regressed on the work of
the stress and, for an offset such as Pulay stress, on the change of volume:
dE + sum F.u = a V sigma:e + p V tr e.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from surefield import units
from surefield.structures.doctor.finding import Finding, Severity
from surefield.structures.doctor.pairs import Pairs
from surefield.structures.read import Frames

__all__ = ["check_stress"]

_FEWEST = 10
_SHEAR_NAMES = ("yz", "xz", "xy")
_ORDERS = tuple(permutations(range(3)))
#: Offsets below this are the usual error of a finite basis, eV/Å^3 (1 GPa).
_OFFSET = 1.0 * units.EV_A3_PER_GPA


@dataclass(frozen=True)
class _Fit:
    """One regression of dE on the work of the stress and an offset.

    Attributes:
        slope, uncertainty: factor of the work, and its relative standard error.
        declared: weighted residual with the slope held at 1.
        offset: eV/Å^3.
        residual, plain: weighted residual, and the same without weights in eV.
        without, plain_without: both without an offset.
    """

    slope: float
    uncertainty: float
    declared: float
    offset: float
    residual: float
    plain: float
    without: float
    plain_without: float


@dataclass(frozen=True)
class _Verdict:
    """What one composition says: name of the check, numbers for the message, size, frames."""

    check: str
    text: str
    size: float
    frames: tuple[int, ...]


_SEVERITY: dict[str, Severity] = {
    "stress undecidable": "note",
    "shear order undecidable": "note",
    "constant pressure": "warning",
    "shear noise": "warning",
}
_REMEDY = {
    "stress sign": "multiply the stress by -1 (positive must be tensile, as in ASE): stress_sign=-1",
    "stress unit": "declare the unit, e.g. units={'stress': 'kbar'}, so that it is converted to eV/Å^3",
    "stress slope": "stress and energy do not belong together: stress weight 0 until this is understood",
    "shear order": "declare the order of the components with voigt_order; ASE's is xx yy zz yz xz xy",
    "constant pressure": "no potential can fit both: give the stress weight 0, or fit one isotropic offset",
    "shear noise": "give the shear stress weight 0; do not take shear elastic constants from it",
    "stress undecidable": "",
    "shear order undecidable": "",
}


def check_stress(frames: Frames, pairs: Pairs) -> list[Finding]:
    """Report stresses that contradict the energies of strained cells, composition by composition.

    Args:
        frames: structures.
        pairs: of all structures (`find_pairs`).

    Returns:
        Findings named "stress sign", "stress unit", "stress slope", "shear order", "constant pressure",
        "shear noise", and the notes "stress undecidable" and "shear order undecidable" where the cells
        cannot tell.
    """
    labelled = np.isfinite(pairs.virial).all(axis=1)
    if not labelled.any():
        return []
    strained = np.abs(pairs.strain).max(axis=1) > 1e-4
    # Forces must be known where atoms moved; short ways only, their error is of third order.
    settled = (pairs.displacement < 1e-3) | (np.isfinite(pairs.force_work) & (pairs.displacement < 0.15))
    some = pairs[labelled & strained & settled]
    groups: dict[str, list[int]] = defaultdict(list)
    for k, i in enumerate(some.first.tolist()):
        groups[frames[i].get_chemical_formula(empirical=True)].append(k)
    groups = {formula: members for formula, members in groups.items() if len(members) >= _FEWEST}
    if not groups:
        message = "stresses were not compared with energies: no composition has ten pairs of strained cells"
        return [Finding("stress undecidable", "note", message, (), 0.0, "")]
    verdicts = [v for formula, members in groups.items() for v in _examine(formula, some[np.array(members)])]
    return _merge(verdicts)


def _examine(formula: str, pairs: Pairs) -> Iterable[_Verdict]:
    where = pairs.members
    rise = pairs.energy_change - np.where(np.isfinite(pairs.force_work), pairs.force_work, 0.0)
    weights = 1.0 / (pairs.volume * (np.abs(pairs.strain).max(axis=1) ** 2 + 1e-5))
    total = float(np.sqrt(np.mean((weights * rise) ** 2)))
    fits = [_regress(pairs, order, rise, weights) for order in _ORDERS]
    residuals = np.array([fit.residual for fit in fits])
    best = int(np.argmin(residuals))
    decided = residuals.max() > 1.3 * residuals.min() + 1e-12
    # The first order is the file's own; it stands unless another is clearly better.
    wrong_order = bool(residuals[0] > 1.5 * residuals[best])
    order = _ORDERS[best] if wrong_order else _ORDERS[0]
    fit = fits[best] if wrong_order else fits[0]
    explained = 1 - (fit.residual / max(total, 1e-300)) ** 2
    noisy = yield from _shear_noise(formula, pairs, order, where)
    if explained < 0.9:
        text = (
            f"{formula}: energies of the strained cells differ by only "
            f"{np.sqrt(np.mean(rise**2)):.2g} eV rms, "
            f"of which the stress explains {100 * max(explained, 0):.0f} %"
        )
        yield _Verdict("stress undecidable", text, explained, where)
        return
    if wrong_order:
        alike = [_ORDERS[k] for k in np.flatnonzero(residuals < 1.1 * residuals[best])]
        names = " or ".join(" ".join(_file_order(o)) for o in alike)
        text = (
            f"{formula}: read as yz xz xy the residual of dE is {fits[0].plain:.3g} eV, read as {names} "
            f"it is {fit.plain:.3g} eV ({len(pairs)} pairs)"
        )
        yield _Verdict("shear order", text, fits[0].plain, where)
    elif not decided and not noisy:
        text = f"{formula}: shear is too small in the strained cells to tell the order of yz, xz, xy"
        yield _Verdict("shear order undecidable", text, 0.0, where)
    yield from _scale(formula, fit, len(pairs), where)


def _scale(formula: str, fit: _Fit, n_pairs: int, where: tuple[int, ...]) -> Iterable[_Verdict]:
    """Sign, unit and offset by the slope and intercept of a decided regression."""
    slope = fit.slope
    numbers = f"{formula}: dE = {slope:.4g} W over {n_pairs} pairs"
    shifted = abs(fit.offset) > _OFFSET and fit.without > 2 * fit.residual
    # Under the same stress everywhere a factor looks like an offset: then the unit of the file stands.
    right = abs(slope - 1) < 0.1 or fit.declared < 1.5 * fit.residual
    if fit.uncertainty > 0.05 and (shifted or not right):
        text = f"{numbers}: the stresses are too much alike to tell a factor from a constant pressure"
        yield _Verdict("stress undecidable", text, fit.uncertainty, where)
        return
    if not right:
        yield from _factor(numbers, slope, where)
    if shifted:
        pressure = fit.offset / units.EV_A3_PER_GPA
        text = (
            f"{numbers} {pressure:+.2f} GPa V tr(strain): stress and energy disagree by a constant pressure; "
            f"rms(dE - W) {fit.plain_without:.3g} eV, {fit.plain:.3g} eV with the offset"
        )
        yield _Verdict("constant pressure", text, pressure, where)


def _factor(numbers: str, slope: float, where: tuple[int, ...]) -> Iterable[_Verdict]:
    """Sign and unit that a slope other than 1 stands for."""
    if slope < 0:
        yield _Verdict("stress sign", f"{numbers}, the sign is reversed", slope, where)
    size = abs(slope)
    known = [(name, factor) for name, factor in units.STRESS.items() if name != "eV/A^3"]
    name, factor = min(known, key=lambda item: abs(np.log(size / item[1])))
    if abs(np.log(size / factor)) > 0.2:
        yield _Verdict("stress slope", f"{numbers}, and no unit explains it", slope, where)
    elif factor != 1.0:
        yield _Verdict(
            "stress unit", f"{numbers}: the numbers are {name} (1 {name} = {factor:.6g} eV/Å^3)", size, where
        )


def _regress(pairs: Pairs, order: tuple[int, ...], rise: np.ndarray, weights: np.ndarray) -> _Fit:
    """Fit dE = a W + p V tr e, with the shear components of the label taken in `order`."""
    virial = pairs.virial[:, [0, 1, 2, *(3 + k for k in order)]]
    work = (virial * pairs.strain).sum(axis=1)
    swelling = pairs.volume * pairs.strain[:, :3].sum(axis=1)
    design = np.column_stack([work, swelling])
    scales = np.maximum(np.abs(design * weights[:, None]).max(axis=0), 1e-300)
    scaled = design * weights[:, None] / scales
    slope, offset = np.linalg.lstsq(scaled, rise * weights, rcond=1e-10)[0] / scales
    alone = float((weights**2 * work * rise).sum() / max((weights**2 * work**2).sum(), 1e-300))
    # Slope 1, the best offset.
    still = (weights**2 * swelling * (rise - work)).sum() / max((weights**2 * swelling**2).sum(), 1e-300)
    declared = rise - work - still * swelling
    left, left_alone = rise - slope * work - offset * swelling, rise - alone * work
    return _Fit(
        float(slope),
        _relative_error(scaled, rise * weights, slope * scales[0]),
        float(np.sqrt(np.mean((weights * declared) ** 2))),
        float(offset),
        float(np.sqrt(np.mean((weights * left) ** 2))),
        float(np.sqrt(np.mean(left**2))),
        float(np.sqrt(np.mean((weights * left_alone) ** 2))),
        float(np.sqrt(np.mean(left_alone**2))),
    )


def _relative_error(design: np.ndarray, target: np.ndarray, slope: float) -> float:
    """Standard error of the first coefficient of a least-squares fit, over its size."""
    values, residual = np.linalg.svd(design, full_matrices=False), target
    left, singular, right = values
    kept = singular > 1e-10 * singular[0]
    residual = target - left[:, kept] @ (left[:, kept].T @ target)
    variance = float(residual @ residual) / max(len(target) - int(kept.sum()), 1)
    spread = float(((right[kept, 0] / singular[kept]) ** 2).sum())
    return float(np.sqrt(variance * spread)) / max(abs(slope), 1e-300)


def _shear_noise(formula: str, pairs: Pairs, order: tuple[int, ...], where: tuple[int, ...]):
    """Yield a verdict when shear stress follows shear strain in no order; return whether it did."""
    sheared = np.abs(pairs.strain[:, 3:]).max(axis=1) > 1e-3
    if sheared.sum() < _FEWEST:
        return False
    strain = pairs.strain[sheared, 3:].ravel()
    answers = [pairs.stress_change[sheared][:, [3 + k for k in o]].ravel() for o in _ORDERS]
    links = np.array([_correlation(strain, answer) for answer in answers])
    if np.abs(links).max() > 0.5:
        return False
    answer = answers[_ORDERS.index(order)]
    modulus = float(strain @ answer / (strain @ strain)) / units.EV_A3_PER_GPA
    text = (
        f"{formula}: shear stress does not follow shear strain (correlation "
        f"{links[_ORDERS.index(order)]:.2f} over {int(sheared.sum())} pairs, modulus {modulus:.2g} GPa): "
        "k-mesh or convergence noise"
    )
    yield _Verdict("shear noise", text, modulus, where)
    return True


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread > 0 else 0.0


def _file_order(order: tuple[int, ...]) -> list[str]:
    """Names of the components in the places 4 to 6 of the file, when place 3 + order[k] holds component k."""
    names = [""] * 3
    for component, place in enumerate(order):
        names[place] = _SHEAR_NAMES[component]
    return names


def _merge(verdicts: list[_Verdict]) -> list[Finding]:
    """One finding per kind of fault, over all compositions that have it."""
    kinds: dict[str, list[_Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.check].append(verdict)
    findings = []
    for check, some in kinds.items():
        text = "; ".join(v.text for v in some[:4]) + (
            f"; {len(some) - 4} more compositions" if len(some) > 4 else ""
        )
        where = tuple(sorted({i for v in some for i in v.frames}))
        worst = max(some, key=lambda v: abs(v.size))
        findings.append(
            Finding(check, _SEVERITY.get(check, "error"), text, where, worst.size, _REMEDY[check])
        )
    return findings
