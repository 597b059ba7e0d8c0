"""The data doctor: finds faults of a data set from the structures and labels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from surefield.errors import DataError
from surefield.structures.doctor.consistency import check_force_work
from surefield.structures.doctor.contacts import check_contacts
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
from surefield.structures.labels import Labels, resolve_labels
from surefield.structures.read import Frames, Source, read_frames

__all__ = ["DoctorReport", "Finding", "Severity", "doctor"]

#: Faults of the energy that make its comparison with the stress meaningless.
_ENERGY_FAULTS = {"energy unit", "kinetic energy in label", "force work", "energy"}


def doctor(
    frames: Source,
    labels: Sequence[Labels] | None = None,
    *,
    reference: Source | None = None,
    reference_labels: Sequence[Labels] | None = None,
    min_distance: float = 0.5,
) -> DoctorReport:
    """Examine a data set: repeats, contacts, missing, outlying and contradictory labels.

    Args:
        frames: structures, or files of them.
        labels: theirs; taken from the structures by `resolve_labels` when not given. NaN is reported.
        reference: training set, when `frames` is a test set: structures in both are reported.
        reference_labels: those of the reference.
        min_distance: nearer atoms (Å) are an error.

    Returns:
        The findings, worst first. The structures are not changed.

    Raises:
        DataError: unreadable structures, or as many labels as structures are not given.
    """
    chosen = read_frames(frames)
    known, note = _labels(chosen, labels)
    findings = [
        *check_labels(chosen, known),
        *check_contacts(chosen, min_distance),
        *check_repeats(chosen, known),
        *check_states(chosen, known),
    ]
    if reference is not None:
        training = read_frames(reference)
        findings += check_leakage(chosen, known, training, _labels(training, reference_labels)[0])
    findings += [
        *check_net_force(chosen, known),
        *check_zero_forces(chosen, known),
        *check_outlying_energies(chosen, known),
        *check_temperatures(chosen, known),
    ]
    finite = [_finite(label) for label in known]
    pairs = find_pairs(chosen, finite)
    work = check_force_work(chosen, pairs)
    findings += work
    if _ENERGY_FAULTS.isdisjoint(finding.check for finding in work):
        findings += check_stress(chosen, pairs)
    elif any(label.stress is not None for label in finite):
        message = "stresses were not compared with energies, because these contradict the forces"
        findings.append(Finding("stress undecidable", "note", message, (), 0.0, "mend the energies first"))
    if not any("unit" in finding.check for finding in work):
        findings += check_magnitudes(chosen, finite)
    known_faults = {finding.check for finding in findings}
    if known_faults.isdisjoint({"force unit", "force sign", "stress unit", "stress sign", "stress slope"}):
        findings += check_virials(chosen, finite)
    lines = overview(chosen, known, note)
    return DoctorReport(len(chosen), _source(chosen), worst_first(findings), lines)


def _labels(frames: Frames, labels: Sequence[Labels] | None) -> tuple[Sequence[Labels], str]:
    if labels is None:
        resolved, report = resolve_labels(frames, require=(), allow_nan=True)
        return resolved, str(report).partition(": ")[2]
    if len(labels) != len(frames):
        raise DataError(f"{len(frames)} structures need as many labels, got {len(labels)}")
    return labels, ""


def _finite(label: Labels) -> Labels:
    """The labels without those that hold NaN, which the comparisons cannot use."""
    bad = {name: None for name, value in label.results().items() if not np.isfinite(value).all()}
    return label.replace(**bad) if bad else label


def _source(frames: Frames | Sequence[Atoms]) -> str:
    """Names of the files, from origins such as "frame 7 of train.xyz"."""
    if not isinstance(frames, Frames):
        return "structures in memory"
    names = dict.fromkeys(o.split(" of ", 1)[1] for o in frames.origins if " of " in o)
    return ", ".join(names) if names else "structures in memory"
