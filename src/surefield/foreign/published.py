"""Foundation models of other packages as potentials; each package is imported where its model is made.

CHGNet: Deng et al., Nat. Mach. Intell. 5, 1031 (2023). SevenNet: Park et al., J. Chem. Theory Comput. 20,
4857 (2024). MACE: Batatia et al., NeurIPS 2022. Nequix: Koker et al., arXiv:2508.16067 (2025).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from jaxtyping import Array, Float

from surefield.errors import ConfigError, PotentialError
from surefield.foreign.jax_potential import EdgeList, JaxPotential
from surefield.foreign.torch_potential import TorchPotential
from surefield.potentials.config import ForeignConfig
from surefield.potentials.potential import Potential

__all__ = ["chgnet", "configured", "mace", "nequix", "nequix_of", "sevennet"]

_NEQUIX: Final = (
    "pip install --no-deps nequix==0.4.5 && pip install e3nn-jax==0.21.0 jraph cloudpickle h5py matscipy"
)
#: Of a Nequix model: what its constructor takes from the first line of a file.
_NEQUIX_SETTINGS: Final = (
    "hidden_irreps", "lmax", "cutoff", "n_layers", "radial_basis_size", "radial_mlp_size",
    "radial_mlp_layers", "radial_polynomial_p", "mlp_init_scale", "index_weights", "layer_norm", "shift",
    "scale", "avg_n_neighbors", "atomic_numbers",
)  # fmt: skip


def _package(module: str, install: str) -> Any:
    try:
        # Not among the core's dependencies, so that no type checker may count on them.
        return importlib.import_module(module)
    except ImportError as error:
        raise PotentialError(f"{module.split('.')[0]} is missing ({error}): {install}") from error


def configured(settings: ForeignConfig) -> Potential:
    """The model that a run configuration names; the errors are those of its function."""
    if settings.file is not None:
        return nequix(settings.file)
    variant = () if settings.variant is None else (settings.variant,)
    return {"chgnet": chgnet, "sevennet": sevennet}[settings.model](*variant)


def chgnet(version: str = "0.3.0") -> TorchPotential:
    """CHGNet with the weights of its wheel: 94 elements, 64 last-layer weights, periodic cells only.

    Args:
        version: "0.3.0", or "r2scan".

    Raises:
        PotentialError: the package is missing.
        ConfigError: no such version.
    """
    install = "pip install 'surefield[torch]' (or pip install torch, then chgnet)"
    model_module = _package("chgnet.model.model", install)
    structures = importlib.import_module("pymatgen.core.structure")
    try:
        model = model_module.CHGNet.load(model_name=version, use_device="cpu", verbose=False)
    except ValueError as error:
        raise ConfigError(f"CHGNet has no version {version!r}", expected="0.3.0 or r2scan") from error
    model.graph_converter.set_isolated_atom_response("ignore")
    torch = importlib.import_module("torch")

    def energy(numbers: np.ndarray, positions: Any, cell: Any) -> Any:
        lattice = cell.detach().double().numpy()
        where = positions.detach().double().numpy()
        structure = structures.Structure(lattice, numbers.tolist(), where, coords_are_cartesian=True)
        graph = model.graph_converter(structure)
        graph.lattice, graph.atom_frac_coord = cell, positions @ torch.linalg.inv(cell)
        return len(numbers) * model([graph], task="e")["e"]

    return TorchPotential(
        model,
        energy,
        range(1, 95),
        cutoff=float(model.graph_converter.atom_graph_cutoff),
        layer="mlp.layers.7",
        molecules=False,
        probe=_probe(),
        name="chgnet",
        settings={"version": version},
    )


def sevennet(checkpoint: str = "7net-0") -> TorchPotential:
    """SevenNet with the weights of its wheel: 89 elements, 64 last-layer weights.

    Args:
        checkpoint: "7net-0" or "7net-l3i5".

    Raises:
        PotentialError: the package is missing.
    """
    install = "pip install sevenn==0.13.0 (after torch)"
    util = _package("sevenn.util", install)
    build_graph = importlib.import_module("sevenn.train.dataload").unlabeled_atoms_to_graph
    data_type = importlib.import_module("sevenn.atom_graph_data").AtomGraphData
    model = util.load_checkpoint(checkpoint).build_model()
    model.set_is_batch_data(False)
    # It would differentiate once and free what second derivatives need.
    model.delete_module_by_key("force_output")
    cutoff = float(model.cutoff)

    def energy(numbers: np.ndarray, positions: Any, cell: Any) -> Any:
        atoms = Atoms(numbers, positions.detach().double().numpy())
        if cell is not None:
            atoms.set_cell(cell.detach().double().numpy())
            atoms.pbc = True
        data = data_type.from_numpy_dict(build_graph(atoms, cutoff, with_shift=True))
        first, second = data["edge_index"]
        vectors = positions[second] - positions[first]
        if cell is not None:
            vectors = vectors + data["pbc_shift"].to(vectors.dtype) @ cell
        data["pos"], data["edge_vec"] = positions, vectors
        return model(data)["inferred_total_energy"]

    return TorchPotential(
        model,
        energy,
        sorted(model.type_map),
        cutoff=cutoff,
        layer="reduce_hidden_to_energy.linear",
        probe=_probe(),
        name="sevennet",
        settings={"checkpoint": checkpoint},
    )


def mace(
    model: Any, layer: str | Sequence[str] = "auto", name: str | None = None, **settings: Any
) -> TorchPotential:
    """A MACE model, such as `torch.load` or a training gives; its last readout is the last layer.

    Args:
        model: `mace.modules.MACE` or `ScaleShiftMACE`.
        layer: "auto": the linear module of the last readout.
        name: see `TorchPotential`.
        settings: likewise.

    Raises:
        PotentialError: the package is missing.
    """
    install = "pip install mace-torch (after torch)"
    data = _package("mace.data", install)
    torch = importlib.import_module("torch")
    numbers_known = [int(z) for z in model.atomic_numbers]
    table = importlib.import_module("mace.tools").AtomicNumberTable(numbers_known)
    cutoff = float(model.r_max)
    if layer == "auto":
        last = [n for n, m in model.named_modules() if n.startswith("readouts.") and hasattr(m, "weight")]
        layer = last[-1]

    def energy(numbers: np.ndarray, positions: Any, cell: Any) -> Any:
        atoms = Atoms(numbers, positions.detach().double().numpy())
        if cell is not None:
            atoms.set_cell(cell.detach().double().numpy())
            atoms.pbc = True
        graph = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=cutoff)
        # One structure without a batch: a head, an energy and so on of a batch have an axis more.
        used = ("edge_index", "unit_shifts", "shifts", "node_attrs", "cell")
        entries = {key: value for key, value in graph.to_dict().items() if key in used}
        entries["node_attrs"] = entries["node_attrs"].to(positions.dtype)
        entries["batch"] = torch.zeros(len(numbers), dtype=torch.long)
        entries["ptr"] = torch.tensor([0, len(numbers)])
        entries["positions"] = positions
        if cell is not None:
            entries["cell"] = cell
            entries["shifts"] = entries["unit_shifts"].to(cell.dtype) @ cell
        else:
            entries["cell"] = entries["cell"].to(positions.dtype)
            entries["shifts"] = entries["shifts"].to(positions.dtype)
        return model(entries, compute_force=False)["energy"]

    return TorchPotential(model, energy, numbers_known, cutoff, layer=layer, name=name, settings=settings)


def _probe() -> Atoms:
    """A structure that every model of materials has seen."""
    return bulk("Si", cubic=True)


def nequix(path: str | Path) -> JaxPotential:
    """Nequix with the weights of a file (.nqx): 89 elements, 128 last-layer weights.

    Args:
        path: such as that of nequix-mp-1.nqx.

    Raises:
        PotentialError: a package is missing, or the file is no Nequix model.
    """
    path = Path(path)
    if not path.is_file():
        raise PotentialError(f"there is no Nequix model at {path.resolve()}")
    with open(path, "rb") as file:
        try:
            header = json.loads(file.readline())
            settings = {name: header[name] for name in _NEQUIX_SETTINGS}
        except (ValueError, KeyError) as error:
            raise PotentialError(f"{path} is no Nequix model: {error}") from None
        # Its arrays are float32; with 64-bit types on, the shapes to read would not be.
        with jax.enable_x64(False):
            shape = eqx.filter_eval_shape(lambda: _nequix_model(settings))
            model = eqx.tree_deserialise_leaves(file, shape)
    return _nequix_potential(model, settings)


def nequix_of(**settings: Any) -> JaxPotential:
    """A Nequix model of this shape whose weights are ones: those of a file follow."""
    with jax.enable_x64(False):
        shape = eqx.filter_eval_shape(lambda: _nequix_model(settings))
        model = jax.tree.map(
            lambda x: jnp.full(x.shape, 0.1, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x, shape
        )
    return _nequix_potential(model, settings)


def _nequix_model(settings: Mapping[str, Any]) -> Any:
    arguments = {name: value for name, value in settings.items() if name != "atomic_numbers"}
    model_class = _package("nequix.model", _NEQUIX).Nequix
    return model_class(key=jax.random.key(0), n_species=len(settings["atomic_numbers"]), **arguments)


def _nequix_potential(model: Any, settings: Mapping[str, Any]) -> JaxPotential:
    parameters, fixed = eqx.partition(model, eqx.is_inexact_array)
    numbers = sorted(settings["atomic_numbers"])
    places = np.zeros(119, np.int32)
    places[numbers] = np.arange(len(numbers))

    def energy(inputs: EdgeList, arrays: Any) -> Float[Array, " n_atoms"]:
        whole = eqx.combine(arrays, fixed)
        species = jnp.asarray(places)[inputs.numbers]
        vectors = inputs.vectors.astype(whole.atom_energies.dtype)
        # Its constants take the usual type: with 64-bit types on, all would be of double precision.
        with jax.enable_x64(False):
            return whole.node_energies(vectors, species, inputs.senders, inputs.receivers)[:, 0]

    [layer] = [
        name
        for place, _ in jax.tree_util.tree_leaves_with_path(parameters)
        if (name := jax.tree_util.keystr(place, simple=True, separator=".")).startswith("readout.")
    ]
    return JaxPotential(
        energy, parameters, layer, numbers, settings["cutoff"], name="nequix", settings=settings
    )
