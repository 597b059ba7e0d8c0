"""Single labels: missing, not finite, forces that do not add up or are all zero, outlying energies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from surefield.quantities import labelled
from surefield.structures.doctor.finding import Finding
from surefield.structures.geometry import vectors_within
from surefield.structures.labels import Labels, stated
from surefield.structures.read import Frames

__all__ = ["check_labels", "check_net_force", "check_outlying_energies", "check_zero_forces"]

_NET_FORCE = 1e-3
_OUTLYING = 12.0
_OUTLYING_EV = 0.1


def check_labels(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report labels that are not finite, and kinds of labels that only some structures have."""
    findings = []
    for kind in labelled():
        values = [stated(atoms, label).get(kind) for atoms, label in zip(frames, labels, strict=True)]
        bad = tuple(i for i, value in enumerate(values) if value is not None and not np.isfinite(value).all())
        missing = tuple(i for i, value in enumerate(values) if value is None)
        if bad:
            message = f"{kind} of {len(bad)} structures is not finite, first in {frames.origin(bad[0])}"
            remedy = "remove these structures; keep NaN only where it masks entries on purpose"
            findings.append(Finding(f"{kind} not finite", "error", message, bad, float(len(bad)), remedy))
        if missing and len(missing) < len(frames):
            message = f"{len(missing)} of {len(frames)} structures have no {kind}"
            remedy = "give them a label, or leave them out when all structures must have one"
            findings.append(Finding("missing labels", "note", message, missing, float(len(missing)), remedy))
        elif missing and kind == "energy":
            remedy = "name the key of the energy: mapping={'energy': ...}"
            findings.append(
                Finding("missing labels", "error", "no structure has an energy", missing, 1.0, remedy)
            )
    return findings


def check_net_force(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report forces whose sum is not zero (|sum F| > 1 meV/Å)."""
    net = np.zeros(len(frames))
    for i, label in enumerate(labels):
        if label.forces is not None and np.isfinite(label.forces).all() and len(frames[i]) > 1:
            net[i] = np.linalg.norm(label.forces.sum(axis=0))
    unbalanced = np.flatnonzero(net > _NET_FORCE)
    if len(unbalanced) == 0:
        return []
    worst = int(np.argmax(net))
    message = (
        f"the forces of {len(unbalanced)} structures do not add up to zero: |sum F| up to "
        f"{net[worst]:.2g} eV/Å ({frames.origin(worst)}), median {np.median(net[unbalanced]):.2g} eV/Å"
    )
    remedy = (
        "expected for an external field, jellium, implicit solvent, fixed atoms or a coarse grid: then keep "
        "the labels as they are and take the sum as noise of the forces; otherwise recalculate with "
        "tighter settings"
    )
    frames_found = tuple(unbalanced.tolist())
    return [Finding("net force", "warning", message, frames_found, float(net[worst]), remedy)]


def check_zero_forces(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report structures whose forces are all exactly zero although symmetry does not make them so."""
    zero = tuple(
        i
        for i, label in enumerate(labels)
        if label.forces is not None
        and len(frames[i]) > 1
        and not np.any(label.forces)
        and _is_uneven(frames[i])
    )
    if not zero:
        return []
    message = f"{len(zero)} structures have forces that are all 0.0 at sites where symmetry does not force it"
    remedy = "zeros stand for forces that were never calculated: leave these forces out of the fit"
    return [Finding("zero forces", "warning", message, zero, float(len(zero)), remedy)]


def check_outlying_energies(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report energies far from the others of the set, after a robust offset per element.

    Far is more than 12 times the median absolute deviation (as a standard deviation) and 0.1 eV/atom.
    """
    chosen = [i for i, label in enumerate(labels) if label.energy is not None and np.isfinite(label.energy)]
    if len(chosen) < 10:
        return []
    elements = sorted({int(z) for i in chosen for z in frames[i].numbers})
    counts = np.array([[np.sum(frames[i].numbers == z) for z in elements] for i in chosen], dtype=np.float64)
    n_atoms = counts.sum(axis=1)
    energies = np.array([labels[i].energy for i in chosen], dtype=np.float64) / n_atoms
    deviation = _robust_residual(counts / n_atoms[:, None], energies)
    scale = 1.4826 * float(np.median(np.abs(deviation)))
    far = np.abs(deviation) > max(_OUTLYING * scale, _OUTLYING_EV)
    if not far.any():
        return []
    worst = int(np.argmax(np.abs(deviation)))
    share = float((deviation[far] ** 2).sum() / (deviation**2).sum())
    message = (
        f"{far.sum()} structures lie up to {deviation[worst]:+.3g} eV/atom from the rest (spread "
        f"{scale:.2g} eV/atom; farthest {frames.origin(chosen[worst])}); they carry "
        f"{100 * share:.0f} % of all squared deviations"
    )
    remedy = (
        "weight groups of structures separately or leave these out; averages over the set are theirs alone"
    )
    numbers = tuple(chosen[k] for k in np.flatnonzero(far))
    size = float(abs(deviation[worst]))
    # Where they are many, the set is wide rather than faulty.
    severity = "warning" if far.mean() < 0.1 else "note"
    return [Finding("outlying energies", severity, message, numbers, size, remedy)]


def _robust_residual(fractions: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Residual of a least-absolute-deviations fit of one offset per element (reweighted least squares)."""
    weights = np.ones(len(energies))
    residual = energies
    for _ in range(30):
        offsets = np.linalg.lstsq(fractions * weights[:, None], energies * weights, rcond=1e-8)[0]
        residual = energies - fractions @ offsets
        weights = 1.0 / np.sqrt(np.abs(residual) + 1e-3)
    return residual


def _is_uneven(atoms: Atoms) -> bool:
    """Whether the neighbours of some atom pull to one side: symmetry does not forbid a force on it."""
    first, second, vector, distance = vectors_within(atoms, 5.0)
    if len(distance) == 0:
        return False
    pull = np.exp(-distance) * (5.0 - distance) ** 2 * atoms.numbers[second]
    sums = np.zeros((len(atoms), 3))
    np.add.at(sums, first, (pull / distance)[:, None] * vector)
    total = np.bincount(first, weights=pull, minlength=len(atoms))
    return bool((np.linalg.norm(sums, axis=1) > 1e-3 * total.max()).any())
