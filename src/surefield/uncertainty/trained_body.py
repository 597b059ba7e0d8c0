"""Training of a potential together with the members of its last layer (shallow ensembles).

Kellner and Ceriotti, Mach. Learn.: Sci. Technol. 5 (2024) 035006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from surefield.calibration.held_out import ROUNDED_ZERO, VALUE_ZERO
from surefield.errors import PotentialError
from surefield.potentials.evaluate import evaluate
from surefield.potentials.learned_part import learned_part, with_learned_part
from surefield.potentials.potential import LastLayerPotential, Potential, trainable
from surefield.quantities import quantity
from surefield.sensitivity.row_products import row_products
from surefield.structures.batching import Shape, plan_shapes
from surefield.structures.labels import Labels
from surefield.structures.tensors import to_voigt
from surefield.training.dataset import Batch, LabelledSet, Sample, batches, without_baseline
from surefield.training.loss import batch_values
from surefield.training.train import is_linear
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.member_deviations import member_deviations
from surefield.uncertainty.member_learner import Displacements, Learner, Scored, Term, entry_losses, kinds_of

__all__ = ["TrainedBody", "trainable_layer"]


class _Parameters(NamedTuple):
    """The trained arrays of the potential (others None), and the members."""

    moving: Any
    displacements: Array


def trainable_layer(potential: Potential) -> LastLayerPotential:
    """The part of a potential that is trained together with members.

    Raises:
        PotentialError: it has no last layer of its own, or nothing below it that could be trained.
    """
    layer = learned_part(potential)
    if (
        not isinstance(layer, LastLayerPotential)
        or layer.pretrained
        or layer.forward_only
        or is_linear(layer)
    ):
        what = f"a {type(layer).__name__} has no body to train together with the members of its last layer"
        fix = "take a network, or train the members alone: train_all_parameters: false"
        raise PotentialError(what, fix=fix)
    return layer


class TrainedBody(Learner):
    """Members and all parameters of the potential are trained.

    Args:
        potential: at the start.
        start: displacements at the start.
        sets: to train on, and to choose the state that is kept by.
        training: settings.
        target: whose members these are.
        rate_factors: on the learning rate of weights that were solved exactly, and of radial functions; None:
            all weights learn alike.

    Raises:
        PotentialError: see `trainable_layer`.
    """

    def __init__(
        self,
        potential: Potential,
        start: Displacements,
        sets: Sequence[LabelledSet],
        training: LLPRTraining,
        target: str,
        rate_factors: tuple[float, float] | None = None,
    ) -> None:
        layer = trainable_layer(potential)
        self.whole, self.kinds, self.seed = potential, kinds_of(target), training.seed
        centred = start - start.mean(axis=0)
        self.parts = tuple(
            _without_zeros(layer, centred, without_baseline(potential, part.samples)[1]) for part in sets
        )
        moving, self.fixed = eqx.partition(layer, trainable(layer))
        self.start = _Parameters(moving, jnp.asarray(centred))
        self.dtype = layer.dtype
        factors = layer.learning_rate_factors(*(rate_factors or (1.0, 1.0)))
        self.factors = _Parameters(eqx.filter(factors, trainable(layer)), jnp.ones(()))
        self.shapes = [_shapes(part, training) for part in self.parts]

    def potential(self, parameters: _Parameters) -> Potential:
        """The potential, with its baseline if it has one."""
        layer: Any = eqx.combine(parameters.moving, self.fixed)
        return with_learned_part(self.whole, layer)

    def scored(self, parameters: _Parameters, part: int) -> dict[str, Scored]:
        """Deviations and residuals of all labels, batch by batch."""
        columns: dict[str, list[tuple[np.ndarray, ...]]] = {}
        for batch in self._batches(part, 0):
            found = _values(parameters, self.fixed, batch, self.kinds)
            n_atoms = np.asarray(batch.graph.n_atoms)
            for name, values in found.items():
                e, r, known = (np.asarray(x) for x in values)
                entry = quantity(name)
                counts = n_atoms if entry.per == "structure" else n_atoms[np.asarray(batch.graph.structure)]
                n_components = int(np.prod(entry.components))
                components = np.tile(np.arange(n_components), r.size // n_components)
                atoms = np.repeat(counts, n_components)
                own = tuple(x[known] for x in (e.astype(np.float64), r.astype(np.float64), components, atoms))
                columns.setdefault(name, []).append(own)
        joined = {name: [np.concatenate(x) for x in zip(*own, strict=True)] for name, own in columns.items()}
        return {name: Scored(*own) for name, own in joined.items() if len(own[1])}

    def prepared(self, terms: Mapping[str, Term], optimizer: optax.GradientTransformation) -> None:
        """Keep the loss."""
        self.optimizer, self.losses = optimizer, {name: term.loss for name, term in terms.items()}
        self.numbers = {n: (jnp.asarray(term.weight), jnp.asarray(term.eps)) for n, term in terms.items()}

    def batches(self, epoch: int) -> list[Batch]:
        """Padded batches."""
        return self._batches(0, epoch)

    def _batches(self, part: int, epoch: int) -> list[Batch]:
        options: Any = {"seed": self.seed, "epoch": epoch, "dtype": self.dtype, "quantities": self.kinds}
        return list(batches(self.parts[part], self.shapes[part], **options))

    def step(self, parameters: _Parameters, state: Any, batch: Batch, rate: float) -> tuple[Any, Any]:
        """Potential and members after one step."""
        loss, rates = tuple(self.losses.items()), jax.tree.map(lambda f: rate * f, self.factors)
        return _step(parameters, state, self.fixed, batch, rates, self.numbers, self.optimizer, loss)


def _without_zeros(
    layer: LastLayerPotential, displacements: Displacements, samples: Sequence[Sample]
) -> list[Sample]:
    """Samples without labels of forces that vanish by symmetry, as the spread of random members tells."""
    structures = [sample.structure for sample in samples]
    spreads: dict[int, np.ndarray] = {}
    for index, values in member_deviations(layer, displacements, structures, ["forces"]):
        spreads[index] = values["forces"].std(axis=0)
    every = np.concatenate([np.ravel(x) for x in spreads.values()])
    zero = (ROUNDED_ZERO if layer.dtype == np.float32 else VALUE_ZERO) * float(np.median(every))
    kept = []
    for index, sample in enumerate(samples):
        labels = sample.labels.results()
        if "forces" in labels and (spreads[index] <= zero).any():
            labels["forces"] = np.where(spreads[index] > zero, labels["forces"], np.nan)
            sample = replace(sample, labels=Labels(**labels))
        kept.append(sample)
    return kept


def _shapes(samples: Sequence[Sample], training: LLPRTraining) -> list[tuple[Shape, np.ndarray]]:
    """Shapes of batches, within the limits on the number of atoms."""
    structures = [sample.structure for sample in samples]
    mean = float(np.mean([s.n_atoms for s in structures]))
    size = max(training.batch_size, math.ceil(training.min_atoms_per_batch / mean))
    limit = training.max_atoms_per_batch or math.inf
    shapes = []
    for shape, members in plan_shapes(structures, size):
        largest = max(structures[i].n_atoms for i in members)
        shapes.append((replace(shape, n_atoms=int(min(shape.n_atoms, max(limit, largest)))), members))
    return shapes


def _labelled(
    parameters: _Parameters, fixed: Any, batch: Batch, kinds: Sequence[str]
) -> dict[str, tuple[Float[Array, "n n_members"], Float[Array, " n"], Bool[Array, " n"]]]:
    """Deviations, residuals and which of them count, of each quantity of a batch, flat."""
    layer: Any = eqx.combine(parameters.moving, fixed)
    results = evaluate(layer, batch.graph)
    members = row_products(layer, parameters.displacements, batch.graph)
    values = {}
    for name in kinds:
        if name not in batch.labels:
            continue
        r = batch_values(results, batch.graph, name) - batch.labels[name]
        e, known = batch_values(members, batch.graph, name), batch.weights[name] > 0
        if quantity(name).source == "strain":
            r, e, known = to_voigt(r), to_voigt(e), to_voigt(known)
        r, e = jnp.where(known, r, 0.0), jnp.where(known, e, 0.0)
        values[name] = e.reshape(len(e), -1).T, r.reshape(-1), known.reshape(-1)
    return values


_values = eqx.filter_jit(_labelled)


@eqx.filter_jit
def _step(
    parameters: _Parameters,
    state: Any,
    fixed: Any,
    batch: Batch,
    rates: _Parameters,
    numbers: Mapping[str, tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    losses: tuple[tuple[str, str], ...],
) -> tuple[_Parameters, Any]:
    def loss(moved: _Parameters) -> Array:
        values, total = _labelled(moved, fixed, batch, [name for name, _ in losses]), jnp.zeros(())
        for name, kind in losses:
            if name in values:
                e, r, known = values[name]
                weight, eps = numbers[name]
                each = jnp.where(known, entry_losses(e, r, eps.astype(e.dtype), kind), 0.0)
                total += weight * jnp.sum(each) / jnp.maximum(jnp.sum(known), 1)
        return total

    updates, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)  # type: ignore[arg-type]
    moving, members = jax.tree.map(lambda p, u, r: p - (r * u).astype(p.dtype), parameters, updates, rates)
    return _Parameters(moving, members - members.mean(axis=0)), state
