from __future__ import annotations

import numpy as np
import pytest
from ase.io import read

from surefield.errors import DataError
from surefield.networks.fingerprints import Gaussian, ImageCentred
from surefield.networks.ravel_data import ravel_data
from surefield.structures.images import hash_images


@pytest.fixture(scope="module")
def images(shared):
    return read(shared / "reference" / "networks" / "small" / "images.extxyz", ":")


@pytest.fixture(scope="module")
def descriptor(images):
    found = Gaussian(6.5)
    found.calculate_fingerprints(images, calculate_derivatives=True)
    return found


def test_arrays_of_a_set(images, descriptor):
    copies = [*images, images[1]]
    data = ravel_data(
        True,
        False,
        "atom-centered",
        copies,
        descriptor.fingerprints,
        descriptor.fingerprintprimes,
        weight_duplicates=True,
    )
    assert data.n_atoms.tolist() == [10, 10, 10, 9, 8]
    np.testing.assert_array_equal(data.energies, [a.get_potential_energy() for a in images])
    np.testing.assert_array_equal(data.forces, np.concatenate([a.get_forces() for a in images]))
    np.testing.assert_array_equal(data.numbers, np.concatenate([a.numbers for a in images]))
    assert data.fingerprints.shape == (47, 20)
    assert data.weights.tolist() == [1, 2, 1, 1, 1]
    assert data.charges is None
    keys = list(hash_images(images))
    image, m, n, x = data.neighbor_index[5]
    symbols = images[image].get_chemical_symbols()
    expected = descriptor.fingerprintprimes[keys[image]][m, symbols[m], n, symbols[n], x]
    np.testing.assert_array_equal(data.primes[5], expected)


def test_energies_only(images, descriptor):
    data = ravel_data(False, False, "atom-centred", images, descriptor.fingerprints)
    assert data.forces is None
    assert data.primes is None


def test_image_centred(images):
    descriptor = ImageCentred()
    descriptor.calculate_fingerprints(images[:3])
    data = ravel_data(True, False, "image-centered", images[:3], descriptor.fingerprints)
    np.testing.assert_allclose(data.fingerprints[1], images[1].positions.ravel())
    assert data.neighbor_index is None


def test_charges(shared):
    slabs = read(shared / "reference" / "networks" / "charge" / "images.extxyz", ":")
    descriptor = Gaussian(4.0)
    descriptor.calculate_fingerprints(slabs)
    append = {key: np.ones((len(atoms), 2)) for key, atoms in hash_images(slabs).items()}
    data = ravel_data(False, True, "atom-centered", slabs, descriptor.fingerprints, qfp_append=append)
    np.testing.assert_array_equal(data.charges, [-a.info["excess_electrons"] for a in slabs])
    np.testing.assert_array_equal(data.potentials, [a.info["electrode_potential"] for a in slabs])
    assert data.charge_fingerprints.shape == (sum(map(len, slabs)), 2)


def test_what_is_missing_is_said(images, descriptor):
    with pytest.raises(DataError, match="no fingerprints of image 0"):
        ravel_data(False, False, "atom-centered", images, {})
    with pytest.raises(DataError, match="calculate_derivatives=True"):
        ravel_data(True, False, "atom-centered", images, descriptor.fingerprints)
