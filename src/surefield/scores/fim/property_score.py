"""`FIMPropertyScore`: how precisely parameters must be known so that target properties are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, ExecutionError, SurefieldError, check_known
from surefield.execution.executor import get_executor
from surefield.execution.in_flight import map_ordered
from surefield.properties.property import Property
from surefield.properties.targets import Target, read_target
from surefield.scores.fim.derivatives import STENCILS, numerical_jacobian, step_sizes
from surefield.scores.fim.information import AUTODIFF, DifferentiatedModel, symmetrised
from surefield.scores.fim.parameters import optimized_parameters, read_potential
from surefield.scores.fim.transforms import (
    chain,
    read_transform,
    transform_as_data,
    transform_description,
)
from surefield.scoring import ModelScore, ScoreQuantity
from surefield.scoring.array_files import is_path, load_array
from surefield.scoring.results import check_finite_rows

__all__ = ["FIMPropertyScore"]

Matrix = Float[np.ndarray, "n_parameters n_parameters"]

#: Step of numerical derivatives, relative to the transformed parameter.
_RELATIVE_STEP: Final = 1e-2
#: Eigenvalues of a covariance below this share of the largest are zero.
_CUT: Final = 1e-12
#: Relative asymmetry and negative eigenvalue that rounding may leave in a covariance.
_ROUNDING: Final = 1e-8


def _targets_as_data(name: str, value: Any) -> Any:
    """Properties as the dictionaries that stand for them."""
    if isinstance(value, list | tuple):
        return [read_target(entry, name).described() for entry in value]
    return read_target(value, name).described()


@final
class FIMPropertyScore(ModelScore):
    """Fisher information I = J^T Sigma^+ J that parameters must have for target properties to be known.

    J is the derivative of the properties by the (transformed) parameters, through all relaxations; Sigma the
    covariance to which the properties shall be known. Several properties add up.
    Source: Kurniawan et al., J. Chem. Phys. 156, 214103 (2022).

    Attributes:
        fim_index_to_parameter: row of the last FIM to `{"parameter": name, "extent": place}`.
        derivative_errors: estimated relative error of each column of the last J; zero where exact.
    """

    key: ClassVar[str] = "fim_property_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.SENSITIVITY
    array_arguments: ClassVar[tuple[str, ...]] = ("cov",)
    argument_forms: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "transform": transform_as_data,
        **{
            name: partial(_targets_as_data, name)
            for name in ("configs", "target_property", "list_of_target_property")
        },
    }

    def __init__(self) -> None:
        self.fim_index_to_parameter: dict[int, dict[str, str | int]] = {}
        self.derivative_errors: Float[np.ndarray, " n_parameters"] = np.zeros(0)

    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def compute(
        self,
        target_property: Any = None,
        score_quantity: Any = None,
        cov: Any = None,
        potential: Any = None,
        parameters_optimize: Mapping[str, Sequence[Any]] | str | None = None,
        transform: Any = None,
        derivative_kwargs: Mapping[str, Any] | None = None,
        return_jacobian: bool = False,
        nprocs: int = 1,
        *,
        list_of_target_property: Sequence[Any] | None = None,
    ) -> Any:
        """Fisher information of one property, or the sum over several.

        Args:
            target_property: `{'init_args': {'target_property_type': .., 'target_property_args': {..}},
                'calculate_property_args': {..}}`; a function of a potential that gives numbers; or an object
                with `calculate_property(potential)` that gives `value`, `converged` and `message`.
            score_quantity: SENSITIVITY.
            cov: covariance (n, n) of all values; or a list with one for each property. Files as well.
            potential: one of ours, a handle or an uncertainty around one, or a description of a handle.
            parameters_optimize: see `optimized_parameters`.
            transform: coordinates in which the FIM is stated, see `read_transform`.
            derivative_kwargs: `method`: 'FD', 'FD2', 'FD3', 'FD4', 'CD' (default), 'CD4', or 'autodiff' for
                properties of this package and functions that JAX can follow; `h`: absolute step in the
                transformed parameters, a number or one each; None: 1e-2 of their size.
            return_jacobian: give J (n, P) as well.
            nprocs: processes among which evaluations are divided.
            list_of_target_property: several, in place of `target_property`.

        Returns:
            (P, P), or a tuple of it and J.

        Raises:
            ConfigError: arguments that are unknown, missing or contradict each other.
            DataError: a covariance that is none, or of another size.
            ExecutionError: a property that did not converge or failed, with the parameters.
        """
        self.check_quantity(score_quantity)
        if (target_property is None) == (list_of_target_property is None):
            raise ConfigError(
                "give exactly one of target_property and list_of_target_property",
                got="both" if target_property is not None else "neither",
            )
        for argument, value in (("cov", cov), ("potential", potential)):
            if value is None:
                raise ConfigError(f"FIMPropertyScore needs {argument}")
        targets = _targets(target_property, list_of_target_property)
        covariances = _covariances(cov)
        model = DifferentiatedModel(
            optimized_parameters(read_potential(potential), parameters_optimize),
            read_transform(transform),
            *_method(derivative_kwargs),
        )
        jacobians, notes = self._jacobians(model, targets, nprocs)
        weights = _weights(covariances, [len(jacobian) for jacobian in jacobians])
        jacobian = np.concatenate(jacobians)
        fim = symmetrised(jacobian.T @ weights @ jacobian)
        described = {
            "properties": [_in_metadata(target) for target in targets],
            "cov": cov,
            "potential": potential,
            "parameters_optimize": parameters_optimize,
            "transform": None if model.transform is None else transform_description(model.transform),
        }
        self.recorded(fim, described, notes=notes)
        return (fim, jacobian) if return_jacobian else fim

    def compute_batch(
        self,
        list_of_target_property: Sequence[Any],
        score_quantity: Any,
        cov: Any,
        potential: Any = None,
        parameters_optimize: Mapping[str, Sequence[Any]] | str | None = None,
        transform: Any = None,
        derivative_kwargs: Mapping[str, Any] | None = None,
        nprocs: int = 1,
    ) -> Matrix:
        """One (P, P): the sum over several properties; arguments as for `compute`."""
        return self.compute(
            None,
            score_quantity,
            cov,
            potential,
            parameters_optimize,
            transform,
            derivative_kwargs,
            nprocs=nprocs,
            list_of_target_property=list_of_target_property,
        )

    def _jacobians(
        self, model: DifferentiatedModel, targets: list[Target], nprocs: int
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """J of each property, and what the metadata say of the derivatives."""
        steps = None
        if model.method == AUTODIFF:
            jacobians, errors = _exact(model, targets), np.zeros(len(model.phi))
        else:
            steps = step_sizes(model.phi, model.step, _RELATIVE_STEP, name="derivative_kwargs: h")
            jacobians, errors = _numerical(model, targets, steps, nprocs)
        self.fim_index_to_parameter = model.parameters.fim_index_to_parameter
        self.derivative_errors = errors
        derivative = {
            "method": model.method,
            "steps": None if steps is None else steps.tolist(),
            "relative_errors": errors.tolist(),
        }
        return jacobians, {
            "fim_index_to_parameter": self.fim_index_to_parameter,
            "derivative": derivative,
        }


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Values of all properties as a function of the transformed parameters."""

    model: DifferentiatedModel
    targets: Sequence[Target]

    def __call__(self, phi: Float[np.ndarray, " n_parameters"]) -> Float[np.ndarray, " n"]:
        """Values of all properties, one after the other."""
        theta = phi if self.model.transform is None else self.model.transform.inverse_transform(phi)
        try:
            potential = self.model.at(phi)
            return np.concatenate([target.value(potential) for target in self.targets])
        except SurefieldError as error:
            names = zip(self.model.parameters.names, np.asarray(theta).tolist(), strict=True)
            listed = ", ".join(f"{name} = {value:.12g}" for name, value in list(names)[:12])
            raise type(error)(f"at {listed}: {error}") from error


def _targets(single: Any, several: Any) -> list[Target]:
    if several is None:
        return [read_target(single, "target_property")]
    name = "list_of_target_property"
    if isinstance(several, str | Mapping) or not isinstance(several, Sequence) or not several:
        raise ConfigError(f"{name} must be a list with at least one property", got=repr(several)[:80])
    return [read_target(entry, f"{name}[{i}]") for i, entry in enumerate(several)]


def _in_metadata(target: Target) -> Any:
    return target.described() if isinstance(target.source, Property) else target.source


def _method(derivative_kwargs: Mapping[str, Any] | None) -> tuple[str, Any]:
    asked = dict(derivative_kwargs or {})
    check_known(asked, ("method", "h"), "derivative_kwargs has no entry {}")
    method = asked.get("method") or "CD"
    if method not in (AUTODIFF, *STENCILS, "central", "forward"):
        expected = ", ".join((AUTODIFF, *STENCILS))
        raise ConfigError("derivative_kwargs: unknown method", got=repr(method), expected=expected)
    if method == AUTODIFF and asked.get("h") is not None:
        raise ConfigError("derivative_kwargs: h has no effect on 'autodiff'")
    return method, asked.get("h")


def _numerical(
    model: DifferentiatedModel, targets: list[Target], steps: np.ndarray, nprocs: int
) -> tuple[list[np.ndarray], np.ndarray]:
    if not isinstance(nprocs, int) or isinstance(nprocs, bool) or nprocs < 1:
        raise ConfigError("nprocs", got=repr(nprocs), expected="a whole number of processes, at least 1")
    evaluation = _Evaluation(model, targets)
    sizes = [len(_Evaluation(model, [target])(model.phi)) for target in targets]
    options: Any = {"method": model.method, "names": model.parameters.names}
    if nprocs == 1:
        all_of_it = numerical_jacobian(evaluation, model.phi, steps, **options)
    else:
        with get_executor("processes", nprocs) as pool:

            def mapped(function: Any, points: Any) -> list[Any]:
                return map_ordered(pool, function, list(points))

            all_of_it = numerical_jacobian(evaluation, model.phi, steps, mapped=mapped, **options)
    return np.split(all_of_it.values, np.cumsum(sizes)[:-1]), all_of_it.errors


def _exact(model: DifferentiatedModel, targets: list[Target]) -> list[np.ndarray]:
    """J of each property by the transformed parameters, by differentiation."""
    theta = jnp.asarray(model.parameters.values)
    slopes = chain(model.transform, model.phi)
    return [_jacobian(model, target, theta) @ slopes for target in targets]


def _jacobian(model: DifferentiatedModel, target: Target, theta: Any) -> np.ndarray:
    value = _Evaluation(model, [target])(model.phi)
    if isinstance(target.source, Property):
        function = target.source.near(model.parameters.chosen.potential)
    elif callable(getattr(target.source, "calculate_property", None)):
        raise ConfigError(
            f"{target.name}: 'autodiff' needs a property of this package or a function that JAX can follow",
            fix="derivative_kwargs={'method': 'CD'}",
        )
    else:
        function = target.source

    def values(theta: Any) -> Any:
        return jnp.ravel(jnp.asarray(function(model.parameters.at(theta)), jnp.float64))

    forward = len(theta) <= 2 * len(value)
    try:
        rows = (jax.jacfwd if forward else jax.jacrev)(values)(theta)
    except (jax.errors.JAXTypeError, TypeError, ValueError) as error:  # the last of models of torch
        raise ConfigError(
            f"{target.name} cannot be differentiated by JAX: {str(error).splitlines()[0]}",
            fix="derivative_kwargs={'method': 'CD'}",
        ) from error
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ExecutionError(f"{target.name}: a derivative is not finite", fix="use a numerical method")
    return rows


def _covariances(cov: Any) -> list[np.ndarray] | np.ndarray:
    """One matrix, or a list of them."""
    listed = isinstance(cov, list | tuple) and len(cov) > 0
    if listed and all(is_path(entry) or np.ndim(entry) == 2 for entry in cov):
        return [_covariance(load_array(entry, f"cov[{i}]"), f"cov[{i}]") for i, entry in enumerate(cov)]
    return _covariance(load_array(cov, "cov"), "cov")


def _covariance(array: np.ndarray, name: str) -> np.ndarray:
    matrix = np.asarray(array, np.float64)
    if matrix.ndim == 1:
        raise DataError(
            f"{name} must be a matrix", got=f"{len(matrix)} numbers", fix="variances? np.diag(...) of them"
        )
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{name} must be a square matrix", got=matrix.shape)
    check_finite_rows(matrix, name)
    size = np.abs(matrix).max(initial=0.0)
    if np.abs(matrix - matrix.T).max(initial=0.0) > _ROUNDING * size:
        raise DataError(f"{name} is not symmetric")
    lowest = float(np.linalg.eigvalsh(matrix).min())
    if lowest < -_ROUNDING * size:
        raise DataError(f"{name} is not positive semidefinite", got=f"an eigenvalue of {lowest:.3g}")
    return symmetrised(matrix)


def _weights(covariances: list[np.ndarray] | np.ndarray, sizes: list[int]) -> np.ndarray:
    """Sigma^+ of all values."""
    if isinstance(covariances, np.ndarray):
        if len(covariances) != sum(sizes):
            expected = f"({sum(sizes)}, {sum(sizes)}), as many as the properties have values"
            raise DataError(
                "cov has another size than the properties", got=covariances.shape, expected=expected
            )
        return _inverse(covariances, "cov")
    if len(covariances) != len(sizes):
        raise DataError("cov needs one matrix per property", got=len(covariances), expected=len(sizes))
    total, start = np.zeros((sum(sizes), sum(sizes))), 0
    for i, (matrix, size) in enumerate(zip(covariances, sizes, strict=True)):
        if len(matrix) != size:
            raise DataError(
                f"cov[{i}] has another size than its property", got=matrix.shape, expected=(size, size)
            )
        total[start : start + size, start : start + size] = _inverse(matrix, f"cov[{i}]")
        start += size
    return total


def _inverse(matrix: np.ndarray, name: str) -> np.ndarray:
    """Pseudo-inverse, which says so where it is none."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > _CUT * max(float(values.max(initial=0.0)), 0.0)
    if not kept.all():
        warnings.warn(
            f"{name} is singular: rank {int(kept.sum())} of {len(values)}; its pseudo-inverse is used, so "
            "that what it does not vary in has no weight",
            stacklevel=4,
        )
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
