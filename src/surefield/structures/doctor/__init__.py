"""The data doctor: finds faults of a data set from the structures and labels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.structures.doctor.consistency import check_force_work
from surefield.structures.doctor.contacts import check_computable, check_contacts
from surefield.structures.doctor.finding import DoctorReport, Finding, Severity, worst_first
from surefield.structures.doctor.forces import (
    check_labels,
    check_net_force,
    check_outlying_energies,
    check_zero_forces,
)
from surefield.structures.doctor.magnitudes import check_magnitudes
from surefield.structures.doctor.overview import overview
from surefield.structures.doctor.pairs import find_pairs
from surefield.structures.doctor.repeats import check_leakage, check_repeats, check_states
from surefield.structures.doctor.stress import check_stress
from surefield.structures.doctor.temperatures import check_temperatures
from surefield.structures.doctor.virials import check_virials
from surefield.structures.labels import Labels, Mapped, resolve_labels, stated
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["DoctorReport", "Finding", "Severity", "doctor"]

#: Faults of the energy that make its comparison with the stress meaningless.
_ENERGY_FAULTS = {"energy unit", "kinetic energy in label", "force work", "energy"}
#: Faults that a comparison of stresses with forces would only repeat.
_STRESS_FAULTS = {"force unit", "force sign", "stress unit", "stress sign", "stress slope"}


def doctor(
    frames: Source,
    labels: Sequence[Labels] | Mapped | None = None,
    *,
    reference: Source | None = None,
    reference_labels: Sequence[Labels] | Mapped | None = None,
    min_distance: float = 0.5,
) -> DoctorReport:
    """Examine a data set: repeats, contacts, missing, outlying and contradictory labels.

    Args:
        frames: structures, or files of them.
        labels: theirs, or explicit keys of them; None: as `resolve_labels` takes them. NaN is reported.
        reference: training set, when `frames` is a test set: structures in both are reported.
        reference_labels: those of the reference.
        min_distance: nearer atoms (Å) are an error.

    Returns:
        The findings, worst first. The structures are not changed.

    Raises:
        DataError: unreadable structures, or as many labels as structures are not given.
    """
    whole = read_frames(frames)
    every, note = _labels(whole, labels)
    sound, findings = check_computable(whole)
    findings = [*check_labels(whole, every), *findings]
    chosen, known = whole[sound], [every[i] for i in sound]
    examined = [
        *check_contacts(chosen, min_distance),
        *check_repeats(chosen, known),
        *check_states(chosen, known),
    ]
    if reference is not None:
        training = read_frames(reference)
        of_training = _labels(training, reference_labels)[0]
        usable, _ = check_computable(training)
        examined += check_leakage(chosen, known, training[usable], [of_training[i] for i in usable])
    examined += [
        *check_net_force(chosen, known),
        *check_zero_forces(chosen, known),
        *check_outlying_energies(chosen, known),
        *check_temperatures(chosen, known),
        *_comparisons(chosen, [_finite(*pair) for pair in zip(chosen, known, strict=True)]),
    ]
    findings += [replace(f, frames=tuple(int(sound[k]) for k in f.frames)) for f in examined]
    return DoctorReport(len(whole), _source(whole), worst_first(findings), overview(whole, every, note))


def _comparisons(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Energies against forces, stresses against both, and all of them against what is possible."""
    pairs = find_pairs(frames, labels)
    work = check_force_work(frames, pairs)
    findings = list(work)
    if _ENERGY_FAULTS.isdisjoint(finding.check for finding in work):
        findings += check_stress(frames, pairs)
    elif any(label.stress is not None for label in labels):
        message = "stresses were not compared with energies, because these contradict the forces"
        findings.append(Finding("stress undecidable", "note", message, (), 0.0, "mend the energies first"))
    if not any("unit" in finding.check for finding in work):
        findings += check_magnitudes(frames, labels)
    if _STRESS_FAULTS.isdisjoint(finding.check for finding in findings):
        findings += check_virials(frames, labels)
    return findings


def _labels(frames: Frames, labels: Sequence[Labels] | Mapped | None) -> tuple[Sequence[Labels], str]:
    if labels is None or isinstance(labels, Mapping):
        resolved, report = resolve_labels(frames, labels, require=(), allow_nan=True)
        return resolved, str(report).partition(": ")[2]
    if len(labels) != len(frames):
        raise DataError(f"{len(frames)} structures need as many labels, got {len(labels)}")
    return labels, ""


def _finite(atoms: Atoms, label: Labels) -> Labels:
    """The labels without those that hold NaN where there should be a number, which nothing compares with."""
    values = stated(atoms, label).results()
    bad = {name: None for name, value in values.items() if not np.isfinite(value).all()}
    return label.replace(**bad) if bad else label


def _source(frames: Frames | Sequence[Atoms]) -> str:
    """Names of the files, from origins such as "frame 7 of train.xyz"."""
    if not isinstance(frames, Frames):
        return "structures in memory"
    names = dict.fromkeys(o.split(" of ", 1)[1] for o in frames.origins if " of " in o)
    return ", ".join(names) if names else "structures in memory"
