"""Stresses against the virial that the forces imply: unit, sign and impossible sizes, without strained cells.

Forces of pairs, g(r) along each bond, are fitted to the forces. Their virial, the sum of g r_a r_b / r over
bonds, is that of the real forces up to what forces do not show: a pressure that depends on the density. So
compared are the parts without trace, and changes between structures of one composition and volume.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms

from surefield import units
from surefield.structures.doctor.finding import Finding
from surefield.structures.geometry import vectors_within
from surefield.structures.labels import Labels
from surefield.structures.read import Frames
from surefield.structures.tensors import volume

__all__ = ["check_virials"]

_CUTOFF = 5.5
_SHORTEST = 0.8
_N_RADIAL = 10
_MOST_FRAMES = 40
_MOST_ATOMS = 6000
_MOST_ELEMENTS = 5
_FEWEST = 6
#: Least correlation that decides. Right labels have slopes of 0.6 to 1.5 with it (DFT sets, EMT).
_CLEAR = 0.75
#: Largest factor between a slope and what it stands for.
_NEAR = 2.7
#: Virials per atom beyond this, eV, and beyond what the forces could make of it, are no virials of atoms.
_IMPOSSIBLE = 12.0
_BOND = 3.0
#: Rows and columns of Voigt components.
_ROWS, _COLUMNS = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
_FACTORS = {name: factor for name, factor in units.STRESS.items() if name not in ("eV/Å^3", "eV/A^3")} | {
    f"{name}/Bohr^3": units.ENERGY[name] / units.ANGSTROM_PER_BOHR**3 for name in ("Hartree", "Rydberg")
}


class _Slope(NamedTuple):
    """Of one comparison: factor and correlation of labels against the virial of the forces."""

    factor: float
    correlation: float


def check_virials(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report stresses whose unit or sign contradicts the forces, or whose size no forces could explain.

    Args:
        frames: structures.
        labels: theirs; those without forces or stress take no part, nor do shear stresses that are NaN.

    Returns:
        At most one finding: "stress unit", "stress sign", or "impossible stress".
    """
    usable = [
        i
        for i, (atoms, label) in enumerate(zip(frames, labels, strict=True))
        if atoms.pbc.all() and label.stress is not None and label.forces is not None and len(atoms) > 1
    ]
    if not usable:
        return []
    chosen = np.random.default_rng(0).permutation(usable)[:_MOST_FRAMES]
    total = np.cumsum([len(frames[i]) for i in chosen])
    chosen = np.sort(chosen[: max(1, int((total <= _MOST_ATOMS).sum()))])
    stresses = np.array([labels[i].stress for i in chosen])
    volumes = np.array([volume(frames[i].cell.array) for i in chosen])
    where = tuple(usable)
    if (virials := _implied(frames, labels, chosen)) is not None:
        groups = _groups(frames, chosen, volumes)
        n_atoms = np.array([len(frames[i]) for i in chosen])
        stress, virial = (
            _slope(virials, x * volumes[:, None], n_atoms, groups)
            for x in (stresses, stresses / volumes[:, None])
        )
        if stress is not None:
            return _verdict(stress, virial, stresses, len(chosen), where)
    return _impossible(frames, labels, chosen, stresses, volumes, where)


def _verdict(
    stress: _Slope, virial: _Slope | None, stresses: np.ndarray, count: int, where: tuple[int, ...]
) -> list[Finding]:
    factor = stress.factor
    numbers = (
        f"over {count} structures the stresses are {factor:.3g} times those that the forces imply "
        f"(correlation {abs(stress.correlation):.2f}); as they are read, the largest is "
        f"{np.nanmax(np.abs(stresses)) / units.EV_A3_PER_GPA:.3g} GPa"
    )
    if 1 / _NEAR < abs(factor) < _NEAR:
        if factor > 0:
            return []
        remedy = "multiply the stress by -1 (positive must be tensile, as in ASE): stress_sign=-1"
        return [Finding("stress sign", "error", f"{numbers}, the sign is reversed", where, factor, remedy)]
    fits = {name: abs(np.log(abs(factor) * value)) for name, value in _FACTORS.items()}
    if virial is not None:
        fits["the virial in eV"] = abs(np.log(abs(virial.factor)))
    near = sorted((name for name in fits if fits[name] < np.log(_NEAR)), key=lambda name: fits[name])
    if not near:
        remedy = "find out what the numbers are; stress weight 0 until this is understood"
        return [
            Finding("stress slope", "warning", f"{numbers}, and no unit explains it", where, factor, remedy)
        ]
    reverse = ", the sign reversed" if factor < 0 else ""
    text = f"{numbers}: the numbers look like {' or '.join(near)}{reverse}"
    remedies = [
        "give them the key 'virial' (a virial is -V times the stress)"
        if name == "the virial in eV"
        else f"declare units={{'stress': {name!r}}}"
        if name in units.STRESS
        else f"multiply them by {_FACTORS[name]:.6g}"
        for name in near
    ]
    return [Finding("stress unit", "error", text, where, factor, ", or ".join(remedies))]


def _impossible(
    frames: Frames,
    labels: Sequence[Labels],
    chosen: np.ndarray,
    stresses: np.ndarray,
    volumes: np.ndarray,
    where: tuple[int, ...],
) -> list[Finding]:
    """Virials per atom against what forces over a bond, and the energies of bonds, could make of them."""
    n_atoms = np.array([len(frames[i]) for i in chosen])
    sizes = np.nanmax(np.abs(stresses), axis=1) * volumes / n_atoms
    pulls = [np.linalg.norm(np.asarray(labels[i].forces), axis=1).mean() for i in chosen]
    excess = float(np.median(sizes / (_IMPOSSIBLE + _BOND * np.array(pulls))))
    if excess <= 1:
        return []
    largest = np.nanmax(np.abs(stresses)) / units.EV_A3_PER_GPA
    fitting = [name for name, factor in _FACTORS.items() if factor < 1 and excess * factor < 1]
    # A virial is smaller by the volume in any case.
    fitting += ["the virial in eV"] if excess < np.median(volumes) else []
    message = (
        f"stresses of up to {largest:.3g} GPa, {np.median(sizes):.3g} eV per atom (median), are more than "
        f"forces of {np.median(pulls):.2g} eV/Å and the cell allow; they would be possible as "
        f"{', '.join(fitting) or 'nothing known'}"
    )
    remedy = "declare the unit, e.g. units={'stress': 'GPa'}, or the key 'virial' for a virial"
    return [Finding("impossible stress", "error", message, where, largest, remedy)]


def _implied(frames: Frames, labels: Sequence[Labels], chosen: np.ndarray) -> np.ndarray | None:
    """Virials V sigma (n, 6) in eV of pair forces fitted to the forces; None where that says nothing."""
    species = np.unique(np.concatenate([frames[i].numbers for i in chosen]))
    if len(chosen) < _FEWEST or len(species) > _MOST_ELEMENTS:
        return None
    square, projection, length, rows = 0.0, 0.0, 0.0, []
    for i in chosen.tolist():
        forces = np.ravel(labels[i].forces)
        design, virial = _pair_rows(frames[i], species)
        square, projection = square + design.T @ design, projection + design.T @ forces
        length += float(forces @ forces)
        rows.append(virial)
    scale = np.sqrt(np.diag(np.asarray(square)))
    scale[scale == 0] = 1.0
    matrix = square / np.outer(scale, scale) + 1e-6 * np.eye(len(scale))
    weights = np.linalg.solve(matrix, projection / scale) / scale
    left = length - 2 * weights @ projection + weights @ square @ weights
    count = 3 * sum(len(frames[i]) for i in chosen)
    # Forces that are all small by symmetry, or not those of pairs at all, imply no virial.
    if length < count * 1e-4 or left > 0.4 * length or count < 3 * len(scale):
        return None
    return np.array([virial @ weights for virial in rows])


def _pair_rows(atoms: Atoms, species: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of forces (3 n_atoms, n_weights) and virial (6, n_weights) by the weights of g(r)."""
    first, second, vectors, distances = vectors_within(atoms, _CUTOFF)
    k, index = len(species), np.searchsorted(species, atoms.numbers)
    low, high = np.minimum(index[first], index[second]), np.maximum(index[first], index[second])
    kinds = np.triu_indices(k)
    table = np.zeros((k, k), int)
    table[kinds] = np.arange(len(kinds[0]))
    kind, n_kinds = table[low, high], len(kinds[0])
    width = (_CUTOFF - _SHORTEST) / _N_RADIAL
    centers = _SHORTEST + width * np.arange(_N_RADIAL)
    radial = np.exp(-0.5 * ((distances[:, None] - centers) / width) ** 2)
    radial *= 0.5 * (1 + np.cos(np.pi * distances / _CUTOFF))[:, None]
    forces = np.zeros((len(atoms), n_kinds, 3, _N_RADIAL))
    np.add.at(forces, (first, kind), (vectors / distances[:, None])[:, :, None] * radial[:, None, :])
    tensors = vectors[:, _ROWS] * vectors[:, _COLUMNS] / distances[:, None]
    virial = np.zeros((n_kinds, 6, _N_RADIAL))
    np.add.at(virial, kind, 0.5 * tensors[:, :, None] * radial[:, None, :])
    n_weights = n_kinds * _N_RADIAL
    return forces.transpose(0, 2, 1, 3).reshape(-1, n_weights), virial.transpose(1, 0, 2).reshape(
        6, n_weights
    )


def _groups(frames: Frames, chosen: np.ndarray, volumes: np.ndarray) -> list[list[int]]:
    """Places of structures with the same composition and, to one percent, volume: at least three each."""
    groups: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for place, i in enumerate(chosen.tolist()):
        groups[np.sort(frames[i].numbers).tobytes(), int(np.rint(np.log(volumes[place]) / 0.01))].append(
            place
        )
    return [members for members in groups.values() if len(members) >= 3]


def _slope(
    virials: np.ndarray, stated: np.ndarray, n_atoms: np.ndarray, groups: list[list[int]]
) -> _Slope | None:
    """Stated over implied virials by the clearer of both comparisons; None where none is, or they differ."""
    scale = 1 / np.sqrt(n_atoms)[:, None]
    pairs = [tuple(_without_trace(x) * scale for x in (virials, stated))]
    if sum(map(len, groups)) >= _FEWEST:
        pairs.append(
            tuple(
                np.concatenate([(x[m] - x[m].mean(axis=0)) * scale[m] for m in groups])
                for x in (virials, stated)
            )
        )
    slopes = []
    for implied, other in pairs:
        implied, other = (np.where(np.isnan(other), 0.0, x) for x in (implied, other))
        product, square = float((implied * other).sum()), float((implied**2).sum())
        size = np.sqrt(square * float((other**2).sum()))
        if size > 0 and abs(product) > _CLEAR * size:
            slopes.append(_Slope(product / square, product / size))
    if not slopes or any(s.factor * slopes[0].factor < 0 for s in slopes):
        return None
    return max(slopes, key=lambda s: abs(s.correlation))


def _without_trace(virials: np.ndarray) -> np.ndarray:
    trace = virials[:, :3].mean(axis=1, keepdims=True)
    return np.concatenate([virials[:, :3] - trace, virials[:, 3:]], axis=1)
