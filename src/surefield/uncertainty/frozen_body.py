"""Training of members around a potential that stays as it is: rows are constants, and computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from surefield.calibration.held_out import label_residuals
from surefield.execution.memory import check_memory
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.quantities import quantity
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.member_learner import Displacements, Learner, Scored, Term, entry_losses, kinds_of
from surefield.uncertainty.row_sums import Blocks, quantity_rows

__all__ = ["FrozenBody"]


class _Entries(NamedTuple):
    """Rows, residuals (prediction minus label; of energies in total), components and numbers of atoms."""

    rows: Float[np.ndarray, "n n_features"]
    residuals: Float[np.ndarray, " n"]
    components: Int[np.ndarray, " n"]
    atoms: Int[np.ndarray, " n"]


class FrozenBody(Learner):
    """Members alone are trained.

    Args:
        potential: whose last layer is displaced.
        start: displacements at the start.
        sets: to train on, and to choose the state that is kept by.
        thresholds: of lengths of rows that vanish by symmetry.
        training: settings.
        target: whose members these are.

    Raises:
        ConfigError: rows that do not fit into memory.
    """

    def __init__(
        self,
        potential: Potential,
        start: Displacements,
        sets: Sequence[LabelledSet],
        thresholds: Mapping[str, float],
        training: LLPRTraining,
        target: str,
    ) -> None:
        n_values = sum(len(sample.structure.numbers) * 3 + 7 for part in sets for sample in part.samples)
        check_memory(
            "training of members",
            8.0 * n_values * start.shape[1],
            f"rows of {n_values} labels with {start.shape[1]} features",
            "train the members on fewer structures",
        )
        kinds = kinds_of(target)
        self.parts = tuple(_collected(potential, part, kinds, thresholds) for part in sets)
        self.start = jnp.asarray(start - start.mean(axis=0))
        self.seed = training.seed
        self.sizes = np.array([sample.n_atoms for sample in sets[0].samples])
        self.blocks = Blocks(training.batch_size, training.max_atoms_per_batch, training.min_atoms_per_batch)

    def scored(self, parameters: Any, part: int) -> dict[str, Scored]:
        """Deviations g·D_k and residuals."""
        names = dict.fromkeys(name for entries in self.parts[part] for name in entries)
        joined = {name: _joined(self.parts[part], name) for name in names}
        members = np.asarray(parameters)
        return {
            name: Scored(own.rows @ members.T, *own[1:]) for name, own in joined.items() if own is not None
        }

    def prepared(self, terms: Mapping[str, Term], optimizer: optax.GradientTransformation) -> None:
        """Find the longest batch of each quantity: all are padded to it."""
        train = self.parts[0]
        self.optimizer = optimizer
        self.terms = tuple((n, term) for n, term in terms.items() if any(n in entries for entries in train))
        most = max((len(batch) for batch in self.batches(0)), default=1)
        widest = {name: max(len(e[name].residuals) for e in train if name in e) for name, _ in self.terms}
        self.padded = {name: most * width for name, width in widest.items()}

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Structures of each batch."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = rng.permutation(len(self.parts[0]))
        return [order[block] for block in self.blocks.of(self.sizes[order].tolist())]

    def step(self, parameters: Any, state: Any, batch: np.ndarray, rate: float) -> tuple[Any, Any]:
        """Members after one step."""
        arrays = {name: self._padded(name, batch) for name, _ in self.terms}
        return _step(parameters, state, arrays, rate, optimizer=self.optimizer, terms=self.terms)

    def _padded(self, name: str, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, residuals and a mask of a batch, of one length for all."""
        joined = _joined([self.parts[0][i] for i in batch], name)
        size, width = self.padded[name], self.start.shape[1]
        rows, residuals, mask = np.zeros((size, width)), np.zeros(size), np.zeros(size)
        if joined is not None:
            n = len(joined.residuals)
            rows[:n], residuals[:n], mask[:n] = joined.rows, joined.residuals, 1.0
        return rows, residuals, mask


def _collected(
    potential: Potential, data: LabelledSet, kinds: Sequence[str], thresholds: Mapping[str, float]
) -> list[dict[str, _Entries]]:
    """Entries of each structure by quantity, of labels that count and do not vanish by symmetry."""
    predictions = predict(potential, data.frames, neighborhoods=data.structures)
    every = quantity_rows(potential.last_layer(), data.structures, kinds)
    collected = []
    for sample, prediction, rows in zip(data.samples, predictions, every, strict=True):
        entries = {}
        for name, (residual, counts) in label_residuals(sample, prediction, kinds).items():
            if name not in rows:
                continue
            n = sample.n_atoms if quantity(name).per_atom else 1
            keep = counts.ravel() & (np.linalg.norm(rows[name], axis=1) > thresholds.get(name, -1.0))
            n_components = int(np.prod(quantity(name).components))
            components = np.arange(residual.size)[keep] % n_components
            atoms = np.full(len(components), sample.n_atoms)
            entries[name] = _Entries(n * rows[name][keep], n * residual.ravel()[keep], components, atoms)
        collected.append(entries)
    return collected


def _joined(entries: Sequence[dict[str, _Entries]], name: str) -> _Entries | None:
    own = [each[name] for each in entries if name in each and len(each[name].residuals)]
    return _Entries(*(np.concatenate(parts) for parts in zip(*own, strict=True))) if own else None


@partial(jax.jit, static_argnames=("optimizer", "terms"))
def _step(
    members: Array,
    state: Any,
    arrays: dict[str, tuple[Array, Array, Array]],
    rate: Array,
    *,
    optimizer: optax.GradientTransformation,
    terms: tuple[tuple[str, Term], ...],
) -> tuple[Array, Any]:
    """Members and state of the optimiser after one step; members stay centred."""

    def loss(moved: Array) -> Array:
        total = jnp.zeros(())
        for name, term in terms:
            rows, residuals, mask = arrays[name]
            each = entry_losses(rows @ moved.T, residuals, jnp.asarray(term.eps), term.loss)
            total += term.weight * jnp.sum(mask * each) / jnp.maximum(jnp.sum(mask), 1.0)
        return total

    updates, state = optimizer.update(jax.grad(loss)(members), state, members)
    moved = members - rate * jnp.asarray(updates)
    return moved - moved.mean(axis=0), state
