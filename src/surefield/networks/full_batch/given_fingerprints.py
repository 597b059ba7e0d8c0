"""Fingerprints that are given, in place of those that the potential's descriptor would make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from surefield.errors import ConfigError, DataError
from surefield.networks.fingerprint_arrays import dense_primes, padded_rows
from surefield.networks.full_batch.training_images import Terms, TrainingImage
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.potential import DescriptorPotential
from surefield.potentials.vector_potential import VectorPotential

__all__ = ["with_given_fingerprints"]


def with_given_fingerprints(
    images: Sequence[TrainingImage],
    potential: VectorPotential,
    terms: Terms,
    fingerprints: Mapping[str, Any],
    primes: Mapping[str, Any] | None,
) -> list[TrainingImage]:
    """Copies of images with given features.

    Args:
        images: labelled images.
        potential: what they are for.
        terms: of the loss.
        fingerprints: by key, one (symbol, features) per atom; image-centred: the 3N coordinates.
        primes: by key, {(m, symbol_m, n, symbol_n, x): dG_n/dR_m,x}; image-centred: not needed.

    Raises:
        ConfigError: a term of the loss needs more than was given.
        DataError: none for an image, or of another shape.
    """
    missing = [image for image in images if image.key not in fingerprints]
    if missing:
        raise DataError(f"no fingerprints were given for {missing[0].sample.id} (key {missing[0].key})")
    if isinstance(potential, ImageNetwork):
        return [_with_coordinates(image, fingerprints[image.key]) for image in images]
    assert isinstance(potential, DescriptorPotential)
    if terms.stress:
        raise ConfigError("a stress term needs the descriptor: leave fingerprints out")
    if terms.force and primes is None:
        raise ConfigError("fingerprints were given without fingerprintprimes, which forces need")
    needed = primes if terms.force else None
    return [_with_fingerprints(image, fingerprints, needed, potential.descriptor.width) for image in images]


def _with_coordinates(image: TrainingImage, coordinates: Sequence[float]) -> TrainingImage:
    positions = np.array(coordinates, np.float64)
    structure = image.sample.structure
    if positions.size != structure.positions.size:
        expected = f"{structure.positions.size} coordinates"
        raise DataError(
            "fingerprint does not fit", where=image.sample.id, got=positions.size, expected=expected
        )
    moved = replace(structure, positions=positions.reshape(-1, 3))
    return replace(image, sample=replace(image.sample, structure=moved))


def _with_fingerprints(
    image: TrainingImage,
    fingerprints: Mapping[str, Sequence[tuple[str, Sequence[float]]]],
    primes: Mapping[str, Mapping[tuple[int, str, int, str, int], Sequence[float]]] | None,
    width: int,
) -> TrainingImage:
    n = image.sample.n_atoms
    if primes is not None and image.key not in primes:
        raise DataError(f"no fingerprintprimes were given for {image.sample.id} (key {image.key})")
    rows = fingerprints[image.key]
    if len(rows) != n or any(len(row) > width for _, row in rows):
        raise DataError(
            "fingerprints do not fit",
            where=image.sample.id,
            got=f"{len(rows)} atoms, {max((len(row) for _, row in rows), default=0)} features",
            expected=f"{n} atoms, at most {width} features",
        )
    features = padded_rows([row for _, row in rows], width)
    if primes is None:
        return replace(image, features=features)
    return replace(image, features=features, primes=dense_primes(primes[image.key], n, width))
