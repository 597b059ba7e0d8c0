"""Last-layer potentials of small networks, whose parameters are one vector of a documented order."""

from __future__ import annotations

import abc
import itertools
from typing import Final, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surefield.errors import ConfigError
from surefield.potentials.abilities import HasVector
from surefield.potentials.element_networks import ElementNetworks
from surefield.potentials.potential import LastLayerPotential

__all__ = ["VectorPotential"]

#: Runs of neighbouring entries, beyond which an array is put together entry by entry.
_MOST_RUNS: Final = 32


class VectorPotential(LastLayerPotential, HasVector):
    """A last-layer potential of small networks, whose parameters have a documented order in one flat vector.

    Full-batch optimisers work on that vector; it holds the energy offsets too.
    """

    @property
    @abc.abstractmethod
    def networks(self) -> tuple[ElementNetworks, ...]:
        """Its networks, as views of its arrays."""

    @abc.abstractmethod
    def ordered(self) -> list[Array]:
        """All parameters in their documented order, as parts that are cut out of arrays of this potential.

        Parts are only cut, reshaped and transposed: `of_parameter_vector` finds the places of parameters by
        cutting them out of numbers of places.
        """

    def first_layers(self) -> list[Float[Array, "n_in n_out"]]:
        """Weights of the first layer of every network, without their biases."""
        return [weights for networks in self.networks for weights in networks.first_layers()]

    def parameter_vector(self) -> Float[Array, " n_parameters"]:
        """All parameters in the order of `ordered`, float64 (traceable)."""
        return jnp.concatenate([part.ravel().astype(jnp.float64) for part in self.ordered()])

    def of_parameter_vector(self, vector: Float[Array, " n_parameters"]) -> Self:
        """Copy with the parameters of a vector in that order (traceable).

        Raises:
            ConfigError: a vector of another length.
        """
        leaves, structure = jax.tree.flatten(self)
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbers = [
            np.arange(end - leaf.size, end).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        parts = jax.tree.unflatten(structure, numbers).ordered()
        places = np.concatenate([np.ravel(part) for part in parts])
        vector = jnp.asarray(vector)
        if vector.shape != places.shape:
            counts = f"{vector.size} entries, the potential {places.size} parameters"
            raise ConfigError(f"the parameter vector has {counts}")
        entries = np.full(ends[-1], -1)
        entries[places] = np.arange(len(places))
        pairs = zip(leaves, numbers, strict=True)
        filled = [_filled(leaf, entries[part], vector) for leaf, part in pairs]
        return jax.tree.unflatten(structure, filled)


def _filled(leaf: Array, entries: Int[np.ndarray, "*shape"], vector: Float[Array, " n"]) -> Array:
    """Array with the given entries of a vector; where they are -1 it stays as it is."""
    if not np.any(entries >= 0):
        return leaf
    flat, known = entries.ravel(), leaf.ravel()
    steps = np.diff(flat)
    breaks = np.flatnonzero(~((steps == 1) & (flat[1:] > 0) | (steps == 0))) + 1
    if len(breaks) > _MOST_RUNS:
        values = vector[np.maximum(flat, 0)].astype(leaf.dtype)
        return jnp.where(flat >= 0, values, known).reshape(leaf.shape)
    # Slices of a vector have cheaper derivatives than picked entries.
    ends = itertools.pairwise([0, *breaks.tolist(), len(flat)])
    parts = [
        known[i:k] if flat[i] < 0 else vector[flat[i] : flat[i] + k - i].astype(leaf.dtype) for i, k in ends
    ]
    return jnp.concatenate(parts).reshape(leaf.shape)
