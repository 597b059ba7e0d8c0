"""The problem of information matching: checked matrices, in coordinates in which it is well conditioned.

Replacing all matrices by T^T (.) T leaves the weights as they are, so that the problem is solved in
coordinates in which the candidates add up to the unit matrix, without the directions that none knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, check_known, nearest

__all__ = [
    "MatchingProblem",
    "Scales",
    "candidate_scales",
    "checked_bounds",
    "checked_candidates",
    "checked_target",
    "matching_problem",
    "weighted_sum",
]

#: Relative to the largest entry.
_SYMMETRIC: Final = 1e-8
_INDEFINITE: Final = 1e-8
#: Rank of a matrix, relative to its largest eigenvalue.
_RANK: Final = 1e-10
_SCALES: Final = ("max_frobenius", "frobenius")
#: Parts of a direction that are named.
_NAMED: Final = 0.05
#: Matrices that are worked on at once.
_AT_ONCE: Final = 512


@dataclass(frozen=True, eq=False)
class Scales:
    """Factors of the preconditioned problem: w = scaled w * candidates / target.

    Attributes:
        kind: 'max_frobenius', 'frobenius' or 'none'.
        candidates: (n_candidates,) factor of each candidate.
        target: factor of the target.
    """

    kind: str
    candidates: Float[np.ndarray, " n_candidates"]
    target: float


@dataclass(frozen=True, eq=False)
class MatchingProblem:
    """min sum y, y >= 0, y <= upper, sum y_m matrices_m - target positive semidefinite, well conditioned.

    Attributes:
        matrices: (n_candidates, rank, rank) of about unit size.
        target: of unit Frobenius norm.
        units: weight w of y = 1 of each candidate.
        upper: bounds of y, inf where there is none.
    """

    matrices: Float[np.ndarray, "n_candidates rank rank"]
    target: Float[np.ndarray, "rank rank"]
    units: Float[np.ndarray, " n_candidates"]
    upper: Float[np.ndarray, " n_candidates"]


def checked_candidates(candidates: Any) -> Float[np.ndarray, "n_candidates n_parameters n_parameters"]:
    """Symmetric float64 matrices; the caller's are not changed.

    Raises:
        DataError: none, or one that is not square, of another size, not finite, not symmetric or indefinite;
            with its index.
    """
    listed = list(candidates)
    if not listed:
        raise DataError("information matching needs candidates", got="none")
    matrices = [_square(matrix, f"candidate {i}") for i, matrix in enumerate(listed)]
    size = len(matrices[0])
    for i, matrix in enumerate(matrices):
        if len(matrix) != size:
            raise DataError(
                "the Fisher information matrices must be of one size",
                where=f"candidate {i}",
                got=matrix.shape,
                expected=(size, size),
            )
    stacked = np.stack(matrices)
    for part in _blocks(len(stacked)):
        stacked[part] = _semidefinite(stacked[part], part.start, "candidate")
    return stacked


def checked_target(target: Any, size: int) -> Float[np.ndarray, "n_parameters n_parameters"]:
    """The same for the information that the target needs."""
    matrix = _square(target, "fim_property")
    if len(matrix) != size:
        raise DataError(
            "fim_property and the candidates must be of one size",
            got=matrix.shape,
            expected=(size, size),
            fix="compute both with the same parameters_optimize",
        )
    return _semidefinite(matrix[None], None, "fim_property")[0]


def _square(matrix: Any, where: str) -> np.ndarray:
    try:
        array = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        raise DataError(
            "a Fisher information matrix is needed", where=where, got=type(matrix).__name__
        ) from None
    if array.ndim == 0:
        array = array.reshape(1, 1)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise DataError("a Fisher information matrix must be square", where=where, got=array.shape)
    if not np.isfinite(array).all():
        place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise DataError(
            "a Fisher information matrix must be finite", where=f"{where}, entry {place}", got=array[place]
        )
    return array


def _semidefinite(matrices: np.ndarray, first: int | None, name: str) -> np.ndarray:
    """Symmetric parts of symmetric matrices without clearly negative eigenvalues."""
    turned = np.swapaxes(matrices, 1, 2)
    largest = np.abs(matrices).max(axis=(1, 2))
    uneven = np.abs(matrices - turned).max(axis=(1, 2)) > _SYMMETRIC * largest
    where = (lambda i: name) if first is None else (lambda i: f"{name} {first + i}")
    if uneven.any():
        i = int(np.argmax(uneven))
        got = f"a difference of {np.abs(matrices[i] - turned[i]).max() / largest[i]:.1e} of its largest entry"
        raise DataError("a Fisher information matrix must be symmetric", where=where(i), got=got)
    even = 0.5 * (matrices + turned)
    norms = np.linalg.norm(even, axis=(1, 2))
    unit = even / np.where(norms > 0, norms, 1.0)[:, None, None]
    try:
        np.linalg.cholesky(unit + 2 * _INDEFINITE * np.eye(unit.shape[1]))
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(unit)[:, 0]
        if lowest.min() < -_INDEFINITE:
            i = int(np.argmax(lowest < -_INDEFINITE))
            raise DataError(
                "a Fisher information matrix has no negative eigenvalues",
                where=where(i),
                got=f"{lowest[i] * norms[i]:.3g}, beside a norm of {norms[i]:.3g}",
            ) from None
    return even


def candidate_scales(kwargs: Mapping[str, Any] | None, candidates: np.ndarray, target: np.ndarray) -> Scales:
    """Factors that `fim_preconditioning_kwargs` asks for.

    Args:
        kwargs: None: `{'scale_type': 'max_frobenius'}`, one factor for all, which leaves the optimum as it
            is; 'frobenius': every candidate by its own norm, which minimises the sum of w_m |I_m|; `{}`:
            none.
        candidates: matrices, none of which is zero.
        target: not zero.

    Raises:
        ConfigError: an unknown key or scale.
    """
    asked = {"scale_type": "max_frobenius"} if kwargs is None else dict(kwargs)
    check_known(asked, ("scale_type",), "fim_preconditioning_kwargs has no entry {}")
    kind = asked.get("scale_type")
    if kind is None:
        return Scales("none", np.ones(len(candidates)), 1.0)
    if kind not in _SCALES:
        raise ConfigError(f"fim_preconditioning_kwargs: scale_type {kind!r}, {nearest(str(kind), _SCALES)}")
    norms = np.linalg.norm(candidates, axis=(1, 2))
    of = np.full(len(norms), norms.max()) if kind == "max_frobenius" else norms
    return Scales(kind, 1 / of, float(1 / np.linalg.norm(target)))


def checked_bounds(kwargs: Mapping[str, Any] | None, n: int) -> Float[np.ndarray, " n_candidates"]:
    """Upper bounds of the weights that `convexopt_init_kwargs` asks for, inf where there is none.

    Raises:
        ConfigError: an unknown key, or bounds that are negative or no numbers.
        DataError: another number of bounds than of candidates.
    """
    asked = dict(kwargs or {})
    check_known(asked, ("weight_upper_bound",), "convexopt_init_kwargs has no entry {}")
    value = asked.get("weight_upper_bound")
    if value is None:
        return np.full(n, np.inf)
    listed = [np.inf if v is None else v for v in value] if isinstance(value, list | tuple) else value
    try:
        bounds = np.array(listed, np.float64)
    except (TypeError, ValueError):
        bounds = np.full(1, np.nan)
    if np.isnan(bounds).any() or (bounds < 0).any() or bounds.ndim > 1:
        raise ConfigError(
            "convexopt_init_kwargs: weight_upper_bound",
            got=f"{value!r:.100}",
            expected="None, a number that is not negative, or one per candidate",
        )
    if bounds.ndim and len(bounds) != n:
        raise DataError("weight_upper_bound needs one entry per candidate", got=len(bounds), expected=n)
    return np.broadcast_to(bounds, n).copy()


def matching_problem(
    candidates: np.ndarray,
    target: np.ndarray,
    upper: np.ndarray,
    scales: Scales,
    names: Sequence[str] | None,
) -> MatchingProblem:
    """The problem in good coordinates, if it has a solution.

    Args:
        candidates: checked matrices, none of which is zero.
        target: checked, not zero.
        upper: bounds of the weights.
        scales: of the objective.
        names: of the parameters, for messages.

    Raises:
        DataError: no weights cover the target; with the direction that is missing, in words.
    """
    norms = np.linalg.norm(candidates, axis=(1, 2))
    norms[norms == 0] = 1.0
    diagonal = np.einsum("mii->i", candidates / norms[:, None, None])
    largest = float(np.diag(target).max())
    inverse = 1 / np.sqrt(np.where(diagonal > 0, diagonal, np.maximum(np.diag(target) / largest, 1e-300)))
    inverse[(diagonal <= 0) & (np.diag(target) <= 0)] = 1.0
    total = sum(
        np.einsum("mij,m->ij", candidates[part], 1 / norms[part]) for part in _blocks(len(candidates))
    )
    values, vectors = np.linalg.eigh(_scaled(np.asarray(total), inverse))
    informed = values > _RANK * values[-1]
    needed = _scaled(target, inverse)
    needed /= np.linalg.norm(needed)
    silent = vectors[:, ~informed]
    if silent.shape[1]:
        inner, directions = np.linalg.eigh(silent.T @ needed @ silent)
        if inner[-1] > _RANK:
            direction = silent @ directions[:, -1]
            raise _infeasible(direction, inverse, target, names, "no candidate depends on {}")
    white = inverse[:, None] * vectors[:, informed] / np.sqrt(values[informed])
    matrices = np.empty((len(candidates), white.shape[1], white.shape[1]))
    for part in _blocks(len(candidates)):
        matrices[part] = white.T @ candidates[part] @ white
    _check_bounded(candidates, target, upper, inverse, names)
    objective = scales.candidates / scales.candidates.max()  # weights count 1/objective each
    sizes = np.linalg.norm(matrices * objective[:, None, None], axis=(1, 2))
    inner_target = white.T @ target @ white
    size = float(np.linalg.norm(inner_target))
    units = objective * size / sizes.max()
    matrices *= (objective / sizes.max())[:, None, None]
    return MatchingProblem(matrices, inner_target / size, units, upper / units)


def weighted_sum(matrices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_m w_m I_m."""
    n, p, _ = matrices.shape
    return (np.asarray(weights) @ matrices.reshape(n, p * p)).reshape(p, p)


def _scaled(matrix: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return matrix * factors[:, None] * factors[None]


def _check_bounded(
    candidates: np.ndarray,
    target: np.ndarray,
    upper: np.ndarray,
    inverse: np.ndarray,
    names: Sequence[str] | None,
) -> None:
    """Whether the weights at their bounds cover the target."""
    limited = np.isfinite(upper)
    if not limited.any():
        return
    most = _scaled(weighted_sum(candidates[limited], upper[limited]) - target, inverse)
    free = np.eye(len(target))
    if not limited.all():
        rest = candidates[~limited]
        rest = rest / np.linalg.norm(rest, axis=(1, 2))[:, None, None]
        values, vectors = np.linalg.eigh(_scaled(rest.sum(axis=0), inverse))
        free = vectors[:, values <= _RANK * values[-1]]
        if not free.shape[1]:
            return
    values, vectors = np.linalg.eigh(free.T @ most @ free)
    if values[0] < -1e-8 * np.linalg.norm(_scaled(target, inverse)):
        what = "the candidates do not know enough of {} within weight_upper_bound"
        raise _infeasible(free @ vectors[:, 0], inverse, target, names, what)


def _infeasible(
    scaled: np.ndarray, units: np.ndarray, target: np.ndarray, names: Sequence[str] | None, what: str
) -> DataError:
    """The error that names a direction, given in units of the parameters that make them comparable."""
    unit = units * scaled / np.linalg.norm(units * scaled)
    unit = unit * np.sign(unit[np.argmax(np.abs(unit))])
    labels = [*names] if names else [f"parameter {i}" for i in range(len(unit))]
    order = [i for i in np.argsort(-np.abs(scaled)) if abs(scaled[i]) > _NAMED * np.abs(scaled).max()]
    order.sort(key=lambda i: -abs(unit[i]))
    terms = [f"{unit[i]:+.3g} {labels[i]}" for i in order]
    said = labels[order[0]] if len(order) == 1 else " ".join(terms).removeprefix("+")
    fixed = said if len(order) == 1 else f"one of {', '.join(labels[i] for i in order)}"
    fix = f"add configurations that do, or fix {fixed}"
    if "weight_upper_bound" in what:
        fix = f"raise weight_upper_bound, add configurations that depend on it, or fix {fixed}"
    return DataError(
        f"information matching has no solution: {what.format(said)}",
        got=f"the target needs an information of {float(unit @ target @ unit):.4g} along this direction",
        fix=fix,
    )


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, n))
