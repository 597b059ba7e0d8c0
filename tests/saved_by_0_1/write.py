"""Writes a small file of every kind that surefield 0.1 saves, and what it read from them.

Runs with version 0.1 only: `python write.py OUT`. `test_saved_by_0_1.py` reads the files with later versions.
"""

# ruff: noqa: I001, RUF100 - the imports are those of version 0.1, which later versions do not have.

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import sys
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import surefield as sf
from surefield.cli.jobs import run_verb
from surefield.descriptors.behler import behler_functions
from surefield.descriptors.bispectrum import Bispectrum
from surefield.descriptors.cutoffs import Cosine, Polynomial
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_symmetry_functions
from surefield.networks import (
    Amp,
    ChargeNeuralNetwork,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    Zernike,
    hash_images,
)
from surefield.potentials import MomentNetwork
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.charge_network import ChargeNetwork
from surefield.potentials.chimes import Chimes, settings_of, write_params
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.image_network import ImageNetwork
from surefield.potentials.linearized import Linearized
from surefield.potentials.parametric import EAM, LennardJones, Morse, StillingerWeber, Tersoff
from surefield.potentials.quadratic_charge_network import QuadraticChargeNetwork
from surefield.potentials.snap import Snap
from surefield.report import load_run
from surefield.selection import select_rows
from surefield.sensitivity import RowCovariance
from surefield.storage import LocalStorage, PotentialRegistry, Storage, open_storage
from surefield.trainers import (
    ChIMESPotential,
    ChIMESTrainer,
    DUNNTrainer,
    FitSnapPotential,
    FitSnapTrainer,
    KIMPotential,
    KliffBPPotential,
    ParametricModelTrainer,
    TrainingWarning,
)
from surefield.trainers.job_folder import read_inputs, write_inputs
from surefield.trainers.network_checkpoint import Checkpoint
from surefield.trainers.run import execute
from surefield.training.full_batch import Checkpoints
from surefield.training.train import _Store
from surefield.uncertainty import LLPR, DropoutEnsemble

#: Some files hold the path at which they were written; the tests replace it.
WORK = Path("/tmp/surefield_0_1")
TEXTS = {".csv", ".json", ".jsonl", ".md", ".py", ".txt", ".yaml"}

TRAINING = {"epochs": 4, "batch_size": 3, "learning_rate": 5e-3, "checkpoint_every": 1, "progress": False}
SW = {
    "A": 15.2848479197914, "B": 0.6022245584, "p": 4.0, "q": 0.0, "sigma": 2.0951, "gamma": 2.51412,
    "cutoff": 3.77118, "lambda": 45.5322, "costheta0": -1 / 3,
}  # fmt: skip
SW_MODEL = "SW_StillingerWeber_1985_Si__MO_405512056662_006"
SNAP = {"BISPECTRUM": {"numTypes": 1, "type": "Si", "twojmax": 2, "rcutfac": 3.8}}
CHIMES = {
    "PAIRTYP": "CHEBYSHEV 4 2 0 -1 1",
    "TYPEIDX": [{"ATM_TYP": "Si"}],
    "PAIRIDX": [{"ATM_TY1": "Si", "ATM_TY2": "Si", "S_MINIM": 1.5, "S_MAXIM": 4.0, "MORSE_LAMBDA": 2.3}],
}
LISTS = {
    "g2": [{"eta": 0.05, "Rs": 0.0}, {"eta": 0.5, "Rs": 2.0}],
    "g4": [{"zeta": 2, "lambda": -1, "eta": 0.01}],
}
DUNN = {"cutoff": {"Si-Si": 3.9}, "hyperparams": LISTS, "neurons": (4, 3), "dropout": 0.2}


class Stop(BaseException):
    """Stands for a kill in the middle of a training."""


class Expected:
    """What version 0.1 read: arrays by name, and everything else as JSON."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.entries: dict[str, Any] = {"work": str(WORK), "training": TRAINING, "predictions": []}

    def predictions(self, file: str, structures: str, model: Any, count: int = 2, **options: bool) -> None:
        """Results of a potential or an uncertainty for stored structures."""
        frames = frames_of(structures)[:count]
        single = str(getattr(model, "potential", model).dtype) == "float32"
        results = [prediction.results() for prediction in model.predict(frames, **options)]
        entry = {"file": file, "structures": structures, "count": len(frames), "single": single}
        entry |= {"options": options, "results": [list(values) for values in results]}
        self.entries["predictions"].append(entry)
        flat = [np.ravel(value) for values in results for value in values.values()]
        self.arrays[f"{file}|predictions"] = np.concatenate(flat)

    def save(self) -> None:
        np.savez_compressed(WORK / "expected.npz", **self.arrays)
        text = json.dumps(self.entries, default=_plain) + "\n"
        (WORK / "expected.json").write_text(text, "utf-8")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def frames_of(name: str) -> list[Atoms]:
    return list(sf.read_frames(WORK / "structures" / name))


def labelled(atoms: Atoms, **results: Any) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def write_structures() -> None:
    rng = np.random.default_rng(5)
    crystal = Atoms("CuAuCu", [[0, 0, 0], [2, 2, 0.1], [2.1, 0, 2]], pbc=True)
    crystal.set_cell([[4.0, 0.1, 0.0], [0.2, 4.1, 0.3], [0.0, 0.0, 4.2]])
    molecule = Atoms("AuCuCu", positions=[[0, 0, 0], [2.4, 0.1, 0.3], [0.4, 2.3, 0.2]])
    copper, silicon, electrode, water = [], [], [], []
    for _ in range(8):
        atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
        atoms.calc = EMT()
        names = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        copper.append(labelled(atoms, **names, stress=atoms.get_stress()))
    for _ in range(6):
        atoms = bulk("Si")
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, (2, 3))
        (found,) = StillingerWeber(SW, ["Si"]).predict([atoms])
        silicon.append(labelled(atoms, energy=found.energy, forces=found.forces, stress=found.stress))
    for _ in range(6):
        atoms = fcc111("Au", (1, 1, 2), vacuum=5.0, periodic=True) + Atoms("H", [[1.4, 0.8, 9.2]])
        shift = rng.normal(0, 0.1, (3, 3))
        atoms.positions += shift
        phi = float(rng.uniform(3.5, 5.5))
        atoms.info |= {"electrode_potential": phi, "excess_electrons": 0.1 * (phi - 4.4) + 0.02 * shift[2, 2]}
        electrode.append(
            labelled(atoms, energy=-8.0 + float(np.sum(shift**2)) + 0.3 * phi, forces=-2 * shift)
        )
    for _ in range(4):
        shift = rng.normal(0, 0.1, (3, 3))
        atoms = Atoms("OH2", np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0.1]]) + shift)
        water.append(labelled(atoms, energy=-14.0 + float(np.sum(shift**2)), forces=-2 * shift))
    for name, frames in {
        "alloy": [crystal, molecule],
        "copper": copper,
        "silicon": silicon,
        "electrode": electrode,
        "water": water,
    }.items():
        (WORK / "structures").mkdir(exist_ok=True)
        sf.write_frames(WORK / "structures" / f"{name}.xyz", frames)


def moment_network(species: tuple[str, ...] = ("Cu", "Au"), dtype: str = "float64") -> MomentNetwork:
    """Small network whose last layer is random, so that nothing vanishes."""
    network = MomentNetwork(
        species, cutoff=3.5, n_basis=2, n_channels=2, n_triple=1, hidden=(3,), dtype=dtype, seed=1
    )
    rng = np.random.default_rng(7)
    values = [
        jnp.asarray(rng.normal(-3, 1, network.offsets.shape)),
        jnp.asarray(0.1 * rng.normal(size=network.readout.shape), dtype),
        jnp.asarray(rng.normal(size=network.bias.shape), dtype),
    ]
    return eqx.tree_at(lambda p: (p.offsets, p.readout, p.bias), network, values)


def functions(symbols: tuple[str, ...], cutoff: Any) -> SymmetryFunctions:
    pairs = make_symmetry_functions(symbols, "G2", [0.5, 4.0])
    angles = make_symmetry_functions(symbols[:1], "G4", [0.005], zetas=[1.0], gammas=[1.0])
    lists = {symbol: pairs + (angles if i == 0 else []) for i, symbol in enumerate(symbols)}
    return SymmetryFunctions.from_lists(symbols, cutoff, lists)


def prepared(network: Any, structures: str) -> Any:
    """Network with ranges and offsets of the data and with every parameter moved."""
    frames = frames_of(structures)
    energies = [atoms.get_potential_energy() for atoms in frames]
    found = network.prepared(
        [network.neighborhood(atoms) for atoms in frames], energies, dict.fromkeys(network.species, -2.5)
    )
    vector = np.asarray(found.vector)
    return found.with_vector(jnp.asarray(vector + np.random.default_rng(2).normal(0, 0.3, vector.shape)))


def weighted(potential: Any) -> Any:
    """Linear potential with random coefficients."""
    rng = np.random.default_rng(4)
    values = (0.05 * rng.normal(size=potential.readout.shape), rng.normal(size=potential.bias.shape))
    return eqx.tree_at(lambda p: (p.readout, p.bias), potential, tuple(map(jnp.asarray, values)))


def dropout_network() -> DropoutNetwork:
    frames = frames_of("silicon.xyz")
    network = DropoutNetwork(behler_functions(["Si"], LISTS, 3.9), (4, 3), 0.2, seed=3, n_members=5)
    structures = [network.neighborhood(atoms) for atoms in frames]
    return network.prepared(structures, [atoms.get_potential_energy() for atoms in frames], {14: -4.0})


def charge_network() -> ChargeNetwork:
    descriptor = functions(("Au", "H"), Cosine(4.0))
    return prepared(
        ChargeNetwork(descriptor, [(3,), ()], [(2,), (2,)], slab_metal="Au", seed=1), "electrode.xyz"
    )


def potentials() -> dict[str, tuple[Any, str]]:
    alloy, silicon = ("Cu", "Au"), "silicon.xyz"
    r = np.linspace(0.0, 4.0, 9)
    lj = {"epsilon": [0.4, 0.3, 0.5], "sigma": [2.3, 2.4, 2.6], "cutoff": [4.0, 4.0, 3.8]}
    morse = {"epsilon": -0.5, "C": 1.4, "Rzero": 2.6, "cutoff": 4.0}
    tersoff = {"A": 1830.8, "B": 471.18, "lambda1": 2.4799, "lambda2": 1.7322, "beta": 1.1e-6, "n": 0.78734}
    tersoff |= {"lambda3": 0.0, "m": 3, "gamma": 1.0, "c": 100390.0, "d": 16.217, "h": -0.59825}
    tersoff |= {"Rc": 2.85, "Dc": 0.15}
    eam = {
        "embedding": -np.sqrt(np.linspace(0, 30, 9))[None],
        "density": ((4.0 - r) ** 3 / 8)[None],
        "pair": (r * 0.3 * (4.0 - r) ** 2)[None],
    }
    stillinger_weber = StillingerWeber(SW, ["Si"])
    water = frames_of("water.xyz")
    image = ImageNetwork(water[0], (3,), seed=1)
    image = eqx.tree_at(lambda p: (p.intercept, p.slope), image, (jnp.asarray(-3.0), jnp.asarray(1.7)))
    snap = Bispectrum((29, 79), 2, 3.8, (0.5, 0.46), (1.0, 0.8))
    zernike = Zernike(cutoff=3.5, nmax=2, elements=["Au", "Cu"]).for_elements(["Au", "Cu"])
    gaussian = functions(("Au", "Cu"), Polynomial(3.5, gamma=4.0))
    chimes = Chimes(settings_of(CHIMES))
    chimes = chimes.with_coefficients(np.random.default_rng(6).normal(size=chimes.n_features))
    slab = [(2,), (2,)]
    quadratic = QuadraticChargeNetwork(functions(("Au", "H"), Cosine(4.0)), slab, slab_metal="Au", seed=1)
    fixed = ChargeNetwork(
        functions(("Au", "H"), Cosine(4.0)), slab, slab, slab_metal="Au", scheme="amp",
        force_convention="amp-1.1", output_activation="activation", electrode_potential=4.4, seed=2,
    )  # fmt: skip
    return {
        "moment_network": (moment_network(), "alloy.xyz"),
        "moment_network_float32": (moment_network(dtype="float32"), "alloy.xyz"),
        "sum": (moment_network() + sf.ZBL(alloy, 1.0, 2.6), "alloy.xyz"),
        "atomic_network_gaussian": (AtomicNetwork(gaussian, [(3, 2), ()], seed=3), "alloy.xyz"),
        "atomic_network_zernike": (AtomicNetwork(zernike, [(2,), (3,)], "sigmoid", seed=3), "alloy.xyz"),
        "atomic_network_float32": (AtomicNetwork(gaussian, [(2,), (2,)], dtype="float32"), "alloy.xyz"),
        "charge_network": (charge_network(), "electrode.xyz"),
        "charge_network_amp": (prepared(fixed, "electrode.xyz"), "electrode.xyz"),
        "quadratic_charge_network": (prepared(quadratic, "electrode.xyz"), "electrode.xyz"),
        "image_network": (image, "water.xyz"),
        "dropout_network": (dropout_network(), silicon),
        "linearized": (Linearized(stillinger_weber.with_free([("A", 0), ("gamma", 0)])), silicon),
        "linearized_network": (
            Linearized(AtomicNetwork(gaussian, [(2,), ()], seed=5)),
            "alloy.xyz",
        ),
        "snap": (weighted(Snap(snap)), "alloy.xyz"),
        "snap_quadratic": (
            weighted(Snap(Bispectrum((14,), 2, 3.8, (0.5,), (1.0,)), quadratic=True)),
            silicon,
        ),
        "snap_sum": (weighted(Snap(snap)) + sf.ZBL(alloy, 1.0, 2.6), "alloy.xyz"),
        "chimes": (chimes, silicon),
        "eam": (EAM(eam, ["Cu"], dr=0.5, drho=3.75, reach=4.0), "copper.xyz"),
        "lennard_jones": (LennardJones(lj, alloy, shift=True), "alloy.xyz"),
        "morse": (Morse(morse, ["Cu"]).with_free([("C", 0)]), "copper.xyz"),
        "stillinger_weber": (stillinger_weber, silicon),
        "tersoff": (Tersoff(tersoff, ["Si"]), silicon),
        "zbl": (sf.ZBL(alloy, 1.0, 2.9), "alloy.xyz"),
    }


def write_potentials(expected: Expected) -> None:
    (WORK / "potentials").mkdir()
    for name, (potential, structures) in potentials().items():
        file = f"potentials/{name}.npz"
        sf.save_potential(WORK / file, potential)
        expected.predictions(file, structures, potential)


def write_uncertainties(expected: Expected) -> None:
    (WORK / "uncertainties").mkdir()
    copper, silicon, electrode = (frames_of(f"{name}.xyz") for name in ("copper", "silicon", "electrode"))
    maps = {"energy": "power", "forces": "isotonic", "stress": "conformal"}
    network = moment_network(("Cu",))
    everything = {"per_atom": True, "forces": True, "stress": True}
    cases = {
        "llpr": (LLPR.fit(network, copper[:4], copper[4:], progress=False), "copper.xyz", everything),
        "llpr_maps": (
            LLPR.fit(network, copper[:4], copper[4:], calibration_map=maps, progress=False),
            "copper.xyz",
            everything,
        ),
        "llpr_sum": (
            LLPR.fit(network + sf.ZBL(["Cu"], 1.0, 2.9), copper[:4], copper[4:], progress=False),
            "copper.xyz",
            everything,
        ),
        "llpr_float32": (
            LLPR.fit(moment_network(("Cu",), "float32"), copper[:4], copper[4:], progress=False),
            "copper.xyz",
            {"forces": True},
        ),
        "llpr_charges": (
            LLPR.fit(charge_network(), electrode[:4], electrode[4:], progress=False),
            "electrode.xyz",
            {"forces": True},
        ),
        "llpr_stillinger_weber": (
            LLPR.fit(StillingerWeber(SW | {"A": 14.0}, ["Si"]), silicon[:4], silicon[4:], progress=False),
            "silicon.xyz",
            everything,
        ),
        "dropout_ensemble": (
            DropoutEnsemble.fit(dropout_network(), silicon[4:], M=5, seed=1),
            "silicon.xyz",
            everything,
        ),
        "dropout_ensemble_sum": (
            DropoutEnsemble.fit(dropout_network() + sf.ZBL(["Si"], 1.0, 2.9), silicon[4:], M=4, seed=2),
            "silicon.xyz",
            everything,
        ),
    }
    for name, (sure, structures, options) in cases.items():
        file = f"uncertainties/{name}.npz"
        sure.save(WORK / file)
        expected.predictions(file, structures, sure, **options)
    expected.entries["statistics"] = dict(cases["llpr"][0].statistics)


def set_up(model: Any, descriptor: Any, structures: str) -> Amp:
    """Calculator whose model has start weights."""
    model.fit(frames_of(structures), descriptor, only_setup=True)
    model.status = "maxiter"
    return Amp(descriptor, model, logging=False)


def write_models(expected: Expected) -> None:
    (WORK / "models").mkdir()
    gaussian = [{"type": "G2", "element": "Cu", "eta": eta} for eta in (0.5, 4.0)]
    gaussian.append({"type": "G4", "elements": ["Cu", "Cu"], "eta": 0.01, "gamma": 1.0, "zeta": 2.0})
    surface = {"hiddenlayers": (3,), "charge_hiddenlayers": (2,), "slab_metal": "Au", "randomseed": 1}
    pairs = [{"type": "G2", "element": s, "eta": eta} for s in ("Au", "H") for eta in (0.5, 4.0)]
    cases = {
        "gaussian": (NeuralNetwork((3, 2), randomseed=1), Gaussian(3.6, Gs={"Cu": gaussian}), "copper.xyz"),
        "zernike": (
            NeuralNetwork((2,), "sigmoid", randomseed=2, output_activation="activation", prescale=True),
            Zernike(cutoff=3.6, nmax=2),
            "copper.xyz",
        ),
        "image_centred": (NeuralNetwork((3,), randomseed=3), None, "water.xyz"),
        "charges": (
            ChargeNeuralNetwork(**surface),
            Gaussian(4.0, Gs={"Au": pairs, "H": pairs}),
            "electrode.xyz",
        ),
    }
    expected.entries["models"] = {}
    for name, (model, descriptor, structures) in cases.items():
        calc = set_up(model, descriptor or Amp(None, model).descriptor, structures)
        calc.save(WORK / "models" / name)
        (WORK / "models" / f"{name}.json").write_text(model.tostring(), "utf-8")
        expected.predictions(f"models/{name}", structures, model)
        expected.arrays[f"models/{name}|vector"] = model.vector
        entry = {"model": type(model).__name__, "descriptor": type(calc.descriptor).__name__}
        settings = {key: model.parameters[key] for key in ("randomseed", "checkpoints", "fortran")}
        expected.entries["models"][name] = entry | {"status": model.status, "settings": settings}


def stopped_after(owner: type, count: int, run: Any) -> None:
    """Call `run` and stop it right after the file was saved `count` times."""
    save, saved = owner.save, []

    def counted(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        saved.append(None)
        if len(saved) == count:
            raise Stop

    owner.save = counted
    try:
        run()
    except Stop:
        return
    finally:
        owner.save = save
    raise AssertionError("the training ended before it was stopped")


def write_training(expected: Expected) -> None:
    """`train` of a network and of a sum, stopped within the third epoch."""
    copper = frames_of("copper.xyz")
    for name, start in {
        "network": moment_network(("Cu",)),
        "sum": moment_network(("Cu",)) + sf.ZBL(["Cu"], 1.0, 2.4),
        "atomic": prepared(AtomicNetwork(functions(("Cu",), Cosine(3.6)), [(3,)], seed=4), "copper.xyz"),
    }.items():
        folder = WORK / "training" / name
        folder.mkdir(parents=True)
        sf.save_potential(folder / "untrained.npz", start)
        whole = sf.train(start, copper, 0.25, folder=WORK / "whole" / name, **TRAINING)
        stopped_after(_Store, 7, lambda: sf.train(start, copper, 0.25, folder=folder / "run", **TRAINING))  # noqa: B023
        sf.save_potential(folder / "trained.npz", whole.potential)
        expected.predictions(f"training/{name}/trained.npz", "copper.xyz", whole.potential)
        expected.arrays[f"training/{name}|loss"] = np.array([row["loss"] for row in whole.history])


def full_batch(label: Path, optimizer: str, settings: dict[str, Any], observer: Any = None) -> Amp:
    gaussian = [{"type": "G2", "element": "Cu", "eta": eta} for eta in (0.5, 4.0)]
    loss = LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=20)
    model = NeuralNetwork(
        (3,), randomseed=1, checkpoints=4, lossfunction=loss, regressor=Regressor(optimizer, settings)
    )
    model.observer = observer
    return Amp(
        Gaussian(3.6, Gs={"Cu": gaussian}), model, label=str(label), logging=False, raise_unconverged=False
    )


def write_regressor(expected: Expected) -> None:
    copper = frames_of("copper.xyz")
    expected.entries["full_batch"] = {}
    (WORK / "full_batch").mkdir()
    (WORK / "whole" / "full_batch").mkdir(parents=True)
    for name, settings in {"BFGS": {}, "adam": {"learning_rate": 0.02}}.items():
        losses: list[float] = []
        whole = full_batch(
            WORK / "whole" / "full_batch" / name,
            name,
            settings,
            lambda _, __, loss: losses.append(loss),  # noqa: B023
        )
        whole.train(copper)
        part = full_batch(WORK / "full_batch" / name, name, settings)
        stopped_after(Checkpoints, 2, lambda: part.train(copper))  # noqa: B023
        expected.arrays[f"full_batch/{name}|vector"] = whole.model.vector
        expected.arrays[f"full_batch/{name}|losses"] = np.array(losses)
        expected.entries["full_batch"][name] = {"settings": settings, "status": whole.model.status}


def write_trainers(expected: Expected) -> None:
    folder = WORK / "trainers"
    folder.mkdir()
    os.chdir(folder)
    silicon = frames_of("silicon.xyz")[:4]
    (folder / "storage").mkdir()
    sf.write_frames(folder / "storage" / "silicon.xyz", silicon)
    storage = open_storage(folder / "storage")
    flow = {"workflow_type": "LOCAL", "workflow_args": {"root": str(folder / "trainer")}}
    registry = folder / "registry"
    snap = FitSnapPotential(["Si"], settings_path=SNAP)
    kim = KIMPotential(SW_MODEL)
    kim.set_params({"A": [[0], [13.0]]})
    chimes = ChIMESPotential(["Si"], settings_path=CHIMES)
    weights = [np.linspace(0.5, 1.5, 2)] * 4
    cases = {
        "FitSnapTrainer": (FitSnapTrainer(), snap, "silicon.xyz"),
        "ParametricModelTrainer": (
            ParametricModelTrainer(SW_MODEL, ["A", "lambda"], max_evals=6, manifest=MANIFEST),
            kim,
            "silicon.xyz",
        ),
        "ChIMESTrainer": (ChIMESTrainer(algorithm="ridge", keep_rows=False), chimes, "silicon.xyz"),
    }
    expected.entries["trainers"] = {}
    for name, (trainer, handle, structures) in cases.items():
        options = {"per_atom_weights": _atom_weights(silicon, weights)} if name == "FitSnapTrainer" else {}
        split = {} if name == "ParametricModelTrainer" else {"training_split": 0.67}
        job = trainer.submit_train(
            "silicon", handle, storage, "silicon_0", flow, None, 1.0, 0.5, 2.0,
            seed=3, registry=registry, **options, **split,
        )  # fmt: skip
        result = trainer.load_from_submitted_training(job, handle, flow)
        potential = result.path / "potential"
        expected.predictions(
            f"{potential.relative_to(WORK)}/potential.npz", structures, result.potential.model
        )
        expected.entries["trainers"][name] = {
            "job": job,
            "folder": str(result.path.relative_to(WORK)),
            "success": result.success,
            "message": result.message,
            "loss": result.loss,
            "errors": result.errors.records(),
            "split": result.split,
            "kim_id": result.kim_id,
            "history": len(result.history),
            "rows": result.rows,
            "seed": result.seed,
            "n_evals": result.n_evals,
        }
    fresh = FitSnapPotential(["Si"], settings_path=SNAP)
    script = FitSnapTrainer().train(
        "script", fresh, storage, "silicon_0", flow, registry=registry, register=False
    )
    expected.entries["script"] = str(script.path.relative_to(WORK))
    expected.predictions(
        f"{script.path.relative_to(WORK)}/potential/potential.npz", "silicon.xyz", script.potential.model,
    )  # fmt: skip
    write_dunn(expected, storage)
    os.chdir(WORK)


MANIFEST = {
    "training": {"log_per_atom_pred": True, "training_dataset": {"train_size": 3}},
    "export": {"model_path": "kim", "model_name": "Silicon_model", "generate_tarball": True},
}


def _atom_weights(frames: list[Atoms], weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    stored = open_storage(WORK / "trainers" / "storage").get_data("silicon_0")
    return {atoms.info["configuration_id"]: w for atoms, w in zip(stored, weights, strict=True)}


def write_dunn(expected: Expected, storage: Storage) -> None:
    """Two jobs of a network, stopped after their second epoch, with both kinds of force-error logs."""
    logs = {"errors": True, "histogram": {"histogram_edges": [0.0, 0.1, 0.5, 1.0, 10.0], "every": 1}}
    expected.entries["dunn"] = []
    for name, log in logs.items():
        trainer = DUNNTrainer(
            epochs=4, batch_size=2, learning_rate=1e-2, training_split=0.67, log_per_atom_pred=log,
            optimizer="Adam" if name == "errors" else "SGD",
        )  # fmt: skip
        handle = KliffBPPotential(["Si"], **DUNN)
        handle, inputs = trainer._prepare(handle, storage, "silicon_0", False)
        call = trainer._call(
            name, 1.0, 0.5, 2.0, False, None, None, 3, None, WORK / "trainers" / "registry", False
        )
        whole, folder = WORK / "whole" / "dunn" / name, WORK / "trainers" / "dunn" / name
        for place in (whole, folder):
            place.mkdir(parents=True)
            write_inputs(place, trainer, handle, inputs, call)
        execute(*read_inputs(whole), whole)
        stopped_after(Checkpoint, 2, lambda: execute(*read_inputs(folder), folder))  # noqa: B023
        model = sf.load_potential(whole / "potential" / "potential.npz")
        (folder / "reached").mkdir()
        # The files for KIM once only.
        for path in (whole / "potential").glob("*" if name == "errors" else "*.npz"):
            shutil.copy(path, folder / "reached" / path.name)
        file = f"{folder.relative_to(WORK)}/reached/potential.npz"
        expected.predictions(file, "silicon.xyz", model)
        expected.entries["dunn"].append(name)
        for path in sorted((whole / "force_errors").glob("*.npy")):
            expected.arrays[f"dunn/{name}|{path.stem}"] = np.load(path)
        rows = json.loads((whole / "history.json").read_text())
        expected.arrays[f"dunn/{name}|loss"] = np.array([row["loss"] for row in rows])


def write_exports(expected: Expected) -> None:
    """Files for other programs that this package reads as well."""
    folder = WORK / "exports"
    folder.mkdir()
    found = potentials()
    found["eam"][0].write(folder / "cu.eam.alloy")
    write_params(folder / "params.txt", found["chimes"][0])
    read = {
        "eam": EAM.read(folder / "cu.eam.alloy"),
        "chimes": ChIMESPotential(["Si"], None, folder / "params.txt").model,
    }
    expected.predictions("exports/cu.eam.alloy", "copper.xyz", read["eam"])
    expected.predictions("exports/params.txt", "silicon.xyz", read["chimes"])


def write_storages(expected: Expected) -> None:
    copper = frames_of("copper.xyz")
    folder = WORK / "storage" / "folder"
    folder.mkdir(parents=True)
    shutil.copy(WORK / "structures" / "copper.xyz", folder / "copper.xyz")
    local = LocalStorage(WORK / "storage" / "local")
    local.new_dataset("copper", copper[:4], {"temperature": 300.0})
    local.add_data("copper", copper[4:], {"note": "more of them"})
    local.new_dataset("water", frames_of("water.xyz")[:2])
    with sqlite3.connect(WORK / "storage" / "local" / "datasets.db") as database:
        # The same content in smaller pages: a quarter of the file.
        database.execute("PRAGMA page_size = 512")
    database.execute("VACUUM")
    database.close()
    expected.entries["storages"] = {}
    for name in ("folder", "local"):
        storage = open_storage(WORK / "storage" / name)
        entries = {}
        for dataset in storage.list_data():
            frames = storage.get_data(dataset.handle)
            entries[dataset.handle] = {
                "size": dataset.size,
                "hash": dataset.hash,
                "parent": dataset.parent,
                "metadata": dict(dataset.metadata),
                "ids": [atoms.info["configuration_id"] for atoms in frames],
                "energies": [atoms.get_potential_energy() for atoms in frames],
            }
        expected.entries["storages"][name] = entries


def write_registry(expected: Expected) -> None:
    registry = PotentialRegistry(WORK / "registry")
    note = WORK / "note.txt"
    note.write_text("attached\n", "utf-8")
    network = moment_network(("Cu",))
    moved = eqx.tree_at(lambda p: p.bias, network, network.bias + 1)
    first = registry.save(network, prefix="Copper", manifest={"seed": 1, "loss": 1 / 3}, files=[note])
    second = registry.save(moved, prefix="Copper", parent=first)
    third = registry.save(moved + sf.ZBL(["Cu"]), prefix="Fork", parent=second, fork=True)
    note.unlink()
    expected.entries["registry"] = {}
    for kim_id in (first, second, third):
        potential, manifest = registry.load(kim_id)
        line = next(p for p in registry.list_potentials() if p.kim_id == kim_id)
        expected.entries["registry"][kim_id] = {
            "kind": line.kind,
            "parents": registry.parents(kim_id),
            "seed": manifest.get("seed"),
            "loss": manifest.get("loss"),
            "files": sorted(manifest["files"]),
        }
        expected.predictions(f"registry|{kim_id}", "copper.xyz", potential, 1)


def write_fingerprints(expected: Expected) -> None:
    copper = frames_of("copper.xyz")[:2]
    gaussian = [{"type": "G2", "element": "Cu", "eta": eta} for eta in (0.5, 4.0)]
    label = WORK / "fingerprints"
    descriptor = Gaussian(3.6, Gs={"Cu": gaussian}, dblabel=str(label))
    descriptor.calculate_fingerprints(copper, calculate_derivatives=True)
    for key in hash_images(copper):
        rows = descriptor.fingerprints[key]
        expected.arrays[f"fingerprints|{key}"] = np.array([values for _, values in rows])
        primes = descriptor.fingerprintprimes[key]
        expected.arrays[f"fingerprintprimes|{key}"] = np.array([primes[place] for place in sorted(primes)])


def write_selection(expected: Expected) -> None:
    rng = np.random.default_rng(1)
    folder = WORK / "selection"
    folder.mkdir()
    pool, train = rng.normal(size=(9, 4)), rng.normal(size=(2, 4))
    found = select_rows("max_dist", pool, train, 3, seed=1)
    found.save(folder / "selection.npz")
    expected.entries["selection"] = {
        "picks": list(found),
        "gains": found.gains,
        "squared_distances": found.squared_distances,
        "reasons": [[r.rule, r.value, r.score, r.score_value] for r in found.reasons],
        "notes": list(found.notes),
        "n_requested": found.n_requested,
        "stopped": found.stopped,
        "config": dict(found.config),
    }
    covariance = RowCovariance(4, "small")
    covariance.add(pool, "energy", residuals=rng.normal(size=9))
    covariance.add(train, "forces", residuals=np.array([0.1, np.nan]))
    covariance.save(folder / "covariance.npz")
    read = RowCovariance.load(folder / "covariance.npz")
    weights = {"energy": 2.0, "forces": 0.5}
    expected.arrays["covariance|combined"] = read.combined(weights)
    expected.entries["covariance"] = {
        "weights": weights,
        "n_rows": read.n_rows,
        "sum_squared_residuals": read.sum_squared_residuals,
        "masked": read.masked,
    }


def write_command_line(expected: Expected) -> None:
    folder = WORK / "command_line"
    folder.mkdir()
    os.chdir(folder)
    copper = frames_of("copper.xyz")
    rng = np.random.default_rng(9)
    more = []
    for atoms in [*copper, *copper[:6]]:
        moved = Atoms(atoms.numbers, atoms.positions + rng.normal(0, 0.05, (2, 3)), cell=atoms.cell, pbc=True)
        moved.calc = EMT()
        more.append(labelled(moved, energy=moved.get_potential_energy(), forces=moved.get_forces()))
    sf.write_frames(folder / "train.xyz", more)
    sf.write_frames(folder / "test.xyz", copper[:3])
    config = {
        "name": "copper",
        "data": {"train": "train.xyz", "test": "test.xyz", "pool": "test.xyz", "validation": 0.25},
        "potential": {"cutoff": 3.5, "n_basis": 2, "n_channels": 2, "n_triple": 1, "hidden": [3]},
        "training": {"epochs": 2},
        "selection": {"method": "lcmd", "n": 2},
        "loop": {"methods": ["max_dist"], "seeds": [0], "n_initial": 6, "n_per_round": 2, "n_rounds": 1},
    }
    (folder / "copper.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    expected.entries["command_line"] = {}
    for verb in ("doctor", "train", "eval", "uq", "select", "loop"):
        report = run_verb(verb, Path("copper.yaml"), [], dry_run=False, overwrite=False)
        assert report is not None
        report.unlink()  # larger than everything else, and written anew from the rest
        run = load_run(report.parent)
        expected.entries["command_line"][verb] = {
            "verb": run.verb,
            "summary": dict(run.summary),
            "picks": [[pick.method, pick.round, pick.index, pick.reason] for pick in run.picks],
            "labels": {curve.method: curve.n_labels for curve in run.curves},
            "finished": [curve.finished for curve in run.curves],
            "predictions": sorted(run.predictions),
            "metrics": {name: len(values) for name, values in run.metrics.items()},
            "doctor": len(run.doctor.get("findings", ())),
            "notes": list(run.notes),
        }
        for curve in run.curves:
            for name, values in curve.test.items():
                expected.arrays[f"command_line/{verb}|{curve.method}|{name}"] = values
    os.chdir(WORK)


def clean() -> None:
    """Take what belongs to this machine out of the texts; hashes of a registry cover its own."""
    for path in list(WORK.rglob("*")):
        if path.name in ("run.log", "log.txt"):
            path.unlink()
            continue
        if not path.is_file() or path.suffix not in TEXTS or "registry" in path.parts:
            continue
        text = path.read_text("utf-8")
        text = text.replace(sys.executable, "python")
        if "jobs" in path.parts:
            text = text.replace(json.dumps(socket.gethostname()), '"localhost"')
        if path.name == "versions.json":
            text = json.dumps(json.loads(text) | {"platform": "Linux"}, indent=2) + "\n"
        path.write_text(text, "utf-8")
        if path.name == "training_script.py":
            # Not source code of this project, which tools would format and rewrite.
            path.rename(path.with_suffix(".py.txt"))


def main(out: Path) -> None:
    """Write everything at one neutral place, then move it to `out`."""
    out = out.absolute()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.chdir(WORK)
    expected = Expected()
    warnings.simplefilter("ignore", TrainingWarning)
    warnings.simplefilter("ignore", UserWarning)
    write_structures()
    for write in (
        write_potentials,
        write_uncertainties,
        write_models,
        write_training,
        write_regressor,
        write_storages,
        write_registry,
        write_fingerprints,
        write_selection,
        write_exports,
        write_trainers,
        write_command_line,
    ):
        print(write.__name__, flush=True)
        write(expected)
    expected.save()
    shutil.rmtree(WORK / "whole")
    clean()
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(WORK, out)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
