from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from ase.io import read

from surefield.descriptors.behler import behler_functions, function_lists
from surefield.descriptors.build import descriptor_from_config
from surefield.descriptors.derivatives import atomic_features
from surefield.errors import ConfigError
from surefield.structures.graph import collate
from surefield.structures.neighbors import neighborhood

LISTS = {
    "g2": [{"eta": 0.1, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}, {"zeta": 1, "lambda": 1, "eta": 0.05}],
}
RADII = {"Cu-Cu": 4.0, "Au-Cu": 3.4, "Au-Au": 4.4}


def test_reference_columns(shared):
    expected = np.load(shared / "reference/trainers/expected/acsf_set51_01.npz")
    descriptor = behler_functions(["Si"], "set51", {"Si-Si": 4.0})
    folder = shared / "reference/scores/inputs/si_t900"
    structures = [neighborhood(read(folder / f"{name}.xyz"), 4.0) for name in expected]
    found = atomic_features(descriptor, structures)
    assert len(found) == 9
    for name, values in zip(expected, found, strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-8)


def test_sets_have_the_documented_functions():
    set51, set30 = function_lists("set51"), function_lists("set30")
    assert [len(set51["g2"]), len(set51["g4"]), len(set30["g2"]), len(set30["g4"])] == [8, 43, 8, 22]
    bohr = 0.529177**2
    assert [round(entry["eta"] * bohr, 12) for entry in set30["g2"]][:2] == [0.0009, 0.01]
    assert set51["g2"][0] == {"eta": 0.001 / bohr, "Rs": 0.0}
    assert [(e["zeta"], e["lambda"]) for e in set51["g4"][:4]] == [(1, -1), (1, 1), (2, -1), (2, 1)]
    last = set51["g4"][-2:]
    assert [(e["zeta"], e["lambda"]) for e in last] == [(4, 1), (16, 1)]
    assert {e["lambda"] for e in set30["g4"][8:]} == {1.0}


def test_every_pair_has_its_radius(alloy):
    """Two elements against the formulas as they are written, and in the documented order of columns."""
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    assert descriptor.cutoff == 4.4
    assert descriptor.symbols == ("Cu", "Au")
    atoms = alloy[0]
    (found,) = atomic_features(descriptor, [neighborhood(atoms, descriptor.cutoff)])
    for i in range(len(atoms)):
        np.testing.assert_allclose(found[i], by_definition(atoms, i), rtol=1e-10, atol=1e-12)


def by_definition(atoms, i):
    s = neighborhood(atoms, 4.4)
    symbols = atoms.get_chemical_symbols()
    near = [(symbols[s.neighbors[i, k]], s.vectors[i, k]) for k in range(s.counts[i])]

    def fc(a, b, r):
        rc = RADII["-".join(sorted((a, b)))]
        return 0.5 * (np.cos(np.pi * r / rc) + 1) if r < rc else 0.0

    columns = []
    for symbol in ("Cu", "Au"):
        own = [np.linalg.norm(v) for other, v in near if other == symbol]
        for e in LISTS["g2"]:
            values = (np.exp(-e["eta"] * (r - e["Rs"]) ** 2) * fc(symbols[i], symbol, r) for r in own)
            columns.append(sum(values))
    for pair in (("Cu", "Cu"), ("Cu", "Au"), ("Au", "Au")):
        for e in LISTS["g4"]:
            total = 0.0
            for (a, u), (b, v) in itertools.combinations(near, 2):
                if sorted((a, b)) != sorted(pair):
                    continue
                r, q, p = np.linalg.norm(u), np.linalg.norm(v), np.linalg.norm(u - v)
                angular = 2 ** (1 - e["zeta"]) * (1 + e["lambda"] * u @ v / r / q) ** e["zeta"]
                cut = fc(symbols[i], a, r) * fc(symbols[i], b, q) * fc(a, b, p)
                total += angular * np.exp(-e["eta"] * (r * r + q * q + p * p)) * cut
            columns.append(total)
    return np.array(columns)


def test_derivatives_know_the_radii(alloy):
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    graph = collate([neighborhood(alloy[0], 4.4)])
    found = jax.jit(lambda v: descriptor.jacobian(moved(graph, v)))(graph.vectors)
    slopes = jax.jit(jax.jacfwd(lambda v: descriptor.features(moved(graph, v))[:2]))(graph.vectors)
    for atom in range(2):
        expected = np.moveaxis(np.asarray(slopes)[atom, :, atom], 0, -1)
        np.testing.assert_allclose(found[atom], expected, rtol=0, atol=1e-10)


def moved(graph, vectors):
    return replace(graph, vectors=vectors)


def test_description_makes_the_same_descriptor():
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    again = descriptor_from_config(descriptor.config())
    assert again == descriptor
    assert hash(again) == hash(descriptor)
    assert behler_functions(["Cu", "Au"], LISTS, 4.4) != descriptor


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff_type": "exp"}, "unknown cutoff_type 'exp'; expected 'cos'"),
        ({"hyperparams": "set52"}, "unknown hyperparams 'set52'; known: set51, set30, or a dict"),
        ({"hyperparams": 51}, "unusable hyperparams; got 51"),
        ({"hyperparams": {"g5": []}}, "unknown functions 'g5'"),
        ({"hyperparams": {"g2": [{"eta": 1.0}]}}, r"unusable g2\[0\] of hyperparams.*a dict of eta, Rs"),
        ({"hyperparams": {"g2": [{"eta": "x", "Rs": 0}]}}, "eta of g2.*finite number, got 'x'"),
        ({"hyperparams": {"g2": []}}, "hold no functions"),
        ({"cutoff": {"Si-Si": 5.0}}, "unknown pair 'Si-Si' in cutoff"),
        ({"cutoff": {"Cu-Cu": 4.0, "Au-Au": 4.0}}, "cutoff has no radius for Cu-Au"),
        ({"cutoff": RADII | {"Cu-Au": 3.0}}, "cutoff gives two radii for Cu-Au: 3.4 and 3.0"),
        ({"cutoff": RADII | {"Cu-Cu": -1}}, "cutoff of Cu-Cu must be a positive number of Å, got -1"),
        ({"cutoff": "5"}, "cutoff must be a positive number"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ConfigError, match=message):
        behler_functions(["Cu", "Au"], **({"hyperparams": LISTS, "cutoff": RADII} | arguments))


def test_radii_must_fit_the_descriptor():
    descriptor = behler_functions(["Cu", "Au"], LISTS, RADII)
    config = descriptor.config()
    for radii, message in (
        ([[4.0]], "2 by 2"),
        ([[4.0, 3.0], [3.1, 4.0]], "symmetric"),
        ([[4.0, 5.0], [5.0, 4.0]], "at most 4.4"),
    ):
        with pytest.raises(ConfigError, match=message):
            descriptor_from_config(config | {"radii": radii})
    with pytest.raises(ConfigError, match="length must be a positive number"):
        descriptor_from_config(config | {"length": -1.0})
