"""The part of a potential that is trained, and the same potential around another such part."""

from __future__ import annotations

from surefield.potentials.potential import Potential, SumPotential

__all__ = ["learned_part", "with_learned_part"]


def learned_part(potential: Potential) -> Potential:
    """What is trained: of a sum with a baseline its learned part, else the potential itself."""
    return learned_part(potential.learned) if isinstance(potential, SumPotential) else potential


def with_learned_part(potential: Potential, learned: Potential) -> Potential:
    """The same sum around another learned part; of a potential without a baseline that part itself."""
    if not isinstance(potential, SumPotential):
        return learned
    return SumPotential(with_learned_part(potential.learned, learned), potential.baseline)
