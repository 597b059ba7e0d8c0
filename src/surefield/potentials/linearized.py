"""The linear model around any differentiable potential: its parameters as last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, NoReturn, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, PotentialError
from surefield.potentials.abilities import (
    HasBiasRow,
    HasConstant,
    HasOutputs,
    Prepared,
    SavedByArguments,
    Tangent,
    TrainingData,
    Wrapper,
)
from surefield.potentials.potential import MECHANICAL, LastLayerPotential, Potential
from surefield.structures.graph import Graph

__all__ = ["Linearized"]

#: More columns than this make features and their covariance too large to be of use.
LARGEST: Final = 5000
#: Columns whose derivatives are taken at once.
_AT_ONCE: Final = 8


class Linearized(
    LastLayerPotential, SavedByArguments, Wrapper, Prepared, HasConstant, HasBiasRow, HasOutputs, Tangent
):
    """e_i(theta0) + f_i . (w - w0), f_i = scale d e_i/d theta at theta0, w0 = theta0/scale.

    The weights start at w0, where this is the potential it was made from, so that every method for last
    layers (uncertainties, ensembles, features) serves potentials that have none. With the default scale
    columns are derivatives by relative changes of the parameters, and comparable.

    Args:
        base: any potential; of a `ParametricPotential` the free parameters count, of others all that are
            trained.
        scale: (n_parameters,) units of the parameters; None: their present sizes, 1 where zero.

    Raises:
        PotentialError: no free parameter, or more than 5000.
        ConfigError: a scale of the wrong length or not positive.
    """

    KIND: ClassVar[str] = "linearized"
    #: Everything but the weights.
    FIXED: ClassVar[tuple[str, ...]] = ("base", "reference", "scale", "bias")
    one_block: ClassVar[bool] = True
    #: Potentials that others compute know derivatives by parameters as differences only.
    forward_only: ClassVar[bool] = True

    base: Potential
    readout: Float[Array, "1 n_parameters"]
    reference: Float[Array, " n_parameters"]
    scale: Float[Array, " n_parameters"]
    bias: Float[Array, " 1"]

    def __init__(self, base: Potential, scale: ArrayLike | None = None) -> None:
        present = np.asarray(base.vector, np.float64)
        if not 0 < len(present) <= LARGEST:
            raise PotentialError(
                f"{type(base).__name__} cannot be made linear in its parameters",
                got=f"{len(present)} free parameters",
                expected=f"1 to {LARGEST}",
                fix="choose fewer with `with_free`, or shorter tables with `resampled`",
            )
        if scale is None:
            units = np.where(present == 0, 1.0, np.abs(present))
        else:
            units = np.asarray(scale, np.float64)
            if units.shape != present.shape or not (np.isfinite(units) & (units > 0)).all():
                raise ConfigError(f"scale must be {len(present)} positive numbers, got shape {units.shape}")
        self.base = base
        self.reference = jnp.asarray(present / units)
        self.readout = self.reference[None]
        self.scale = jnp.asarray(units)
        self.bias = jnp.zeros(1)

    def arguments(self) -> dict[str, Any]:
        """Configuration of the potential it was made from."""
        return {"base": self.base.config()}

    @property
    def inner(self) -> Potential:
        """The potential it was made from."""
        return self.base

    def around(self, change: Callable[[Potential], Potential]) -> Self:
        """Copy around the changed potential."""
        return eqx.tree_at(lambda p: p.base, self, change(self.base))

    @property
    def species(self) -> tuple[int, ...]:  # type: ignore[override]
        """Those of the potential it was made from, as all that follows."""
        return self.base.species

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Range of the neighbour list, Å."""
        return self.base.cutoff

    @property
    def offsets(self) -> Float[Array, " n_species"]:  # type: ignore[override]
        """Element offsets."""
        return self.base.offsets

    @property
    def supplies(self) -> frozenset[str]:  # type: ignore[override]
        """Results of the potential, charges left out."""
        return self.base.supplies & MECHANICAL

    @property
    def reads_positions(self) -> bool:  # type: ignore[override]
        """Whether the potential does."""
        return self.base.reads_positions

    @property
    def numerical(self) -> bool:  # type: ignore[override]
        """Whether derivatives by the parameters of the potential are finite differences only."""
        return self.base.numerical

    def prepared_from(self, data: TrainingData) -> Self:
        """Copy around the prepared potential."""
        return self.around(lambda base: base.prepared(data))

    def outputs_of(self, graph: Graph) -> dict[str, Array]:
        """None: the weights give energies alone."""
        return {}

    def energy_without_weights(self, numbers: Int[np.ndarray, " n_atoms"]) -> NoReturn:
        """Not known from the elements alone: no weight is solvable."""
        raise PotentialError("the weights of a linearized potential are not solved for: train the potential")

    def slopes_of_biases(self, numbers: Int[np.ndarray, " n_atoms"]) -> Float[np.ndarray, " n_blocks"]:
        """The one bias moves nothing."""
        return np.zeros(1)

    def site_energies(self, graph: Graph) -> Float[Array, " n_atoms"]:
        """Energy of each atom in eV, without element offsets."""
        energies, change = self._along(graph, self.readout[0] - self.reference)
        return energies + change

    def site_features(self, graph: Graph) -> Float[Array, "n_atoms n_parameters"]:
        """Derivatives of each atom's energy by the weights, eV."""
        directions = jnp.eye(len(self.reference))
        columns = jax.lax.map(lambda d: self._along(graph, d)[1], directions, batch_size=_AT_ONCE)
        return columns.T

    def touched(self, readout: Float[Array, "1 n_parameters"]) -> Potential:
        """The potential it was made from, to which it is tangent."""
        start = self.base.vector
        moved = (self.reference + readout[0] - jax.lax.stop_gradient(self.readout[0])) * self.scale
        return self.base.with_vector(moved.astype(start.dtype))

    def _along(self, graph: Graph, weights: Float[Array, " n_parameters"]) -> tuple[Array, Array]:
        """Energies of atoms, and their derivative along a direction of the weights."""
        start = self.base.vector
        tangent = (weights * self.scale).astype(start.dtype)
        return jax.jvp(lambda v: self.base.with_vector(v).site_energies(graph), (start,), (tangent,))
