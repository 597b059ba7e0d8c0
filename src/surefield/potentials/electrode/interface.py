"""The metal surface of an electrode: its height, and how fingerprints of the potential decay above it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols, vdw_radii
from jaxtyping import Array, Float

from surefield.errors import ConfigError, nearest
from surefield.structures.batching import padded_batches
from surefield.structures.electrode import INTERFACE, PHI
from surefield.structures.graph import Graph, sum_atoms
from surefield.structures.neighbors import Neighborhood

__all__ = ["CONVENTIONS", "Interface", "decay_ranges", "metal_and_radius"]

CONVENTIONS = ("exact", "fixed-interface", "amp-1.1")
#: Steepness of the softmax that stands for the largest height, 1/Å.
_SHARPNESS = 10.0
#: Radius of a metal that nobody has named, Å.
_UNNAMED_RADIUS = 1.7


def metal_and_radius(
    slab_metal: str | None, vdw_radius: float | None, first_symbol: str | None = None
) -> tuple[str, float]:
    """Element of the slab and its van der Waals radius in Å.

    Args:
        slab_metal: symbol; None: the element of the first atom, with a radius of 1.7 Å.
        vdw_radius: Å; None: that of ASE's table.
        first_symbol: element of the first atom of the first image.

    Raises:
        ConfigError: no such element, none at all, a radius that is not positive or not in the table.
    """
    if slab_metal is None:
        if first_symbol is None:
            raise ConfigError("slab_metal is needed: the element whose atoms form the electrode")
        return first_symbol, _UNNAMED_RADIUS if vdw_radius is None else _positive("vdw_radius", vdw_radius)
    if atomic_numbers.get(slab_metal, 0) < 1:
        raise ConfigError(
            f"slab_metal {slab_metal!r} is no element; {nearest(slab_metal, chemical_symbols[1:])}"
        )
    if vdw_radius is not None:
        return slab_metal, _positive("vdw_radius", vdw_radius)
    number = atomic_numbers[slab_metal]
    radius = float(vdw_radii[number]) if number < len(vdw_radii) else np.nan
    if not np.isfinite(radius):
        raise ConfigError(
            f"no van der Waals radius of {slab_metal} is known",
            fix="give vdw_radius=, in Å (about 1.7 to 2.2)",
        )
    return slab_metal, radius


def _positive(name: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class Interface:
    """Where the metal ends, and the functions g_eta of the height above it.

    z_i = R_i . n; z0 = z_top - 2.5 radius + correction; s = z - z0.
    Smooth: z_top = sum_a z_a p_a with p = softmax(10 z_a/Å) over the metal's atoms,
    g_eta(s) = S(s/onset_width) exp(-eta max(s, 0)), S(t) = t^3 (10 - 15 t + 6 t^2) clipped to [0, 1].
    Not smooth: z_top = max z_a, g_eta(s) = exp(-eta s) for s >= 0, else 0.

    Args:
        metal: symbol of the slab's element.
        radius: its van der Waals radius, Å.
        correction: Å.
        normal: of the surface, out of the metal; scaled to length one.
        onset_width: Å.
        etas: decay constants, 1/Å.
        smooth: which of the two forms.
        convention: of forces. 'exact': they are derivatives of the energy; 'fixed-interface': z0 is not
            differentiated; 'amp-1.1' (warns): moreover the derivative of g_eta has a wrong factor s, as the
            program Amp 1.1 has it.

    Raises:
        ConfigError: a value out of range.
    """

    metal: str
    radius: float
    correction: float = 3.0
    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    onset_width: float = 0.5
    etas: tuple[float, ...] = (2.0, 1.0, 0.5, 0.1)
    smooth: bool = True
    convention: str = "exact"

    def __post_init__(self) -> None:
        normal = np.asarray(self.normal, np.float64)
        if normal.shape != (3,) or not np.isfinite(normal).all() or not np.any(normal):
            raise ConfigError(
                f"surface_normal must be a vector of three numbers, not zero, got {self.normal}"
            )
        etas = tuple(float(eta) for eta in self.etas)
        if not etas or not all(np.isfinite(eta) and eta > 0 for eta in etas):
            raise ConfigError(f"etas must be positive numbers (1/Å), at least one, got {self.etas}")
        if not np.isfinite(self.correction):
            raise ConfigError(f"surface_correction must be a number (Å), got {self.correction}")
        if self.convention not in CONVENTIONS:
            raise ConfigError(
                f"unknown force_convention {self.convention!r}; {nearest(self.convention, CONVENTIONS)}"
            )
        if self.convention == "amp-1.1":
            warnings.warn(
                "force_convention='amp-1.1' gives forces that are no derivatives of the energy, as Amp 1.1 "
                "does; it is there to compare old models",
                stacklevel=5,
            )
        length = np.linalg.norm(normal)
        # A normal that was scaled before stays as it is, bit by bit.
        normal = normal if abs(length - 1) < 1e-12 else normal / length
        object.__setattr__(self, "normal", tuple(normal.tolist()))
        object.__setattr__(self, "etas", etas)
        object.__setattr__(self, "onset_width", _positive("onset_width", self.onset_width))

    @classmethod
    def of_surface(
        cls,
        etas: Sequence[float] = (2.0, 1.0, 0.5, 0.1),
        surface_correction: float = 3.0,
        slab_metal: str | None = None,
        force_convention: str = "exact",
        surface_normal: Sequence[float] = (0.0, 0.0, 1.0),
        onset_width: float = 0.5,
        vdw_radius: float | None = None,
        *,
        smooth: bool = True,
    ) -> Interface:
        """From the arguments that potentials of electrodes have in common.

        Args:
            etas: decay constants of the charge fingerprints, or of g_eta, 1/Å.
            surface_correction: Å.
            slab_metal: element whose atoms are the electrode.
            force_convention: 'exact', 'fixed-interface' or 'amp-1.1'. Only 'exact' forces are derivatives of
                the energy.
            surface_normal: out of the metal.
            onset_width: Å.
            vdw_radius: of the metal, Å; None: ASE's.
            smooth: see the class.
        """
        metal, radius = metal_and_radius(slab_metal, vdw_radius)
        normal: Any = tuple(surface_normal)
        shape = (surface_correction, normal, onset_width, tuple(etas))
        return cls(metal, radius, *shape, smooth, force_convention)

    def surface(self) -> dict[str, Any]:
        """JSON-able arguments of `of_surface`, but for `smooth`."""
        return {
            "etas": list(self.etas),
            "surface_correction": self.correction,
            "slab_metal": self.metal,
            "force_convention": self.convention,
            "surface_normal": list(self.normal),
            "onset_width": self.onset_width,
            "vdw_radius": self.radius,
        }

    @property
    def number(self) -> int:
        """Atomic number of the metal."""
        return atomic_numbers[self.metal]

    def heights(self, graph: Graph) -> tuple[Float[Array, " n_atoms"], Float[Array, " n_structures"]]:
        """Heights z of the atoms along the normal and z0 of every structure, Å."""
        z = graph.positions @ jnp.asarray(self.normal, graph.positions.dtype)
        metal = graph.numbers == self.number
        top = jax.ops.segment_max(
            jax.lax.stop_gradient(jnp.where(metal, z, -jnp.inf)), graph.structure, graph.n_structures
        )
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        # Heights from the top keep single precision, and equal ones share the derivative.
        below = jnp.where(metal, z - top[graph.structure], 0.0)
        weight = jnp.exp(_SHARPNESS * below) if self.smooth else (below == 0).astype(z.dtype)
        weight = jnp.where(metal, weight, 0.0)
        total = sum_atoms(weight, graph)
        mean = sum_atoms(weight * below, graph) / jnp.where(total > 0, total, 1.0)
        surface = top + mean - 2.5 * self.radius + self.correction
        z0 = jnp.where(jnp.isnan(graph.inputs[INTERFACE]), surface, graph.inputs[INTERFACE])
        return z, z0 if self.convention == "exact" else jax.lax.stop_gradient(z0)

    def decays(self, graph: Graph) -> Float[Array, "n_atoms n_etas"]:
        """g_eta of every atom (traceable)."""
        z, z0 = self.heights(graph)
        etas = jnp.asarray(self.etas, z.dtype)
        s = (z - z0[graph.structure])[:, None] + jnp.zeros_like(etas)
        if self.convention == "amp-1.1":
            return _with_spurious_factor(s, self)
        return self.decay(s)

    def decay(self, s: Float[Array, "*n n_etas"]) -> Float[Array, "*n n_etas"]:
        """g_eta of heights above z0, Å, one column per eta (traceable)."""
        exponential = jnp.exp(-jnp.asarray(self.etas, s.dtype) * jnp.maximum(s, 0.0))
        if not self.smooth:
            return jnp.where(s >= 0, exponential, 0.0)
        t = jnp.clip(s / self.onset_width, 0.0, 1.0)
        return t**3 * (10 - 15 * t + 6 * t**2) * exponential

    def fingerprints(self, graph: Graph) -> Float[Array, "n_atoms n_etas"]:
        """Charge fingerprints Phi g_eta of every atom, V (traceable)."""
        return graph.inputs[PHI][graph.structure][:, None] * self.decays(graph)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _with_spurious_factor(s: Float[Array, "n n_etas"], interface: Interface) -> Float[Array, "n n_etas"]:
    return interface.decay(s)


@_with_spurious_factor.defjvp
def _spurious_derivative(
    interface: Interface, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (s,), (ds,) = primals, tangents
    return jax.jvp(interface.decay, (s,), (s * ds,))


@eqx.filter_jit
def _decays(interface: Interface, graph: Graph, times_phi: bool) -> Array:
    return interface.fingerprints(graph) if times_phi else interface.decays(graph)


def decay_ranges(
    interface: Interface,
    species: Sequence[int],
    structures: Sequence[Neighborhood],
    *,
    times_phi: bool = False,
) -> tuple[Float[np.ndarray, "n_species n_etas"], Float[np.ndarray, "n_species n_etas"]]:
    """Least and largest g_eta over the atoms of each element; [-1, 1] without atoms.

    Args:
        interface: defines g_eta.
        species: atomic numbers.
        structures: of the training set.
        times_phi: of the charge fingerprints Phi g_eta (V) instead.
    """
    shape = (len(species), len(interface.etas))
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for _, graph in padded_batches(structures, 64, np.float64):
        values, numbers = np.asarray(_decays(interface, graph, times_phi)), np.asarray(graph.numbers)
        for place, z in enumerate(species):
            own = values[numbers == z]
            low[place] = np.minimum(low[place], own.min(axis=0, initial=np.inf))
            high[place] = np.maximum(high[place], own.max(axis=0, initial=-np.inf))
    unseen = ~np.isfinite(low)
    return np.where(unseen, -1.0, low), np.where(unseen, 1.0, high)
