"""The losses that a parametric fit minimises: with exact derivatives, or numerical ones for KIM's models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import jax
import numpy as np
from jaxtyping import Float

from surefield.errors import PotentialError
from surefield.potentials.parametric.edges import BondPotential
from surefield.potentials.parametric.free_parameters import FreeParameters
from surefield.potentials.parametric.parameters import ParametricPotential
from surefield.structures.neighbors import neighborhood
from surefield.structures.tensors import row_slices
from surefield.training.breakdown import LossForm, breakdown
from surefield.training.parametric_loss import (
    BondBlock,
    force_errors,
    jacobian,
    loss_and_gradient,
    prepare_blocks,
    residual_rows,
)
from surefield.training.problem import Problem

__all__ = ["BondLoss", "OpaqueLoss"]

Vector = Float[np.ndarray, " n_free"]
#: Neighbour lists are made this much longer than a free cutoff, so that they are rarely made again.
_ROOM: Final = 1.15
#: Relative step of numerical gradients.
_STEP: Final = 1e-5

#: Compiled: setting few numbers costs as much as many small operations otherwise.
_at = jax.jit(lambda model, vector: model.with_vector(vector))


class BondLoss:
    """Loss of a model of this package: exact derivatives over prepared blocks.

    Args:
        start: model with its free parameters.
        free: what is varied.
        problem: training configurations and weights.
        form: of the loss.
        listed: range of the neighbour lists that the configurations have, Å.
    """

    def __init__(
        self,
        start: ParametricPotential,
        free: FreeParameters,
        problem: Problem,
        form: LossForm,
        listed: float = 0.0,
    ) -> None:
        self.start, self.free, self.problem, self.form = cast(BondPotential, start), free, problem, form
        forms = start.forms
        self._varies = any(not forms[e.name].usually_free for e in free.entries)
        self._listed, self._reach = listed, 0.0
        self._blocks: list[tuple[list[int], BondBlock]] = []

    def model(self, x: Vector) -> BondPotential:
        """The model at a point."""
        return _at(self.start, self.free.values(x))

    def blocks(self, model: BondPotential) -> list[tuple[list[int], BondBlock]]:
        """Blocks whose neighbour lists reach as far as the model; a list never limits a fit."""
        if not self._blocks or (self._varies and model.cutoff > self._reach):
            self._reach = model.cutoff * (_ROOM if self._varies else 1.0)
            structures = [c.structure for c in self.problem.train]
            if self._reach > self._listed:
                structures = [neighborhood(c.atoms, self._reach) for c in self.problem.train]
            self._blocks = prepare_blocks(
                self.problem.train,
                structures,
                self.problem.residual_weights,
                model.symbols,
                method=cast(Any, self.form.method),
                energy_per_atom=self.form.energy_per_atom,
            )
        return self._blocks

    def _call(self, of: Callable[..., Any], x: Vector, *arguments: Any) -> Any:
        model = self.model(x)
        return of(model, [block for _, block in self.blocks(model)], *arguments)

    def gradient(self, x: Vector) -> tuple[float, Vector]:
        """Loss and its derivatives."""
        loss, slopes = self._call(loss_and_gradient, x, self.form.method)
        return loss, slopes * self.free.chain(x)

    def loss(self, x: Vector) -> float:
        """Loss at a point."""
        return self.gradient(x)[0]

    def rows(self, x: Vector) -> Float[np.ndarray, " n_rows"]:
        """Weighted residuals."""
        return self._call(residual_rows, x)

    def jacobian(self, x: Vector) -> Float[np.ndarray, "n_rows n_free"]:
        """Derivatives of the weighted residuals."""
        return self._call(jacobian, x) * self.free.chain(x)

    def force_errors(self, x: Vector) -> list[Float[np.ndarray, " n_atoms"]]:
        """Norms of the errors of the forces on the atoms of every training configuration."""
        model = self.model(x)
        blocks = self.blocks(model)
        train, norms = self.problem.train, {}
        errors = force_errors(model, [block for _, block in blocks])
        for (members, _), values in zip(blocks, errors, strict=True):
            rows = row_slices(train[i].n_atoms for i in members)
            norms |= {i: values[part] for i, part in zip(members, rows, strict=True)}
        return [norms[i] for i in range(len(train))]


@dataclass(frozen=True, eq=False)
class OpaqueLoss:
    """Loss of a model that KIM computes: numerical derivatives; arguments as of `BondLoss`."""

    start: ParametricPotential
    free: FreeParameters
    problem: Problem
    form: LossForm
    listed: float = 0.0

    def model(self, x: Vector) -> ParametricPotential:
        """The model at a point."""
        return _at(self.start, self.free.values(x))

    def loss(self, x: Vector) -> float:
        """Loss at a point."""
        return breakdown(self.model(x), self.problem.train, self.problem.weights, self.form).total

    def gradient(self, x: Vector) -> tuple[float, Vector]:
        """Loss and its derivatives by central differences."""
        slopes = np.zeros(len(x))
        for i, value in enumerate(x.tolist()):
            step = np.zeros(len(x))
            step[i] = _STEP * max(abs(value), 1e-2)
            slopes[i] = (self.loss(x + step) - self.loss(x - step)) / (2 * step[i])
        return self.loss(x), slopes

    def rows(self, x: Vector) -> Float[np.ndarray, " n_rows"]:
        """Not to be had; see `ParametricModelTrainer.refusal`."""
        raise PotentialError("a model that KIM computes has no residual rows")

    def jacobian(self, x: Vector) -> Float[np.ndarray, "n_rows n_free"]:
        """Not to be had; see `ParametricModelTrainer.refusal`."""
        raise PotentialError("a model that KIM computes has no Jacobian")

    def force_errors(self, x: Vector) -> list[Float[np.ndarray, " n_atoms"]]:
        """Norms of the errors of the forces on the atoms of every training configuration."""
        predictions = self.model(x).predict([c.atoms for c in self.problem.train], stress=False)
        return [
            np.linalg.norm(p.forces - c.labels.get("forces", 0.0), axis=1)
            for c, p in zip(self.problem.train, predictions, strict=True)
        ]
