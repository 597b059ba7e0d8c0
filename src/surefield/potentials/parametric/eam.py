"""Embedded-atom potential from tables, also from setfl files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, PotentialError
from surefield.potentials.parametric.edges import BondPotential, Edges, pair_index
from surefield.potentials.parametric.parameters import Entry, ParameterForm
from surefield.potentials.parametric.setfl import Setfl, read_tables, write_tables

__all__ = ["EAM"]


class EAM(BondPotential):
    """E = sum_i F_i(rho_i) + sum_(i<j) phi_ij(r_ij), rho_i = sum_j f_j(r_ij), all functions from tables.

    With a density for every pair of species rho_i = sum_j f_ij(r_ij): Finnis, Sinclair, eam/fs of LAMMPS.

    Between the points of a table stands a cubic with the values and slopes at both ends, the slopes from
    differences of five points: what LAMMPS does. Above the last rho the embedding energy goes on linearly.
    The parameters are the values in the tables; `resampled` gives tables short enough to be fitted.
    Source: Daw, Baskes, Phys. Rev. B 29, 6443 (1984).

    Args:
        values: `embedding` (n_species, n_rho) in eV; `density` (n_species, n_r), or (n_species^2,
            n_r) with the species that feels it before that it comes from; `pair` (n_pairs, n_r), r phi
            in eV Å, pairs in the order 11, 12, .., 22, ..; rho and r start at zero.
        species: chemical symbols, in the order of the tables.
        dr: spacing of the tables in r, Å.
        drho: spacing in rho.
        reach: where all interactions end, Å.
    """

    KIND: ClassVar[str] = "eam"
    FORMS: ClassVar[Mapping[str, ParameterForm]] = {
        "embedding": ParameterForm("eV", "species"),
        "density": ParameterForm("", "species"),
        "pair": ParameterForm("eV Å", "pair"),
    }

    @property
    def forms(self) -> Mapping[str, ParameterForm]:
        """What each parameter is; densities are of ordered pairs if there is one for each."""
        paired = len(self.values["density"]) > len(self.symbols)
        return {**self.FORMS, "density": ParameterForm("", "ordered pair")} if paired else self.FORMS

    dr: float = eqx.field(static=True)
    drho: float = eqx.field(static=True)
    reach: float = eqx.field(static=True)

    def __init__(
        self,
        values: Mapping[str, ArrayLike],
        species: Sequence[str],
        *,
        dr: float,
        drho: float,
        reach: float,
        free: Iterable[Entry | tuple[str, int]] | None = None,
    ) -> None:
        if not (dr > 0 and drho > 0 and reach > 0):
            raise ConfigError(f"EAM: dr, drho and reach must be positive, got {dr}, {drho}, {reach}")
        super().__init__(values, species, free=free)
        self.dr, self.drho, self.reach = float(dr), float(drho), float(reach)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Potential of a setfl file of eam/alloy or eam/fs.

        Raises:
            PotentialError: no such file, not of that format, values missing or left over, as in files of adp.
        """
        tables = read_tables(path)
        values = {name: getattr(tables, name) for name in cls.FORMS}
        try:
            return cls(values, tables.symbols, dr=tables.dr, drho=tables.drho, reach=tables.cutoff)
        except ConfigError as error:
            raise PotentialError(f"{path}: {error}") from None

    def write(self, path: str | Path, comment: str = "surefield") -> None:
        """Write a setfl file, of eam/fs if densities depend on pairs; reading it gives the same numbers."""
        tables = {name: np.asarray(self.values[name]) for name in self.FORMS}
        write_tables(
            path, Setfl(self.symbols, **tables, dr=self.dr, drho=self.drho, cutoff=self.reach), comment
        )

    def resampled(self, n_r: int, n_rho: int) -> Self:
        """Copy with tables of fewer points over the same ranges, read off the present ones."""
        if n_r < 5 or n_rho < 5:
            raise ConfigError(f"a table needs at least five points, got n_r={n_r}, n_rho={n_rho}")
        tables = {"embedding": n_rho, "density": n_r, "pair": n_r}
        values = {}
        for name, n in tables.items():
            old = self.values[name]
            points = jnp.linspace(0.0, old.shape[1] - 1.0, n)
            rows = jnp.arange(len(old))[:, None]
            values[name] = _read_off(old, rows, points[None])
        dr = self.dr * (self.values["pair"].shape[1] - 1) / (n_r - 1)
        drho = self.drho * (self.values["embedding"].shape[1] - 1) / (n_rho - 1)
        return type(self)(values, self.symbols, dr=dr, drho=drho, reach=self.reach)

    def checked_values(
        self, values: Mapping[str, ArrayLike], n_species: int
    ) -> dict[str, Float[Array, "*shape"]]:
        """Float64 tables that fit each other and the species.

        Raises:
            ConfigError: see the class.
        """
        tables = {name: np.asarray(values.get(name, ()), np.float64) for name in self.FORMS}
        rows = {name: form.extent(n_species) for name, form in self.FORMS.items()}
        if len(tables["density"]) == n_species**2:
            rows["density"] = n_species**2
        points = {name: array.shape[-1] for name, array in tables.items()}
        fits = all(a.ndim == 2 and len(a) == rows[k] and points[k] >= 5 for k, a in tables.items())
        if not fits or points["density"] != points["pair"] or set(values) != set(tables):
            got = ", ".join(f"{name} {np.shape(value)}" for name, value in values.items())
            n = n_species
            expected = (
                f"embedding ({n}, n_rho), density ({n} or {n**2}, n_r), pair ({rows['pair']}, n_r), "
                "5 points or more"
            )
            raise ConfigError("EAM: tables do not fit the species", got=got, expected=expected)
        if not all(np.isfinite(array).all() for array in tables.values()):
            raise ConfigError("EAM: a table holds values that are not finite")
        return {name: jnp.asarray(array) for name, array in tables.items()}

    def options(self) -> dict[str, Any]:
        """Spacings of the tables and the range."""
        return {"dr": self.dr, "drho": self.drho, "reach": self.reach}

    def ranges(self) -> Float[Array, " n_ranges"]:
        """Where all interactions end, Å."""
        return jnp.asarray([self.reach])

    def edge_energies(self, edges: Edges) -> Float[Array, " n_atoms"]:
        """Embedding energy and half of each bond, eV."""
        near = edges.mask & (edges.r < self.reach)
        r = jnp.where(near, edges.r, self.reach)
        n = len(self.symbols)
        paired = len(self.values["density"]) > n
        sources = edges.types * n + edges.others if paired else edges.others
        density = jnp.where(near, _read_off(self.values["density"], sources, r / self.dr), 0.0)
        pairs = pair_index(n)[edges.types, edges.others]
        bonds = jnp.where(near, _read_off(self.values["pair"], pairs, r / self.dr) / r, 0.0)
        rho = jnp.sum(density, axis=0) / self.drho
        last = self.values["embedding"].shape[1] - 1.0
        embedding = _read_off(self.values["embedding"], edges.types, jnp.minimum(rho, last))
        slope = _slopes(self.values["embedding"])[edges.types, -1]
        embedding += jnp.where(rho > last, slope * (rho - last), 0.0)
        return jnp.where(edges.atom_mask, embedding + 0.5 * jnp.sum(bonds, axis=0), 0.0)


def _slopes(tables: Float[Array, "n_tables n_points"]) -> Float[Array, "n_tables n_points"]:
    """Slope at every point, per step: five points inside, three next to the ends, two at them."""
    f = tables
    inner = (8.0 * (f[:, 3:-1] - f[:, 1:-3]) - (f[:, 4:] - f[:, :-4])) / 12.0
    start = [f[:, 1] - f[:, 0], 0.5 * (f[:, 2] - f[:, 0])]
    end = [0.5 * (f[:, -1] - f[:, -3]), f[:, -1] - f[:, -2]]
    return jnp.concatenate([jnp.stack(start, axis=1), inner, jnp.stack(end, axis=1)], axis=1)


def _read_off(
    tables: Float[Array, "n_tables n_points"],
    rows: Array,
    points: Float[Array, "*places"],
) -> Float[Array, "*places"]:
    """Cubic Hermite interpolation at points counted in steps; the last value beyond the end."""
    slopes = _slopes(tables)
    below = jnp.clip(jnp.floor(points).astype(jnp.int32), 0, tables.shape[1] - 2)
    t = jnp.minimum(points - below, 1.0)
    f, s = tables[rows, below], slopes[rows, below]
    rise, next_slope = tables[rows, below + 1] - f, slopes[rows, below + 1]
    return f + t * (s + t * (3 * rise - 2 * s - next_slope + t * (s + next_slope - 2 * rise)))
