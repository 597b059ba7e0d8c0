"""The loss against the reference numbers, on the compiled and on the plain path."""

from __future__ import annotations

import json
import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.networks.full_batch import LossFunction
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.image_network import ImageNetwork
from surefield.structures.read import read_frames

CASES = (
    "energy_only",
    "energy_force",
    "energy_force_overfit",
    "coefficients_3_0.5",
    "duplicates_weighted",
    "duplicates_unweighted",
    "nft_image0_atom4",
    "nft_image2_atom4",
    "nft_images_3_0",
    "weights",
    "frame_weight",
    "linear_output",
    "activation_sigmoid",
    "activation_linear",
)
#: The plain path compiles every operation for each size of images.
PLAIN = pytest.param("calculate_loss", marks=pytest.mark.slow)
PATHS = ("get_loss", PLAIN)


def _images(small, arguments):
    images = small["images"]()
    if "images" in arguments:  # "the five, then image 1 twice more"
        del arguments["images"]
        for _ in range(2):
            images.append(images[1].copy())
            images[-1].calc = images[1].calc
    for name in ("weight", "energy_weight"):
        for atoms, value in zip(images, arguments.pop(name, ()), strict=False):
            atoms.info[name] = value
    for atoms, values in zip(images, arguments.pop("force_weight", ()), strict=False):
        atoms.arrays["force_weight"] = np.array(values)
    return images


def test_all_cases_are_here(small):
    assert set(CASES) == set(small["expected"]["cases"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(name, path, small, small_network, handle):
    expected = small["expected"]["cases"][name]
    arguments = dict(expected["args"])
    images = _images(small, arguments)
    options = {k: arguments.pop(k) for k in ("activation", "output_activation") if k in arguments}
    model = handle(small_network(**options), LossFunction(**arguments), images)
    found = getattr(model.lossfunction, path)(model.vector, True)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-12)
    np.testing.assert_allclose(found["dloss_dparameters"], expected["dloss_dparameters"], rtol=0, atol=1e-11)
    for key in ("energy_loss", "force_loss", "energy_maxresid", "force_maxresid", "energy_rmse"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-11)
    if expected["force_rmse"] is None:
        assert found["force_rmse"] is None
    else:
        np.testing.assert_allclose(found["force_rmse"], expected["force_rmse"], rtol=1e-11)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", ["fprange_from_images", "fprange_minus1_plus1_is_raw_positions"])
def test_image_centred(case, path, small, shared, handle):
    reference = json.loads((shared / "reference/networks/image_centred/expected.json").read_text())
    expected, images = reference["cases"][case], small["images"]()[:3]
    network = ImageNetwork(images[0], reference["hiddenlayers"], "tanh", "activation")
    ranges = np.array(expected["fprange"])
    values = (jnp.asarray(ranges[:, 0]), jnp.asarray(ranges[:, 1]))
    network = eqx.tree_at(lambda p: (p.low, p.high), network, values)
    network = network.with_vector(jnp.asarray(reference["vector"]))
    model = handle(network, LossFunction(convergence={"force_rmse": 1e-12}), images)
    found = getattr(model.lossfunction, path)(model.vector, True)
    for key in ("loss", "energy_loss", "force_loss"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
    np.testing.assert_allclose(found["dloss_dparameters"], expected["dloss_dparameters"], rtol=0, atol=1e-11)


def _charge_network(model, convention):
    descriptor = SymmetryFunctions.from_lists(["H", "Pt"], Cosine(5.5), model["Gs"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "force_convention='amp-1.1'")
        network = ChargeNetwork(
            descriptor,
            [model["hiddenlayers"][s] for s in descriptor.symbols],
            [model["charge_hiddenlayers"][s] for s in descriptor.symbols],
            etas=model["etas"],
            surface_correction=model["surface_correction"],
            slab_metal=model["slab_metal"],
            vdw_radius=model["vdw_radius"],
            scheme="amp",
            force_convention=convention,
            output_activation="activation",
        )
    ranges = [np.array([model[k][s] for s in descriptor.symbols]) for k in ("fprange", "charge_fprange")]
    values = tuple(jnp.asarray(r[..., column]) for r in ranges for column in (0, 1))
    network = eqx.tree_at(lambda p: (p.low, p.high, p.charge_low, p.charge_high), network, values)
    return network.with_vector(jnp.asarray(model["vector"]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", ["no_forces", "exact", "fixed-interface", "amp-1.1"])
def test_charge_loss(case, path, shared, handle):
    folder = shared / "reference/networks/charge"
    model, expected = (json.loads((folder / f"{n}.json").read_text()) for n in ("model", "expected"))
    expected = expected["loss"][case]
    network = _charge_network(model, "exact" if case == "no_forces" else case)
    loss = LossFunction(convergence={} if case == "no_forces" else {"force_rmse": 1e-12})
    handled = handle(network, loss, read_frames(folder / "images.extxyz"))
    found = getattr(loss, path)(handled.vector, True)
    for key in ("loss", "energy_loss", "force_loss", "charge_loss"):
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
    np.testing.assert_allclose(found["dloss_dparameters"], expected["dloss_dparameters"], rtol=0, atol=1e-10)
