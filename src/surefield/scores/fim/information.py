"""Fisher information of configurations: I = J^T W J, from exact or numerical rows J.

I is the Gauss-Newton Hessian of half the weighted squared residuals of energies, forces and stresses, not a
Hessian of the energy. Source: Kurniawan et al., J. Chem. Phys. 156, 214103 (2022).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, check_known, nearest
from surefield.potentials.evaluate import neighborhoods_of
from surefield.potentials.potential import Potential
from surefield.scores.fim.derivatives import STENCILS, numerical_jacobian, stencil, step_sizes, warn_of_errors
from surefield.scores.fim.masks import RowWeights
from surefield.scores.fim.parameters import OptimizedParameters
from surefield.scores.fim.transforms import ParameterTransform, chain, transformed
from surefield.sensitivity.parameter_jacobian import RowBlock, parameter_rows

__all__ = ["AUTODIFF", "DifferentiatedModel", "Information", "information", "read_method", "warn_of_steps"]

AUTODIFF: Final = "autodiff"
#: Step of numerical derivatives, relative to the parameter.
RELATIVE_STEP: Final = 0.1
#: Numbers of rows that are held before they are summed up.
_HELD: Final = 2**22


@dataclass(frozen=True, eq=False)
class DifferentiatedModel:
    """A potential with its parameters, and by which coordinates and how it is differentiated.

    Attributes:
        parameters: columns of J.
        transform: coordinates phi; None: the parameters themselves.
        method: 'autodiff', or a stencil of `derivatives`.
        step: absolute step in phi, see `step_sizes`.
    """

    parameters: OptimizedParameters
    transform: ParameterTransform | None
    method: str
    step: Any

    @property
    def phi(self) -> Float[np.ndarray, " n_parameters"]:
        """Coordinates of the present parameters."""
        return transformed(self.transform, self.parameters.values, self.parameters.names)

    @property
    def steps(self) -> Float[np.ndarray, " n_parameters"] | None:
        """Steps of numerical derivatives; None for exact ones."""
        return None if self.method == AUTODIFF else step_sizes(self.phi, self.step, RELATIVE_STEP)

    def checked(self) -> DifferentiatedModel:
        """This model itself, whose coordinates and steps are fit for use.

        Raises:
            ConfigError: a parameter outside the domain of the transform, or steps that cannot be.
        """
        if self.steps is not None:
            stencil(self.method)
        transformed(self.transform, self.parameters.values, self.parameters.names)
        return self

    def at(self, phi: Float[np.ndarray, " n_parameters"]) -> Potential:
        """The potential at other coordinates."""
        theta = phi if self.transform is None else self.transform.inverse_transform(phi)
        return self.parameters.at(np.asarray(theta, np.float64))


@dataclass(frozen=True, eq=False)
class Information:
    """What configurations say of the parameters.

    Attributes:
        fims: of each configuration.
        jacobians: weighted rows of each, of which a FIM is J^T J, if they were asked for.
        errors: estimated relative error of each column of J; zero where exact.
    """

    fims: list[Float[np.ndarray, "n_parameters n_parameters"]]
    jacobians: list[Float[np.ndarray, "n_rows n_parameters"]]
    errors: Float[np.ndarray, " n_parameters"]


def read_method(derivative_kwargs: Mapping[str, Any] | None, *, numerical: bool) -> tuple[str, Any]:
    """Method and step of `derivative_kwargs`.

    Args:
        derivative_kwargs: `method`: 'autodiff', 'central', 'forward', 'backward', or a stencil of
            `derivatives`; `step`: absolute, a number or one per parameter. What is left out has its default.
        numerical: whether the potential has numerical derivatives only; then 'central' is the default.

    Raises:
        ConfigError: an unknown key or method, 'autodiff' where there is none, a step that has no effect.
    """
    asked = dict(derivative_kwargs or {})
    check_known(asked, ("method", "step"), "derivative_kwargs has no entry {}")
    method = asked.get("method") or ("central" if numerical else AUTODIFF)
    known = (AUTODIFF, "central", "forward", *STENCILS)
    if method not in known:
        hint = nearest(str(method), known)
        raise ConfigError(f"derivative_kwargs: method {method!r} is not known, {hint}")
    step = asked.get("step")
    if method == AUTODIFF and numerical:
        raise ConfigError(
            "this potential has no exact derivatives by its parameters, so that method 'autodiff' cannot be",
            fix="leave the method out, or take 'central'",
        )
    if method == AUTODIFF and step is not None:
        raise ConfigError("derivative_kwargs: a step has no effect on 'autodiff'", fix="take 'central'")
    return method, step


def information(
    model: DifferentiatedModel,
    frames: Sequence[Atoms],
    weights: Sequence[RowWeights],
    *,
    jacobian: bool = False,
) -> Information:
    """Fisher information of configurations.

    Args:
        model: with its parameters.
        frames: configurations; they are not changed.
        weights: of their rows.
        jacobian: give J as well.

    Raises:
        DataError, PotentialError: a structure that the potential cannot serve.
        ExecutionError: numerical derivatives that are not finite.
    """
    if model.method == AUTODIFF:
        return _exact(model, frames, weights, jacobian)
    return _numerical(model, frames, weights, jacobian)


def symmetrised(matrix: np.ndarray) -> np.ndarray:
    """The symmetric part."""
    return 0.5 * (matrix + matrix.T)


def _exact(
    model: DifferentiatedModel, frames: Sequence[Atoms], weights: Sequence[RowWeights], jacobian: bool
) -> Information:
    chosen, phi = model.parameters.chosen, model.phi
    structures = neighborhoods_of(chosen.potential, frames)
    fims = [np.zeros((len(phi), len(phi))) for _ in frames]
    jacobians = [np.zeros((w.n_rows, len(phi))) for w in weights] if jacobian else []
    alike = defaultdict(list)
    for i, w in enumerate(weights):
        alike[w.quantities].append(i)
    for quantities, members in alike.items():
        held: dict[int, list[np.ndarray]] = defaultdict(list)
        last = -1
        for block in parameter_rows(chosen, [structures[i] for i in members], quantities):
            index = members[block.structure]
            rows = _weighted(block, weights[index])
            if jacobian:
                start = weights[index].starts()[block.quantity] + block.start
                jacobians[index][start : start + len(rows)] = rows
            if last not in (-1, index) or sum(r.size for r in held[index]) > _HELD:
                for i in [*held]:
                    _sum_up(fims, held, i)
            held[index].append(rows)
            last = index
        for i in [*held]:
            _sum_up(fims, held, i)
    if model.transform is not None:
        slopes = chain(model.transform, phi)
        fims = [slopes.T @ fim @ slopes for fim in fims]
        jacobians = [rows @ slopes for rows in jacobians]
    return Information([symmetrised(fim) for fim in fims], jacobians, np.zeros(len(phi)))


def _weighted(block: RowBlock, weights: RowWeights) -> np.ndarray:
    factors = weights.by_quantity[block.quantity][block.start : block.start + len(block.rows)]
    return block.rows if (factors == 1).all() else block.rows * factors[:, None]


def _sum_up(fims: list[np.ndarray], held: dict[int, list[np.ndarray]], index: int) -> None:
    rows = held.pop(index)
    stacked = rows[0] if len(rows) == 1 else np.concatenate(rows) if rows else None
    if stacked is not None:
        fims[index] += stacked.T @ stacked


def _numerical(
    model: DifferentiatedModel, frames: Sequence[Atoms], weights: Sequence[RowWeights], jacobian: bool
) -> Information:
    phi, steps = model.phi, model.steps
    assert steps is not None
    fims, jacobians, errors = [], [], np.zeros(len(phi))
    # Points times rows are held at once.
    n_points = 2 * len(stencil(model.method).places) * len(phi) + 1
    for part in _parts([w.n_rows for w in weights], max(1, _HELD // n_points)):
        some = [weights[i] for i in part]
        of_part = numerical_jacobian(
            _outputs(model, [frames[i] for i in part], some),
            phi,
            steps,
            method=model.method,
            names=model.parameters.names,
            warn=False,
        )
        errors = np.maximum(errors, of_part.errors)
        ends = np.cumsum([w.n_rows for w in some])[:-1]
        for rows in np.split(of_part.values, ends):
            fims.append(symmetrised(rows.T @ rows))
            if jacobian:
                jacobians.append(rows)
    return Information(fims, jacobians, errors)


def _parts(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive configurations with at most so many rows, at least one."""
    parts: list[list[int]] = []
    total = 0
    for i, size in enumerate(sizes):
        if not parts or total + size > most:
            parts.append([])
            total = 0
        parts[-1].append(i)
        total += size
    return parts


def _outputs(model: DifferentiatedModel, frames: Sequence[Atoms], weights: Sequence[RowWeights]) -> Any:
    """Weighted predictions of configurations as a function of the coordinates."""
    base = model.parameters.chosen.potential
    structures, cutoff = neighborhoods_of(base, frames), base.cutoff
    wanted = {name for w in weights for name in w.quantities}

    def outputs(phi: np.ndarray) -> np.ndarray:
        moved = model.at(phi)
        near = structures if moved.cutoff == cutoff else None
        predictions = moved.predict(
            frames, forces="forces" in wanted, stress="stress" in wanted, neighborhoods=near
        )
        parts = [
            np.ravel(getattr(prediction, name)) * factors
            for prediction, w in zip(predictions, weights, strict=True)
            for name, factors in w.by_quantity.items()
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    return outputs


def warn_of_steps(model: DifferentiatedModel, errors: Float[np.ndarray, " n_parameters"]) -> None:
    """Warn of numerical derivatives whose estimated relative error is above 1e-3."""
    warn_of_errors(errors, model.parameters.names, model.method)
