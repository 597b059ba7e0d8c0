"""`ravel_data`: everything a loss is made of as flat arrays, for inspection and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import DataError
from surefield.networks.fingerprint_arrays import padded_rows
from surefield.networks.parameters import ATOM_CENTERED, descriptor_mode
from surefield.structures.electrode import electrode_potential, excess_electrons
from surefield.structures.images import hash_images
from surefield.structures.labels import resolve_labels

__all__ = ["RaveledData", "ravel_data"]


class RaveledData(NamedTuple):
    """Arrays of a set of images; what was not asked for is None.

    Attributes:
        energies: eV.
        forces: of all atoms of all images, one after the other, eV/Å.
        charges: -excess electrons, e.
        potentials: electrode potentials, V.
        n_atoms: atoms per image.
        numbers: atomic numbers of all atoms.
        fingerprints: zero-padded features of all atoms, or (n_images, 3N).
        neighbor_index: image, moved atom m, centre n, direction x of each derivative.
        primes: dG_n/dR_m,x of each row of `neighbor_index`, zero-padded.
        charge_fingerprints: of all atoms.
        charge_primes: their derivatives with respect to the atom's own height.
        weights: copies of each image, or ones.
    """

    energies: Float[np.ndarray, " n_structures"]
    forces: Float[np.ndarray, "n_atoms 3"] | None
    charges: Float[np.ndarray, " n_structures"] | None
    potentials: Float[np.ndarray, " n_structures"] | None
    n_atoms: Int[np.ndarray, " n_structures"]
    numbers: Int[np.ndarray, " n_atoms"]
    fingerprints: Float[np.ndarray, "n_rows width"]
    neighbor_index: Int[np.ndarray, "n_primes 4"] | None
    primes: Float[np.ndarray, "n_primes width"] | None
    charge_fingerprints: Float[np.ndarray, "n_atoms n_etas"] | None
    charge_primes: Float[np.ndarray, "n_atoms n_etas"] | None
    weights: Float[np.ndarray, " n_structures"]


def ravel_data(
    train_forces: bool,
    train_charges: bool,
    mode: str,
    images: Any,
    fingerprints: Mapping[str, Any],
    fingerprintprimes: Mapping[str, Any] | None = None,
    qfp_append: Mapping[str, Any] | None = None,
    qfpprime_append: Mapping[str, Any] | None = None,
    weight_duplicates: bool = False,
) -> RaveledData:
    """Collect labels, fingerprints and derivatives of images in flat arrays.

    Args:
        train_forces: include forces and, atom-centred, the derivatives.
        train_charges: include charges and electrode potentials.
        mode: 'atom-centered' or 'image-centered'.
        images: list of Atoms, file, or dict of `hash_images`.
        fingerprints: by key of the images, as descriptors give them.
        fingerprintprimes: likewise; needed for forces of atom-centred models.
        qfp_append: charge fingerprints of all atoms by key.
        qfpprime_append: their derivatives.
        weight_duplicates: weigh images by their number of copies.

    Raises:
        DataError: labels, fingerprints or derivatives of an image are missing.
    """
    hashed = hash_images(images)
    frames = hashed.frames
    wanted = ("energy", "forces") if train_forces else ("energy",)
    labels, _ = resolve_labels(frames, require=wanted)
    missing = [hashed.names[key] for key in hashed if key not in fingerprints]
    if missing:
        raise DataError(f"no fingerprints of {missing[0]}: call calculate_fingerprints for these images")
    atomic = descriptor_mode(mode) == ATOM_CENTERED
    rows = [[values for _, values in fingerprints[key]] if atomic else [fingerprints[key]] for key in hashed]
    index = primes = None
    if train_forces and atomic:
        index, primes = _derivatives(hashed, fingerprintprimes or {})
    charges = phi = None
    if train_charges:
        charges = -np.array([excess_electrons(a, frames.origin(i)) for i, a in enumerate(frames)])
        phi = np.array([electrode_potential(a, frames.origin(i)) for i, a in enumerate(frames)])
    return RaveledData(
        energies=np.array([label.energy for label in labels]),
        forces=np.concatenate([np.asarray(label.forces) for label in labels]) if train_forces else None,
        charges=charges,
        potentials=phi,
        n_atoms=np.array([len(atoms) for atoms in frames]),
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        fingerprints=padded_rows([row for image in rows for row in image]),
        neighbor_index=index,
        primes=primes,
        charge_fingerprints=_joined(hashed, qfp_append),
        charge_primes=_joined(hashed, qfpprime_append),
        weights=np.array([hashed.counts[key] if weight_duplicates else 1 for key in hashed], float),
    )


def _derivatives(images: Mapping[str, Any], primes: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    index, values = [], []
    for number, key in enumerate(images):
        if key not in primes:
            fix = "call calculate_fingerprints(images, calculate_derivatives=True)"
            raise DataError("no derivatives of an image", got=key, fix=fix)
        for (m, _, n, _, x), row in primes[key].items():
            index.append((number, m, n, x))
            values.append(row)
    return np.array(index, int).reshape(-1, 4), padded_rows(values)


def _joined(images: Mapping[str, Any], by_key: Mapping[str, Any] | None) -> np.ndarray | None:
    if by_key is None:
        return None
    return np.concatenate([np.asarray(by_key[key], float).reshape(len(images[key]), -1) for key in images])
