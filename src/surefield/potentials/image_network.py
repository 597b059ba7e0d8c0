"""Image-centred network: one network on the Cartesian coordinates of a whole structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float, Int

from surefield.potentials.abilities import (
    HasBiasRow,
    HasConstant,
    HasRanges,
    Prepared,
    Restricted,
    Saved,
    SiteInput,
    Solvable,
    TrainingData,
)
from surefield.potentials.element_networks import ElementNetworks, hidden_widths, random_networks
from surefield.potentials.layers import excess
from surefield.potentials.vector_potential import VectorPotential
from surefield.structures.graph import Graph
from surefield.structures.system import check_system, periodic_cell

__all__ = ["ImageNetwork"]


class ImageNetwork(
    VectorPotential, Saved, Restricted, Prepared, Solvable, HasBiasRow, HasConstant, HasRanges
):
    """Total energy from all coordinates, E = slope o(x) + intercept, for one system of fixed size.

    The inputs are the 3N coordinates in the order of the file, scaled like features of atoms. With
    periodic boundaries every image is first brought to the periodic copy nearest to the reference image.
    The energy is not invariant to translation, rotation or permutation, and has neither a stress nor
    energies of atoms.

    Args:
        reference: the system: elements, cell, pbc and, for periodic ones, the positions to stay near to.
        hidden: widths of the hidden layers.
        activation: 'tanh', 'sigmoid' or 'linear'.
        output_activation: 'linear' or 'activation'.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic.
        keep: what `prepared` leaves as it is: any of "offsets" (the intercept), "slopes", "ranges".
    """

    KIND: ClassVar[str] = "image_network"
    invariances: ClassVar[tuple[str, ...]] = ()
    #: One energy for the whole structure, and no strain.
    supplies: ClassVar[frozenset[str]] = frozenset({"energy", "forces"})
    reads_positions: ClassVar[bool] = True
    one_block: ClassVar[bool] = True
    #: The reference image, and what comes from the data.
    FIXED: ClassVar[tuple[str, ...]] = (*("reference", "cell", "periodic_cell", "intercept", "low", "high"),)

    numbers: tuple[int, ...] = eqx.field(static=True)
    pbc: tuple[bool, bool, bool] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_activation: str = eqx.field(static=True)
    keep: tuple[str, ...] = eqx.field(static=True)
    reference: Float[Array, "n_atoms 3"]
    cell: Float[Array, "3 3"]
    periodic_cell: Float[Array, "3 3"]
    intercept: Float[Array, ""]
    slope: Float[Array, ""]
    low: Float[Array, " n_inputs"]
    high: Float[Array, " n_inputs"]
    layers: list[Float[Array, "n_in_plus_1 n_out"]]
    readout: Float[Array, "1 n_site_features"]
    bias: Float[Array, " 1"]

    def __init__(
        self,
        reference: Atoms,
        hidden: Sequence[int],
        activation: str = "tanh",
        output_activation: str = "linear",
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float64",
        keep: Sequence[str] = (),
    ) -> None:
        dtype, self.keep = np.dtype(dtype), tuple(keep)
        self.numbers = tuple(int(z) for z in reference.numbers)
        self.pbc = tuple(bool(p) for p in reference.pbc)  # type: ignore[assignment]
        self.activation, self.output_activation = activation, output_activation
        self.reference = jnp.asarray(reference.positions, jnp.float64)
        self.cell = jnp.asarray(reference.cell.array, jnp.float64)
        self.periodic_cell = jnp.asarray(periodic_cell(reference), jnp.float64)
        n = 3 * len(reference)
        self.intercept, self.slope = jnp.zeros((), jnp.float64), jnp.ones((), dtype)
        self.low, self.high = -jnp.ones(n, dtype), jnp.ones(n, dtype)
        # The documented stream of start values.
        rng = np.random.RandomState(seed)
        (self.layers,), (self.readout,), (self.bias,) = random_networks(rng, [0], [n], [hidden], dtype)

    @property
    def species(self) -> tuple[int, ...]:  # type: ignore[override]
        """Atomic numbers, ascending."""
        return tuple(sorted(set(self.numbers)))

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """No neighbours are used: a length below every distance, Å."""
        return 0.1

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """None: the intercept is that of the total energy."""
        return jnp.zeros(len(self.species))

    @property
    def bounded(self) -> bool:
        """Whether the output node carries the activation."""
        return self.output_activation == "activation"

    @property
    def system(self) -> Atoms:
        """The reference image."""
        return Atoms(self.numbers, np.asarray(self.reference), cell=np.asarray(self.cell), pbc=self.pbc)

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, and the elements and boundaries of the reference image."""
        return {
            "numbers": list(self.numbers),
            "pbc": list(self.pbc),
            "hidden": hidden_widths([self.layers])[0],
            "activation": self.activation,
            "output_activation": self.output_activation,
            "dtype": str(self.readout.dtype),
            "keep": list(self.keep),
        }

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Untrained potential; coordinates and cell are among the arrays of a file."""
        settings = {k: v for k, v in arguments.items() if k not in ("numbers", "pbc")}
        return cls(Atoms(arguments["numbers"], pbc=arguments["pbc"]), **settings)

    def n_linear(self) -> int:
        """All last-layer inputs, unless the output node is not linear."""
        return 0 if self.bounded else self.readout.shape[1]

    def check_served(self, atoms: Atoms, where: object) -> None:
        """Raise `DataError` unless a structure is of the one system this potential was made for."""
        check_system(atoms, self.system, where)

    def energy_without_weights(self, numbers: Int[np.ndarray, " n_atoms"]) -> float:
        """The intercept, eV."""
        return float(self.intercept)

    def slopes_of_biases(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " 1"]:
        """Derivative of the energy with respect to the bias: the slope."""
        return np.array([float(self.slope)])

    def prepared_from(self, data: TrainingData) -> Self:
        """Mean and spread of the total energies, ranges of the coordinates."""
        known = np.array([energy for energy in data.energies if energy is not None])
        images = self.unwrapped(jnp.asarray([s.positions for s in data.structures]))
        flat = np.asarray(images).reshape(len(data.structures), -1)
        slope = max(float(known.std()), 0.01) if known.size else 1.0
        result, dtype = self, self.low.dtype
        if "offsets" not in self.keep and known.size:
            result = eqx.tree_at(lambda p: p.intercept, result, jnp.asarray(known.mean(), jnp.float64))
        if "slopes" not in self.keep:
            result = eqx.tree_at(lambda p: p.slope, result, jnp.asarray(slope, self.slope.dtype))
        if "ranges" not in self.keep:
            ranges = (jnp.asarray(flat.min(axis=0), dtype), jnp.asarray(flat.max(axis=0), dtype))
            result = eqx.tree_at(lambda p: (p.low, p.high), result, ranges)
        return result

    @property
    def networks(self) -> tuple[ElementNetworks]:
        """The network as that of a single element."""
        arrays = (self.readout[None], self.bias[None], self.low[None], self.high[None])
        return (ElementNetworks(self.low.shape, [self.layers], *arrays, self.activation, self.bounded),)

    def ordered(self) -> list[Array]:
        """Weights layer by layer, row by row; then intercept and slope."""
        return [*self.networks[0].ordered([0]), self.intercept, self.slope]

    def unwrapped(self, positions: Float[Array, "n_structures n_atoms 3"]) -> Array:
        """Periodic copy of each atom that is nearest to its place in the reference image."""
        if not any(self.pbc):
            return positions
        shift = jnp.linalg.solve(self.periodic_cell.T, (positions - self.reference)[..., None])[..., 0]
        whole = jnp.where(np.array(self.pbc), jnp.round(shift), 0.0)
        return positions - (whole @ self.periodic_cell).astype(positions.dtype)

    def coordinates(self, graph: Graph) -> Float[Array, "n_structures n_inputs"]:
        """Coordinates of every structure in one row; rows of padding structures hold some atoms' again."""
        n = len(self.numbers)
        start = jnp.cumsum(graph.n_atoms) - graph.n_atoms
        rows = jnp.minimum(start[:, None] + jnp.arange(n), graph.positions.shape[0] - 1)
        return self.unwrapped(jnp.asarray(graph.positions)[rows]).reshape(graph.n_structures, -1)

    def _outputs(self, graph: Graph) -> tuple[Array, Array, Array]:
        """Output of the last hidden layer, scaled output, and its slope by the output node."""
        (network,), index = self.networks, jnp.zeros(graph.n_structures, jnp.int32)
        hidden = network.hidden(self.coordinates(graph), index)
        return hidden, *network.output(hidden, index, self.slope[None])

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """The total energy in equal shares, eV; only their sum has a meaning."""
        total = self._outputs(graph)[1].astype(jnp.float64) + self.intercept
        return jnp.where(graph.atom_mask, total[graph.structure] / len(self.numbers), 0.0)

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of the total energy with respect to the last weights, in equal shares."""
        hidden, _, slope = self._outputs(graph)
        return (slope[:, None] * hidden)[graph.structure] / len(self.numbers)

    def excess(self, graph: Graph) -> Float[Array, "n_atoms 3"]:
        """How far each coordinate lies outside the range of training, in units of that range."""
        x = self.coordinates(graph)
        distances = excess(x, self.low[None], self.high[None], jnp.ones(x.shape, bool))
        n = len(self.numbers)
        start = jnp.cumsum(graph.n_atoms) - graph.n_atoms
        place = jnp.clip(jnp.arange(graph.numbers.shape[0]) - start[graph.structure], 0, n - 1)
        return distances.reshape(-1, n, 3)[graph.structure, place]

    def described_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """One of the coordinates of an atom of the first structure."""
        place = 3 * atom + column
        value, low, high = (float(x[place]) for x in (self.coordinates(graph)[0], self.low, self.high))
        return SiteInput("xyz"[column], value, low, high, " Å")
