from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms

from surefield.descriptors.cutoffs import Cosine, Polynomial
from surefield.descriptors.symmetry_functions import make_default_symmetry_functions, make_symmetry_functions
from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.networks import fingerprint_store
from surefield.networks.fingerprints import (
    Gaussian,
    ImageCentred,
    Zernike,
    calculate_fingerprints_range,
    descriptor_from_parameters,
    hash_images,
)


@pytest.fixture(scope="module")
def images(shared):
    return ase.io.read(shared / "reference/networks/small/images.extxyz", ":")


@pytest.fixture(scope="module")
def stored(shared):
    return np.load(shared / "reference/networks/small/fingerprints.npz")


def never(*_, **__):
    raise AssertionError("computed although it was known")


def test_reference_fingerprints_of_a_file(shared, images, stored):
    descriptor = Gaussian()
    descriptor.calculate_fingerprints(shared / "reference/networks/small/images.extxyz")
    assert descriptor.elements == ("Cu", "Pt")
    for index, key in enumerate(hash_images(images)):
        symbols, rows = zip(*descriptor.fingerprints[key], strict=True)
        assert list(symbols) == images[index].get_chemical_symbols()
        np.testing.assert_allclose(rows, stored[f"image{index}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("fortran", [True, False])
def test_reference_derivatives(images, stored, fortran):
    descriptor = Gaussian(cutoff=6.5, fortran=fortran)
    descriptor.calculate_fingerprints(images[:1], calculate_derivatives=True)
    (primes,) = descriptor.fingerprintprimes.values()
    symbols = images[0].get_chemical_symbols()
    expected = {
        (m, symbols[m], n, symbols[n], x): value
        for (m, n, x), value in zip(
            stored["primes_image0_keys"].tolist(), stored["primes_image0_values"], strict=True
        )
        if np.any(value)
    }
    assert set(primes) == set(expected)
    for key, value in primes.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-11)


def test_zero_derivatives_are_absent():
    dimers = Atoms("Cu4", [[0, 0, 0], [2, 0, 0], [50, 0, 0], [52, 0, 0]])
    descriptor = Gaussian(cutoff=4.0)
    descriptor.calculate_fingerprints([dimers], calculate_derivatives=True)
    (primes,) = descriptor.fingerprintprimes.values()
    assert {(m, n) for m, _, n, _, _ in primes} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 2),
        (2, 3),
        (3, 2),
        (3, 3),
    }
    assert {x for *_, x in primes} == {0}


def test_functions_of_each_element_may_differ(alloy):
    functions = make_default_symmetry_functions(["Au", "Cu"])
    functions["Cu"] = functions["Cu"][:3]
    descriptor = Gaussian(cutoff=4.0, Gs=functions)
    descriptor.calculate_fingerprints(alloy, calculate_derivatives=True)
    for (_, fingerprints), (_, primes) in zip(
        descriptor.fingerprints.items(), descriptor.fingerprintprimes.items(), strict=True
    ):
        assert {(symbol, len(values)) for symbol, values in fingerprints} == {("Cu", 3), ("Au", 20)}
        assert {(key[3], len(values)) for key, values in primes.items()} == {("Cu", 3), ("Au", 20)}


def test_one_list_serves_every_element(alloy):
    functions = make_symmetry_functions(["Au", "Cu"], "G2", [0.5])
    descriptor = Gaussian(cutoff=4.0, Gs=functions).for_elements(["Cu", "Au"])
    assert descriptor.n_features == (2, 2)


def test_nothing_is_computed_before_it_is_looked_at_and_once_then(images, monkeypatch):
    descriptor = Gaussian()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint_store, "atomic_features", never)
        patch.setattr(fingerprint_store, "dense_derivatives", never)
        descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    keys = list(descriptor.fingerprints)
    first = descriptor.fingerprints[keys[1]], descriptor.fingerprintprimes[keys[1]]
    assert repr(descriptor.fingerprints) == "<5 images, 1 of them evaluated>"
    monkeypatch.setattr(fingerprint_store, "atomic_features", never)
    monkeypatch.setattr(fingerprint_store, "dense_derivatives", never)
    descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    assert descriptor.fingerprints[keys[1]] is first[0]
    assert descriptor.fingerprintprimes[keys[1]] is first[1]


def test_derivatives_must_be_asked_for(images):
    descriptor = Gaussian()
    descriptor.calculate_fingerprints(images)
    assert len(descriptor.fingerprintprimes) == 0
    assert set(descriptor.fingerprints) == set(hash_images(images))


def test_images_may_be_moved_and_stay_as_they_are(images):
    atoms = images[4].copy()
    before = atoms.copy()
    descriptor = Gaussian()
    descriptor.calculate_fingerprints([atoms])
    assert atoms == before
    atoms.positions += np.arange(len(atoms))[:, None]
    (moved,) = descriptor.fingerprints.values()
    descriptor.calculate_fingerprints({"again": before})
    assert moved == descriptor.fingerprints["again"]


def test_a_second_list_stands_for_itself(images):
    descriptor = Gaussian(cutoff=4.0)
    descriptor.calculate_fingerprints({"alloy": images[0]})
    copper = Atoms("Cu2", [[0, 0, 0], [2.4, 0, 0]])
    descriptor.calculate_fingerprints({"copper": copper})
    fresh = Gaussian(cutoff=4.0)
    fresh.calculate_fingerprints({"copper": copper})
    assert descriptor.fingerprints["copper"] == fresh.fingerprints["copper"]
    assert len(descriptor.fingerprints["alloy"][0][1]) == 20
    assert descriptor.elements == ("Cu",)


def test_files_are_read_instead_of_computing(images, tmp_path, monkeypatch):
    def look(**settings):
        descriptor = Gaussian(dblabel=tmp_path / "new" / "cache", **settings)
        descriptor.calculate_fingerprints(images[:1], calculate_derivatives=True)
        (fingerprints,), (primes,) = descriptor.fingerprints.values(), descriptor.fingerprintprimes.values()
        return fingerprints, primes

    first = look()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint_store, "atomic_features", never)
        patch.setattr(fingerprint_store, "dense_derivatives", never)
        assert look() == first
    shorter = make_default_symmetry_functions(["Cu", "Pt"])
    shorter["Cu"][0]["eta"] = 0.051
    for changed in (
        {"cutoff": 6.4},
        {"cutoff": Polynomial(6.5)},
        {"Gs": shorter},
        {"elements": ["Cu", "Pt", "O"]},
    ):
        assert look(**changed)[0] != first[0]
    for path in (tmp_path / "new" / "cache" / "features").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert look() == first


def test_a_cache_that_cannot_be_written_is_an_error(images, tmp_path):
    (tmp_path / "file").write_text("")
    descriptor = Gaussian(dblabel=tmp_path / "file")
    descriptor.calculate_fingerprints(images)
    with pytest.raises(ExecutionError, match="give another dblabel"):
        next(iter(descriptor.fingerprints.values()))


def test_reference_ranges(shared, images):
    model = json.loads((shared / "reference/networks/small/model.json").read_text())
    for source in (images, hash_images(images)):
        ranges = calculate_fingerprints_range(Gaussian(), source)
        assert sorted(ranges) == ["Cu", "Pt"]
        for symbol, expected in model["fprange"].items():
            np.testing.assert_allclose(ranges[symbol], expected, rtol=0, atol=1e-12)
    descriptor = Gaussian(elements=["Cu", "Pt", "O"]).for_elements(["O"])
    ranges = calculate_fingerprints_range(descriptor, images)
    assert {symbol: values.shape for symbol, values in ranges.items()} == {"Cu": (36, 2), "Pt": (36, 2)}


def test_mixed_images_are_as_good_as_single_ones(alloy):
    descriptor = Zernike(cutoff=4.0, nmax=3)
    descriptor.calculate_fingerprints(alloy)
    ranges = calculate_fingerprints_range(descriptor, alloy)
    rows = [row for atoms in descriptor.fingerprints.values() for symbol, row in atoms if symbol == "Au"]
    np.testing.assert_allclose(ranges["Au"], np.stack([np.min(rows, 0), np.max(rows, 0)], 1), rtol=1e-12)


def test_settings_are_copies_and_come_back(images):
    functions = make_default_symmetry_functions(["Cu", "Pt"])
    descriptors = [
        Gaussian(cutoff=Polynomial(5.0, 3.0), Gs=functions, elements=["Pt", "Cu"], version="2015.12"),
        Zernike(cutoff=5.0, Gs={"Cu": {"Cu": 2.0}}, nmax=3),
        ImageCentred(),
    ]
    functions["Cu"].clear()
    for descriptor in descriptors:
        parameters = descriptor.parameters
        assert parameters.mode == parameters["mode"] == descriptor.mode
        again = descriptor_from_parameters(json.loads(descriptor.tostring()))
        assert type(again) is type(descriptor)
        assert again.tostring() == descriptor.tostring()
        assert again.cutoff == descriptor.cutoff
    assert descriptors[0].for_elements(["Cu"]).n_features == (20, 20)
    parameters = descriptors[0].parameters
    parameters.Gs["Cu"].clear()
    assert descriptors[0].for_elements(["Cu"]).n_features == (20, 20)
    with pytest.raises(AttributeError, match="did you mean 'cutoff'"):
        _ = parameters.cutof


def test_log_says_where_it_is_computed(images):
    lines = []
    Gaussian().calculate_fingerprints(images, parallel={"cores": 4}, log=lines.append)
    assert lines == ["fingerprints of 5 images are computed when they are looked at, in this process"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "image-centered"}, "use ImageCentred"),
        ({"mode": "atom-centerd"}, "did you mean 'atom-centered'"),
        ({"version": "2016"}, "unknown version"),
        ({"elements": ["Cu", "Ptt"]}, "did you mean 'Pt'"),
        ({"elements": "Cu"}, "must be a list"),
        ({"cutoff": {"name": "Cosin"}}, "did you mean 'Cosine'"),
        ({"Gs": {"Cu": [{"type": "G2", "element": "Cu"}]}}, "'eta' is missing in function 0 of Cu"),
        ({"Gs": [{"type": "G9"}]}, "unknown type 'G9'"),
        ({"Gs": {"Cu": "default"}}, "Gs of Cu"),
        ({"Gs": {"Cuu": []}}, "did you mean 'Cu'"),
        ({"Gs": make_default_symmetry_functions(["Cu", "O"]), "elements": ["Cu"]}, "entry for O"),
        ({"Gs": make_default_symmetry_functions(["Cu"]), "elements": ["Cu", "O"]}, "element O has no"),
    ],
)
def test_unusable_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Gaussian(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nmax": -1}, "nmax must be"),
        ({"Gs": [1.0]}, "unusable Gs"),
        ({"Gs": {"Cu": {"Cu": 1.0}}, "elements": ["Cu", "Pt"]}, "no weight"),
        ({"mode": "image-centred"}, "use ImageCentred"),
    ],
)
def test_unusable_settings_of_zernike_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Zernike(**arguments)


@pytest.mark.parametrize("parallel", [0, True, "4", {"cores": {"host": 4}}, {"envcommand": "x"}])
def test_unusable_parallel_is_refused(images, parallel):
    with pytest.raises(ConfigError):
        Gaussian().calculate_fingerprints(images, parallel=parallel)


def test_images_with_other_elements_are_named(shared, images):
    descriptor = Gaussian(elements=["Pt"])
    with pytest.raises(DataError, match="image 0 has Cu"):
        descriptor.calculate_fingerprints(images)
    path = shared / "reference/networks/small/images.extxyz"
    with pytest.raises(DataError, match=r"image 0 \(frame 0 of .*images.extxyz\) has Cu"):
        calculate_fingerprints_range(descriptor, path)
    with pytest.raises(DataError, match="image 'x' has Cu"):
        calculate_fingerprints_range(descriptor.for_elements(["Pt"]), {"x": images[0]})
    with pytest.raises(ConfigError, match="no such element"):
        descriptor.for_elements(["Cu", "Pt"])


def test_image_centred_ranges(shared, images):
    cases = json.loads((shared / "reference/networks/image_centred/expected.json").read_text())["cases"]
    ranges = calculate_fingerprints_range(ImageCentred(), images[:3])
    np.testing.assert_allclose(ranges, cases["fprange_from_images"]["fprange"], rtol=0, atol=1e-12)


def test_image_centred_fingerprints(images):
    descriptor = ImageCentred()
    wrapped = images[1].copy()
    wrapped.positions[3] += 2 * wrapped.cell.array[0] - wrapped.cell.array[1]
    descriptor.calculate_fingerprints({"a": images[0], "b": wrapped}, calculate_derivatives=True)
    assert descriptor.fingerprints["a"] == images[0].positions.ravel().tolist()
    np.testing.assert_allclose(descriptor.fingerprints["b"], images[1].positions.ravel(), atol=1e-12)
    primes = descriptor.fingerprintprimes["b"]
    assert len(primes) == 30
    assert np.flatnonzero(primes[(4, images[1].symbols[4], 2)]).tolist() == [14]
    assert descriptor.elements == ("Cu", "Pt")
    assert (descriptor.cutoff, descriptor.mode) == (None, "image-centered")


def test_image_centred_takes_one_system_only(images):
    other = images[1].copy()
    other.symbols[0] = "Cu"
    tilted = images[1].copy()
    tilted.set_cell(tilted.cell.array + 1e-4)
    for image, message in (
        (images[3], "image 1 has 9 atoms, the model was made for 10"),
        (other, "image 1 has other elements"),
        (tilted, "image 1 has another cell"),
    ):
        with pytest.raises(DataError, match=message):
            ImageCentred().calculate_fingerprints([images[0], image])


def test_ranges_need_images_and_a_descriptor(images):
    with pytest.raises(DataError):
        calculate_fingerprints_range(Gaussian(), {})
    with pytest.raises(ConfigError, match="no descriptor"):
        calculate_fingerprints_range(Cosine(6.5), images)
    with pytest.raises(ConfigError, match="did you mean 'zernike'"):
        descriptor_from_parameters({"kind": "zernik"})
    with pytest.raises(ConfigError, match="unusable settings of Zernike"):
        descriptor_from_parameters({"kind": "zernike", "fortran": True})
