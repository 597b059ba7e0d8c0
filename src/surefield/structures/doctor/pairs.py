"""Pairs of structures near enough to check their energies against forces and stresses.

Between two structures that differ by small displacements u and a small strain e, the energy changes by
dE = -sum F.u + V sigma:e, with forces and stresses averaged over the two ends (trapezoidal rule, error of
third order). Energies and derivatives of one calculation must agree in this way, whatever the method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial.distance import pdist

from surefield.structures.labels import Labels
from surefield.structures.read import Frames
from surefield.structures.states import state
from surefield.structures.tensors import to_voigt

__all__ = ["Pairs", "find_pairs"]


_MOST = 800
_MOST_PAIRS = 4000


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

    @property
    def members(self) -> tuple[int, ...]:
        """All structures that are in a pair, ascending."""
        return tuple(np.unique(np.concatenate([self.first, self.second])).tolist())

    def __getitem__(self, index: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, name)[index] for name in _FIELDS))


_FIELDS = tuple(field.name for field in fields(Pairs))


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
        max_displacement: longest displacement of an atom, Å, beyond the strain; molecules are superposed.
        max_strain: largest component of the displacement gradient of the cell.
        seed: of the draw where more than 800 structures have the same atoms.

    Returns:
        The pairs, at most 4000 per list of atoms (the nearest ones; among equals a random draw).
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, atoms in enumerate(frames):
        energy = labels[i].energy
        if (
            energy is None
            or not np.isfinite(energy)
            or len(atoms) < 2
            or not np.isfinite(atoms.positions).all()
        ):
            continue
        conditions = (str(atoms.info.get("target_potential")), state(atoms))
        groups[(atoms.numbers.tobytes(), atoms.pbc.tobytes(), conditions)].append(i)
    rng = np.random.default_rng(seed)
    parts: list[Pairs] = []
    for members in groups.values():
        chosen = np.array(members)
        if len(chosen) > _MOST:
            chosen = np.sort(rng.choice(chosen, _MOST, replace=False))
        if len(chosen) < 2:
            continue
        group = _Group.of(frames, labels, chosen)
        near = (
            _near_crystals(group, max_displacement, max_strain, rng)
            if group.periodic.any()
            else _near_molecules(group, max_displacement)
        )
        parts += _compare(group, near[:, 0], near[:, 1], max_displacement)
    none = np.zeros(0)
    index, six = np.zeros(0, dtype=np.int64), np.zeros((0, 6))
    parts.append(Pairs(index, index, none, none, six, six, six, none, none))
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


def _near_crystals(
    group: _Group, max_displacement: float, max_strain: float, rng: np.random.Generator
) -> np.ndarray:
    """Candidates (n, 2) by cell and by the displacements of a few atoms; `_compare` decides."""
    cells, n_atoms = group.cells, group.positions.shape[1]
    probe = np.unique(np.linspace(0, n_atoms - 1, 6).astype(int))
    scaled = group.positions[:, probe] @ np.linalg.inv(cells)
    scaled -= scaled[:, :1]
    columns, lengths = [], []
    for p in range(len(cells) - 1):
        later = np.arange(p + 1, len(cells))
        middle = 0.5 * (cells[p] + cells[later])
        gradient = np.linalg.solve(middle, cells[later] - cells[p])
        keep = np.abs(gradient).max(axis=(1, 2)) < max_strain
        later, middle = later[keep], middle[keep]
        shift = scaled[later] - scaled[p]
        shift -= np.where(group.periodic, np.rint(shift), 0.0)
        length = np.linalg.norm(shift @ middle, axis=2).max(axis=1)
        near = length < 2 * max_displacement
        columns.append(np.column_stack([np.full(near.sum(), p), later[near]]))
        lengths.append(length[near])
    pairs = np.concatenate(columns)
    order = np.lexsort((rng.random(len(pairs)), np.round(np.concatenate(lengths), 2)))
    return pairs[order[:_MOST_PAIRS]]


def _near_molecules(group: _Group, max_displacement: float) -> np.ndarray:
    """Candidates (n, 2) by their distances between atoms, which rotations do not change."""
    a, b = np.triu_indices(group.positions.shape[1], 1)
    if len(a) > 400:
        keep = np.linspace(0, len(a) - 1, 400).astype(int)
        a, b = a[keep], b[keep]
    difference = pdist(np.linalg.norm(group.positions[:, a] - group.positions[:, b], axis=2), "chebyshev")
    near = np.flatnonzero(difference < 2 * max_displacement)
    near = near[np.argsort(difference[near], kind="stable")[:_MOST_PAIRS]]
    p, q = np.triu_indices(len(group.positions), 1)
    return np.column_stack([p[near], q[near]])


@dataclass(frozen=True, eq=False)
class _Group:
    """Structures of the same atoms as arrays over them: positions, cells, labels (NaN where missing)."""

    numbers: np.ndarray
    periodic: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray

    @classmethod
    def of(cls, frames: Frames, labels: Sequence[Labels], chosen: np.ndarray) -> _Group:
        n_atoms = len(frames[int(chosen[0])])
        picked = [(frames[i], labels[i]) for i in chosen.tolist()]
        no_forces, no_stress = np.full((n_atoms, 3), np.nan), np.full(6, np.nan)
        return cls(
            chosen,
            picked[0][0].pbc.copy(),
            np.array([a.positions for a, _ in picked], dtype=np.float64),
            np.array([a.cell.complete().array for a, _ in picked], dtype=np.float64),
            np.array([b.energy for _, b in picked], dtype=np.float64),
            np.array([no_forces if b.forces is None else b.forces for _, b in picked], dtype=np.float64),
            np.array([no_stress if b.stress is None else b.stress for _, b in picked], dtype=np.float64),
        )


def _compare(group: _Group, first: np.ndarray, second: np.ndarray, max_displacement: float) -> list[Pairs]:
    """Numbers of each pair, in chunks; those with longer displacements are left out."""
    step = max(1, 200_000 // group.positions.shape[1])
    parts = []
    for start in range(0, len(first), step):
        p, q = first[start : start + step], second[start : start + step]
        if group.periodic.any():
            u, strain, volume = _displacements(group, p, q)
            turned = group.forces[q]
        else:
            u, turn = _superposition(group, p, q)
            strain, volume = np.zeros((len(p), 6)), np.zeros(len(p))
            turned = group.forces[q] @ turn
        work = -0.5 * ((group.forces[p] + turned) * u).sum(axis=(1, 2))
        volumes = [np.abs(np.linalg.det(group.cells[k])) for k in (p, q)]
        virial = 0.5 * sum(v[:, None] * group.stresses[k] for v, k in zip(volumes, (p, q), strict=True))
        longest = np.sqrt((u**2).sum(axis=2).max(axis=1))
        pairs = Pairs(
            group.numbers[p],
            group.numbers[q],
            group.energies[q] - group.energies[p],
            work,
            np.asarray(virial),
            strain,
            group.stresses[q] - group.stresses[p],
            volume,
            longest,
        )
        parts.append(pairs[longest <= max_displacement])
    return parts


def _displacements(group: _Group, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Displacements (n, n_atoms, 3) beyond the strain, strains (n, 6), shear doubled, mean volumes (n,)."""
    middle = 0.5 * (group.cells[p] + group.cells[q])
    gradient = np.linalg.solve(middle, group.cells[q] - group.cells[p])
    tensor = 0.5 * (gradient + gradient.transpose(0, 2, 1))
    scaled = [group.positions[k] @ np.linalg.inv(group.cells[k]) for k in (p, q)]
    shift = scaled[1] - scaled[0]
    shift -= shift[:, :1]
    shift -= np.where(group.periodic, np.rint(shift), 0.0)
    u = shift @ middle
    strain = to_voigt(tensor) * (1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
    return u - u.mean(axis=1, keepdims=True), strain, np.abs(np.linalg.det(middle))


def _superposition(group: _Group, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacements of molecules q from p after the best rotation (W. Kabsch, Acta Cryst. A32, 922 (1976)).

    Returns:
        (n, n_atoms, 3), and the matrices (n, 3, 3) that turn row vectors of q into the frame of p.
    """
    one, other = (x - x.mean(axis=1, keepdims=True) for x in (group.positions[p], group.positions[q]))
    left, _, right = np.linalg.svd(other.transpose(0, 2, 1) @ one)
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    turn = left @ right
    return other @ turn - one, turn
