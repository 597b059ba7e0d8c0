"""The mean of several potentials, as a potential of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import PotentialError
from surefield.potentials.abilities import HasLastLayer, HasOutputs, Restricted, SavedByArguments, Wrapper
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.structures.graph import Graph

__all__ = ["MeanPotential"]


class MeanPotential(Potential, SavedByArguments, Wrapper, Restricted, HasOutputs, HasLastLayer):
    """Mean energy of several potentials of the same elements; its forces are the gradient of that.

    Args:
        members: at least one, which agree in elements, cutoff and results.

    Raises:
        PotentialError: none, or they do not agree.
    """

    KIND: ClassVar[str] = "mean"
    FIXED: ClassVar[tuple[str, ...]] = ("constants_of_members",)

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

    def arguments(self) -> dict[str, Any]:
        """Configurations of the members."""
        return {"members": [member.config() for member in self.members]}

    @property
    def inner(self) -> Potential:
        """The first member: what is read and known is the same for all."""
        return self.members[0]

    def around(self, change: Callable[[Potential], Potential]) -> Self:
        """Mean of the members, each changed."""
        return type(self)([change(member) for member in self.members])

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """Mean element offsets."""
        return jnp.mean(jnp.stack([jnp.asarray(m.offsets, jnp.float64) for m in self.members]), axis=0)

    @property
    def constants_of_members(self) -> tuple[object, ...]:
        """Those of all members."""
        return tuple(constant for member in self.members for constant in member.constants())

    @property
    def supplies(self) -> frozenset[str]:  # type: ignore[override]
        """Results of the members."""
        return self.members[0].supplies

    @property
    def numerical(self) -> bool:  # type: ignore[override]
        """Whether derivatives by parameters of any member are finite differences only."""
        return any(member.numerical for member in self.members)

    @property
    def reads_positions(self) -> bool:  # type: ignore[override]
        """Whether the members do."""
        return any(member.reads_positions for member in self.members)

    @property
    def conjugate_charges(self) -> bool:  # type: ignore[override]
        """Whether those of all members are."""
        return all(member.conjugate_charges for member in self.members)

    def check_served(self, atoms: Atoms, where: object) -> None:
        """Raise an error unless all members can serve a structure."""
        for member in self.members:
            member.check_frame(atoms, where)

    def linear_part(self) -> LastLayerPotential:
        """None of its own."""
        fix = "take full_grad_rp features, which see all weights, or one of the members"
        raise PotentialError(f"the mean of {len(self.members)} potentials has no single last layer", fix=fix)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Mean energy of each atom, eV."""
        return self._mean(lambda member: member.site_energies(graph))

    def outputs_of(self, graph: Graph) -> dict[str, Array]:
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
