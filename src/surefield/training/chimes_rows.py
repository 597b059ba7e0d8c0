"""Rows of a ChIMES fit: those of all trainers, or the very rows of chimes_lsq."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from surefield.descriptors.chimes.settings import EV_PER_KCAL_MOL
from surefield.errors import DataError
from surefield.potentials.chimes import Chimes
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import ClosedRows, Potential
from surefield.structures.tensors import VOIGT, VOIGT_COLUMNS, VOIGT_ROWS, from_voigt, to_voigt
from surefield.training.dataset import Sample, without_baseline
from surefield.training.problem import Problem, ResidualWeights

__all__ = ["FitRows", "chimes_part", "fit_rows", "row_kinds"]

_AXES: Final = "xyz"


class FitRows(NamedTuple):
    """Rows of one configuration, in kcal/mol and Å.

    Attributes:
        a: (n_rows, n_columns), not weighted.
        b: (n_rows,) labels.
        w: (n_rows,) weights.
        labels: kind of each row: the symbol of the atom for forces, 's_xx' and so on, '+1' for energies.
    """

    a: Float[np.ndarray, "n_rows n_columns"]
    b: Float[np.ndarray, " n_rows"]
    w: Float[np.ndarray, " n_rows"]
    labels: tuple[str, ...]


def chimes_part(model: Potential) -> Chimes:
    """The ChIMES part of a potential or of a sum."""
    learned = learned_part(model)
    assert isinstance(learned, Chimes)
    return learned


def fit_rows(model: Potential, problem: Problem, *, compat: str | None = None) -> Iterator[FitRows]:
    """Rows of every training configuration in turn, all columns of the model; see `ChIMESTrainer`."""
    linear = chimes_part(model)
    train = without_baseline(model, problem.train)[1]
    kinds = [row_kinds(linear, c, problem.residual_weights(c), compat) for c in train]
    closed = linear.rows_of(
        [c.structure for c in train], forces=any("F" in k for k in kinds), strain=any("s" in k for k in kinds)
    )
    for c, kind, rows in zip(train, kinds, closed, strict=True):
        weights = problem.residual_weights(c)
        fixed = _fixed(linear, c, with_penalty=compat is None)
        make = _native_rows if compat is None else _peer_rows
        parts = list(make(linear, c, kind, rows, weights, fixed))
        if not parts:
            parts = [FitRows(np.zeros((0, linear.n_features)), np.zeros(0), np.zeros(0), ())]
        a, b, w = (np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True))
        labels = tuple(label for part in parts for label in part.labels)
        yield FitRows(a, b / EV_PER_KCAL_MOL, w, labels)


def row_kinds(linear: Chimes, c: Sample, weights: ResidualWeights, compat: str | None) -> frozenset[str]:
    """Kinds of rows of a configuration: 'F', 's', '+1'."""
    s = linear.settings
    kinds = set()
    if "forces" in c.labels and np.any(weights.forces > 0):
        kinds.add("F")
    if "stress" in c.labels and np.any(weights.stress > 0) and not (compat and s.fit_stress == "false"):
        kinds.add("s")
    if "energy" in c.labels and weights.energy > 0 and not (compat and s.fit_energy == "false"):
        kinds.add("+1")
    return frozenset(kinds)


class _Fixed(NamedTuple):
    """What the coefficients do not change: energy (eV), forces (eV/Å), stress (eV/Å^3, (6,))."""

    energy: float
    forces: Float[np.ndarray, "n_atoms 3"]
    stress: Float[np.ndarray, " 6"]


def _fixed(linear: Chimes, c: Sample, *, with_penalty: bool) -> _Fixed:
    """Element offsets and penalty."""
    energy, forces = linear.constant_energy(c.structure.numbers), np.zeros((c.n_atoms, 3))
    stress = np.zeros(6)
    if with_penalty:
        own, forces, virial = linear.penalty(c.structure)
        energy = energy + own
        if c.structure.periodic:
            stress = to_voigt(virial) / c.atoms.get_volume()
    return _Fixed(energy, forces, stress)


def _stress_rows(rows: ClosedRows, c: Sample) -> Float[np.ndarray, "3 3 n_columns"]:
    if rows.virial is None or not c.structure.periodic:
        raise DataError(f"configuration {c.id} has a stress label, but is not periodic in three directions")
    return rows.virial / c.atoms.get_volume()


def _force_rows(c: Sample, rows: ClosedRows, w: np.ndarray, fixed: _Fixed) -> FitRows:
    assert rows.forces is not None
    assert "forces" in c.labels
    labels = tuple(np.repeat(c.atoms.get_chemical_symbols(), 3).tolist())
    return FitRows(rows.forces, (c.labels.forces - fixed.forces).ravel(), np.repeat(w, 3), labels)


def _native_rows(
    linear: Chimes,
    c: Sample,
    kinds: frozenset[str],
    rows: ClosedRows,
    w: ResidualWeights,
    fixed: _Fixed,
) -> Iterable[FitRows]:
    """Energy per atom, forces, six stresses; rows of weight 0 are left out."""
    if "+1" in kinds and "energy" in c.labels:
        label = np.array([c.labels.energy - fixed.energy]) / c.n_atoms
        yield FitRows(rows.energy[None] / c.n_atoms, label, np.array([w.energy]), ("+1",))
    if "F" in kinds:
        every = _force_rows(c, rows, w.forces, fixed)
        used = every.w > 0
        labels = tuple(label for label, u in zip(every.labels, used, strict=True) if u)
        yield FitRows(every.a[used], every.b[used], every.w[used], labels)
    if "s" in kinds and "stress" in c.labels:
        used = w.stress > 0
        matrix = _stress_rows(rows, c)[VOIGT_ROWS, VOIGT_COLUMNS][used]
        labels = tuple(f"s_{component}" for component, u in zip(VOIGT, used, strict=True) if u)
        yield FitRows(matrix, (c.labels.stress - fixed.stress)[used], w.stress[used], labels)


def _peer_rows(
    linear: Chimes,
    c: Sample,
    kinds: frozenset[str],
    rows: ClosedRows,
    w: ResidualWeights,
    fixed: _Fixed,
) -> Iterable[FitRows]:
    """Forces, three or nine stresses that are positive in compression, the total energy three times."""
    if "F" in kinds:
        yield _force_rows(c, rows, w.forces, fixed)
    if "s" in kinds and "stress" in c.labels:
        full = linear.settings.fit_stress == "ALL"
        unknown = [x for x, known in zip(VOIGT, c.known("stress"), strict=True) if not known]
        missing = [x for x in unknown if full or x in ("xx", "yy", "zz")]
        if missing:
            what = "FITSTRS ALL needs six stress components" if full else "FITSTRS needs xx, yy, zz"
            raise DataError(f"{what}, configuration {c.id} lacks {' '.join(missing)}")
        places = [(i, j) for i in range(3) for j in range(3) if full or i == j]
        by_columns = _stress_rows(rows, c)
        matrix = -np.stack([by_columns[i] for i in places])
        labels = tuple(f"s_{_AXES[i]}{_AXES[j]}" for i, j in places)
        tensor = from_voigt(c.labels.stress - fixed.stress)
        values = -np.array([tensor[i] for i in places])
        yield FitRows(matrix, values, np.full(len(places), w.stress.max()), labels)
    if "+1" in kinds and "energy" in c.labels:
        yield FitRows(
            np.tile(rows.energy, (3, 1)),
            np.full(3, c.labels.energy - fixed.energy),
            np.full(3, w.energy),
            ("+1",) * 3,
        )
