from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from surefield.errors import DataError
from surefield.structures.images import hash_images, image_key
from surefield.structures.read import write_frames


@pytest.fixture
def images(alloy):
    water = molecule("H2O")
    water.info["electrode_potential"] = 4.4 + 1 / 3
    return [*(atoms.copy() for atoms in alloy), water]


@pytest.mark.parametrize("name", ["images.extxyz", "images.traj", "images.db"])
def test_keys_survive_files(images, tmp_path, name):
    path = tmp_path / name
    write_frames(path, images)
    assert list(hash_images(path)) == list(hash_images(images))


def test_keys_survive_the_eight_decimals_of_ase(tmp_path):
    # Numbers close to the middle between two millionths are the ones that rounding twice would move.
    edges = (np.arange(3000) - 1500.5) * 1e-6 + np.random.default_rng(0).uniform(-6e-9, 6e-9, 3000)
    images = [
        Atoms("Cu" * 100, row.reshape(100, 3), cell=[7, 8, 9], pbc=True) for row in edges.reshape(10, 300)
    ]
    ase.io.write(tmp_path / "images.extxyz", images)
    assert list(hash_images(tmp_path / "images.extxyz")) == list(hash_images(images))


def test_keys_tell_apart_what_matters_only(images):
    atoms = images[0]
    key = image_key(atoms)

    def changed(change):
        other = atoms.copy()
        change(other)
        return image_key(other) != key

    assert changed(lambda a: a.positions.__iadd__(3e-6))
    assert changed(lambda a: a.set_cell(a.cell.array * 1.00001))
    assert changed(lambda a: a.set_pbc((True, True, False)))
    assert changed(lambda a: a.set_chemical_symbols(["Cu", "Cu", "Cu"]))
    assert changed(lambda a: a.info.update(electrode_potential=4.4))
    assert not changed(lambda a: a.info.update(energy=1.0, name="x"))
    assert not changed(lambda a: setattr(a, "calc", EMT()))
    assert not changed(lambda a: a.positions.__iadd__(1e-9))


def test_copies_share_a_key_and_are_counted(images):
    lines = []
    hashed = hash_images([images[0], images[1], images[0].copy()], log=lines.append)
    assert list(hashed.values()) == [images[0], images[1]]
    assert hashed[image_key(images[0])] is images[0]
    assert hashed.counts == {image_key(images[0]): 2, image_key(images[1]): 1}
    assert lines == ["3 images, 2 of them different"]
    again = hash_images(hashed)
    assert again.counts == hashed.counts


def test_keys_of_a_dictionary_stay(images):
    hashed = hash_images({"a": images[0], "b": images[0]}, ordered=True)
    assert list(hashed) == ["a", "b"]
    assert hashed.names["b"] == "image 'b'"


def test_what_is_no_image_is_refused(images, tmp_path):
    with pytest.raises(DataError, match=r"image 'b' is no ase\.Atoms"):
        hash_images({"a": images[0], "b": "Cu"})
    with pytest.raises(DataError, match="no file"):
        hash_images(str(tmp_path / "nothing.traj"))
