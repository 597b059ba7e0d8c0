"""What a property of a potential is: relaxed structures, and values that follow from them differentiably."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Array, Float

from surefield.errors import ConfigError, ExecutionError, PotentialError, check_known
from surefield.execution.cache import use_compilation_cache
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.properties.crystal import Crystal
from surefield.properties.deformation import (
    N_STRAINS,
    deformed,
    slopes,
    strain_matrix,
    twice_differentiable,
)
from surefield.properties.relaxation import Relaxed, Tolerances, relax
from surefield.properties.sigma import (
    N_SAMPLES,
    calibration_factor,
    sigma_of_members,
    sigma_of_posterior,
    sigma_of_samples,
)
from surefield.properties.simulator import simulated
from surefield.sensitivity.parameter_jacobian import in_float64
from surefield.structures.graph import Graph
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["CrystalProperty", "Property", "PropertyResult", "Stationary"]


@dataclass(frozen=True)
class PropertyResult:
    """What a property came to.

    Attributes:
        value: (n,) float64.
        converged: whether all relaxations did; a property of this package raises an error instead.
        message: what there is to know, such as that a crystal is unstable.
        names: of the values.
        units: of the values.
        sigma: (n,) calibrated standard deviations, where they were asked for.
    """

    value: Float[np.ndarray, " n"]
    converged: bool = True
    message: str = ""
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    sigma: Float[np.ndarray, " n"] | None = None


class Stationary(eqx.Module):
    """A relaxed structure as a function of the potential's parameters, right to first order.

    At the stationary point x of E(x, p), dx/dp = -(d2E/dx2)^-1 d2E/dx dp: one Newton step from x with the
    second derivatives held fixed has this derivative and leads to x itself (traceable).
    """

    graph: Graph
    inverse: Float[Array, "n_coordinates n_coordinates"]

    @classmethod
    def of(cls, relaxed: Relaxed) -> Stationary:
        """Of a structure whose second derivatives are known."""
        return cls(relaxed.graph, jnp.asarray(relaxed.inverse))

    def shift(self, potential: Potential, matrix: Any = None) -> tuple[Array, Array]:
        """Matrix 1 + strain and displacements (n_atoms, 3) that lead to the stationary point.

        Args:
            potential: of other parameters.
            matrix: by which the structure is deformed first.
        """
        return _shift(potential, self.graph, self.inverse, jnp.eye(3) if matrix is None else matrix)

    def moved(self, potential: Potential) -> Graph:
        """The structure at the stationary point of a potential of other parameters."""
        return deformed(self.graph, *self.shift(potential))


@eqx.filter_jit
def _shift(potential: Potential, graph: Graph, inverse: Array, matrix: Array) -> tuple[Array, Array]:
    graph = deformed(graph, matrix, jnp.zeros((graph.numbers.shape[0], 3)))
    step = -inverse @ slopes(potential, graph)[1]
    return jnp.eye(3) + strain_matrix(step[:N_STRAINS]), step[N_STRAINS:].reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Property(abc.ABC):
    """A function of a potential whose structures are relaxed; final classes say which, and what follows.

    Attributes:
        calibrated_as: quantity whose calibration the sigma has: what the values are made of.
        simulator: the LAMMPS that computes energies and forces; None: none, they are computed here.
    """

    calibrated_as: ClassVar[Literal["energy", "forces", "stress"]]
    simulator: ClassVar[str | None] = None

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the values."""

    @property
    @abc.abstractmethod
    def units(self) -> tuple[str, ...]:
        """Of the values."""

    @abc.abstractmethod
    def states(self, potential: Potential) -> Any:
        """Relaxed structures by name, the crystal under 'bulk'; under 'message' what there is to say.

        Raises:
            ExecutionError: a relaxation that did not converge.
        """

    @abc.abstractmethod
    def values(self, potential: Potential, states: Any) -> Float[Array, " n"]:
        """Values from relaxed structures, right to first order in the parameters (traceable)."""

    def calculate_property(self, potential: Potential | HasPotential, **unused: Any) -> PropertyResult:
        """Relax and compute.

        Args:
            potential: any, or a handle around one; it is not changed.
            unused: `workflow`, `storage` and `iter_num` of scripts that pass them; nothing here needs them.

        Raises:
            ConfigError: another argument; no such LAMMPS.
            ExecutionError: a relaxation that did not converge: there is no value.
            PotentialError: an element that the potential does not know, or no form that LAMMPS knows.
        """
        _check_unused(unused)
        with simulated(_prepared(potential), self.simulator) as computed:
            return self._result(computed, self.states(computed))

    def _result(self, potential: Potential, states: Any) -> PropertyResult:
        value = np.asarray(self.values(potential, _arrays(states)), np.float64)
        if not np.isfinite(value).all():
            raise ExecutionError(f"{type(self).__name__}: values are not finite", got=value.tolist())
        by = "" if self.simulator is None else f"computed by {self.simulator}"
        message = "; ".join(filter(None, (_message(states), by)))
        return PropertyResult(value, True, message, self.names, self.units)

    def predict(self, uncertainty: Uncertainty) -> PropertyResult:
        """Value and calibrated standard deviation; see `surefield.properties.sigma` for what that means.

        Args:
            uncertainty: LLPR (of models that JAX cannot differentiate twice, sigmas are sampled), or an
                ensemble.

        Raises:
            ConfigError: a potential without uncertainty.
            ExecutionError: a relaxation that did not converge, also that of a member.
            PotentialError: an uncertainty that knows only errors of single predictions.
        """
        if not isinstance(uncertainty, Uncertainty):
            raise ConfigError(
                "sigmas need an uncertainty around the potential",
                got=type(uncertainty).__name__,
                fix="surefield.LLPR.fit(potential, train, calibration), or calculate_property for the value",
            )
        factor, calibrated = calibration_factor(uncertainty.maps, self.calibrated_as)
        prepared = _prepared(uncertainty.potential)
        states = self.states(prepared)
        words = []
        if self.simulator is None:
            result = self._result(prepared, states)
        else:
            result = self.calculate_property(prepared)

        def calculated(potential: Potential) -> Float[np.ndarray, " n"]:
            return self.calculate_property(potential).value

        if isinstance(uncertainty, LLPR) and not uncertainty.stale:
            if _differentiable(prepared, states):
                spread = sigma_of_posterior(uncertainty, self._near(states))
            else:
                spread = sigma_of_samples(uncertainty, calculated, result.value)
                words.append(f"sigma from {N_SAMPLES} samples of the posterior")
        else:
            spread = sigma_of_members(uncertainty, calculated)
        if not calibrated:
            words.append("sigma not calibrated")
        message = "; ".join([*filter(None, [result.message]), *words])
        return replace(result, sigma=factor * spread, message=message)

    def near(self, potential: Potential | HasPotential) -> Callable[[Potential], Float[Array, " n"]]:
        """The property as a function of potentials near to this one, for its first derivatives (traceable).

        Structures are relaxed here once; implicit differentiation accounts for how they change.

        Raises:
            ConfigError: a property by LAMMPS, whose derivatives are numerical.
            PotentialError: the potential cannot be differentiated twice by JAX.
        """
        if self.simulator is not None:
            raise ConfigError(
                f"{type(self).__name__}: LAMMPS gives no derivatives by parameters",
                fix="use a numerical method ('CD'), or leave simulator_path out",
            )
        prepared = _prepared(potential)
        states = self.states(prepared)
        if not _differentiable(prepared, states):
            raise PotentialError(
                f"{type(prepared).__name__} is no function that JAX differentiates twice",
                fix="use a numerical method ('CD')",
            )
        return self._near(states)

    def _near(self, states: Any) -> Callable[[Potential], Float[Array, " n"]]:
        arrays = _arrays(states)
        return lambda potential: self.values(in_float64(potential), arrays)


def _differentiable(potential: Potential, states: Any) -> bool:
    return twice_differentiable(potential, states["bulk"].graph)


def _prepared(potential: Any) -> Potential:
    use_compilation_cache()
    return in_float64(as_potential(potential))


def _arrays(states: Any) -> Any:
    return {name: state for name, state in states.items() if name != "message"}


def _message(states: Any) -> str:
    return states.get("message", "")


def _check_unused(arguments: dict[str, Any]) -> None:
    for name in arguments:
        if name not in ("workflow", "storage", "iter_num", "modified_params", "potential"):
            raise ConfigError(f"calculate_property takes no argument {name!r}")


@dataclass(frozen=True, eq=False)
class CrystalProperty(Property):
    """A property of a crystal, whose cell and atoms are relaxed first.

    Args:
        lattice_param: a, or a and c, Å; where the relaxation begins.
        lattice_type: such as 'fcc', 'bcc', 'diamond', 'hcp'; see `Crystal.named`.
        elements: such as ['Si'].
        structure: a crystal in place of these three; its cell is taken as the conventional one.
        tolerances: of all relaxations; or a dictionary of its entries.
        simulator_path: a LAMMPS that computes energies, forces and stresses, of potentials that it has a
            pair style for; 'lmp' is also that of the package `lammps`. None: they are computed here.
    """

    lattice_param: float | tuple[float, ...] | None = None
    lattice_type: str | None = None
    elements: str | tuple[str, ...] | None = None
    _: KW_ONLY
    structure: Atoms | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    simulator_path: str | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless the crystal is told in one way."""
        if isinstance(self.tolerances, Mapping):
            check_known(self.tolerances, [f.name for f in fields(Tolerances)], "tolerances has no entry {}")
            object.__setattr__(self, "tolerances", Tolerances(**self.tolerances))
        self.crystal  # noqa: B018

    @property
    def simulator(self) -> str | None:  # type: ignore[override]
        """`simulator_path`."""
        return self.simulator_path

    @property
    def crystal(self) -> Crystal:
        """The crystal to begin with."""
        named = (self.lattice_param, self.lattice_type, self.elements)
        if self.structure is not None:
            if any(part is not None for part in named):
                raise ConfigError("give a structure, or lattice_param, lattice_type and elements")
            return Crystal.of(self.structure)
        if self.lattice_param is None or self.lattice_type is None or self.elements is None:
            raise ConfigError(f"{type(self).__name__} needs lattice_param, lattice_type and elements")
        return Crystal.named(self.lattice_param, self.lattice_type, self.elements)

    def bulk(self, potential: Potential, *, cell: bool = True) -> Relaxed:
        """The primitive cell, relaxed; without `cell` its atoms only."""
        crystal = self.crystal
        return relax(
            potential,
            crystal.atoms,
            f"{crystal.name} crystal",
            cell=cell,
            one_length=crystal.one_length,
            tolerances=self.tolerances,
        )

    @staticmethod
    def stability(relaxed: Relaxed) -> str:
        """A word on crystals that are no minimum."""
        return "the crystal is stationary, but no minimum: unstable" if relaxed.unstable else ""
