"""Images with the labels and weights that the loss needs: unique ones, checked, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import DataError
from surefield.execution.identity import digest
from surefield.potentials.evaluate import check_frames
from surefield.potentials.potential import Potential
from surefield.structures.electrode import INTERFACE, PHI, excess_electrons, grand_canonical_energy
from surefield.structures.geometry import check_geometry
from surefield.structures.images import HashedImages, Images, hash_images, image_key
from surefield.structures.label_sources import keys_present
from surefield.structures.labels import Labels, resolve_labels
from surefield.training.dataset import Sample, make_samples, unread_states
from surefield.training.weights import FrameWeights, frame_weights

__all__ = ["Terms", "TrainingImage", "is_charged", "training_images"]

_WORDS: Final = {"excess_electrons": "number of excess electrons"}


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
        sample: structure, its name, and the labels that count; energies of potentials with charges are Omega.
        weight: w_i, times the number of copies where these count.
        weights: by quantity: of energy w_i wE_i, of each |ΔF|^2 w_i wF_ia/(3 sum_a wF_ia), of others w_i.
        features: given ones, (n_atoms, width); None: those of the potential's descriptor.
        primes: given derivatives, (n_atoms, 3, n_atoms, width); None likewise.
    """

    key: str
    sample: Sample
    weight: float
    weights: Mapping[str, Any]
    features: Float[np.ndarray, "n_atoms width"] | None = None
    primes: Float[np.ndarray, "n_atoms 3 n_atoms width"] | None = None

    def parts(self) -> Iterator[tuple[str, Any]]:
        """All of it but the name, for `execution.identity.contents`."""
        s, labels = self.sample.structure, self.sample.labels.results()
        yield from (("elements", s.numbers), ("positions", s.positions), ("cell", s.cell))
        yield from (("pbc", self.sample.atoms.pbc), *sorted(s.inputs.items()), *sorted(labels.items()))
        yield "weights", [self.weight, *(digest(value) for _, value in sorted(self.weights.items()))]
        if self.features is not None:
            yield "fingerprints", [digest(self.features), digest(self.primes)]

    def digest(self) -> bytes:
        """The one hash of it by which older files know it."""
        total = hashlib.sha256(self.key.encode())
        s, labels, weights = self.sample.structure, self.sample.labels, self.weights
        # As version 0.1 did: zeros for labels that do not count, and charges for electrons.
        energy = labels.energy if "energy" in labels else 0.0
        charge = -labels.excess_electrons if "excess_electrons" in labels else 0.0
        forces = labels.forces if "forces" in labels else np.zeros((s.n_atoms, 3))
        stress = labels.stress if "stress" in labels else np.zeros(6)
        numbers = (self.weight, energy, weights["energy"], charge, weights["excess_electrons"])
        electrode = (weights["stress"], s.inputs.get(PHI, np.nan), s.inputs.get(INTERFACE, np.nan))
        arrays = (s.numbers, s.positions, s.cell, forces, weights["forces"], stress)
        for array in (*arrays, self.features, self.primes, np.array(numbers + electrode)):
            total.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return total.digest()


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
    unread_states(frames, labels, potential.supplies)
    places = {key: i for i, key in enumerate(hashed) if key in counts}
    chosen = list(places.values())
    samples = make_samples(frames[chosen], [labels[i] for i in chosen], potential.neighborhood)
    labelled = [
        _image(sample, key, counts[key] if weight_duplicates else 1, potential, terms, only_atoms.get(key))
        for key, sample in zip(places, samples, strict=True)
    ]
    if not any(np.any(weight) for image in labelled for weight in image.weights.values()):
        raise DataError(
            "no image has a term of the loss",
            got=f"{len(labelled)} images, terms {', '.join(k for k, on in terms._asdict().items() if on)}",
            fix="give weights or labels other than zero, or switch on another term",
        )
    return labelled


def is_charged(potential: Potential) -> bool:
    """Whether a potential has charges, so that its energy is grand-canonical."""
    return "charges" in potential.supplies


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


def _image(
    sample: Sample,
    key: str,
    copies: int,
    potential: Potential,
    terms: Terms,
    only_atoms: set[int] | None,
) -> TrainingImage:
    """A sample with the labels that count, and the weights of the terms it has."""
    atoms, name, labels = sample.atoms, sample.id, dict(sample.labels.results())
    stated = frame_weights(atoms, name)
    # Roots of weights, which samples have, do not give back the same numbers.
    weight = copies * stated.structure
    energy, force = _shares(stated, len(atoms), only_atoms)
    whole = weight if only_atoms is None else 0.0
    weights: dict[str, Any] = {
        "energy": weight * energy if terms.energy else 0.0,
        "forces": weight * force * terms.force,
        "stress": whole if terms.stress and all(atoms.pbc) else 0.0,
        "excess_electrons": whole if terms.charge else 0.0,
    }
    if weights["excess_electrons"]:
        electrons = excess_electrons(atoms, name)
        if not np.isnan(electrons):
            labels["excess_electrons"] = electrons
        elif not stated.energy:
            # The charge of a chunk is as undefined as its energy.
            weights["excess_electrons"] = 0.0
    counting = [quantity for quantity, values in weights.items() if np.any(values)]
    for quantity in counting:
        if quantity not in labels:
            raise _missing(_WORDS.get(quantity, quantity), atoms, name)
    if "energy" in counting and is_charged(potential):
        phi = sample.structure.inputs.get(PHI)
        labels["energy"] = grand_canonical_energy(atoms, labels["energy"], name, phi)
    labels = Labels(**{quantity: labels[quantity] for quantity in counting})
    return TrainingImage(key, replace(sample, labels=labels), weight, weights)


def _shares(
    stated: FrameWeights, n: int, only_atoms: set[int] | None
) -> tuple[float, Float[np.ndarray, " n"]]:
    """wE_i, and the factors of the |ΔF|^2 without w_i."""
    if only_atoms is not None:
        force = np.zeros(n)
        force[sorted(only_atoms)] = 1 / (3 * len(only_atoms))
        return 0.0, force
    force = np.ones(n) if stated.atoms is None else stated.atoms
    if stated.relative or stated.atoms is None:
        return stated.energy, force / (3 * force.sum()) if force.any() else force
    return stated.energy, force / (3 * n)


def _missing(what: str, atoms: Atoms, name: str) -> DataError:
    return DataError(
        f"no {what}",
        where=name,
        got=f"keys {keys_present(atoms)}",
        fix="label the image, give it a weight of 0 there, or switch that term of the loss off",
    )
