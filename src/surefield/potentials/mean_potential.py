"""The mean of several potentials, as a potential of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.potentials.potential import LastLayerPotential, Potential, SiteInput
from surefield.structures.graph import Graph
from surefield.structures.labels import Labels
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Frames

__all__ = ["MeanPotential"]


class MeanPotential(Potential):
    """Mean energy of several potentials of the same elements; its forces are the gradient of that.

    Args:
        members: at least one, which agree in elements, cutoff and results.

    Raises:
        PotentialError: none, or they do not agree.
    """

    members: tuple[Potential, ...]
    species: tuple[int, ...] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    min_distance: float = eqx.field(static=True)
    invariances: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, members: Sequence[Potential]) -> None:
        if not members:
            raise PotentialError("a mean needs potentials", got="none")
        _check_alike(members)
        first = members[0]
        self.members, self.species, self.cutoff = tuple(members), first.species, first.cutoff
        # pyright takes what other classes state for all their instances as fixed.
        least = max(member.min_distance for member in members)
        shared = tuple(i for i in first.invariances if all(i in m.invariances for m in members))
        self.min_distance = least  # pyright: ignore[reportIncompatibleVariableOverride]
        self.invariances = shared  # pyright: ignore[reportIncompatibleVariableOverride]

    def config(self) -> dict[str, Any]:
        """Configurations of the members."""
        return {"kind": "mean", "members": [member.config() for member in self.members]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Mean of members that are made already."""
        return cls(config["members"])

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """Mean element offsets."""
        return jnp.mean(jnp.stack([jnp.asarray(m.offsets, jnp.float64) for m in self.members]), axis=0)

    def constants(self) -> tuple[object, ...]:
        """Those of all members."""
        return tuple(constant for member in self.members for constant in member.constants())

    @property
    def supplies(self) -> frozenset[str]:
        """Results of the members."""
        return self.members[0].supplies

    @property
    def numerical(self) -> bool:
        """Whether derivatives by parameters of any member are finite differences only."""
        return any(member.numerical for member in self.members)

    @property
    def reads_positions(self) -> bool:
        """Whether the members do."""
        return any(member.reads_positions for member in self.members)

    @property
    def conjugate_charges(self) -> bool:
        """Whether those of all members are."""
        return all(member.conjugate_charges for member in self.members)

    def neighborhood(self, atoms: Atoms) -> Neighborhood:
        """What the members read of a structure."""
        return self.members[0].neighborhood(atoms)

    def check_frame(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless all members can serve a structure."""
        for member in self.members:
            member.check_frame(atoms, where)

    def at_potential(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) of all members."""
        return type(self)([member.at_potential(phi) for member in self.members])

    def understood(self, frames: Frames, labels: Sequence[Labels]) -> tuple[Sequence[Labels], str]:
        """As the members mean them."""
        return self.members[0].understood(frames, labels)

    def extrapolation(self, graph: Graph) -> Float[Array, "n_atoms n_site_inputs"] | None:
        """That of the first member."""
        return self.members[0].extrapolation(graph)

    def site_input(self, graph: Graph, atom: int, column: int) -> SiteInput:
        """That of the first member."""
        return self.members[0].site_input(graph, atom, column)

    def last_layer(self) -> LastLayerPotential:
        """None of its own."""
        fix = "take full_grad_rp features, which see all weights, or one of the members"
        raise PotentialError(f"the mean of {len(self.members)} potentials has no single last layer", fix=fix)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Mean energy of each atom, eV."""
        return self._mean(lambda member: member.site_energies(graph))

    def outputs(self, graph: Graph) -> dict[str, Array]:
        """Mean quantities that do not follow from the energy."""
        return self._mean(lambda member: member.outputs(graph))

    def _mean(self, of: Any) -> Any:
        arrays, fixed = zip(*(eqx.partition(m, eqx.is_array) for m in self.members), strict=True)
        if all(eqx.tree_equal(fixed[0], other) for other in fixed[1:]) and _same_shapes(arrays):
            # Members of one shape are one program, which takes them in turn.
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
            values = jax.lax.map(lambda own: of(eqx.combine(own, fixed[0])), stacked)
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), values)
        each = [of(member) for member in self.members]
        return jax.tree.map(lambda *values: sum(values) / len(values), *each)


def _same_shapes(trees: Sequence[Any]) -> bool:
    shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in trees]
    return all(jax.tree.structure(tree) == jax.tree.structure(trees[0]) for tree in trees) and all(
        own == shapes[0] for own in shapes
    )


def _check_alike(members: Sequence[Potential]) -> None:
    first = members[0]
    for number, member in enumerate(members[1:], 2):
        for what, own, expected in (
            ("elements", member.species, first.species),
            ("cutoff, Å", member.cutoff, first.cutoff),
            ("results", sorted(member.supplies), sorted(first.supplies)),
            ("precision", member.dtype.name, first.dtype.name),
        ):
            same = np.isclose(own, expected, rtol=1e-12) if isinstance(own, float) else own == expected
            if not same:
                where = f"member {number} of {len(members)}"
                raise PotentialError(f"members differ in {what}", where=where, got=own, expected=expected)
