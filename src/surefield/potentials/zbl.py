"""Ziegler-Biersack-Littmark repulsion of nuclei at short distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from jaxtyping import Array, Float

from surefield.errors import ConfigError, nearest
from surefield.potentials.evaluate import species_index
from surefield.potentials.potential import Potential, species_numbers
from surefield.structures.graph import Graph

__all__ = ["ZBL", "Switch"]

Switch = Literal["smooth", "lammps"]

#: Universal screening function, Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985).
_AMPLITUDES = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_EXPONENTS = np.array([3.19980, 0.94229, 0.40290, 0.20162])
#: e^2/(4 pi eps0), eV Å: of today, and of LAMMPS' metal units.
_COULOMB = {"smooth": Hartree * Bohr, "lammps": 14.399645}


class ZBL(Potential):
    """Screened nuclear repulsion, switched off between two distances.

    E = 1/2 sum_ij v(r_ij), v = (Z_i Z_j e^2 / 4 pi eps0 r) phi(r/a), a = 0.46850 Å/(Z_i^0.23 + Z_j^0.23) for
    r < `outer`. No parameter is trained.

    Args:
        species: chemical symbols or atomic numbers.
        inner: where the switch begins, Å.
        outer: where the repulsion ends, Å; with 'smooth' it should lie below the shortest bond of the data.
        switch: 'smooth' multiplies v by a polynomial that falls from 1 to 0 with two continuous derivatives;
            'lammps' adds the polynomial of LAMMPS' pair style zbl, which is not zero below `inner` either.
    """

    #: Collisions of cascades come far below the distances of bonds; here energies are some MeV.
    min_distance: ClassVar[float] = 0.01

    species: tuple[int, ...] = eqx.field(static=True)
    inner: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    switch: Switch = eqx.field(static=True)

    def __init__(
        self,
        species: Sequence[str | int],
        inner: float = 0.7,
        outer: float = 1.4,
        switch: Switch = "smooth",
    ) -> None:
        if not 0 <= inner < outer:
            raise ConfigError(f"ZBL needs 0 <= inner < outer, got inner={inner}, outer={outer}")
        if switch not in get_args(Switch):
            raise ConfigError(f"unknown switch {switch!r} of ZBL; {nearest(switch, get_args(Switch))}")
        self.species, self.switch = species_numbers(species), switch
        self.inner, self.cutoff = float(inner), float(outer)

    def config(self) -> dict[str, Any]:
        """JSON-able configuration from which `from_config` makes the same potential."""
        symbols = [chemical_symbols[z] for z in self.species]
        entries = {"kind": "zbl", "species": symbols, "inner": self.inner, "outer": self.cutoff}
        # Older versions read files that do not name the switch, and do not name it themselves.
        return entries if self.switch == "smooth" else entries | {"switch": self.switch}

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """No element offsets."""
        return jnp.zeros(len(self.species))

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Half of each pair's repulsion, eV."""
        r = jnp.sqrt(jnp.sum(graph.vectors**2, axis=-1))
        z = graph.numbers.astype(r.dtype)
        first, second = z[:, None], z[graph.neighbors]
        near = graph.mask & (r < self.cutoff)
        # Divisions and powers stay finite for padding, whose gradient must be zero and not NaN.
        safe = jnp.where(near, r, 1.0)
        length = 0.46850 / (jnp.where(near, first, 1.0) ** 0.23 + jnp.where(near, second, 1.0) ** 0.23)
        x = safe / length
        screening = sum(
            float(a) * jnp.exp(-float(b) * x) for a, b in zip(_AMPLITUDES, _EXPONENTS, strict=True)
        )
        pair = _COULOMB[self.switch] * first * second / safe * screening
        width = self.cutoff - self.inner
        if self.switch == "smooth":
            t = jnp.clip((safe - self.inner) / width, 0.0, 1.0)
            pair = pair * (1 - t**3 * (10 - 15 * t + 6 * t**2))
        else:
            index = species_index(self, graph)
            third, fourth, constant = jnp.asarray(self._added(), r.dtype)[
                :, index[:, None], index[graph.neighbors]
            ]
            t = jnp.clip(safe - self.inner, 0.0, width)
            pair = pair + constant + t**3 * (third + fourth * t)
        return 0.5 * jnp.sum(jnp.where(near, pair, 0.0), axis=1)

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
