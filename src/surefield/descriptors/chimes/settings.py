"""Hyperparameters of a ChIMES model and the blocks of coefficients that follow from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Self

from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from surefield.descriptors.chimes.power_sets import PAIRS, PowerSets, power_sets
from surefield.errors import ConfigError, check_known

__all__ = ["CUTOFFS", "EV_PER_KCAL_MOL", "TRANSFORMS", "ChimesSettings", "CoefficientBlock", "type_pairs"]

#: ChIMES's own conversion: 1 eV = 23.060548 kcal/mol.
EV_PER_KCAL_MOL: Final = 1 / 23.060548
TRANSFORMS: Final = ("MORSE", "INVRSE_R", "DEFAULT")
CUTOFFS: Final = ("CUBIC", "TERSOFF")
#: Limits of one kind of cluster: (order, inner or outer, sorted types) -> values by sorted pair of types.
Limits = tuple[tuple[int, str, tuple[int, ...], tuple[tuple[tuple[int, int], float], ...]], ...]


@dataclass(frozen=True)
class CoefficientBlock:
    """Coefficients of one kind of cluster.

    Attributes:
        types: types of the atoms, in the order of the powers (alphabetical).
        pairs: type pair of each pair, as a place in `ChimesSettings.pairs`.
        inner: S_MINIM of each pair, Å.
        outer: S_MAXIM of each pair, Å; 0 where the pair is switched off.
        n_powers: powers go from 0 to `n_powers` - 1.
        first: its first column.
        label: chemical symbols.
        active: whether it has columns; excluded pairs have none, yet keep their penalty.
    """

    types: tuple[int, ...]
    pairs: tuple[int, ...]
    inner: tuple[float, ...]
    outer: tuple[float, ...]
    n_powers: int
    first: int
    label: str
    active: bool = True

    @property
    def sets(self) -> PowerSets:
        """Its power sets."""
        return power_sets(self.types, self.n_powers)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.first, self.first + self.sets.n_unique * self.active)


@dataclass(frozen=True)
class ChimesSettings:
    """All of a ChIMES model but its coefficients. Lengths in Å, energies in eV.

    Attributes:
        types: chemical symbols in the order of the files.
        masses: of the types, u.
        orders: polynomial orders O2, O3, O4 of pairs, triplets, quadruplets; 0: none.
        inner: S_MINIM of each type pair, in the order of `pairs`.
        outer: S_MAXIM.
        lengths: MORSE_LAMBDA; not read by the other transformations.
        transform: 'MORSE', 'INVRSE_R' or 'DEFAULT', of distance to the variable of the polynomials.
        cutoff: 'CUBIC' or 'TERSOFF'.
        tersoff: fraction of the outer cutoff over which 'TERSOFF' falls.
        limits: special cutoffs of triplets and quadruplets.
        excluded: sorted types of the clusters (1 to 4 atoms) that have no coefficients.
        penalty_distance: d_p, beyond S_MINIM.
        penalty_scale: A_p, eV/Å^3.
        fit_energy: FITENER, 'true' or 'false': whether chimes_lsq has rows of energies; None: if labelled.
        fit_stress: FITSTRS, 'true' (xx yy zz), 'ALL' (nine rows) or 'false'; None: as 'true', if labelled.

    Raises:
        ConfigError: unknown names, numbers out of range, wrong lengths.
    """

    types: tuple[str, ...]
    orders: tuple[int, int, int]
    inner: tuple[float, ...]
    outer: tuple[float, ...]
    lengths: tuple[float, ...] = ()
    masses: tuple[float, ...] = ()
    transform: str = "MORSE"
    cutoff: str = "CUBIC"
    tersoff: float = 0.5
    limits: Limits = ()
    excluded: tuple[tuple[int, ...], ...] = ()
    penalty_distance: float = 0.01
    penalty_scale: float = 1e4 * EV_PER_KCAL_MOL
    fit_energy: str | None = None
    fit_stress: str | None = None

    def __post_init__(self) -> None:
        unknown = [s for s in self.types if s not in chemical_symbols[1:]]
        if unknown or not self.types or len(set(self.types)) != len(self.types):
            expected = "different chemical symbols"
            raise ConfigError("unusable atom types", got=list(self.types), expected=expected)
        check_known([self.transform], TRANSFORMS, "unknown transformation CHBTYPE {}")
        check_known([self.cutoff], CUTOFFS, "unknown cutoff function FCUTTYP {}")
        if self.cutoff == "TERSOFF" and not 0 < self.tersoff <= 1:
            raise ConfigError("TERSOFF fraction out of range", got=self.tersoff, expected="(0, 1]")
        if len(self.orders) != 3 or any(o < 0 for o in self.orders):
            raise ConfigError("unusable orders", got=self.orders, expected="three numbers >= 0")
        if not self.masses:
            masses = tuple(float(atomic_masses[atomic_numbers[s]]) for s in self.types)
            object.__setattr__(self, "masses", masses)
        if not self.lengths and self.transform != "MORSE":
            object.__setattr__(self, "lengths", (1.0,) * len(self.pairs))
        self._check_pairs()

    def _check_pairs(self) -> None:
        n = len(self.pairs)
        for name in ("inner", "outer", "lengths"):
            if len(getattr(self, name)) != n:
                got = f"{len(getattr(self, name))} values of {name}"
                raise ConfigError("wrong number of type pairs", got=got, expected=n)
        for label, low, high, length in zip(
            self.pair_labels, self.inner, self.outer, self.lengths, strict=True
        ):
            if not (0 <= low <= high and math.isfinite(high) and length > 0):
                raise ConfigError(
                    "unusable distances",
                    where=f"pair {label}",
                    got=f"S_MINIM {low}, S_MAXIM {high}, MORSE_LAMBDA {length}",
                    expected="0 <= S_MINIM <= S_MAXIM and MORSE_LAMBDA > 0",
                )
        for block in (b for m in (2, 3, 4) for b in self.blocks(m)):
            wrong = [o for i, o in zip(block.inner, block.outer, strict=True) if o and i > o]
            if wrong or (self.transform == "INVRSE_R" and min(block.inner) <= 0):
                got = f"inner {block.inner}, outer {block.outer}"
                fix = "every inner cutoff must lie below its outer one, and above 0 for INVRSE_R"
                raise ConfigError("unusable cutoffs", where=block.label, got=got, fix=fix)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Type pairs: equal types first, then 1-2, 1-3, 2-3, ... in the order 1-2, 1-3, 1-4, 2-3, ..."""
        return type_pairs(len(self.types))

    @property
    def pair_labels(self) -> tuple[str, ...]:
        """Names of the type pairs as in the files, such as 'OH'."""
        return tuple(self.types[a] + self.types[b] for a, b in self.pairs)

    def pair_place(self, a: int, b: int) -> int:
        """Place of a type pair in `pairs`."""
        return self.pairs.index((min(a, b), max(a, b)))

    def blocks(self, m: int) -> tuple[CoefficientBlock, ...]:
        """Blocks of clusters of m atoms, m = 2, 3, 4, in the order of the columns."""
        return self._blocks[m]

    @cached_property
    def _blocks(self) -> dict[int, tuple[CoefficientBlock, ...]]:
        by_size: dict[int, tuple[CoefficientBlock, ...]] = {}
        first, n = 0, len(self.types)
        for m, order in zip((2, 3, 4), self.orders, strict=True):
            kinds = self.pairs if m == 2 else itertools.combinations_with_replacement(range(n), m)
            blocks = []
            for kind in kinds if order else ():
                active = kind not in self.excluded
                if not active and m > 2:
                    continue
                block = self._block(tuple(kind), order + 1 if m == 2 else order, first, active)
                blocks.append(block)
                first = block.columns.stop
            by_size[m] = tuple(blocks)
        return by_size

    def _block(self, kind: tuple[int, ...], n_powers: int, first: int, active: bool) -> CoefficientBlock:
        types = tuple(sorted(kind, key=lambda t: self.types[t]))
        members = [tuple(sorted((types[a], types[b]))) for a, b in PAIRS[len(types)]]
        places = tuple(self.pairs.index((a, b)) for a, b in members)
        inner, outer = [self.inner[p] for p in places], [self.outer[p] for p in places]
        for m, side, sorted_types, values in self.limits:
            if m == len(kind) and sorted_types == kind:
                target = inner if side == "inner" else outer
                target[:] = [dict(values).get(pair, old) for pair, old in zip(members, target, strict=True)]  # type: ignore[arg-type]
        off = [o == i for i, o in zip(inner, outer, strict=True)]
        outer = [0.0 if switched_off else o for switched_off, o in zip(off, outer, strict=True)]
        label = "-".join(self.types[t] for t in types)
        return CoefficientBlock(types, places, tuple(inner), tuple(outer), n_powers, first, label, active)

    @property
    def active_blocks(self) -> list[CoefficientBlock]:
        """Blocks that have columns, in their order."""
        return [b for m in (2, 3, 4) for b in self.blocks(m) if b.active]

    @property
    def offset_types(self) -> tuple[int, ...]:
        """Types that have an energy offset, in the order of its columns."""
        return tuple(t for t in range(len(self.types)) if (t,) not in self.excluded)

    @property
    def n_coefficients(self) -> int:
        """Columns of pairs, triplets and quadruplets."""
        return sum(b.sets.n_unique for b in self.active_blocks)

    @property
    def n_columns(self) -> int:
        """All columns: coefficients, then energy offsets."""
        return self.n_coefficients + len(self.offset_types)

    @property
    def reach(self) -> float:
        """Largest outer cutoff, Å."""
        return max((o for m in (2, 3, 4) for b in self.blocks(m) for o in b.outer), default=0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, such as 'O-H T3', 'H-H-O 0 1 2', 'offset O'."""
        names = []
        for block in self.active_blocks:
            for powers in block.sets.powers[block.sets.representatives].tolist():
                text = f"T{powers[0]}" if len(powers) == 1 else " ".join(map(str, powers))
                names.append(f"{block.label} {text}")
        return (*names, *(f"offset {self.types[t]}" for t in self.offset_types))

    def config(self) -> dict[str, Any]:
        """The fields, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Settings from `config()`, also after a way through JSON."""
        return cls(**{k: _tuples(v) for k, v in config.items()})


def type_pairs(n_types: int) -> tuple[tuple[int, int], ...]:
    """Pairs of types in ChIMES's order: see `ChimesSettings.pairs`."""
    return (*((i, i) for i in range(n_types)), *itertools.combinations(range(n_types), 2))


def _tuples(value: Any) -> Any:
    return (
        tuple(_tuples(v) for v in value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
