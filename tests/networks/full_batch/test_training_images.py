from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import DataError, PotentialError
from surefield.networks.full_batch.training_images import Terms, training_images
from surefield.structures.images import hash_images, image_key
from surefield.structures.read import read_frames, write_frames

ALL = Terms(energy=True, force=True, charge=False, stress=False)
ENERGY = Terms(energy=True, force=False, charge=False, stress=False)


@pytest.fixture
def frames(copper):
    """Copies with their labels, to be changed by the tests."""
    copies = []
    for atoms in copper[:4]:
        copies.append(atoms.copy())
        copies[-1].calc = SinglePointCalculator(copies[-1], **atoms.calc.results)
    return copies


@pytest.fixture
def network(make_network, copper):
    return make_network(copper)


def _copy(atoms):
    other = atoms.copy()
    other.calc = SinglePointCalculator(other, **atoms.calc.results)
    return other


def test_labels_and_default_weights(frames, network):
    found = training_images(frames, network, ALL)
    for image, atoms in zip(found, frames, strict=True):
        assert image.sample.labels.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(image.sample.labels.forces, atoms.get_forces())
        assert image.weight == image.weights["energy"] == 1
        np.testing.assert_allclose(image.weights["forces"], 1 / (3 * len(atoms)))


def test_only_needed_labels_are_asked_for(frames, network):
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    assert len(training_images(frames, network, ENERGY)) == 4
    with pytest.raises(DataError, match=r"no forces in image 0.*energy"):
        training_images(frames, network, ALL)
    frames[1].info["energy_weight"] = 0.0
    frames[1].calc = None
    assert len(training_images(frames, network, ENERGY)) == 4
    frames[2].calc = None
    with pytest.raises(DataError, match="no energy in image 2"):
        training_images(frames, network, ENERGY)


def test_labels_that_are_not_used_may_disagree(frames, network):
    frames[0].arrays["dft_forces"] = np.ones((2, 3))
    training_images(frames, network, ENERGY)
    with pytest.raises(DataError, match="disagree"):
        training_images(frames, network, ALL)


def test_weights_survive_a_file(frames, network, tmp_path):
    frames[1].info["weight"] = 2.0
    frames[1].info["energy_weight"] = 0.5
    frames[1].arrays["force_weight"] = np.array([0.0, 3.0])
    write_frames(tmp_path / "set.extxyz", frames)
    (image,) = training_images(read_frames(tmp_path / "set.extxyz", "1"), network, ALL)
    assert (image.weight, image.weights["energy"]) == (2.0, 1.0)
    np.testing.assert_allclose(image.weights["forces"], [0, 2 / 3])


def test_weights_of_residuals_are_converted(frames, network):
    frames[0].info["structure_weight"] = 3.0
    frames[0].arrays["atomic_weights"] = np.array([2.0, 0.5])
    image = training_images(frames, network, ALL)[0]
    assert image.weight == image.weights["energy"] == 9.0
    np.testing.assert_allclose(image.weights["forces"], 9 * np.array([4.0, 0.25]) / 6)


def test_both_kinds_of_weights(frames, network):
    frames[2].info["weight"] = 1.0
    frames[2].arrays["atomic_weights"] = np.ones(2)
    with pytest.raises(DataError, match=r"two kinds of weights in image 2.*atomic_weights"):
        training_images(frames, network, ALL)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, "heavy"])
@pytest.mark.parametrize("key", ["weight", "energy_weight", "structure_weight"])
def test_unusable_weight(frames, network, key, value):
    frames[3].info[key] = value
    with pytest.raises(DataError, match=rf"{key} in image 3"):
        training_images(frames, network, ALL)


@pytest.mark.parametrize("values", [[1.0, -1.0], [np.nan, 1.0], [[1.0, 0.0], [0.0, 1.0]]])
def test_unusable_force_weights(frames, network, values):
    frames[3].arrays["force_weight"] = np.array(values)
    with pytest.raises(DataError, match="force_weight in image 3"):
        training_images(frames, network, ALL)


def test_copies(frames, network):
    many = [*frames, _copy(frames[1]), _copy(frames[1])]
    once = training_images(many, network, ALL)
    assert [image.weight for image in once] == [1, 1, 1, 1]
    counted = training_images(many, network, ALL, weight_duplicates=True)
    assert [image.weight for image in counted] == [1, 3, 1, 1]
    np.testing.assert_allclose(counted[1].weights["forces"], 3 * once[1].weights["forces"])
    # Counts belong to the set, not to the process: another one is not counted in.
    assert training_images(frames, network, ALL, weight_duplicates=True)[1].weight == 1
    hashed = hash_images(many)
    hash_images(frames)
    assert training_images(hashed, network, ALL, weight_duplicates=True)[1].weight == 3


def test_the_electrode_potential_makes_no_difference_without_charges(frames, network):
    other = _copy(frames[0])
    frames[0].info["electrode_potential"], other.info["electrode_potential"] = 4.0, 4.5
    found = training_images([*frames, other], network, ALL, weight_duplicates=True)
    assert [image.weight for image in found] == [2, 1, 1, 1]


def test_forces_of_single_atoms(frames, network):
    key = image_key(frames[3])
    found = training_images(frames, network, ALL, nft_ids=[(key, 1), (0, 1), (0, 0)])
    assert [image.weights["energy"] for image in found] == [0, 1, 1, 0]
    np.testing.assert_allclose(found[0].weights["forces"], 1 / 6)
    np.testing.assert_allclose(found[3].weights["forces"], [0, 1 / 3])


@pytest.mark.parametrize(
    ("ids", "message"),
    [([("0" * 32, 1)], "unknown image"), ([(4, 0)], "images 0 to 3"), ([(0, 2)], "atoms 0 to 1")],
)
def test_atoms_that_are_not_there(frames, network, ids, message):
    with pytest.raises(DataError, match=message):
        training_images(frames, network, ALL, nft_ids=ids)


def test_nothing_to_train_on(frames, network):
    with pytest.raises(DataError, match="no images"):
        training_images([], network, ALL)
    for atoms in frames:
        atoms.info["weight"] = 0.0
    with pytest.raises(DataError, match="no image has a term"):
        training_images(frames, network, ALL)


def test_unknown_element(frames, network):
    frames[2].numbers[0] = 79
    with pytest.raises(PotentialError, match=r"Au in image 2"):
        training_images(frames, network, ENERGY)


def test_digest_changes_with_labels_and_weights(frames, network):
    digest = training_images(frames, network, ALL)[0].digest()
    assert training_images([_copy(frames[0])], network, ALL)[0].digest() == digest
    for change in ({"weight": 2.0}, {"energy_weight": 0.3}):
        other = _copy(frames[0])
        other.info.update(change)
        assert training_images([other], network, ALL)[0].digest() != digest
    other = _copy(frames[0])
    other.calc.results["energy"] += 1e-9
    assert training_images([other], network, ALL)[0].digest() != digest


def test_the_callers_images_are_unchanged(frames, network):
    before = [atoms.copy() for atoms in frames]
    results = [dict(atoms.calc.results) for atoms in frames]
    training_images(frames, network, ALL, weight_duplicates=True)
    assert frames == before
    assert [atoms.info for atoms in frames] == [atoms.info for atoms in before]
    assert all(a.calc.results == r for a, r in zip(frames, results, strict=True))
