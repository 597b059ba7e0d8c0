"""Ziegler-Biersack-Littmark repulsion of nuclei at short distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from jaxtyping import Array, Float

from surefield.errors import ConfigError
from surefield.potentials.potential import Potential, species_numbers
from surefield.structures.graph import Graph

__all__ = ["ZBL"]

#: Universal screening function, Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985).
_AMPLITUDES = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_EXPONENTS = np.array([3.19980, 0.94229, 0.40290, 0.20162])


class ZBL(Potential):
    """Screened nuclear repulsion, switched off smoothly between two distances.

    E = 1/2 sum_ij (Z_i Z_j e^2 / 4 pi eps0 r) phi(r/a) s(r), a = 0.46850 Å/(Z_i^0.23 + Z_j^0.23); s falls
    from 1 at `inner` to 0 at `outer` with two continuous derivatives. No parameter is trained.

    Args:
        species: chemical symbols or atomic numbers.
        inner: where the switch begins, Å.
        outer: where the repulsion ends, Å; it should lie below the shortest bond of the data.
    """

    species: tuple[int, ...] = eqx.field(static=True)
    inner: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __init__(self, species: Sequence[str | int], inner: float = 0.7, outer: float = 1.4) -> None:
        if not 0 <= inner < outer:
            raise ConfigError(f"ZBL needs 0 <= inner < outer, got inner={inner}, outer={outer}")
        self.species = species_numbers(species)
        self.inner, self.cutoff = float(inner), float(outer)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Potential of the configuration in a file."""
        return cls(config["species"], config["inner"], config["outer"])

    def config(self) -> dict[str, Any]:
        """JSON-able configuration from which `from_config` makes the same potential."""
        symbols = [chemical_symbols[z] for z in self.species]
        return {"kind": "zbl", "species": symbols, "inner": self.inner, "outer": self.cutoff}

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
        t = jnp.clip((safe - self.inner) / (self.cutoff - self.inner), 0.0, 1.0)
        switch = 1 - t**3 * (10 - 15 * t + 6 * t**2)
        pair = Hartree * Bohr * first * second / safe * screening * switch
        return 0.5 * jnp.sum(jnp.where(near, pair, 0.0), axis=1)
