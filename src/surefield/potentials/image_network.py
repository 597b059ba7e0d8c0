"""Image-centred network: one network on the Cartesian coordinates of a whole structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float, Int

from surefield.potentials.layers import (
    ACTIVATIONS,
    Taker,
    excess,
    last_inputs,
    output_slope,
    scale_inputs,
)
from surefield.potentials.network_parameters import random_layers
from surefield.potentials.potential import VectorPotential
from surefield.structures.graph import Graph, collate
from surefield.structures.neighbors import Neighborhood
from surefield.structures.system import check_system, periodic_cell

__all__ = ["ImageNetwork"]


class ImageNetwork(VectorPotential):
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

    invariances: ClassVar[tuple[str, ...]] = ()

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

    @property
    def supplies(self) -> frozenset[str]:
        """One energy for the whole structure, and no strain."""
        return frozenset({"energy", "forces"})

    @property
    def reads_positions(self) -> bool:
        """Its inputs are positions."""
        return True

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
        *layers, last = random_layers(np.random.RandomState(seed), n, hidden)
        self.layers = [jnp.asarray(w, dtype) for w in layers]
        self.readout = jnp.asarray(last[:-1].T, dtype)
        self.bias = jnp.asarray(last[-1], dtype)

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

    def config(self) -> dict[str, Any]:
        """Configuration that builds a potential of this shape."""
        return {
            "kind": "image_network",
            "numbers": list(self.numbers),
            "pbc": list(self.pbc),
            "hidden": [w.shape[1] for w in self.layers],
            "activation": self.activation,
            "output_activation": self.output_activation,
            "dtype": str(self.readout.dtype),
            "keep": list(self.keep),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageNetwork:
        """Build from `config()`; coordinates and cell are among the arrays of a file."""
        settings = {k: v for k, v in config.items() if k not in ("kind", "numbers", "pbc")}
        return cls(Atoms(config["numbers"], pbc=config["pbc"]), **settings)

    def constants(self) -> tuple[object, ...]:
        """The reference image and what comes from the data."""
        return (self.reference, self.cell, self.periodic_cell, self.intercept, self.low, self.high)

    @property
    def n_solvable(self) -> int:
        """All last-layer inputs, unless the output node is not linear."""
        return 0 if self.bounded else self.readout.shape[1]

    def check_frame(self, atoms: Atoms, where: object) -> None:
        """Raise `DataError` unless a structure is of the one system this potential was made for."""
        check_system(atoms, self.system, where)

    def constant_energy(self, numbers: Int[np.ndarray, " n_atoms"]) -> float:
        """The intercept, eV."""
        return float(self.intercept)

    def bias_row(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " 1"]:
        """Derivative of the energy with respect to the bias: the slope."""
        return np.array([float(self.slope)])

    def prepared(
        self,
        structures: Sequence[Neighborhood],
        energies: Sequence[float | None],
        offsets: Mapping[int, float],
    ) -> Self:
        """Mean and spread of the total energies, ranges of the coordinates."""
        known = np.array([energy for energy in energies if energy is not None])
        images = self.unwrapped(jnp.asarray([s.positions for s in structures]))
        flat = np.asarray(images).reshape(len(structures), -1)
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
    def vector(self) -> Float[Array, " n_parameters"]:
        """Weights layer by layer, row by row; then intercept and slope."""
        parts = [*self.layers, self.readout, self.bias, self.intercept, self.slope]
        return jnp.concatenate([jnp.ravel(part).astype(jnp.float64) for part in parts])

    def with_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector in that order."""
        take = Taker(vector, self.vector.size)
        layers = [take(layer) for layer in self.layers]
        values = (
            layers,
            take(self.readout),
            take(self.bias),
            take(self.intercept),
            take(self.slope),
        )
        return eqx.tree_at(lambda p: (p.layers, p.readout, p.bias, p.intercept, p.slope), self, values)

    def first_layers(self) -> list[Float[Array, "n_in n_out"]]:
        """Weights of the first layer, without biases."""
        return [self.layers[0][:-1] if self.layers else self.readout.T]

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

    def _inputs_and_node(self, graph: Graph) -> tuple[Array, Array]:
        x = self.coordinates(graph).astype(self.readout.dtype)
        x = scale_inputs(x, self.low, self.high, keep_constant=self.bounded)
        inputs = last_inputs(x, self.layers, self.activation)
        return inputs, inputs @ self.readout[0] + self.bias[0]

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """The total energy in equal shares, eV; only their sum has a meaning."""
        _, node = self._inputs_and_node(graph)
        out = ACTIVATIONS[self.activation](node) if self.bounded else node
        total = (self.slope * out).astype(jnp.float64) + self.intercept
        return jnp.where(graph.atom_mask, total[graph.structure] / len(self.numbers), 0.0)

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Derivative of the total energy with respect to the last weights, in equal shares."""
        inputs, node = self._inputs_and_node(graph)
        factor = self.slope * (output_slope(self.activation, node) if self.bounded else 1.0)
        return (jnp.broadcast_to(factor, node.shape)[:, None] * inputs)[graph.structure] / len(self.numbers)

    def feature_block(self, graph: Graph) -> Int[Array, " n_atoms"]:
        """There is one network."""
        return jnp.zeros(graph.numbers.shape, jnp.int32)

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms 3"]:
        """How far each coordinate lies outside the range of training, in units of that range."""
        x = self.coordinates(graph)
        found = excess(x, self.low[None], self.high[None], jnp.ones(x.shape, bool))
        n = len(self.numbers)
        start = jnp.cumsum(graph.n_atoms) - graph.n_atoms
        place = jnp.clip(jnp.arange(graph.numbers.shape[0]) - start[graph.structure], 0, n - 1)
        return found.reshape(-1, n, 3)[graph.structure, place]

    def describe_extrapolation(self, atoms: Atoms) -> str:
        """One line on the coordinate that lies farthest outside the range of training."""
        graph = collate([self.neighborhood(atoms)], dtype=self.dtype)
        found = np.asarray(self.extrapolation(graph))
        atom, axis = (int(i) for i in np.unravel_index(found.argmax(), found.shape))
        column = 3 * atom + axis
        value = float(np.asarray(self.coordinates(graph))[0, column])
        low, high = float(self.low[column]), float(self.high[column])
        return (
            f"atom {atom} ({atoms.symbols[atom]}) lies outside the training set: {'xyz'[axis]} is "
            f"{value:.4g} Å, its range {low:.4g} to {high:.4g}"
        )
