"""Images with the labels and weights that the loss needs: unique ones, checked, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import DataError
from surefield.potentials.evaluate import check_frames
from surefield.potentials.potential import Potential
from surefield.structures.electrode import INTERFACE, PHI, excess_electrons, grand_canonical_energy
from surefield.structures.geometry import check_geometry
from surefield.structures.images import HashedImages, Images, hash_images, image_key
from surefield.structures.label_sources import keys_present
from surefield.structures.labels import Labels, resolve_labels
from surefield.structures.neighbors import Neighborhood
from surefield.training.weights import frame_weights

__all__ = ["Terms", "TrainingImage", "is_charged", "training_images"]


class Terms(NamedTuple):
    """Which terms the loss has."""

    energy: bool
    force: bool
    charge: bool
    stress: bool


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One image, what it is to be trained on, and the weights of the squared residuals.

    A weight of zero means that there is no such term; its label is then not needed.

    Attributes:
        key: of `hash_images`.
        name: for messages.
        structure: neighbours.
        weight: w_i, times the number of copies where these count.
        energy: label, eV.
        energy_weight: w_i wE_i.
        forces: label, (n_atoms, 3), eV/Å.
        force_weights: factor of each |ΔF|^2, w_i wF_ia/(3 sum_a wF_ia).
        charge: label Q = -N_e, e.
        charge_weight: w_i, or 0.
        stress: label, (6,), eV/Å^3.
        stress_weight: w_i, or 0.
        features: given ones, (n_atoms, width); None: those of the potential's descriptor.
        primes: given derivatives, (n_atoms, 3, n_atoms, width); None likewise.
    """

    key: str
    name: str
    structure: Neighborhood
    weight: float
    energy: float
    energy_weight: float
    forces: Float[np.ndarray, "n_atoms 3"]
    force_weights: Float[np.ndarray, " n_atoms"]
    charge: float
    charge_weight: float
    stress: Float[np.ndarray, " 6"]
    stress_weight: float
    features: Float[np.ndarray, "n_atoms width"] | None = None
    primes: Float[np.ndarray, "n_atoms 3 n_atoms width"] | None = None

    def digest(self) -> bytes:
        """Hash of all of it but the name."""
        digest = hashlib.sha256(self.key.encode())
        s = self.structure
        numbers = (self.weight, self.energy, self.energy_weight, self.charge, self.charge_weight)
        electrode = (self.stress_weight, s.inputs.get(PHI, np.nan), s.inputs.get(INTERFACE, np.nan))
        arrays = (s.numbers, s.positions, s.cell, self.forces, self.force_weights, self.stress)
        for array in (*arrays, self.features, self.primes, np.array(numbers + electrode)):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.digest()


class _Weights(NamedTuple):
    image: float
    energy: float
    force: Float[np.ndarray, " n_atoms"]


def training_images(
    images: Images,
    potential: Potential,
    terms: Terms,
    *,
    weight_duplicates: bool = False,
    nft_ids: Sequence[tuple[str | int, int]] = (),
) -> list[TrainingImage]:
    """Unique images with labels and weights.

    Args:
        images: list of `Atoms`, a file, or the dict of `hash_images`.
        potential: what is to be trained; it finds the neighbours.
        terms: of the loss; labels of others are not looked at.
        weight_duplicates: whether copies count.
        nft_ids: (key or number of an image, atom): such an image has forces on these atoms and nothing else.

    Raises:
        DataError: no images, a label or an image that is missing, an unusable weight.
        PotentialError: an element the potential does not know.
    """
    hashed = hash_images(images)
    frames = hashed.frames
    if not frames:
        raise DataError("there are no images to train on")
    check_geometry(frames)
    check_frames(potential, frames)
    counts = _merged_counts(hashed, by_potential=is_charged(potential))
    only_atoms = _nft_atoms(hashed, nft_ids)
    if any(terms[:2]) or terms.stress:
        labels, _ = resolve_labels(frames, _wanted_labels(terms), require=())
    else:
        labels = [Labels()] * len(frames)
    labelled = [
        _image(
            potential,
            atoms,
            key,
            frames.origin(i),
            labels[i],
            _weights(atoms, frames.origin(i), counts[key] if weight_duplicates else 1, only_atoms.get(key)),
            terms,
            key in only_atoms,
        )
        for i, (key, atoms) in enumerate(hashed.items())
        if key in counts
    ]
    if not any(_has_term(image) for image in labelled):
        raise DataError(
            "no image has a term of the loss",
            got=f"{len(labelled)} images, terms {', '.join(k for k, on in terms._asdict().items() if on)}",
            fix="give weights or labels other than zero, or switch on another term",
        )
    return labelled


def is_charged(potential: Potential) -> bool:
    """Whether a potential has charges, so that its energy is grand-canonical."""
    return "charges" in potential.supplies


def _has_term(image: TrainingImage) -> bool:
    weights = (image.energy_weight, image.force_weights.sum(), image.charge_weight, image.stress_weight)
    return any(weight > 0 for weight in weights)


def _wanted_labels(terms: Terms) -> dict[Any, Any]:
    """Labels that are not looked at cannot disagree."""
    wanted = {"energy": terms.energy, "forces": terms.force, "stress": terms.stress}
    return {kind: None for kind, on in wanted.items() if not on}


def _merged_counts(images: HashedImages, *, by_potential: bool) -> dict[str, int]:
    """Copies of each unique image; without charges, images that differ in the potential only are copies."""
    if by_potential:
        return images.counts
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for key, atoms in images.items():
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        original = first.setdefault(image_key(bare), key)
        counts[original] = counts.get(original, 0) + images.counts[key]
    return counts


def _nft_atoms(images: HashedImages, ids: Sequence[tuple[str | int, int]]) -> dict[str, set[int]]:
    """Atoms of each image that is trained on the forces of some atoms only."""
    chosen: dict[str, set[int]] = {}
    for name, atom in ids:
        key = _key_of(images, name)
        n = len(images[key])
        if not 0 <= int(atom) < n:
            raise DataError(f"nft_ids names atom {atom} of {images.names[key]}, which has atoms 0 to {n - 1}")
        chosen.setdefault(key, set()).add(int(atom))
    return chosen


def _key_of(images: HashedImages, name: str | int) -> str:
    if isinstance(name, str):
        if name in images:
            return name
        raise DataError(
            "nft_ids names an unknown image",
            got=repr(name),
            expected="a key of hash_images, or the number of an image",
            fix="keys change with positions, cell, elements and pbc",
        )
    if not 0 <= int(name) < len(images.sequence):
        raise DataError(f"nft_ids names image {name}; there are images 0 to {len(images.sequence) - 1}")
    return images.sequence[int(name)]


def _weights(atoms: Atoms, name: str, copies: int, only_atoms: set[int] | None) -> _Weights:
    """Weights of the squared residuals: w_i, wE_i, and the factors of the |ΔF|^2 without w_i."""
    weights, n = frame_weights(atoms, name), len(atoms)
    force = np.ones(n) if weights.atoms is None else weights.atoms
    if weights.relative or weights.atoms is None:
        force = force / (3 * force.sum()) if force.any() else force
    else:
        force = force / (3 * n)
    energy = weights.energy
    if only_atoms is not None:
        chosen = sorted(only_atoms)
        energy, force = 0.0, np.zeros(n)
        force[chosen] = 1 / (3 * len(chosen))
    return _Weights(copies * weights.structure, energy, force)


def _image(
    potential: Potential,
    atoms: Atoms,
    key: str,
    name: str,
    labels: Labels,
    weights: _Weights,
    terms: Terms,
    forces_only: bool,
) -> TrainingImage:
    structure = potential.neighborhood(atoms)
    energy_weight = weights.image * weights.energy if terms.energy else 0.0
    force_weights = weights.image * weights.force * terms.force
    has_stress = terms.stress and all(atoms.pbc) and not forces_only
    stress_weight = weights.image if has_stress else 0.0
    for needed, label, what in (
        (energy_weight, labels.energy, "energy"),
        (force_weights.any(), labels.forces, "forces"),
        (stress_weight, labels.stress, "stress"),
    ):
        if needed and label is None:
            raise _missing(what, atoms, name)
    energy = 0.0
    if energy_weight and labels.energy is not None:
        phi = structure.inputs.get(PHI)
        charged = is_charged(potential)
        energy = grand_canonical_energy(atoms, labels.energy, name, phi) if charged else labels.energy
    charge, charge_weight = 0.0, 0.0
    if terms.charge and weights.image and not forces_only:
        electrons = excess_electrons(atoms, name)
        # The charge of a chunk is as undefined as its energy.
        if np.isnan(electrons) and weights.energy:
            raise _missing("number of excess electrons", atoms, name)
        if not np.isnan(electrons):
            charge, charge_weight = -electrons, weights.image
    return TrainingImage(
        key=key,
        name=name,
        structure=structure,
        weight=weights.image,
        energy=energy,
        energy_weight=energy_weight,
        forces=labels.forces
        if force_weights.any() and labels.forces is not None
        else np.zeros((len(atoms), 3)),
        force_weights=force_weights,
        charge=charge,
        charge_weight=charge_weight,
        stress=labels.stress if stress_weight and labels.stress is not None else np.zeros(6),
        stress_weight=stress_weight,
    )


def _missing(what: str, atoms: Atoms, name: str) -> DataError:
    return DataError(
        f"no {what}",
        where=name,
        got=f"keys {keys_present(atoms)}",
        fix="label the image, give it a weight of 0 there, or switch that term of the loss off",
    )
