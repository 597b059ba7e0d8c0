"""Nearsighted force training: single forces labelled in clusters cut out of structures too large to label.

The force on an atom follows from the energies of the atoms within a potential's cutoff, and these from what
lies within the cutoff of each of them: a chunk of twice the cutoff has the same force on its centre as the
whole structure. Its energy and its other forces are those of a cluster and must not be trained on, which the
chunk says itself, in its weights. Zeng, Chen, Peterson, J. Chem. Phys. 156, 064104 (2022).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import ndtri

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.potentials.electrode.charged_potential import ChargedPotential
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.potentials.prediction import Prediction
from surefield.structures.electrode import electrode_potential, stated_interface
from surefield.structures.geometry import check_geometry
from surefield.structures.images import image_key
from surefield.structures.labels import resolve_labels
from surefield.structures.neighbors import neighborhood
from surefield.structures.read import Frames

__all__ = ["ChunkConvergence", "chunk_convergence", "chunk_key", "cut_chunk", "select_atoms"]

Chunk = Atoms
#: What an atom keeps in its chunk: what a calculation of the chunk starts from, and no result of another.
_CARRIED: Final = ("tags", "masses", "initial_magmoms", "initial_charges")
#: Rounding must not part the atoms of a shell that lies at the radius, Å.
_SHELL: Final = 1e-8
_SOURCE: Final = ("source_id", "source_atom", "chunk_radius")


def cut_chunk(
    atoms: Atoms,
    center: int,
    radius: float | None = None,
    vacuum: float = 5.0,
    potential: Potential | HasPotential | None = None,
) -> Chunk:
    """Cut an atom and everything around it out of a structure, to have the force on this atom labelled.

    Periodic copies become atoms of their own. Electrode potential, tags, masses and initial magnetic moments
    and charges are carried over, labels are not: the chunk is to be labelled anew.

    Args:
        atoms: the structure; it is not changed.
        center: index of the atom whose force is wanted.
        radius: Å; None: twice the cutoff of the potential.
        vacuum: between the outermost atoms and each side of the box, Å.
        potential: what the chunk is to train. One of an electrode writes the height of the structure's
            metal surface, in the coordinates of the chunk, to `info['interface']`, where it is a constant.

    Returns:
        The centre, then the atoms within the radius in the order of the structure; without periodicity, in a
        box. `info`: energy_weight 0, source_id (`image_key` of the structure), source_atom, chunk_radius.
        `arrays`: force_weight, 1 for the centre and 0 for the others.

    Warns:
        UserWarning: the radius is less than twice the cutoff, so that the potential's own force on the centre
            is another one in the chunk.

    Raises:
        ConfigError: no such atom, a radius or vacuum that is not positive, no radius and no potential, or a
            structure that states an interface and no potential to say along which normal.
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: an image-centred potential, whose forces depend on all atoms.
    """
    plain = None if potential is None else as_potential(potential)
    if isinstance(plain, ImageNetwork):
        raise PotentialError("forces of an image-centred potential depend on all atoms: it cannot use chunks")
    if radius is None:
        if plain is None:
            raise ConfigError("cut_chunk needs radius=, or potential= whose cutoff (twice) is the radius")
        radius = 2 * plain.cutoff
    elif plain is not None and radius < 2 * plain.cutoff - _SHELL:
        warnings.warn(
            f"chunk radius {radius:g} Å is less than twice the cutoff ({2 * plain.cutoff:g} Å): the force of "
            "the potential on the centre is not the one in the whole structure",
            stacklevel=2,
        )
    return _cut(atoms, center, radius, vacuum, plain)


def chunk_key(chunk: Chunk) -> tuple[str, int, float]:
    """What makes a chunk the same as another: source, atom, radius (Å, to 1e-6).

    Raises:
        DataError: a structure that `cut_chunk` did not make.
    """
    missing = [name for name in _SOURCE if name not in chunk.info]
    if missing:
        raise DataError(
            f"no chunk: no info {', '.join(missing)}", got=sorted(chunk.info), fix="use cut_chunk"
        )
    source, atom, radius = (chunk.info[name] for name in _SOURCE)
    return str(source), int(atom), round(float(radius), 6)


@dataclass(frozen=True, eq=False)
class ChunkConvergence:
    """How the label of one force depends on the size of the chunk.

    Attributes:
        radii: (n_radii,) Å, ascending.
        n_atoms: (n_radii,) atoms of each chunk.
        forces: (n_radii, 3) label of the force on the centre, eV/Å.
    """

    radii: Float[np.ndarray, " n_radii"]
    n_atoms: Int[np.ndarray, " n_radii"]
    forces: Float[np.ndarray, "n_radii 3"]

    @property
    def changes(self) -> Float[np.ndarray, " n_radii"]:
        """Distance of each force from that in the largest chunk, eV/Å."""
        return np.linalg.norm(self.forces - self.forces[-1], axis=1)

    def radius(self, tolerance: float) -> float:
        """Smallest radius (Å) from which on no force is farther from the last one than a tolerance (eV/Å).

        Raises:
            DataError: the last radius alone.
        """
        if not self.changes[-2] <= tolerance:
            raise DataError(
                "the label is not converged with the radius of the chunk",
                got=f"{self.changes[-2]:.3g} eV/Å from {self.radii[-2]:g} to {self.radii[-1]:g} Å",
                expected=f"at most {tolerance:g} eV/Å",
                fix="go on with larger radii",
            )
        return float(self.radii[np.flatnonzero(np.append(True, self.changes > tolerance))[-1]])


def chunk_convergence(
    label_fn: Callable[[Chunk], Atoms | ArrayLike],
    atoms: Atoms,
    center: int,
    radii: Sequence[float],
    *,
    vacuum: float = 5.0,
    potential: Potential | HasPotential | None = None,
) -> ChunkConvergence:
    """Label one force in chunks of several sizes: how large must they be for the method that labels?

    A potential needs chunks of twice its cutoff; whether the label itself is nearsighted enough for the force
    in them to be that of the whole structure is up to the physics, and worth a look before a campaign.

    Args:
        label_fn: labels a chunk; returns it with forces in any place where labels may be, or the forces
            (n_atoms, 3) in eV/Å.
        atoms: the structure.
        center: index of the atom whose force is wanted.
        radii: Å, at least two.
        vacuum: of the chunks, Å.
        potential: as in `cut_chunk`.

    Raises:
        ConfigError: fewer than two radii; see also `cut_chunk`.
        DataError: a label without forces, of a wrong shape, or not finite.
    """
    chosen = np.unique(np.asarray(radii, np.float64))
    if len(chosen) < 2:
        raise ConfigError("convergence needs at least two different radii", got=radii)
    plain = None if potential is None else as_potential(potential)
    chunks = [_cut(atoms, center, radius, vacuum, plain) for radius in chosen.tolist()]
    forces = [_forces(label_fn(chunk.copy()), chunk)[0] for chunk in chunks]
    return ChunkConvergence(chosen, np.array([len(chunk) for chunk in chunks]), np.stack(forces))


def select_atoms(
    uncertainty: Prediction | ArrayLike,
    n: int | None = None,
    fraction: float | None = None,
    threshold: float | None = None,
    min_distance: float = 0.0,
    atoms: Atoms | None = None,
    confidence: float | None = None,
) -> Int[np.ndarray, " n_picks"]:
    """Choose the atoms of a structure whose forces are least sure, largest uncertainty first.

    Args:
        uncertainty: prediction with uncertainties of the forces; or sigmas of force components (n_atoms, 3),
            eV/Å, whose norm is an atom's score; or scores (n_atoms,).
        n: atoms to choose, at most. Exactly one of `n`, `fraction` and `threshold` is given.
        fraction: of the atoms to choose, rounded, at least one atom.
        threshold: choose all with a score above this, in the unit of the score.
        min_distance: between chosen atoms, periodic copies included, Å; the more certain atom is left out.
        atoms: the structure, for `min_distance`.
        confidence: scores are half-widths of the interval of this probability around a normally
            distributed error, 0.99: 2.58 sigma; None: sigmas.

    Returns:
        Indices of atoms; equal scores in the order of the atoms.

    Raises:
        ConfigError: not exactly one of n, fraction, threshold, or a value out of range.
        DataError: no uncertainty of forces, a wrong shape, or scores that are negative or not finite.
    """
    scores = _scores(uncertainty, atoms) * _factor(confidence)
    limit = _limit(n, fraction, threshold, len(scores))
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] > threshold]
    if not (np.isfinite(min_distance) and min_distance >= 0):
        raise ConfigError(f"min_distance must be a number (Å), not negative, got {min_distance}")
    if min_distance > 0:
        if atoms is None:
            raise ConfigError("min_distance needs atoms=, the structure")
        order = _apart(order, atoms, min_distance)
    return order[:limit].astype(np.int64)


def _cut(atoms: Atoms, center: int, radius: float, vacuum: float, potential: Potential | None) -> Chunk:
    center = _whole("center", center)
    if not 0 <= center < len(atoms):
        raise ConfigError("no such atom", got=f"center {center}", expected=f"0 to {len(atoms) - 1}")
    for name, value in (("radius", radius), ("vacuum", vacuum)):
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive number (Å), got {value}")
    check_geometry(Frames((atoms,), ("the structure",)))
    around = neighborhood(atoms, radius + _SHELL)
    real = slice(around.counts[center])
    indices = np.append(center, around.neighbors[center, real]).astype(np.int64)
    offsets = np.concatenate([np.zeros((1, 3)), around.vectors[center, real]])
    low, high = offsets.min(axis=0), offsets.max(axis=0)
    chunk = Atoms(atoms.numbers[indices], offsets + (vacuum - low), cell=high - low + 2 * vacuum, pbc=False)
    for name in _CARRIED:
        if name in atoms.arrays:
            chunk.set_array(name, atoms.arrays[name][indices])
    chunk.set_array("force_weight", np.eye(len(chunk))[0])
    phi = electrode_potential(atoms, "the structure")
    if not np.isnan(phi):
        chunk.info["electrode_potential"] = phi
    interface = _interface(atoms, potential, vacuum - low - atoms.positions[center])
    if interface is not None:
        chunk.info["interface"] = interface
    values = (image_key(atoms), center, float(radius))
    chunk.info |= {"energy_weight": 0.0, **dict(zip(_SOURCE, values, strict=True))}
    return chunk


def _interface(atoms: Atoms, potential: Potential | None, moved: Float[np.ndarray, " 3"]) -> float | None:
    """Height of the metal surface after a translation, Å; None for potentials that do not ask for it."""
    if isinstance(potential, ChargedPotential):
        potential.check_frame(atoms, "the structure")
        height = potential.interface_height(atoms)
        return float(height + np.dot(potential.interface.normal, moved))
    if potential is None and not np.isnan(stated_interface(atoms, "the structure")):
        raise ConfigError(
            "a chunk lies elsewhere than in its structure, and info['interface'] must follow",
            fix="give potential=, which knows the normal of the surface, or remove info['interface']",
        )
    return None


def _forces(label: Atoms | ArrayLike, chunk: Chunk) -> Float[np.ndarray, "n_atoms 3"]:
    """Forces of a label, checked."""
    if isinstance(label, Atoms):
        (labels,), _ = resolve_labels([label], require=("forces",))
        forces = np.asarray(labels.forces, np.float64)
    else:
        forces = np.asarray(np.nan if label is None else label, np.float64)
    if forces.shape != (len(chunk), 3) or not np.all(np.isfinite(forces)):
        where = f"the label of the chunk of radius {chunk.info['chunk_radius']:g} Å"
        got = f"shape {forces.shape}" if forces.shape != (len(chunk), 3) else "entries that are not finite"
        raise DataError("no usable forces", where=where, got=got, expected=f"({len(chunk)}, 3), eV/Å")
    return forces


def _scores(uncertainty: Prediction | ArrayLike, atoms: Atoms | None) -> Float[np.ndarray, " n_atoms"]:
    """Score of each atom: norm of its sigmas, or what was given."""
    if isinstance(uncertainty, Prediction):
        if uncertainty.forces_uncertainty is None:
            fix = "predict with a potential that has uncertainties, such as LLPR, and forces=True"
            raise DataError("the prediction has no uncertainties of forces", fix=fix)
        uncertainty = uncertainty.forces_uncertainty
    values = np.asarray(uncertainty, np.float64)
    n_atoms = len(values) if atoms is None and values.ndim else len(atoms or ())
    if values.shape not in ((n_atoms,), (n_atoms, 3)) or not n_atoms:
        expected = "(n_atoms, 3) or (n_atoms,)" if atoms is None else f"({n_atoms}, 3) or ({n_atoms},)"
        raise DataError("uncertainty of a wrong shape", got=values.shape, expected=expected)
    if not (np.all(np.isfinite(values)) and np.all(values >= 0)):
        raise DataError("uncertainties must be finite and not negative", got=np.min(values))
    return values if values.ndim == 1 else np.linalg.norm(values, axis=1)


def _factor(confidence: float | None) -> float:
    """Sigmas to either side that hold a share of a normal distribution."""
    if confidence is None:
        return 1.0
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, such as 0.99, got {confidence}")
    return float(ndtri((1 + confidence) / 2))


def _limit(n: int | None, fraction: float | None, threshold: float | None, n_atoms: int) -> int:
    """Most atoms that may be chosen."""
    limits = {"n": n, "fraction": fraction, "threshold": threshold}
    limits = {name: value for name, value in limits.items() if value is not None}
    if len(limits) != 1:
        raise ConfigError("give exactly one of n, fraction and threshold", got=limits or "none")
    if threshold is not None and not (np.isfinite(threshold) and threshold >= 0):
        raise ConfigError(f"threshold must be a number, not negative, got {threshold}")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction must lie above 0 and not above 1, got {fraction}")
        return max(1, round(fraction * n_atoms))
    if n is not None:
        n = _whole("n", n)
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n}")
        return n
    return n_atoms


def _apart(order: Int[np.ndarray, " n"], atoms: Atoms, distance: float) -> Int[np.ndarray, " n_kept"]:
    """Atoms in order, without those within a distance of one before."""
    around = neighborhood(atoms, distance)
    free = np.ones(len(atoms), bool)
    kept = []
    for atom in order.tolist():
        if free[atom]:
            kept.append(atom)
            free[around.neighbors[atom, : around.counts[atom]]] = False
    return np.array(kept, np.int64)


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from None
