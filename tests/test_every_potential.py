"""Linear, many-body, neural and parametric potentials with every uncertainty and selection, on real data."""

from __future__ import annotations

import warnings
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import surefield as sf
from surefield.descriptors.behler import behler_functions
from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import PotentialError
from surefield.formats.chimes import settings_of
from surefield.loop import select
from surefield.potentials.chimes import Chimes
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.parametric import EAM, LennardJones, Morse, StillingerWeber, Tersoff
from surefield.potentials.parametric.parameters import ParametricPotential
from surefield.potentials.snap.snap import Snap
from surefield.scores.fim.derivatives import numerical_jacobian
from surefield.scores.fim.parameters import optimized_parameters
from surefield.selection import (
    LastLayerForceFeatures,
    compute_features,
    create_feature_fn,
    kernel_selection,
)
from surefield.sensitivity import energy_features, structure_rows
from surefield.sensitivity.parameter_jacobian import parameter_rows
from surefield.testing import check_uncertainty
from surefield.trainers.inputs import gather, make_configurations
from surefield.training.least_squares import StreamedRows, solve
from surefield.training.linear import linear_rows, with_coefficients
from surefield.training.problem import Weights, residual_weights
from surefield.uncertainty import LLPR, DropoutEnsemble, ensemble_predict, sample_ensemble

R = np.linspace(0.0, 4.0, 9)
ROWS = ("energy", "forces", "stress")
CHIMES = {
    "TYPEIDX": [{"TYPEIDX": "1", "ATM_TYP": "Ta", "ATMCHRG": 0.0, "ATMMASS": 180.9}],
    "PAIRIDX": [
        {
            "PAIRIDX": "1",
            "ATM_TY1": "Ta",
            "ATM_TY2": "Ta",
            "S_MINIM": 2.0,
            "S_MAXIM": 4.0,
            "MORSE_LAMBDA": 2.9,
        }
    ],
    "PAIRTYP": "CHEBYSHEV 4 2 0 -1 1",
    "CHBTYPE": "MORSE",
    "FCUTTYP": "CUBIC",
}


def lennard_jones():
    return LennardJones({"epsilon": 0.5, "sigma": 2.6, "cutoff": 4.0}, ["Ta"])


def message_network():
    network = sf.MessageNetwork(
        ["Ta"], cutoff=4.0, n_channels=3, n_basis=3, n_senders=2, hidden=(4,), dtype="float64"
    )
    readout = np.random.default_rng(0).normal(size=network.readout.shape)
    return eqx.tree_at(lambda p: p.readout, network, jnp.asarray(readout))


POTENTIALS = {
    "snap": lambda: Snap(Bispectrum((73,), 2, 4.0, (0.5,), (1.0,))),
    "snap + zbl": lambda: Snap(Bispectrum((73,), 2, 4.0, (0.5,), (1.0,))) + sf.ZBL(["Ta"], 1.0, 2.0),
    "quadratic snap": lambda: Snap(Bispectrum((73,), 2, 4.0, (0.5,), (1.0,)), quadratic=True),
    "chimes": lambda: Chimes(settings_of(CHIMES)),
    "dropout network": lambda: DropoutNetwork(
        behler_functions(["Ta"], "set30", 4.0), neurons=(4, 4), dropout=0.1
    ),
    "message network": message_network,
    "lennard-jones": lennard_jones,
    "morse": lambda: Morse({"epsilon": -0.5, "C": 1.4, "Rzero": 2.9, "cutoff": 4.0}, ["Ta"]),
    "stillinger-weber": lambda: StillingerWeber(
        {"A": 7.0, "B": 0.6, "p": 4.0, "q": 0.0, "sigma": 2.4, "gamma": 2.5, "cutoff": 4.0, "lambda": 5.0}
        | {"costheta0": -1 / 3},
        ["Ta"],
    ),
    "tersoff": lambda: Tersoff(
        {"A": 1800.0, "B": 470.0, "lambda1": 2.5, "lambda2": 1.7, "beta": 1e-6, "n": 0.79, "lambda3": 0.0}
        | {"m": 3, "gamma": 1.0, "c": 1e5, "d": 16.2, "h": -0.6, "Rc": 3.7, "Dc": 0.3},
        ["Ta"],
    ),
    "eam": lambda: EAM(
        {
            "embedding": -np.sqrt(np.linspace(0, 30, 9))[None],
            "density": ((4.0 - R) ** 3 / 8)[None],
            "pair": (R * 0.3 * (4.0 - R) ** 2)[None],
        },
        ["Ta"],
        dr=0.5,
        drho=3.75,
        reach=4.0,
    ),
}


@pytest.fixture(scope="module")
def tantalum(shared):
    frames = sf.read_frames(shared / "data" / "Ta" / "train.xyz.xz")
    return [atoms for atoms in frames if atoms.info["config_type"] == "Displaced_FCC"]


def fitted(potential, frames):
    """A linear potential with coefficients from a ridge regression."""
    configurations = make_configurations(potential, gather(frames, None, False), Weights())
    rows = None
    for part in linear_rows(potential, configurations, partial(residual_weights, weights=Weights())):
        rows = rows or StreamedRows(part.a.shape[1])
        rows.add(part.a, part.b)
    return with_coefficients(potential, solve(rows.reduced(), "ridge").x)


#: Each is a fit with rows of its own: the quick tests have one of the kinds that share most of their code.
SLOW = ("dropout network", "snap + zbl", "quadratic snap", "lennard-jones", "morse", "tersoff", "eam")


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in POTENTIALS],
)
def case(request, tantalum):
    """A potential, the calibrated sigma around it, and the frames of neither."""
    potential = POTENTIALS[request.param]()
    if request.param.startswith(("snap", "quadratic", "chimes")):
        potential = fitted(potential, tantalum[:4])
    sure = LLPR.fit(potential, tantalum[:4], tantalum[4:6], progress=False)
    return request.param, potential, sure, tantalum[6:8]


def test_llpr(case):
    _, _, sure, frames = case
    for prediction in sure.predict(frames, forces=True):
        assert prediction.energy_uncertainty > 0
        assert prediction.forces_uncertainty.shape == (48, 3)
        assert np.all(prediction.forces_uncertainty > 0)
        assert np.all(np.isfinite(prediction.forces_uncertainty))
    check_uncertainty(sure, frames)


def test_feature_maps(case):
    """Features are the rows of the last layer, and the bias; pools are selected from by them."""
    name, potential, _, frames = case
    layer = potential.last_layer()
    rows = energy_features(layer, [potential.neighborhood(atoms) for atoms in frames])
    picks = kernel_selection(potential, [], frames, {}, "max_dist", [], 2)
    np.testing.assert_allclose(
        picks.g_pool[:, : rows.shape[1]], rows, rtol=0, atol=1e-10 * np.abs(rows).max()
    )
    biases = [layer.bias_row(atoms.numbers) for atoms in frames]
    np.testing.assert_allclose(picks.g_pool[:, rows.shape[1] :], biases, rtol=1e-10)
    assert sorted(picks) == [0, 1]
    if name == "chimes":  # whose forces JAX does not differentiate
        raw = compute_features(create_feature_fn(potential, None, LastLayerForceFeatures()), frames)
        structures = [potential.neighborhood(atoms) for atoms in frames]
        expected = [row.forces.reshape(48, 3, -1) for row in structure_rows(layer, structures)]
        np.testing.assert_allclose(raw, expected, rtol=1e-10, atol=1e-12)


def test_ensemble(case):
    """The spread of many members is the sigma of the last layer."""
    _, potential, sure, frames = case
    layer = potential.last_layer()
    rows = energy_features(layer, [potential.neighborhood(atoms) for atoms in frames]) / 48
    members = sample_ensemble(sure.posterior, sure.maps["energy"].alpha, layer.n_features + 50)
    energies = [p.energy / 48 for p in potential.predict(frames)]
    spread = ensemble_predict(energies, rows, members).std(axis=1, ddof=1)
    sigma = [p.energy_uncertainty / 48 for p in sure.predict(frames)]
    np.testing.assert_allclose(spread, sigma, rtol=1e-6)


@pytest.mark.parametrize("features", ["ll_grad", "full_grad_rp", "ll_posterior"])
def test_max_distance_selection_on_gradient_features(case, tantalum, features):
    _, _, sure, _ = case
    picks = select(sure, tantalum[:2], tantalum[2:6], method="max_dist", n=2, features=features)
    assert len(set(picks.indices.tolist())) == 2


def test_scores(case, tantalum):
    """Entropies and LTAU see what enters the last layer; information is by its weights, or by parameters."""
    _, potential, _, frames = case
    known, others = (sf.with_site_features(potential, part) for part in (tantalum[:2], frames))
    rows = np.concatenate([atoms.arrays["descriptors"] for atoms in known])
    width = float(np.median(np.linalg.norm(rows - rows.mean(axis=0), axis=1)))
    novelty = sf.QUESTSDeltaEntropyScore()
    entropies = novelty.compute_batch(others, "delta_entropy", reference_set=known, bandwidth=width)
    query = others[0].arrays["descriptors"]
    squared = ((query[:, None] - rows) ** 2).sum(axis=-1) / (2 * width**2)
    least = squared.min(axis=1)
    expected = least - np.log(np.exp(least[:, None] - squared).sum(axis=1))
    np.testing.assert_allclose(entropies[0], expected, rtol=1e-7, atol=1e-7)

    errors = np.random.default_rng(0).uniform(0.01, 1.0, (6, len(rows)))
    ltau = sf.LTAUForcesUQScore(rows, errors, from_error_logs=True, nbins=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some atoms are unlike all training atoms
        (expected_error, _) = ltau.compute_batch(others, "uncertainty")
    assert ((errors.min() <= expected_error) & (expected_error <= errors.max())).all()

    parametric = isinstance(potential, ParametricPotential)
    chosen = optimized_parameters(potential, None if parametric else "last_layer").chosen
    fim = sf.FIMTrainingSetScore().compute(
        frames[0], "sensitivity", potential, None if parametric else "last_layer"
    )
    structures = [potential.neighborhood(frames[0])]
    gram = sum(b.rows.T @ b.rows for b in parameter_rows(chosen, structures, ("forces",)))
    np.testing.assert_allclose(fim, gram, rtol=0, atol=1e-9 * np.abs(gram).max())
    if not parametric:
        (row,) = structure_rows(potential.last_layer(), structures, ("forces",))
        closed = row.forces.T @ row.forces
        np.testing.assert_allclose(fim, closed, rtol=0, atol=1e-9 * np.abs(closed).max())


def test_sigmas_of_an_untrained_potential(tantalum):
    with pytest.raises(PotentialError, match="all last-layer weights of the Snap are zero; train it first"):
        LLPR.fit(POTENTIALS["snap"](), tantalum[:4], tantalum[4:6], progress=False)


def test_dropout_members(tantalum):
    network = POTENTIALS["dropout network"]()
    sure = DropoutEnsemble.fit(network, tantalum[4:6], M=6, seed=1)
    (prediction,) = sure.predict(tantalum[6:7], forces=True)
    assert np.all(prediction.forces_uncertainty > 0)


@pytest.mark.slow
def test_rows_by_all_parameters(case):
    """Exact rows along a direction of the parameters, against finite differences of the predictions."""
    _, potential, _, frames = case
    chosen = optimized_parameters(potential).chosen
    blocks = list(parameter_rows(chosen, neighborhoods_of(potential, frames[:1]), ROWS))
    rows = [np.concatenate([b.rows for b in blocks if b.quantity == name]) for name in ROWS]
    start = np.asarray(chosen.vector)
    direction = np.cos(1.0 + np.arange(len(start))) * np.where(start == 0, 0.1, np.abs(start))
    slopes = numerical_jacobian(
        lambda k: concatenated(chosen.at(start + k[0] * direction).predict(frames[:1])[0]),
        np.zeros(1),
        np.full(1, 1e-5),
        method="CD4",
    )
    exact = np.concatenate(rows) @ direction
    scale = np.abs(exact).max()
    np.testing.assert_allclose(exact, slopes.values[:, 0], rtol=0, atol=1e-7 * scale)


def concatenated(prediction):
    return np.concatenate([np.ravel(getattr(prediction, name)) for name in ROWS])
