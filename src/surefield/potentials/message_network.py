"""The message network: moments of several channels, mixed, multiplied, and passed on to the neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float

from surefield.descriptors.channel_invariants import (
    N_INVARIANTS,
    N_VECTORS,
    channel_invariants,
    channel_vectors,
)
from surefield.descriptors.moments import MAX_RANK, N_COMPONENTS, angular_basis, symmetric_products
from surefield.descriptors.radial import bessel_basis
from surefield.potentials.abilities import Prepared, SavedByArguments, SharedFeatures, TrainingData
from surefield.potentials.config import MessageNetworkConfig
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.structures.batching import padded_batches
from surefield.structures.graph import Graph
from surefield.structures.neighbor_values import neighbor_values

__all__ = ["MessageLayer", "MessageNetwork", "MessageNetworkConfig"]

#: Structures that the scales of moments and invariants are taken from.
_SCALED_ON = 64


class NeighborFunctions(NamedTuple):
    """Directions of the neighbours, and products of angular and radial functions of every neighbour.

    Attributes:
        unit: unit vectors.
        functions: of each rank; the components of the rank, each with all radial functions.
    """

    unit: Float[Array, "n_atoms 3 n_neighbors"]
    functions: list[Float[Array, "n_atoms n_functions n_neighbors"]]


class MessageLayer(eqx.Module):
    """One layer: scalars and vectors of the neighbours in, those of the atom out.

    A^(l)_k = sum_cb W^l_cb,k sum_j R_b(r_ij) s_c(j) u_ij^(⊗l) are the moments of channel k, B_k,a their
    standardised invariants, m_k = sum_a P[z_i]_a,k B_k,a the products, and h' = U m + S (e[z_i] ⊗ h).
    Vectors v_c(j) of the neighbours add u_ij^(⊗l+1)·v_c(j) and the symmetric part of u_ij^(⊗l-1) ⊗ v_c(j) to
    what is summed and mixed; those of the atom are linear in the vectors that its moments make, as m is in B.

    Attributes:
        senders: from the scalars h of a neighbour to s; None in the first layer, where s is its element.
        sender_bias: of s, by element.
        mixing: W of each rank, which contains the scale of its moments.
        shift: mean of each invariant.
        scale: reciprocal deviation of each invariant.
        products: P, by element of the centre.
        output: U.
        skip: S; None in the first layer.
        vector_scale: reciprocal size of each vector; None, as the next two, where no vectors are sent.
        vector_products: of vectors, by element of the centre.
        vector_output: to the vectors that are sent.
    """

    senders: Float[Array, "n_channels n_senders"] | None
    sender_bias: Float[Array, "n_species n_senders"]
    mixing: list[Float[Array, "n_basis n_heard n_channels"]]
    shift: Float[Array, "24 1 n_channels"]
    scale: Float[Array, "24 1 n_channels"]
    products: Float[Array, "n_species 24 n_channels"]
    output: Float[Array, "n_channels n_channels"]
    skip: Float[Array, "n_species n_channels n_channels"] | None
    vector_scale: Float[Array, "7 1 n_channels"] | None
    vector_products: Float[Array, "n_species 7 n_channels"] | None
    vector_output: Float[Array, "n_channels n_vectors"] | None

    def moments(
        self,
        edges: NeighborFunctions,
        scalars: Float[Array, "n_atoms n_channels"] | None,
        vectors: Float[Array, "3 n_atoms n_vectors"] | None,
        elements: Float[Array, "n_atoms n_species"],
        graph: Graph,
    ) -> Float[Array, "20 n_atoms n_channels"]:
        """Packed moment tensors of rank 0 to 3, mixed over radial functions and senders."""
        senders = elements @ self.sender_bias
        if self.senders is not None and scalars is not None:
            senders = senders + scalars @ self.senders
        if vectors is None:
            heard, along = neighbor_values(senders, graph), None
        else:
            heard, along = _heard(senders, vectors, edges, graph)
        mixed = []
        for rank, (functions, mixing) in enumerate(zip(edges.functions, self.mixing, strict=True)):
            n_atoms, n_rows, _ = functions.shape
            # u^(⊗l+1)·v is u^(⊗l) (u·v): one more sender of its rank, up to the last that is not made.
            nearby = heard if rank < MAX_RANK else heard[..., : senders.shape[1]]
            width, n_basis = nearby.shape[2], len(mixing)
            # Components before radial functions: the sums are rows of the next product as they stand.
            summed = (functions @ nearby).reshape(-1, n_basis * width)
            now = summed @ mixing[:, :width].reshape(-1, mixing.shape[2])
            now = jnp.swapaxes(now.reshape(n_atoms, n_rows // n_basis, -1), 0, 1)
            if along is not None and rank > 0:
                below = (edges.functions[rank - 1] @ along).reshape(
                    n_atoms, -1, n_basis, 3, along.shape[2] // 3
                )
                outer = jnp.transpose(below, (1, 3, 0, 2, 4)).reshape(-1, n_atoms, n_basis * below.shape[4])
                outer = symmetric_products(rank, outer)
                now = now + outer @ mixing[:, width:].reshape(-1, mixing.shape[2])
            mixed.append(now)
        return jnp.concatenate(mixed)

    def sent_vectors(
        self, tensors: Float[Array, "20 n_atoms n_channels"], elements: Float[Array, "n_atoms n_species"]
    ) -> Float[Array, "3 n_atoms n_vectors"] | None:
        """Vectors of the atom that the next layer hears of."""
        if self.vector_scale is None or self.vector_products is None or self.vector_output is None:
            return None
        each = channel_vectors(tensors) * self.vector_scale
        return jnp.sum(each * _by_element(self.vector_products, elements), axis=1) @ self.vector_output

    def update(
        self,
        tensors: Float[Array, "20 n_atoms n_channels"],
        scalars: Float[Array, "n_atoms n_channels"] | None,
        elements: Float[Array, "n_atoms n_species"],
    ) -> Float[Array, "n_atoms n_channels"]:
        """Scalars of the atom after this layer."""
        invariants = (channel_invariants(tensors) - self.shift) * self.scale
        new = jnp.sum(invariants * _by_element(self.products, elements), axis=0) @ self.output
        if self.skip is not None and scalars is not None:
            both = elements[:, :, None] * scalars[:, None]
            new = new + both.reshape(len(both), -1) @ self.skip.reshape(-1, self.skip.shape[2])
        return new


class MessageNetwork(LastLayerPotential, SavedByArguments, Prepared, SharedFeatures):
    """Moment-tensor potential with learned channels, and with a second layer that hears from the neighbours.

    Channels are linear mixtures of moments, so that products of a channel with itself suffice (see
    `channel_invariants`). Scalars and vectors of the first layer modulate the moments of the second, as the
    messages of MACE (Batatia et al., NeurIPS 2022) do; vectors halve the errors of molecules. The energy of
    an atom is E_i = σ w[z_i] · [h¹_i, h²_i, g(h²_i)] + b[z_i] + offset[z_i], g a SiLU network and σ the size
    of the training forces. The last layer is linear in w. With one layer an atom sees what lies within
    `cutoff`, with two what lies within twice of it.

    Args:
        species: chemical symbols or atomic numbers.
        cutoff: of the neighbour list, Å.
        n_layers: 1 or more.
        n_channels: moments of each rank, per layer.
        n_basis: Bessel functions.
        n_senders: scalars of a neighbour that its moments are made of.
        n_vectors: vectors of a neighbour likewise, from the second layer on; 0 for none.
        hidden: widths of the network on the last scalars.
        seed: of the initial weights.
        dtype: of the parameters and the arithmetic; energies are summed in float64 either way.
    """

    KIND: ClassVar[str] = "message_network"
    FIXED: ClassVar[tuple[str, ...]] = ("offsets", "energy_scale", "scales")
    MATRICES: ClassVar[tuple[str, ...]] = ("between",)

    training_defaults: ClassVar[Mapping[str, Any]] = MessageNetworkConfig.training_defaults

    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    n_basis: int = eqx.field(static=True)
    n_senders: int = eqx.field(static=True)
    offsets: Float[Array, " n_species"]
    energy_scale: Float[Array, ""]
    layers: list[MessageLayer]
    weights: list[Float[Array, "width_in width_out"]]
    biases: list[Float[Array, "n_species width_out"]]
    readout: Float[Array, "n_species n_site_features"]
    bias: Float[Array, " n_species"]

    def __init__(
        self,
        species: Sequence[str | int],
        cutoff: float = 5.0,
        n_layers: int = 2,
        n_channels: int = 128,
        n_basis: int = 8,
        n_senders: int = 16,
        n_vectors: int = 8,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        dtype: str | np.typing.DTypeLike = "float32",
    ) -> None:
        rng = np.random.Generator(np.random.Philox(key=seed))
        dtype = np.dtype(dtype)
        self.species = species_numbers(species)
        n = len(self.species)
        self.cutoff, self.n_basis, self.n_senders = float(cutoff), int(n_basis), int(n_senders)
        self.offsets, self.energy_scale = jnp.zeros(n, jnp.float64), jnp.ones((), dtype)

        def normal(*shape: int, fan_in: int = 0) -> Array:
            return jnp.asarray(rng.standard_normal(shape) / np.sqrt(fan_in or shape[-2]), dtype)

        self.layers = []
        for layer in range(n_layers):
            first = layer == 0
            width = min(n, n_senders) if first else n_senders
            sends = n_vectors if layer < n_layers - 1 else 0
            heard = 0 if first else n_vectors
            widths = [width + heard * ((rank > 0) + (rank < MAX_RANK)) for rank in range(MAX_RANK + 1)]
            self.layers.append(
                MessageLayer(
                    senders=None if first else normal(n_channels, width),
                    sender_bias=jnp.asarray(_element_senders(n, width, rng), dtype)
                    if first
                    else normal(n, width, fan_in=1),
                    mixing=[normal(n_basis, w, n_channels, fan_in=n_basis * w) for w in widths],
                    shift=jnp.zeros((N_INVARIANTS, 1, n_channels), dtype),
                    scale=jnp.ones((N_INVARIANTS, 1, n_channels), dtype),
                    products=normal(n, N_INVARIANTS, n_channels),
                    output=normal(n_channels, n_channels),
                    skip=None if first else normal(n, n_channels, n_channels),
                    vector_scale=jnp.ones((N_VECTORS, 1, n_channels), dtype) if sends else None,
                    vector_products=normal(n, N_VECTORS, n_channels) if sends else None,
                    vector_output=normal(n_channels, sends) if sends else None,
                )
            )
        sizes = [n_channels, *hidden]
        self.weights = [normal(a, b) for a, b in pairwise(sizes)]
        # Biases per element make the shared network tell elements apart.
        self.biases = [jnp.asarray(0.3 * rng.standard_normal((n, b)), dtype) for b in sizes[1:]]
        self.readout = jnp.zeros((n, n_layers * n_channels + (hidden[-1] if hidden else 0)), dtype)
        self.bias = jnp.zeros(n, dtype)

    @property
    def _n_vectors(self) -> int:
        last = self.layers[0].vector_output
        return 0 if last is None else last.shape[1]

    @classmethod
    def from_settings(cls, config: MessageNetworkConfig, species: Sequence[str | int] = ()) -> MessageNetwork:
        """Build from the settings of a run; `species` is used where they name none."""
        settings = config.model_dump(exclude={"kind", "species"})
        return cls(config.species or species, **settings)

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor, for a potential of this shape."""
        return {
            "species": [chemical_symbols[z] for z in self.species],
            "cutoff": self.cutoff,
            "n_layers": len(self.layers),
            "n_channels": self.layers[0].output.shape[1],
            "n_basis": self.n_basis,
            "n_senders": self.n_senders,
            "n_vectors": self._n_vectors,
            "hidden": [w.shape[1] for w in self.weights],
            "seed": 0,
            "dtype": str(self.bias.dtype),
        }

    def prepared_from(self, data: TrainingData) -> Self:
        """Copy with element offsets, and with moments and invariants of the data scaled to one.

        Every random mixture then starts with moments of mean square one and invariants of variance one.
        """
        whole = self.with_offsets(data.offsets)
        scale = jnp.asarray(data.force_scale, self.dtype)
        bias = jnp.asarray(_binding_energies(whole, data), self.dtype)
        whole = eqx.tree_at(lambda p: (p.energy_scale, p.bias), whole, (scale, bias))
        chosen = np.linspace(0, len(data.structures) - 1, min(len(data.structures), _SCALED_ON)).astype(int)
        structures = [data.structures[i] for i in np.unique(chosen)]
        for place in range(len(self.layers)):
            layer = whole.layers[place]
            tensors, *_ = _collected(whole, structures, place)
            squares = [np.mean(t**2) for t in np.split(tensors, np.cumsum(N_COMPONENTS)[:-1])]
            factors = [1.0 / np.sqrt(s) if s > 0 else 1.0 for s in squares]
            mixing = [m * jnp.asarray(f, self.dtype) for m, f in zip(layer.mixing, factors, strict=True)]
            whole = eqx.tree_at(lambda p, i=place: p.layers[i].mixing, whole, mixing)
            _, invariants, vectors = _collected(whole, structures, place)
            # One scale for all channels: a channel that varies little says little.
            deviation = np.sqrt(invariants.var(axis=1).mean(axis=1))[:, None, None]
            deviation = np.where(deviation > 0, deviation, 1.0)
            values = (
                jnp.asarray(invariants.mean(axis=1, keepdims=True), self.dtype),
                jnp.asarray(np.broadcast_to(1.0 / deviation, layer.scale.shape), self.dtype),
            )
            whole = eqx.tree_at(lambda p, i=place: (p.layers[i].shift, p.layers[i].scale), whole, values)
            if layer.vector_scale is not None:
                square = np.mean(vectors**2, axis=(1, 2))[:, None, None]
                size = np.where(square > 0, np.sqrt(square), 1.0)
                value = jnp.asarray(np.broadcast_to(1.0 / size, layer.vector_scale.shape), self.dtype)
                whole = eqx.tree_at(lambda p, i=place: p.layers[i].vector_scale, whole, value)
        return whole

    @property
    def scales(self) -> list[Array | None]:
        """What scales moments and invariants comes from the data."""
        return [array for layer in self.layers for array in (layer.shift, layer.scale, layer.vector_scale)]

    @property
    def between(self) -> list[Array]:
        """Weights between vectors of features, which are trained by orthogonalised steps."""
        between = [
            matrix
            for layer in self.layers
            for matrix in (layer.senders, *layer.mixing, layer.output, layer.skip, layer.vector_output)
            if matrix is not None
        ]
        return [*between, *self.weights]

    def _edges(self, graph: Graph) -> NeighborFunctions:
        """Functions of every neighbour; they serve all layers."""
        vectors = jnp.swapaxes(graph.vectors.astype(self.bias.dtype), 1, 2)
        r = jnp.sqrt(jnp.sum(vectors * vectors, axis=1))
        radial = bessel_basis(r, self.cutoff, self.n_basis)
        unit = vectors / r[:, None]
        angular = jax.lax.split(angular_basis(unit), N_COMPONENTS, 1)
        functions = [(part[:, :, None] * radial[:, None]).reshape(len(r), -1, r.shape[1]) for part in angular]
        return NeighborFunctions(unit, functions)

    def _elements(self, graph: Graph) -> Float[Array, "n_atoms n_species"]:
        """One-hot elements; look-ups by them would be scatters in the derivatives."""
        return jax.nn.one_hot(species_index(self, graph), len(self.species), dtype=self.bias.dtype)

    def layer_scalars(
        self, graph: Graph, n_layers: int | None = None
    ) -> tuple[list[Array], list[Float[Array, "20 n_atoms n_channels"]]]:
        """Scalars (n_atoms, n_channels) and moments after each layer."""
        edges, elements = self._edges(graph), self._elements(graph)
        scalars: list[Array] = []
        tensors: list[Array] = []
        vectors: Array | None = None
        for layer in self.layers[:n_layers]:
            before = scalars[-1] if scalars else None
            tensors.append(layer.moments(edges, before, vectors, elements, graph))
            scalars.append(layer.update(tensors[-1], before, elements))
            vectors = layer.sent_vectors(tensors[-1], elements)
        return scalars, tensors

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_site_features"]:
        """Scalars of all layers, and the last hidden layer of the network on the last of them; eV."""
        scalars, _ = self.layer_scalars(graph)
        elements, h = self._elements(graph), scalars[-1]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = jax.nn.silu(h @ weight + elements @ bias)
        parts = [*scalars, h] if self.weights else scalars
        return self.energy_scale * jnp.concatenate(parts, axis=-1)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets."""
        return self.energies_and_features(graph)[0]

    def energies_and_features(self, graph: Graph) -> tuple[Array, Array]:
        """Energy of each atom, and what it is linear in."""
        elements, features = self._elements(graph), self.site_features(graph)
        energies = jnp.sum(features * (elements @ self.readout), axis=-1)
        return jnp.where(graph.atom_mask, energies + elements @ self.bias, 0.0), features


def _by_element(
    products: Float[Array, "n_species n n_channels"], elements: Float[Array, "n_atoms n_species"]
) -> Float[Array, "n n_atoms n_channels"]:
    """Weights of the element of every atom."""
    # Small weights are transposed, where one product of matrices would need its result transposed.
    return elements @ jnp.swapaxes(products, 0, 1)


def _heard(
    senders: Float[Array, "n_atoms n_senders"],
    vectors: Float[Array, "3 n_atoms n_vectors"],
    edges: NeighborFunctions,
    graph: Graph,
) -> tuple[Float[Array, "n_atoms n_neighbors n_heard"], Float[Array, "n_atoms n_neighbors n_components"]]:
    """Scalars of every neighbour and u·v of its vectors; and the components of these, axis by axis."""
    n_vectors = vectors.shape[2]
    values = neighbor_values(jnp.concatenate([senders, *vectors], axis=1), graph)
    scalar, *axes = jax.lax.split(values, [senders.shape[1], *3 * [n_vectors]], 2)
    dots = [edges.unit[:, axis, :, None] * part for axis, part in enumerate(axes)]
    along = jnp.concatenate(axes, axis=2)
    return jnp.concatenate([scalar, dots[0] + dots[1] + dots[2]], axis=2), along


def _collected(potential: MessageNetwork, structures: Sequence[Any], place: int) -> tuple[Any, ...]:
    """Moments (20, n, n_channels), invariants (24, ...) and components of vectors (7, 3 n, n_channels)."""
    every: list[tuple[np.ndarray, ...]] = []
    for _, graph in padded_batches(structures, 16, potential.dtype):
        real = np.asarray(graph.atom_mask)
        tensors, invariants, vectors = map(np.asarray, _moments_and_products(potential, graph, place))
        flat = np.concatenate(list(vectors[:, :, real]), axis=1)
        every.append((tensors[:, real], invariants[:, real], flat))
    return tuple(np.concatenate(part, axis=1).astype(np.float64) for part in zip(*every, strict=True))


@eqx.filter_jit
def _moments_and_products(potential: MessageNetwork, graph: Graph, place: int) -> tuple[Array, Array, Array]:
    tensors = potential.layer_scalars(graph, place + 1)[1][place]
    return tensors, channel_invariants(tensors), channel_vectors(tensors)


def _binding_energies(potential: Potential, data: TrainingData) -> np.ndarray:
    """Mean energy of an atom of each element beyond its offset, eV, so that it need not be learned."""
    known = [(s, e) for s, e in zip(data.structures, data.energies, strict=True) if e is not None]
    if not known:
        return np.zeros(len(potential.species))
    counts = np.array([np.sum(np.equal.outer(s.numbers, potential.species), axis=0) for s, _ in known])
    rest = np.array([e for _, e in known]) - counts @ np.asarray(potential.offsets)
    mean = rest.sum() / counts.sum()
    # The least correction by element: elements that always come together share it.
    return mean + np.linalg.lstsq(counts, rest - mean * counts.sum(axis=1))[0]


def _element_senders(n_species: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One number per element while there are few, orthonormal columns of numbers for many."""
    if width == n_species:
        return np.eye(n_species)
    return np.linalg.qr(rng.standard_normal((n_species, width)))[0] * np.sqrt(n_species / width)
