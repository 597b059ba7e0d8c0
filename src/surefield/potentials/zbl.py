"""Ziegler-Biersack-Littmark repulsion of nuclei at short distances."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.units import Bohr, Hartree
from jaxtyping import Array, Float

from surefield.errors import ConfigError, nearest
from surefield.potentials.abilities import SavedByArguments
from surefield.potentials.evaluate import species_index, species_numbers
from surefield.potentials.potential import Potential
from surefield.structures.graph import Graph
from surefield.structures.neighbors import neighborhood

__all__ = ["ZBL", "Switch"]

Switch = Literal["smooth", "lammps"]

#: Universal screening function, Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985).
_AMPLITUDES = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_EXPONENTS = np.array([3.19980, 0.94229, 0.40290, 0.20162])
#: Where the switch of a pair begins, as part of where it ends, if the data say where that is.
INNER: Final = 0.7
#: Distances beyond this are of no use for a repulsion, Å.
_REACH: Final = 3.5
#: e^2/(4 pi eps0), eV Å: of today, and of LAMMPS' metal units.
_COULOMB = {"smooth": Hartree * Bohr, "lammps": 14.399645}


class ZBL(Potential, SavedByArguments):
    """Screened nuclear repulsion, switched off between two distances.

    E = 1/2 sum_ij v(r_ij), v = (Z_i Z_j e^2 / 4 pi eps0 r) phi(r/a), a = 0.46850 Å/(Z_i^0.23 + Z_j^0.23) for
    r < `outer`. No parameter is trained.

    Args:
        species: chemical symbols or atomic numbers.
        inner: where the switch begins, Å.
        outer: where the repulsion ends, Å; with 'smooth' it should lie below the shortest bond of the data.
        pairs: `inner` and `outer` of single pairs of elements, by their symbols: {"C-H": (0.7, 1.0)}; with
            'smooth' only.
        switch: 'smooth' multiplies v by a polynomial that falls from 1 to 0 with two continuous derivatives;
            'lammps' adds the polynomial of LAMMPS' pair style zbl, which is not zero below `inner` either.
    """

    KIND: ClassVar[str] = "zbl"
    #: Collisions of cascades come far below the distances of bonds; here energies are some MeV.
    min_distance: ClassVar[float] = 0.01

    species: tuple[int, ...] = eqx.field(static=True)
    inner: float = eqx.field(static=True)
    outer: float = eqx.field(static=True)
    pairs: tuple[tuple[int, int, float, float], ...] = eqx.field(static=True)
    switch: Switch = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[str | int],
        inner: float = 0.7,
        outer: float = 1.4,
        switch: Switch = "smooth",
        pairs: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        ranges = [(inner, outer), *(pairs or {}).values()]
        for low, high in ranges:
            if not 0 <= low < high:
                raise ConfigError(f"ZBL needs 0 <= inner < outer, got inner={low}, outer={high}")
        if pairs and switch != "smooth":
            raise ConfigError("ranges of single pairs go with switch='smooth' only", got=f"switch={switch!r}")
        if switch not in get_args(Switch):
            raise ConfigError(f"unknown switch {switch!r} of ZBL; {nearest(switch, get_args(Switch))}")
        self.species, self.switch = species_numbers(species), switch
        self.inner, self.outer = float(inner), float(outer)
        self.pairs = tuple(
            sorted(
                (*species_pair(name), float(low), float(high)) for name, (low, high) in (pairs or {}).items()
            )
        )

    def arguments(self) -> dict[str, Any]:
        """Those of the constructor."""
        symbols = [chemical_symbols[z] for z in self.species]
        entries = {"species": symbols, "inner": self.inner, "outer": self.outer}
        if self.pairs:
            names = [f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b, _, _ in self.pairs]
            entries["pairs"] = dict(zip(names, ([low, high] for *_, low, high in self.pairs), strict=True))
        # Older versions read files that do not name the switch, and do not name it themselves.
        return entries if self.switch == "smooth" else entries | {"switch": self.switch}

    @classmethod
    def below(cls, frames: Iterable[Atoms], species: Sequence[str | int], share: float = 1.0) -> ZBL:
        """The repulsion that ends where data begin: pair by pair at the shortest distance of some structures.

        Structures like these have no energy by it, so that what is learned from them stays as it is. Pairs
        that never come near have the shortest of all distances in units of covalent radii.

        Args:
            frames: structures that a potential is trained on.
            species: of the potential.
            share: of these distances, where it ends: below 1 for the starts of dynamics, say.
        """
        numbers = species_numbers(species)
        shortest = share * _shortest_distances(frames, numbers)
        radii = covalent_radii[list(numbers)]
        sums = radii[:, None] + radii
        if not np.isfinite(shortest).any():
            return cls(numbers)
        outer = np.where(np.isfinite(shortest), shortest, np.min(shortest / sums) * sums)
        least = float(outer.min())
        pairs = {
            f"{chemical_symbols[numbers[i]]}-{chemical_symbols[numbers[j]]}": (INNER * d, d)
            for i, j in itertools.combinations_with_replacement(range(len(numbers)), 2)
            if (d := float(outer[i, j])) > least
        }
        return cls(numbers, INNER * least, least, pairs=pairs)

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Where the repulsion of all pairs has ended, Å."""
        return max([self.outer, *(high for *_, high in self.pairs)])

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """No element offsets."""
        return jnp.zeros(len(self.species))

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Half of each pair's repulsion, eV."""
        r = jnp.sqrt(jnp.sum(graph.vectors**2, axis=-1))
        z = graph.numbers.astype(r.dtype)
        first, second = z[:, None], z[graph.neighbors]
        inner, outer = self._ranges(graph)
        near = graph.mask & (r < outer)
        # Divisions and powers stay finite for padding, whose gradient must be zero and not NaN.
        safe = jnp.where(near, r, 1.0)
        length = 0.46850 / (jnp.where(near, first, 1.0) ** 0.23 + jnp.where(near, second, 1.0) ** 0.23)
        x = safe / length
        screening = sum(
            float(a) * jnp.exp(-float(b) * x) for a, b in zip(_AMPLITUDES, _EXPONENTS, strict=True)
        )
        pair = _COULOMB[self.switch] * first * second / safe * screening
        width = outer - inner
        if self.switch == "smooth":
            t = jnp.clip((safe - inner) / width, 0.0, 1.0)
            pair = pair * (1 - t**3 * (10 - 15 * t + 6 * t**2))
        else:
            index = species_index(self, graph)
            third, fourth, constant = jnp.asarray(self._added(), r.dtype)[
                :, index[:, None], index[graph.neighbors]
            ]
            t = jnp.clip(safe - self.inner, 0.0, width)
            pair = pair + constant + t**3 * (third + fourth * t)
        return 0.5 * jnp.sum(jnp.where(near, pair, 0.0), axis=1)

    def _ranges(self, graph: Graph) -> tuple[Any, Any]:
        """`inner` and `outer` of every edge, or of all."""
        if not self.pairs:
            return self.inner, self.outer
        n = len(self.species)
        tables = np.broadcast_to(np.array([self.inner, self.outer])[:, None, None], (2, n, n)).copy()
        for a, b, *ends in self.pairs:
            if a in self.species and b in self.species:
                i, j = self.species.index(a), self.species.index(b)
                tables[:, i, j] = tables[:, j, i] = ends
        index = species_index(self, graph)
        inner, outer = jnp.asarray(tables, graph.vectors.dtype)[:, index[:, None], index[graph.neighbors]]
        return inner, outer

    def _added(self) -> Float[np.ndarray, "3 n_species n_species"]:
        """Coefficients of t^3, t^4 and 1 in what LAMMPS adds: v, v' and v'' vanish at `outer`."""
        z = np.array(self.species, float)
        inverse = (z[:, None] ** 0.23 + z**0.23) / 0.46850
        rates = _EXPONENTS[:, None, None] * inverse
        r, d = self.cutoff, self.cutoff - self.inner
        terms = _AMPLITUDES[:, None, None] * np.exp(-rates * r)
        phi, slope, curve = terms.sum(0), -(rates * terms).sum(0), (rates**2 * terms).sum(0)
        charge = _COULOMB["lammps"] * np.outer(z, z)
        value = charge * phi / r
        first = charge * (slope / r - phi / r**2)
        second = charge * (curve / r - 2 * slope / r**2 + 2 * phi / r**3)
        cubic = (-3 * first + d * second) / d**2
        quartic = (2 * first - d * second) / d**3
        constant = -value + d * first / 2 - d**2 * second / 12
        return np.stack([cubic / 3, quartic / 4, constant])


def species_pair(name: str) -> tuple[int, int]:
    """Atomic numbers of "C-H", ascending.

    Raises:
        ConfigError: anything else.
    """
    symbols = str(name).split("-")
    if len(symbols) != 2 or not set(symbols) <= set(chemical_symbols[1:]):
        raise ConfigError("a pair of ZBL is two chemical symbols, such as 'C-H'", got=repr(name))
    first, second = sorted(chemical_symbols.index(symbol) for symbol in symbols)
    return first, second


def _shortest_distances(frames: Iterable[Atoms], numbers: Sequence[int]) -> Float[np.ndarray, "n n"]:
    """Of each pair of elements, Å; infinite where they never come near."""
    table = np.full((len(numbers), len(numbers)), np.inf)
    place = np.zeros(len(chemical_symbols), int)
    place[list(numbers)] = np.arange(len(numbers))
    for atoms in frames:
        around = neighborhood(atoms, _REACH)
        index, real = place[around.numbers], np.arange(around.n_neighbors) < around.counts[:, None]
        distances = np.linalg.norm(around.vectors, axis=2)[real]
        np.minimum.at(table, (np.repeat(index, around.counts), index[around.neighbors[real]]), distances)
    return np.minimum(table, table.T)
