"""From sigmas of energies, forces and stresses to those of what is computed from them.

Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018 (2024); averages of trajectories: Imbalzano et al.,
J. Chem. Phys. 154, 074102 (2021).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from surefield.calibration.maps import AlphaSigma0Map, CalibrationMap
from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.potentials.prediction import Prediction
from surefield.quantities import ENSEMBLE, quantity
from surefield.uncertainty.spread import Spread

__all__ = [
    "QUANTILES",
    "Propagated",
    "arguments_of",
    "linear",
    "member_values",
    "scaled_vectors",
    "trajectory_average",
]

#: Quantiles of member values that are given.
QUANTILES: Final = (0.025, 0.16, 0.5, 0.84, 0.975)
#: Share of the frames that must be left of a reweighted trajectory, in effective numbers.
ENOUGH: Final = 0.1
#: Step of finite differences, relative to the size of the inputs.
_STEP: Final = 1e-5


class Propagated(NamedTuple):
    """A computed quantity with its standard deviation.

    Attributes:
        value: of the predictions; of ensembles the mean over the members.
        sigma: in the shape of the value.
        members: (n_members, *shape) values of the members; None on the linear route.
        quantiles: q to the quantile over the members.
        effective_size: (n_members,) frames that count in a reweighted average.
    """

    value: Float[np.ndarray, "*shape"]
    sigma: Float[np.ndarray, "*shape"]
    members: Float[np.ndarray, " n_members *shape"] | None = None
    quantiles: Mapping[float, Float[np.ndarray, "*shape"]] = {}
    effective_size: Float[np.ndarray, " n_members"] | None = None


def scaled_vectors(
    name: str, spread: Spread, calibration: CalibrationMap, n_atoms: int
) -> tuple[Float[np.ndarray, "n_values n"], Float[np.ndarray, " n_values"]]:
    """Vectors w of the values of a quantity, cov = w w' + diag(noise), and the noise, which is a variance.

    The length of w is the sigma of the map; a floor is noise of each value on its own.

    Raises:
        PotentialError: the estimator knows no covariances.
    """
    vectors = spread.vectors
    if vectors is None and spread.members is not None:
        n_members = len(spread.members)
        flat = spread.members.reshape(n_members, -1)
        vectors = (flat - flat.mean(axis=0)).T / np.sqrt(n_members - 1)
        vectors = vectors / (n_atoms if quantity(name).per_atom else 1)
    if vectors is None:
        raise PotentialError("this uncertainty knows no covariances", fix="use LLPR, or one with members")
    u = np.asarray(spread.u, np.float64).reshape(-1)
    vectors, total = vectors.reshape(len(u), -1), n_atoms if quantity(name).per_atom else 1
    calibration = calibration.of_structure(u)
    if isinstance(calibration, AlphaSigma0Map):
        noise = np.where(u > 0, (total * calibration.sigma0) ** 2, 0.0)
        return total * calibration.alpha * vectors, noise
    scale = np.where(u > 0, calibration.sigma(u) / np.where(u > 0, u, 1.0), 0.0)
    return total * scale[:, None] * vectors, np.zeros(len(u))


def arguments_of(fn: Callable[..., Any]) -> tuple[str, ...]:
    """Quantities that a function asks for: the names of its arguments.

    Raises:
        ConfigError: an argument that is no quantity with a sigma.
    """
    known = ("energy", "energies", "forces", "stress")
    asked = tuple(inspect.signature(fn).parameters)
    for name in asked:
        if name not in known:
            raise ConfigError(f"argument {name!r} of the function is no quantity", fix=nearest(name, known))
    if not asked:
        raise ConfigError("the function takes no argument", expected=f"some of {', '.join(known)}")
    return asked


def linear(
    fn: Callable[..., Any],
    inputs: Mapping[str, Sequence[np.ndarray]],
    vectors: Float[np.ndarray, "n_inputs n"],
    noise: Float[np.ndarray, " n_inputs"],
) -> Propagated:
    """Value of a function, and its sigma by its derivatives: var = J K J', K = w w' + diag(noise).

    Derivatives are those of JAX; of functions that JAX cannot follow central differences.

    Args:
        fn: of the inputs by name.
        inputs: values of each structure.
        vectors: w, in the order of the inputs: quantity by quantity, structure by structure.
        noise: variances.
    """
    flat, rebuild = _flattened(inputs)

    def of(x: Any) -> Any:
        return fn(**rebuild(x))

    value = np.asarray(of(flat), np.float64)
    try:
        jacobian = np.asarray(jax.jacobian(lambda x: jnp.asarray(of(x)))(jnp.asarray(flat)), np.float64)
    except (jax.errors.JAXTypeError, TypeError, AttributeError, ValueError):
        jacobian = _differences(of, flat)
    rows = jacobian.reshape(-1, len(flat))
    variance = np.sum((rows @ vectors) ** 2, axis=1) + rows**2 @ noise
    return Propagated(value, np.sqrt(variance).reshape(value.shape))


def _flattened(
    inputs: Mapping[str, Sequence[np.ndarray]],
) -> tuple[np.ndarray, Callable[[Any], dict[str, Any]]]:
    """All inputs as one vector, and how a function gets them: stacked where structures have one shape."""
    shapes = {name: [np.shape(value) for value in values] for name, values in inputs.items()}
    flat = np.concatenate([np.ravel(v) for values in inputs.values() for v in values]).astype(np.float64)

    def rebuild(x: Any) -> dict[str, Any]:
        start, arguments = 0, {}
        for name, each in shapes.items():
            parts = []
            for shape in each:
                size = int(np.prod(shape))
                parts.append(x[start : start + size].reshape(shape))
                start += size
            stack = jnp.stack if isinstance(x, jax.Array) else np.stack
            arguments[name] = stack(parts) if len(set(each)) == 1 else parts
        return arguments

    return flat, rebuild


def _differences(of: Callable[[Any], Any], flat: np.ndarray) -> np.ndarray:
    columns = []
    for i, size in enumerate(np.maximum(np.abs(flat), 1.0) * _STEP):
        ends = []
        for sign in (1.0, -1.0):
            moved = flat.copy()
            moved[i] += sign * size
            ends.append(np.asarray(of(moved), np.float64))
        columns.append((ends[0] - ends[1]) / (2 * size))
    return np.stack(columns, axis=-1)


def member_values(fn: Callable[..., Any], predictions: Sequence[Prediction]) -> Propagated:
    """Values of a function of each member's predictions: their mean, spread (ddof = 1) and quantiles."""
    names = arguments_of(fn)
    values = [np.asarray(fn(**inputs), np.float64) for inputs in _of_members(names, predictions)]
    return _over_members(np.stack(values))


def _of_members(names: Sequence[str], predictions: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
    n_members = len(predictions[0][f"{names[0]}{ENSEMBLE}"])
    for k in range(n_members):
        inputs: dict[str, Any] = {}
        for name in names:
            parts = [np.asarray(p[f"{name}{ENSEMBLE}"][k]) for p in predictions]
            same = len({part.shape for part in parts}) == 1
            inputs[name] = np.stack(parts) if same else parts
        yield inputs


def _over_members(members: np.ndarray, effective: np.ndarray | None = None) -> Propagated:
    quantiles = {q: np.quantile(members, q, axis=0) for q in QUANTILES}
    return Propagated(members.mean(axis=0), members.std(axis=0, ddof=1), members, quantiles, effective)


def trajectory_average(
    values: Float[np.ndarray, " n_frames *shape"],
    deviations: Float[np.ndarray, "n_members n_frames"],
    beta: float,
    method: str = "reweight",
) -> Propagated:
    """Average over one trajectory as each member would have sampled it.

    <a>_k = sum_t a_t w_t / sum_t w_t with w_t = exp(-beta [V_k - V]_t); 'cea' is its first cumulant,
    <a> - beta (<a D_k> - <a><D_k>), D_k = V_k - V, which stands larger deviations.

    Args:
        values: a of each frame.
        deviations: V_k - V of each member and frame, eV.
        beta: 1/(k_B T), 1/eV.
        method: 'reweight' or 'cea'.

    Raises:
        ConfigError: an unknown method, beta not positive.
        DataError: shapes that do not fit together.
    """
    if method not in ("reweight", "cea"):
        raise ConfigError(f"unknown method {method!r}", fix=nearest(method, ("reweight", "cea")))
    if not (np.isfinite(beta) and beta > 0):
        raise ConfigError("beta must be above 0", got=beta)
    a, d = np.asarray(values, np.float64), np.asarray(deviations, np.float64)
    if d.ndim != 2 or not len(a) or a.shape[:1] != d.shape[1:]:
        raise DataError(
            "values and deviations do not fit", got=f"{a.shape}, {d.shape}", expected="one a frame"
        )
    logs = -beta * d
    weights = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    effective = 1.0 / np.sum(weights**2, axis=1)
    flat = a.reshape(len(a), -1)
    if method == "reweight":
        if effective.min() < ENOUGH * len(a):
            warnings.warn(
                f"reweighting leaves {effective.min():.1f} effective of {len(a)} frames; "
                "use method='cea', the cumulant form",
                stacklevel=3,
            )
        members = weights @ flat
    else:
        mean = flat.mean(axis=0)
        members = mean - beta * (d @ flat / len(a) - d.mean(axis=1, keepdims=True) * mean)
    return _over_members(members.reshape(len(d), *a.shape[1:]), effective)
