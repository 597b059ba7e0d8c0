"""The raw spread of one quantity of one structure, which is what an estimator supplies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError
from surefield.potentials.evaluate import Results
from surefield.quantities import quantity
from surefield.structures.neighbors import Neighborhood
from surefield.structures.tensors import to_voigt, volume

__all__ = ["Members", "Spread", "check_n_members", "spread_of_members", "value_of"]

Members = Float[np.ndarray, " n_members *shape"]


class Spread(NamedTuple):
    """Raw spread of one quantity of one structure, float64.

    Attributes:
        u: in the shape of the quantity; of the mean over the atoms where `Quantity.per_atom`.
        magnitude: vanishes where symmetry makes the quantity vanish; None: u itself does.
        members: (n_members, *shape) deviations of the members from the prediction, if there are any.
        vectors: (*shape, n) vectors of length u, whose inner products are the raw covariances, also between
            structures and quantities; None: those of the members, if any.
    """

    u: Float[np.ndarray, "*shape"]
    magnitude: Float[np.ndarray, "*shape"] | None = None
    members: Members | None = None
    vectors: Float[np.ndarray, "*shape n"] | None = None


def spread_of_members(name: str, members: Members, n_atoms: int) -> Spread:
    """Standard deviation (ddof = 1) of members, given as deviations from their mean."""
    return Spread(members.std(axis=0, ddof=1) / (n_atoms if quantity(name).per_atom else 1), None, members)


def value_of(name: str, results: Results, structure: Neighborhood, place: int, rows: slice) -> Members | None:
    """A quantity of one structure of a batch, as each member has it; None for a stress that is not there.

    Args:
        name: of the quantity.
        results: of the batch, members first; energies of atoms lack the offsets of the elements.
        structure: the structure.
        place: of the structure in the batch.
        rows: its atoms.
    """
    source = quantity(name).source
    if source == "strain":
        if not structure.periodic:
            return None
        return to_voigt(np.asarray(results.virial[:, place])) / volume(structure.cell)
    values = results.outputs[name] if source == "output" else getattr(results, name)
    return np.asarray(values[:, rows if quantity(name).per == "atom" else place])


def check_n_members(M: int) -> None:
    """Raise `ConfigError` unless there is a spread over so many members."""
    if isinstance(M, bool) or not isinstance(M, int) or M < 2:
        raise ConfigError("M, the number of members, must be at least 2", got=repr(M))
