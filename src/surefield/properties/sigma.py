"""Standard deviations of properties, from the uncertainty of the potential that they are computed with.

A property is a function y of one energy surface. To first order in the last-layer weights w its variance is
alpha^2 g^T S g with g = dy/dw through all relaxations and S the posterior of the weights (Bigi et al., Mach.
Learn.: Sci. Technol. 5, 045018 (2024), with derived quantities as in Imbalzano et al., J. Chem. Phys. 154,
074102 (2021)); of ensembles it is alpha^2 times the variance over the members. It speaks of what the training
data leave open within the model, and not of errors of the labels or of the form of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surefield.calibration.maps import CalibrationMap
from surefield.errors import ExecutionError, PotentialError, SurefieldError
from surefield.potentials.linearized import Linearized
from surefield.potentials.potential import Potential
from surefield.sensitivity.parameter_jacobian import in_float64
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.member_deviations import displaced
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = [
    "N_SAMPLES",
    "calibration_factor",
    "has_sigma",
    "sigma_of_members",
    "sigma_of_posterior",
    "sigma_of_samples",
]

#: Random weights that stand for the posterior where no derivatives are to be had.
N_SAMPLES: Final = 16
#: They are this part of as long as the posterior says, so that they stay near.
_PART: Final = 0.1

Near = Callable[[Potential], Float[Array, " n"]]
Calculated = Callable[[Potential], Float[np.ndarray, " n"]]


def has_sigma(uncertainty: Uncertainty) -> bool:
    """Whether properties have a sigma by this uncertainty, which needs a posterior of weights or members."""
    if not (isinstance(uncertainty, LLPR) or uncertainty.n_members):
        return False
    return any(getattr(calibration, "alpha", None) for calibration in uncertainty.maps.values())


def calibration_factor(maps: Mapping[str, CalibrationMap], name: str) -> tuple[float, bool]:
    """What spreads of a property are multiplied by, and whether it was fitted on held-out data.

    The map of a quantity has alpha, and possibly a floor beta that grows with the spread of the structure:
    a property, whose spread is that of a structure, has sqrt(alpha^2 + beta^2). A constant floor is noise of
    single labels and does not count, nor does a power, which belongs to the spreads of labelled structures.

    Args:
        maps: of the uncertainty.
        name: quantity that the property is made of; where it has no such map, the energy's.

    Raises:
        PotentialError: the maps have no alpha.
    """
    for known in (name, "energy"):
        calibration = maps.get(known)
        alpha = getattr(calibration, "alpha", None)
        if calibration is not None and alpha is not None:
            return float(np.hypot(alpha, getattr(calibration, "beta", 0.0))), calibration.calibrated
    raise PotentialError(
        "sigmas of properties need a calibration that multiplies spreads",
        got=", ".join(f"{key}: {value.name}" for key, value in maps.items()),
        fix="calibration_map={'energy': 'alpha'}",
    )


def sigma_of_posterior(uncertainty: LLPR, near: Near) -> Float[np.ndarray, " n"]:
    """Raw spread sqrt(g^T S g) of a property by its derivatives g.

    Args:
        uncertainty: whose posterior it is.
        near: the property as a function of potentials near to that of the uncertainty.
    """
    potential = in_float64(uncertainty.potential)

    none, stepped = jnp.zeros(uncertainty.posterior.n_features), _stepped(potential)

    @eqx.filter_jit
    def rows(potential: Potential) -> Array:
        return jax.jacrev(lambda step: near(stepped(potential, step)))(none)

    return uncertainty.posterior.u(np.asarray(rows(potential), np.float64))


def _stepped(potential: Potential) -> Callable[[Potential, Any], Potential]:
    """How a potential is displaced in the weights of its last layer (traceable)."""
    layer = potential.last_layer()
    if isinstance(layer, Linearized):  # the parameters themselves, of which it is the linear model
        return lambda potential, step: potential.with_vector(potential.vector + layer.scale * step)
    return displaced


def sigma_of_samples(
    uncertainty: LLPR, calculated: Calculated, value: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Raw spread of a property over random weights of the posterior; known to 18 % with 16 of them.

    Args:
        uncertainty: whose posterior it is.
        calculated: the property of a potential, relaxed.
        value: of the uncertainty's potential.
    """
    rng = np.random.Generator(np.random.Philox(key=0))
    drawn = rng.standard_normal((N_SAMPLES, uncertainty.posterior.n_features))
    potential = in_float64(uncertainty.potential)
    steps = _PART * uncertainty.posterior.color(drawn)
    stepped = _stepped(potential)
    values = [_calculated(calculated, stepped(potential, step), i) for i, step in enumerate(steps)]
    return np.sqrt(np.mean((np.stack(values) - value) ** 2, axis=0)) / _PART


def sigma_of_members(uncertainty: Uncertainty, calculated: Calculated) -> Float[np.ndarray, " n"]:
    """Raw spread (ddof = 1) of a property over members, each of which relaxes its own structures.

    Args:
        uncertainty: an ensemble.
        calculated: the property of a potential, relaxed.

    Raises:
        PotentialError: no members.
        ExecutionError: a member for which the property did not converge.
    """
    if not uncertainty.n_members:
        raise PotentialError(
            f"{type(uncertainty).__name__} has neither a posterior of weights nor members, so that "
            "properties have no sigma",
            fix="use LLPR or an ensemble",
        )
    members = range(uncertainty.first_member, uncertainty.n_members + 1)
    return np.std([_calculated(calculated, uncertainty.member(k), k) for k in members], axis=0, ddof=1)


def _calculated(calculated: Calculated, potential: Potential, k: int) -> Float[np.ndarray, " n"]:
    try:
        return calculated(potential)
    except SurefieldError as error:
        raise ExecutionError(f"member {k}: {error}") from error
