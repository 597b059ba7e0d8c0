"""Trained potentials that learn further elements: what they knew stays, to the last number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np
from ase.data import chemical_symbols

from surefield.errors import PotentialError, SurefieldError
from surefield.potentials.evaluate import species_numbers
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.saving import build, pack, unpack

__all__ = ["grafted", "with_species"]

P = TypeVar("P", bound=Potential)


def with_species(potential: Potential, species: Sequence[str | int]) -> Potential:
    """Copy that knows further elements; structures of those it knew have the energies that they had.

    Numbers of the new elements, and of pairs with them, are those of an untrained potential.

    Args:
        potential: whose `config()` has the elements under `species`, and whose arrays have one axis, or
            several, for them; or the sum of two of these.
        species: chemical symbols or atomic numbers, with or without those that it knows.

    Raises:
        PotentialError: a potential of another kind, whose elements are settled.
    """
    union = species_numbers([*potential.species, *species])
    if union == potential.species:
        return potential
    if isinstance(potential, SumPotential):
        return SumPotential(with_species(potential.learned, union), with_species(potential.baseline, union))
    config, symbols = potential.config(), [chemical_symbols[z] for z in union]
    if "species" not in config:
        raise _refused(potential, union, f"its {' and '.join(config)} are made for its elements")
    try:
        fresh = build(config | {"species": symbols})
    except SurefieldError as error:
        raise _refused(potential, union, str(error)) from None
    return grafted(potential, fresh)


def grafted(known: Potential, onto: P, but: Collection[str] = ()) -> P:
    """Copy of a potential with all that another one of the same shape, for some of its elements, knows.

    Args:
        known: whose numbers are taken.
        onto: whose numbers of further elements stay.
        but: names of arrays that stay whole.

    Raises:
        PotentialError: an array that depends on the elements otherwise than by axes for them.
    """
    old, new = pack(known), pack(onto)
    places = [onto.species.index(z) for z in known.species]
    if set(old) != set(new):
        raise _refused(known, onto.species, f"its arrays are not those of a {type(onto).__name__}")
    arrays = {}
    for name, array in new.items():
        part = old[name]
        if name.removeprefix(".") in but:
            arrays[name] = array
            continue
        sizes = zip(part.shape, array.shape, strict=False)
        axes = [k for k, (before, after) in enumerate(sizes) if before != after]
        fits = part.ndim == array.ndim and all(
            (part.shape[k], array.shape[k]) == (len(known.species), len(onto.species)) for k in axes
        )
        if not fits:
            raise _refused(known, onto.species, f"its {name.removeprefix('.')} would need {array.shape}")
        index = [places if k in axes else range(n) for k, n in enumerate(array.shape)]
        arrays[name] = array.copy()
        arrays[name][np.ix_(*index)] = part
    return unpack(onto, arrays)


def _refused(potential: Potential, union: Sequence[int], reason: str) -> PotentialError:
    further = [chemical_symbols[z] for z in union if z not in potential.species]
    return PotentialError(
        f"{type(potential).__name__} cannot learn further elements: {reason}",
        got=", ".join(further),
        expected=f"only {', '.join(chemical_symbols[z] for z in potential.species)}",
        fix="train a new potential on structures of all elements",
    )
