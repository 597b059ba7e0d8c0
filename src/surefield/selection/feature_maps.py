"""Maps from a structure to its features, under the names of apax: of a potential, and what follows it."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field, ValidationError

from surefield.config import Config, faults
from surefield.errors import ConfigError, nearest
from surefield.potentials.evaluate import composition_energy
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.sensitivity.gradients import (
    GradientSketch,
    energy_gradient,
    gradient_length,
    gradient_sketch,
)
from surefield.sensitivity.layers import LAST_LAYER, NamedLayer, layer_of
from surefield.sensitivity.rows import TrainedWeights, bias_row, energy_row, force_rows
from surefield.sensitivity.sketch import SketchKind, checked_width
from surefield.structures.graph import Graph

__all__ = [
    "MAPS",
    "FeatureMap",
    "FeatureTransformation",
    "FullGradientRPFeatures",
    "IdentityFeatures",
    "LastLayerForceFeatures",
    "LastLayerGradientFeatures",
    "PerAtomFeatures",
    "ScaleFeatures",
    "ShiftFeatures",
    "feature_map",
]

#: Graph of one structure; several of them where members of an ensemble read structures in different ways.
Inputs = Graph | tuple[Graph, ...]
#: Features of one structure; traceable.
FeatureOfStructure = Callable[[Any], Array]


class FeatureTransformation(Config):
    """A change of a feature function; subclasses declare what they are set by, and override `apply`.

    Raises:
        ConfigError: a setting that is unknown, missing or out of range.
    """

    def __init__(self, *values: Any, **settings: Any) -> None:
        names = [] if "name" in type(self).model_fields else list(type(self).model_fields)
        if len(values) > len(names):
            raise ConfigError(f"{type(self).__name__} takes its settings by name", got=f"{values}")
        try:
            super().__init__(**dict(zip(names, values, strict=False)), **settings)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {faults(type(self), error)}") from None

    def apply(self, fn: FeatureOfStructure) -> FeatureOfStructure:
        """The changed function of one structure; here the same."""
        return fn


class RowsOfAtoms(abc.ABC):
    """A map whose features need not be one row for each structure."""

    @abc.abstractmethod
    def stand_side_by_side(self) -> bool:
        """Whether rows of atoms do, so that all structures must have the same number of atoms."""

    @abc.abstractmethod
    def fault(self) -> str:
        """Why structures cannot be selected by these features; else ""."""


class FeatureMap(FeatureTransformation, abc.ABC):
    """What begins a feature function: features of a potential.

    Attributes:
        adds: features of the members of an ensemble are added up, not put side by side.
    """

    adds: ClassVar[bool] = False

    @abc.abstractmethod
    def bind(
        self, potential: Potential, member: int = 0, compat: str | None = None
    ) -> tuple[FeatureOfStructure, str]:
        """Features of a structure by a potential, and a line on what was chosen, or "".

        Args:
            potential: any that has what the map is about.
            member: its number in an ensemble, for random numbers of its own.
            compat: None, or `apax`.

        Raises:
            PotentialError: the potential has no such features.
        """

    def apply(self, fn: Any) -> FeatureOfStructure:
        """Features of a structure by a potential, which stands in the place of the function."""
        return self.bind(fn)[0]

    def equal_sizes(self) -> bool:
        """Whether all structures must have the same number of atoms."""
        return isinstance(self, RowsOfAtoms) and self.stand_side_by_side()

    def refused(self) -> str:
        """Why structures cannot be selected by these features; else ""."""
        return self.fault() if isinstance(self, RowsOfAtoms) else ""


class LastLayerGradientFeatures(FeatureMap):
    """Gradient of the total energy by the weights and biases of a layer.

    For the final linear map: the sum of its inputs over the atoms of each element, and the numbers of these.

    Attributes:
        layer_name: `dense_2` is the final linear map of any potential; see `extract_feature_params`.
    """

    name: Literal["ll_grad"] = "ll_grad"
    layer_name: str = LAST_LAYER

    def bind(
        self, potential: Potential, member: int = 0, compat: str | None = None
    ) -> tuple[FeatureOfStructure, str]:
        """Rows of the layer."""
        layer, note = layer_of(potential, self.layer_name)
        return _LayerGradient(layer), note


class LastLayerForceFeatures(FeatureMap, RowsOfAtoms):
    """Derivatives J of the forces by the weights of a layer, (n_atoms, 3, d).

    Attributes:
        layer_name: as for `LastLayerGradientFeatures`.
        strategy: `raw`: J. `sum`: over atoms and directions, which is 0. `flatten`: J in one row, for
            structures of one number of atoms in one order. `gram`: upper triangle, off the diagonal times
            √2, of the sum of J_iα J_iαᵀ, which depends on no order and no orientation.
    """

    name: Literal["ll_force_feat"] = "ll_force_feat"
    layer_name: str = LAST_LAYER
    strategy: Literal["raw", "sum", "flatten", "gram"] = "raw"

    def bind(
        self, potential: Potential, member: int = 0, compat: str | None = None
    ) -> tuple[FeatureOfStructure, str]:
        """Rows of the layer, reduced."""
        layer, note = layer_of(potential, self.layer_name, weights_only=True)
        if self.strategy == "flatten":
            warnings.warn(
                "flattened force features compare atom k with atom k: they change with the order of the "
                "atoms and with the orientation; strategy 'gram' does not",
                UserWarning,
                stacklevel=4,
            )
        return _LayerForces(layer, self.strategy), note

    def stand_side_by_side(self) -> bool:
        """Whether rows of atoms do."""
        return self.strategy in ("raw", "flatten")

    def fault(self) -> str:
        """What is no feature of a structure, or always 0."""
        reasons = {
            "raw": "strategy 'raw' gives one row per force component, not one per structure",
            "sum": "strategy 'sum' is 0 for every structure, because forces add up to 0",
        }
        return reasons.get(self.strategy, "")


class FullGradientRPFeatures(FeatureMap):
    """Gradient of the total energy by all trainable parameters, projected at random.

    Attributes:
        num_rp: length of the projections.
        sketch: see `gradient_sketch`; `auto` holds the matrix of `gaussian`, of up to 512 MB, or takes
            `countsketch`.
        seed: of the projection; members of an ensemble have projections of their own.
    """

    adds: ClassVar[bool] = True

    name: Literal["full_grad_rp"] = "full_grad_rp"
    num_rp: int = 512
    sketch: SketchKind = "auto"
    seed: int = Field(0, ge=0, lt=2**64)

    def __init__(self, *values: Any, **settings: Any) -> None:
        super().__init__(*values, **settings)
        checked_width(self.num_rp)

    def bind(
        self, potential: Potential, member: int = 0, compat: str | None = None
    ) -> tuple[FeatureOfStructure, str]:
        """Sketched gradients."""
        averaged = compat == "apax"
        length = gradient_length(potential, averaged=averaged)
        # The high half of the key: independent of every other seed.
        key = self.seed + (0 if averaged else member) * 2**64
        sketch, note = gradient_sketch(self.sketch, length, self.num_rp, key, potential.dtype)
        return _SketchedGradient(potential, sketch, averaged), note


class IdentityFeatures(FeatureMap):
    """The total energy, eV, as the only feature: to try things out."""

    name: Literal["identity"]

    def bind(
        self, potential: Potential, member: int = 0, compat: str | None = None
    ) -> tuple[FeatureOfStructure, str]:
        """Energies."""
        return _Energy(potential), ""


MAPS: Final[Mapping[str, type[FeatureMap]]] = MappingProxyType(
    {
        "ll_grad": LastLayerGradientFeatures,
        "ll_force_feat": LastLayerForceFeatures,
        "full_grad_rp": FullGradientRPFeatures,
        "identity": IdentityFeatures,
    }
)


def feature_map(options: FeatureMap | Mapping[str, Any]) -> FeatureMap:
    """The map that options stand for: `name`, and what that map is set by; {} is `ll_grad`.

    Raises:
        ConfigError: unknown name or option.
    """
    if isinstance(options, FeatureMap):
        return options
    if not isinstance(options, Mapping):
        expected = "a dictionary such as {'name': 'll_grad'}, or one of the feature maps"
        raise ConfigError("unusable options of a feature map", got=type(options).__name__, expected=expected)
    name = options.get("name", "ll_grad")
    if not isinstance(name, str) or name not in MAPS:
        raise ConfigError(f"unknown feature map {name!r}: {nearest(str(name), MAPS)}")
    return MAPS[name](**{"name": name, **options})


class ScaleFeatures(FeatureTransformation):
    """φ times a factor."""

    factor: float

    def apply(self, fn: FeatureOfStructure) -> FeatureOfStructure:
        """The scaled function."""
        return lambda inputs: self.factor * fn(inputs)


class ShiftFeatures(FeatureTransformation):
    """φ plus an offset, a number or one for each feature."""

    offset: float | Sequence[float] | np.ndarray

    def apply(self, fn: FeatureOfStructure) -> FeatureOfStructure:
        """The shifted function."""
        return lambda inputs: fn(inputs) + jnp.asarray(self.offset)


class PerAtomFeatures(FeatureTransformation):
    """φ/n_A^power: those of a supercell are the same."""

    power: float = 1.0

    def apply(self, fn: FeatureOfStructure) -> FeatureOfStructure:
        """The function per atom."""
        return lambda inputs: fn(inputs) / n_atoms_of(inputs) ** self.power


def n_atoms_of(inputs: Inputs) -> Float[Array, ""]:
    """Number of atoms of one structure."""
    graph = inputs if isinstance(inputs, Graph) else inputs[0]
    return jnp.asarray(graph.n_atoms[0], jnp.float64)


def one_by_one(of: Callable[[Any, Graph], Array], source: Any, graph: Graph) -> Array:
    """`of(source, graph)`, which is computed structure by structure where several are asked for at once.

    One structure at a time stays in the processor's cache, and look-ups of neighbours know no other way. All
    that comes after (projections, transforms) sees all structures at once. Structures without atoms fill a
    batch up: nothing is computed of them, and their row is 0.
    """
    arrays, fixed = eqx.partition((source, graph), eqx.is_array)

    @jax.custom_batching.custom_vmap
    def call(arrays: Any) -> Array:
        return of(*eqx.combine(arrays, fixed))

    @call.def_vmap
    def _(size: int, batched: Any, arrays: Any) -> tuple[Array, bool]:
        each, shared = eqx.partition(arrays, batched[0])

        def row(one: Any) -> Array:
            source, graph = eqx.combine(one, shared, fixed)
            shape = jax.eval_shape(of, source, graph)
            return jax.lax.cond(
                graph.n_atoms[0] > 0,
                lambda: of(source, graph),
                lambda: jnp.zeros(shape.shape, shape.dtype),
            )

        return jax.lax.map(row, each), True

    return call(arrays)


class _LayerGradient(eqx.Module):
    layer: LastLayerPotential | NamedLayer

    def __call__(self, graph: Graph) -> Array:
        return one_by_one(_layer_gradient, self.layer, graph)


class _LayerForces(eqx.Module):
    layer: TrainedWeights
    strategy: str = eqx.field(static=True)

    def __call__(self, graph: Graph) -> Array:
        rows = one_by_one(force_rows, self.layer, graph).astype(jnp.float64)
        if self.strategy == "raw":
            return rows
        if self.strategy == "flatten":
            return rows.ravel()
        flat = rows.reshape(-1, rows.shape[-1])
        if self.strategy == "sum":
            return flat.sum(axis=0)
        upper = jnp.triu_indices(flat.shape[1])
        return (flat.T @ flat)[upper] * jnp.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))


class _SketchedGradient(eqx.Module):
    potential: Potential
    sketch: GradientSketch
    averaged: bool = eqx.field(static=True)

    def __call__(self, graph: Graph) -> Array:
        gradient = partial(energy_gradient, averaged=self.averaged)
        return self.sketch(one_by_one(gradient, self.potential, graph))


class _Energy(eqx.Module):
    potential: Potential

    def __call__(self, graph: Graph) -> Array:
        return one_by_one(_energy, self.potential, graph)


def _layer_gradient(layer: LastLayerPotential | NamedLayer, graph: Graph) -> Array:
    row = energy_row(layer, graph).astype(jnp.float64)
    if isinstance(layer, NamedLayer):
        return row
    return jnp.concatenate([row, bias_row(layer, graph).ravel().astype(jnp.float64)])


def _energy(potential: Potential, graph: Graph) -> Array:
    energies = jnp.where(graph.atom_mask, potential.site_energies(graph), 0.0)
    return jnp.sum(energies.astype(jnp.float64), keepdims=True) + composition_energy(potential, graph)
