"""Any torch model with a linear last layer as a potential: torch computes, the last layer is ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import DataError, PotentialError
from surefield.execution.callback import call_outside
from surefield.foreign.known import known_model
from surefield.foreign.torch_last_layer import TorchEnergy, TorchModel, weights_hash
from surefield.potentials.abilities import ClosedForm, ClosedRows, Restricted, Saved, SharedFeatures
from surefield.potentials.evaluate import species_numbers
from surefield.potentials.potential import LastLayerPotential
from surefield.structures.bond_slopes import bond_slopes
from surefield.structures.graph import Graph
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import row_slices

__all__ = ["TorchPotential"]


class TorchPotential(LastLayerPotential, Saved, Restricted, ClosedForm, SharedFeatures):
    """A torch model of another package: E = E_model + sum_i f_i · (w - w0), its own energy where w = w0.

    f_i are features of the atoms, see `TorchModel`, w the weights of the last layer, w0 those that the model
    came with. All before the last layer stays as it is: `train` finds element offsets and solves for w.

    Args:
        model: any `torch.nn.Module`; it is not changed.
        energy: runs it on a structure; see `TorchEnergy`.
        species: chemical symbols or atomic numbers that it knows.
        cutoff: range of its edges, Å; atoms that no path of such edges joins exert no forces on each other.
        layer: name of the last linear layer, or of several; "auto": the last one with one output.
        calls: "once", or "concat" where the layer is called several times in a pass.
        molecules: whether it serves structures without a cell.
        probe: small structure on which the layer is looked up and checked; default: a pair of atoms.
        name: under which `register_model` knows what makes it; None: it cannot be saved.
        settings: what that is given.

    Raises:
        PotentialError: torch is missing, no such layer, or the energy is not linear in it.
    """

    KIND: ClassVar[str] = "torch_potential"
    pretrained: ClassVar[bool] = True
    #: Everything but the last layer.
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "reference")
    one_block: ClassVar[bool] = True
    cheap_rows: ClassVar[bool] = False

    engine: TorchModel = eqx.field(static=True)
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    molecules: bool = eqx.field(static=True)
    name: str | None = eqx.field(static=True)
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    reference: Float[Array, " n_features"]
    offsets: Float[Array, " n_species"]
    readout: Float[Array, "1 n_features"]
    bias: Float[Array, " 1"]

    def __init__(
        self,
        model: Any,
        energy: TorchEnergy,
        species: Sequence[str | int],
        cutoff: float,
        *,
        layer: str | Sequence[str] = "auto",
        calls: Literal["once", "concat"] = "once",
        molecules: bool = True,
        probe: Atoms | None = None,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine = TorchModel(model, energy, layer, calls)
        self.species, self.cutoff = species_numbers(species), float(cutoff)
        self.molecules, self.name = molecules, name
        self.settings = tuple((settings or {}).items())
        if probe is None:
            width = 2.5 * self.cutoff
            pair = [[0, 0, 0], [0, 0, max(0.45 * self.cutoff, self.min_distance)]]
            probe = Atoms([self.species[-1]] * 2, pair, cell=[width] * 3, pbc=not molecules)
        cell = probe.cell.array if probe.pbc.all() else None
        self.reference = jnp.asarray(self.engine.probe(probe.numbers, probe.positions, cell))
        self.offsets = jnp.zeros(len(self.species), jnp.float64)
        self.readout = self.reference[None]
        self.bias = jnp.zeros(1, jnp.float64)

    def arguments(self) -> dict[str, Any]:
        """Name, settings and hash of the model, which is not in the file."""
        if self.name is None:
            raise PotentialError(
                "a torch model without a name cannot be saved",
                fix="give it one, TorchPotential(..., name='mine'), and register_model('mine', make)",
            )
        digest = weights_hash(self.engine.model)
        return {"model": self.name, "settings": dict(self.settings), "hash": digest}

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """The model by its name, if its weights are those of the file."""
        potential = known_model(arguments["model"], arguments["settings"])
        if not isinstance(potential, cls):
            raise PotentialError(f"the model {arguments['model']!r} is a {type(potential).__name__} here")
        digest = weights_hash(potential.engine.model)
        if digest != arguments["hash"]:
            raise PotentialError(
                f"the weights of {arguments['model']!r} are not those that the file was made with",
                got=f"hash {digest}",
                expected=arguments["hash"],
                fix="install the version of its package that it was made with",
            )
        return potential

    def check_served(self, atoms: Atoms, where: object) -> None:
        """Refuse structures that the model cannot serve: of one or two periodic directions, or of none."""
        if atoms.pbc.all() or (self.molecules and not atoms.pbc.any()):
            return
        kinds = f"{'molecules and ' if self.molecules else ''}cells with three periodic directions"
        raise DataError(
            f"this model serves {kinds}",
            where=where,
            got=f"pbc {atoms.pbc.tolist()}",
            fix="make the cell periodic, with vacuum",
        )

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV; what the last layer does not give is shared by all in equal parts."""
        return self.energies_and_features(graph)[0]

    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """Both from one pass of the model."""
        energies, features = self._passed(graph)
        given = jax.ops.segment_sum(features @ self.reference, graph.structure, graph.n_structures)
        share = (energies - given) / jnp.maximum(graph.n_atoms, 1)
        of_atoms = features @ self.readout[0] + self.bias[0] + share[graph.structure]
        return jnp.where(graph.atom_mask, of_atoms, 0.0), features

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_features"]:
        """Features of each atom."""
        return self._passed(graph)[1]

    def rows_of(
        self, structures: Iterable[Neighborhood], *, forces: bool, strain: bool
    ) -> Iterator[ClosedRows]:
        """Rows of each structure, computed by torch."""
        for s in structures:
            periodic = strain and s.periodic
            cell = s.cell if s.periodic else None
            rows = self.engine.rows(s.numbers, s.positions, cell, derivatives=forces or periodic)
            yield ClosedRows(rows.energy, rows.forces if forces else None, rows.virial if periodic else None)

    def _passed(self, graph: Graph) -> tuple[Array, Array]:
        names = ("numbers", "positions", "neighbors", "mask", "cell", "periodic", "n_atoms")
        geometry = {name: jnp.asarray(getattr(graph, name)) for name in names}
        return _evaluated((self.engine, len(self.reference)), jnp.asarray(graph.vectors), geometry)


Structures = Iterator[tuple[int, slice, tuple[np.ndarray, np.ndarray, np.ndarray | None]]]


def _structures(g: Mapping[str, np.ndarray]) -> Structures:
    """Index, rows, and numbers, positions and cell of every structure of a batch."""
    for index, rows in enumerate(row_slices(g["n_atoms"].tolist())):
        if rows.start != rows.stop:
            cell = g["cell"][index] if g["periodic"][index] else None
            yield index, rows, (g["numbers"][rows], g["positions"][rows], cell)


def _arrays(geometry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in geometry.items()}


def _energies_and_features(model: tuple[TorchModel, int], geometry: Any) -> tuple[np.ndarray, np.ndarray]:
    engine, width = model
    g = _arrays(geometry)
    energies, features = np.zeros(len(g["n_atoms"])), np.zeros((len(g["numbers"]), width))
    for index, rows, structure in _structures(g):
        energies[index], features[rows] = engine.evaluate(*structure)
    return energies, features


def _slopes(
    model: tuple[TorchModel, int], vectors: Any, geometry: Any, by_energies: Any, by_features: Any
) -> Any:
    """Derivatives by bond vectors that stand for those by positions and strain."""
    g, vectors = _arrays(geometry), np.asarray(vectors, np.float64)
    by_energies, by_features = np.asarray(by_energies), np.asarray(by_features)
    slopes = np.zeros(vectors.shape)
    for index, rows, structure in _structures(g):
        by_position, by_strain = model[0].pulled_back(
            *structure, float(by_energies[index]), by_features[rows]
        )
        virial = by_strain if structure[2] is not None else None
        neighbors, mask = g["neighbors"][rows] - rows.start, g["mask"][rows]
        slopes[rows] = bond_slopes(vectors[rows], neighbors, mask, -by_position, virial)
    return slopes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _evaluated(model: tuple[TorchModel, int], vectors: Array, geometry: Any) -> tuple[Array, Array]:
    """Energies of structures and features of atoms."""
    shapes = (
        jax.ShapeDtypeStruct(geometry["n_atoms"].shape, jnp.float64),
        jax.ShapeDtypeStruct((len(geometry["numbers"]), model[1]), jnp.float64),
    )
    return call_outside(partial(_energies_and_features, model), shapes, geometry)


def _forward(model: tuple[TorchModel, int], vectors: Array, geometry: Any) -> Any:
    return _evaluated(model, vectors, geometry), (vectors, geometry)


def _backward(
    model: tuple[TorchModel, int], kept: Any, cotangents: tuple[Array, Array]
) -> tuple[Array, None]:
    vectors, geometry = kept
    shape = jax.ShapeDtypeStruct(vectors.shape, jnp.float64)
    slopes = call_outside(partial(_slopes, model), shape, vectors, geometry, *cotangents)
    return slopes.astype(vectors.dtype), None


_evaluated.defvjp(_forward, _backward)
