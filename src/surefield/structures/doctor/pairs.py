"""Pairs of structures near enough to check their energies against forces and stresses.

Between two structures that differ by small displacements u and a small strain e, the energy changes by
dE = -sum F.u + V sigma:e, with forces and stresses averaged over the two ends (trapezoidal rule, error of third
order). Energies and derivatives of one calculation must agree in this way, whatever the method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist

from surefield.structures.labels import Labels
from surefield.structures.read import Frames

__all__ = ["Pairs", "find_pairs"]

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Entries of `info` under which structures are comparable only when they agree.
_CONDITIONS = ("target_potential", "total_charge", "charge", "spin")
_MOST = 800
_MOST_PAIRS = 20000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of nearby structures; NaN where a label is missing.

    Attributes:
        first, second: (n_pairs,) structures.
        energy_change: (n_pairs,) eV, second minus first.
        force_work: (n_pairs,) -sum F.u in eV, u without the displacement that the strain explains.
        virial: (n_pairs, 6) mean of V sigma in eV, Voigt order of ASE.
        strain: (n_pairs, 6), shear components doubled.
        stress_change: (n_pairs, 6) eV/Å^3.
        volume: (n_pairs,) mean, Å^3; 0 for molecules.
        displacement: (n_pairs,) largest |u| of an atom, Å.
    """

    first: np.ndarray
    second: np.ndarray
    energy_change: np.ndarray
    force_work: np.ndarray
    virial: np.ndarray
    strain: np.ndarray
    stress_change: np.ndarray
    volume: np.ndarray
    displacement: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: np.ndarray) -> Pairs:
        return Pairs(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


def find_pairs(
    frames: Frames,
    labels: Sequence[Labels],
    *,
    max_displacement: float = 0.25,
    max_strain: float = 0.12,
    seed: int = 0,
) -> Pairs:
    """Find pairs of structures with the same atoms in the same order and nearly the same geometry.

    Args:
        frames: structures.
        labels: theirs; those without an energy take no part.
        max_displacement: longest displacement of an atom, Å, beyond the strain; molecules are superposed first.
        max_strain: largest component of the displacement gradient of the cell.
        seed: of the draw of structures, where more than 800 have the same atoms.

    Returns:
        The pairs, at most 20000 per list of atoms (the nearest ones).
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, atoms in enumerate(frames):
        energy = labels[i].energy
        if energy is None or not np.isfinite(energy) or len(atoms) < 2 or not np.isfinite(atoms.positions).all():
            continue
        conditions = tuple(str(atoms.info.get(name)) for name in _CONDITIONS)
        groups[(atoms.numbers.tobytes(), atoms.pbc.tobytes(), conditions)].append(i)
    rng = np.random.default_rng(seed)
    rows: list[tuple[np.ndarray, ...]] = []
    for members in groups.values():
        chosen = np.array(members)
        if len(chosen) > _MOST:
            chosen = np.sort(rng.choice(chosen, _MOST, replace=False))
        if len(chosen) > 1:
            first, second = (
                _near_crystals(frames, chosen, max_displacement, max_strain)
                if frames[chosen[0]].pbc.any()
                else _near_molecules(frames, chosen, max_displacement)
            )
            rows.append(_rows(frames, labels, first, second, max_displacement))
    if not rows:
        rows = [_rows(frames, labels, np.zeros(0, int), np.zeros(0, int), max_displacement)]
    return Pairs(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _near_crystals(
    frames: Frames, chosen: np.ndarray, max_displacement: float, max_strain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by cell and by the displacements of a few atoms; `_rows` decides."""
    cells = np.array([frames[i].cell.complete().array for i in chosen])
    n_atoms = len(frames[chosen[0]])
    probe = np.unique(np.linspace(0, n_atoms - 1, 6).astype(int))
    scaled = np.array(
        [np.linalg.solve(c.T, frames[i].positions[probe].T).T for i, c in zip(chosen, cells, strict=True)]
    )
    scaled -= scaled[:, :1]
    pbc = frames[chosen[0]].pbc
    found = []
    for p in range(len(chosen) - 1):
        later = np.arange(p + 1, len(chosen))
        middle = 0.5 * (cells[p] + cells[later])
        gradient = np.linalg.solve(middle, cells[later] - cells[p])
        keep = np.abs(gradient).max(axis=(1, 2)) < max_strain
        later, middle = later[keep], middle[keep]
        shift = scaled[later] - scaled[p]
        shift -= np.where(pbc, np.rint(shift), 0.0)
        length = np.linalg.norm(shift @ middle, axis=2).max(axis=1)
        near = later[length < 2 * max_displacement]
        found.append(np.column_stack([np.full(len(near), p), near]))
    pairs = np.concatenate(found)
    if len(pairs) > _MOST_PAIRS:
        pairs = pairs[np.linspace(0, len(pairs) - 1, _MOST_PAIRS).astype(int)]
    return chosen[pairs[:, 0]], chosen[pairs[:, 1]]


def _near_molecules(
    frames: Frames, chosen: np.ndarray, max_displacement: float
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by their distances between atoms, which rotations do not change."""
    atoms_a, atoms_b = np.triu_indices(len(frames[chosen[0]]), 1)
    if len(atoms_a) > 400:
        keep = np.linspace(0, len(atoms_a) - 1, 400).astype(int)
        atoms_a, atoms_b = atoms_a[keep], atoms_b[keep]
    lengths = np.array(
        [np.linalg.norm(frames[i].positions[atoms_a] - frames[i].positions[atoms_b], axis=1) for i in chosen]
    )
    difference = pdist(lengths, "chebyshev")
    near = np.flatnonzero(difference < 2 * max_displacement)
    near = near[np.argsort(difference[near], kind="stable")[:_MOST_PAIRS]]
    p, q = np.triu_indices(len(chosen), 1)
    return chosen[p[near]], chosen[q[near]]


def _rows(
    frames: Frames, labels: Sequence[Labels], first: np.ndarray, second: np.ndarray, max_displacement: float
) -> tuple[np.ndarray, ...]:
    """Numbers of each pair, those with longer displacements left out."""
    table = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if frames[i].pbc.any():
            u, strain, volume = _displacements(frames, i, j)
            turn = np.eye(3)
        else:
            u, turn = _superposition(frames, i, j)
            strain, volume = np.zeros(6), 0.0
        longest = float(np.sqrt((u**2).sum(axis=1).max()))
        if longest > max_displacement:
            continue
        a, b = labels[i], labels[j]
        work = np.nan
        if a.forces is not None and b.forces is not None:
            work = float(-0.5 * ((a.forces + b.forces @ turn) * u).sum())
        virial, change = np.full(6, np.nan), np.full(6, np.nan)
        if a.stress is not None and b.stress is not None:
            virial = 0.5 * (frames[i].get_volume() * a.stress + frames[j].get_volume() * b.stress)
            change = b.stress - a.stress
        rise = (b.energy or 0.0) - (a.energy or 0.0)
        table.append((i, j, rise, work, *virial, *strain, *change, volume, longest))
    array = np.array(table, dtype=np.float64).reshape(-1, 24)
    return (
        array[:, 0].astype(np.int64),
        array[:, 1].astype(np.int64),
        array[:, 2],
        array[:, 3],
        array[:, 4:10],
        array[:, 10:16],
        array[:, 16:22],
        array[:, 22],
        array[:, 23],
    )


def _displacements(frames: Frames, i: int, j: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Displacements (n_atoms, 3) beyond the strain, strain (Voigt, shear doubled) and mean volume."""
    cells = [frames[k].cell.complete().array for k in (i, j)]
    middle = 0.5 * (cells[0] + cells[1])
    gradient = np.linalg.solve(middle, cells[1] - cells[0])
    tensor = 0.5 * (gradient + gradient.T)
    scaled = [
        np.linalg.solve(c.T, frames[k].positions.T).T for k, c in zip((i, j), cells, strict=True)
    ]
    shift = scaled[1] - scaled[0]
    shift -= shift[:1]
    shift -= np.where(frames[i].pbc, np.rint(shift), 0.0)
    u = shift @ middle
    strain = np.array([tensor[a, b] * (1 if a == b else 2) for a, b in _VOIGT])
    return u - u.mean(axis=0), strain, float(abs(np.linalg.det(middle)))


def _superposition(frames: Frames, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Displacements of molecule j from i after the best rotation (W. Kabsch, Acta Cryst. A32, 922 (1976)).

    Returns:
        (n_atoms, 3), and the matrix that turns row vectors of j into the frame of i.
    """
    one = frames[i].positions - frames[i].positions.mean(axis=0)
    other = frames[j].positions - frames[j].positions.mean(axis=0)
    left, _, right = np.linalg.svd(other.T @ one)
    sign = np.sign(np.linalg.det(left @ right))
    turn = left @ np.diag([1.0, 1.0, sign]) @ right
    return other @ turn - one, turn
