"""Small networks, and the surface of a model that training needs."""

from __future__ import annotations

import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from ase.io import read

from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.potential import TrainingData
from surefield.structures.neighbors import neighborhood


class Handle:
    """A model: a potential with a vector, a loss function, and where checkpoints go."""

    parallel = None
    observer = None
    fortran = True

    def __init__(self, potential, loss, images=None, files=None, log=None):
        self.potential, self.lossfunction, self.files, self.log = potential, loss, files, log
        if images is not None:
            loss.attach_model(self, images=images)

    @property
    def vector(self):
        return np.asarray(self.potential.vector)

    @vector.setter
    def vector(self, values):
        self.potential = self.potential.with_vector(jnp.asarray(values))

    def get_loss(self, vector, lossprime):
        found = self.lossfunction.get_loss(vector, lossprime)
        return (found["loss"], found["dloss_dparameters"]) if lossprime else found["loss"]

    def checkpoint_files(self):
        return self.files


@pytest.fixture(scope="session")
def handle():
    return Handle


def _gs(symbols):
    functions = []
    for symbol in symbols:
        functions += [{"type": "G2", "element": symbol, "eta": eta} for eta in (0.5, 4.0)]
    functions.append({"type": "G4", "elements": [symbols[0]] * 2, "eta": 0.01, "gamma": 1.0, "zeta": 2.0})
    return {symbol: functions for symbol in symbols}


@pytest.fixture(scope="session")
def make_network():
    """Network on few functions, scaled to some images; `hidden` as for one element."""

    def make(images, hidden=(3,), cutoff=4.0, **options):
        symbols = sorted({s for atoms in images for s in atoms.get_chemical_symbols()})
        descriptor = SymmetryFunctions.from_lists(symbols, Cosine(cutoff), _gs(symbols))
        structures = [neighborhood(atoms, cutoff) for atoms in images]
        network = AtomicNetwork(descriptor, [hidden] * len(symbols), seed=3, **options)
        energies = [atoms.get_potential_energy() if atoms.calc else None for atoms in images]
        return network.prepared(TrainingData(structures, energies, {}))

    return make


@pytest.fixture(scope="session")
def small(shared):
    """Folder, images reader, model and expected numbers of the small reference."""
    folder = shared / "reference/networks/small"
    content = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("model", "expected")}
    return {"images": lambda: read(folder / "images.extxyz", ":"), **content}


@pytest.fixture(scope="session")
def small_network(small):
    """The network of the small reference."""

    def make(activation="tanh", output_activation="activation"):
        model = small["model"]
        descriptor = SymmetryFunctions.from_lists(["Cu", "Pt"], Cosine(6.5), model["Gs"])
        hidden = [model["hiddenlayers"][symbol] for symbol in descriptor.symbols]
        network = AtomicNetwork(descriptor, hidden, activation, output_activation)
        ranges = np.array([model["fprange"][symbol] for symbol in descriptor.symbols])
        values = (jnp.asarray(ranges[..., 0]), jnp.asarray(ranges[..., 1]))
        network = eqx.tree_at(lambda p: (p.low, p.high), network, values)
        return network.with_vector(jnp.asarray(model["vector"]))

    return make
