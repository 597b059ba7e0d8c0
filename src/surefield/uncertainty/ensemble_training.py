"""Training of the members of a last-layer ensemble, by proper scores of their spread.

Kellner and Ceriotti, Mach. Learn.: Sci. Technol. 5 (2024) 035006. The mean over the members is the potential
itself and does not change: only spreads are learned, from energies, forces and stresses.
"""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from surefield.errors import PotentialError
from surefield.execution.memory import check_memory
from surefield.files import write_atomic
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_arrays, save_arrays
from surefield.quantities import quantity
from surefield.training.checkpoint import Checkpoint, identity_of, potential_entries, sample_contents
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.held_out import label_residuals
from surefield.uncertainty.last_layer_ensemble import ensemble_loss
from surefield.uncertainty.metrics import gaussian_crps, gaussian_nll
from surefield.uncertainty.row_sums import Blocks, quantity_rows

__all__ = ["TrainedMembers", "learning_rate_at", "train_members"]

logger = logging.getLogger(__name__)

_KIND: Final = "llpr_members"
#: Smallest standard deviation that a loss sees, in units of the residuals.
_RELATIVE_FLOOR: Final = 1e-3
#: Residuals of training smaller than this times those of validation teach spreads that are too small.
_OVERFITTED: Final = 0.7

Members = Float[np.ndarray, "n_members n_features"]


class _Term(NamedTuple):
    """One term of the loss: its weight and the floor of variances."""

    loss: str
    weight: float
    eps: float


class _Entries(NamedTuple):
    """Rows, residuals (prediction minus label; of energies in total), components and numbers of atoms."""

    rows: Float[np.ndarray, "n n_features"]
    residuals: Float[np.ndarray, " n"]
    components: Int[np.ndarray, " n"]
    atoms: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class TrainedMembers:
    """The kept state of a training.

    Attributes:
        displacements: (n_members, n_features).
        epoch: after which it was reached; 0: the state before the training.
        history: metrics of every epoch.
    """

    displacements: Members
    epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


def learning_rate_at(step: int, n_steps: int, training: LLPRTraining) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero at the last."""
    warmup = int(training.warmup_fraction * n_steps)
    if step < warmup:
        return training.learning_rate * step / max(1, warmup)
    share = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return training.learning_rate * 0.5 * (1.0 + float(np.cos(np.pi * share)))


def train_members(
    potential: Potential,
    start: Members,
    sets: Sequence[LabelledSet],
    thresholds: Mapping[str, float],
    training: LLPRTraining,
    target: str,
    folder: Path | None,
) -> TrainedMembers:
    """Train the members of a target, or go on from the newest checkpoint of the folder.

    Args:
        potential: whose last layer is displaced.
        start: displacements at the start.
        sets: to train on, and to choose the state that is kept by.
        thresholds: of lengths of rows that vanish by symmetry.
        training: settings.
        target: "energy" (with forces and stresses, where there are labels) or an output.
        folder: of `model_{epoch}.ckpt` and `members.csv`; None: nothing is written.

    Raises:
        ConfigError: rows that do not fit into memory.
        PotentialError: a checkpoint of another training, or a metric that is not a number.
    """
    kinds = ("energy", "forces", "stress") if target == "energy" else (target,)
    n_values = sum(len(sample.structure.numbers) * 3 + 7 for part in sets for sample in part.samples)
    check_memory(
        "training of members",
        8.0 * n_values * start.shape[1],
        f"rows of {n_values} labels with {start.shape[1]} features",
        "train the members on fewer structures",
    )
    train, valid = (_collected(potential, part, kinds, thresholds) for part in sets)
    terms = _terms(training, target, valid)
    identity = _identity(potential, start, sets, training, target)
    run = _Run(train, valid, terms, training, [sample.n_atoms for sample in sets[0].samples])
    return run.to_the_end(start, folder, identity)


def _identity(
    potential: Potential, start: Members, sets: Sequence[LabelledSet], training: LLPRTraining, target: str
) -> dict[str, Any]:
    settings = training.model_dump(mode="json")
    for name in ("num_epochs", "log_interval", "checkpoint_interval", "model_checkpoint", "num_workers"):
        settings.pop(name)
    contents = {
        f"{name} set": sample_contents(part.samples)
        for name, part in zip(("training", "calibration"), sets, strict=True)
    }
    sizes = {"target": target, "members": list(start.shape), "settings": settings}
    return identity_of(**potential_entries(potential), **sizes, **contents)


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


def _terms(training: LLPRTraining, target: str, valid: Sequence[dict[str, _Entries]]) -> dict[str, _Term]:
    """Terms of the loss that have a weight and labels."""
    term = training.term(target)
    weights = {"forces": term.gradients.positions.weight, "stress": term.gradients.strain.weight}
    terms = {}
    for name in dict.fromkeys(name for entries in valid for name in entries):
        weight = weights.get(name, term.weight)
        joined = _joined(valid, name)
        if weight > 0 and joined is not None:
            per = joined.atoms if quantity(name).per_atom else np.ones(len(joined.atoms))
            scale = float(np.sqrt(np.mean((joined.residuals / per) ** 2)) * per.mean())
            terms[name] = _Term(term.name, weight, term.eps or (_RELATIVE_FLOOR * scale) ** 2)
    return terms


@partial(jax.jit, static_argnames=("loss",))
def _entry_losses(
    members: Float[Array, "n_members n_features"], rows: Array, residuals: Array, eps: Array, *, loss: str
) -> Float[Array, " n"]:
    deviations = rows @ members.T
    if loss == "empirical_crps_ensemble":
        n_members = members.shape[0]
        signs = 2.0 * jnp.arange(n_members) - n_members + 1
        pairs = jnp.sort(deviations, axis=1) @ signs
        return jnp.mean(jnp.abs(deviations + residuals[:, None]), axis=1) - pairs / n_members**2
    variance = jnp.maximum(jnp.sum(deviations**2, axis=1) / (members.shape[0] - 1), eps)
    if loss == "ensemble_nll":
        return 0.5 * (jnp.log(variance) + residuals**2 / variance)
    s = jnp.sqrt(variance)
    z = residuals / s
    normal = jax.scipy.stats.norm
    return s * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / jnp.sqrt(jnp.pi))


class _State(NamedTuple):
    """All that a training goes on from."""

    members: Array
    optimizer: Any
    best: Array


class _Run:
    """One training: its data, its loss, and its optimiser."""

    def __init__(
        self,
        train: list[dict[str, _Entries]],
        valid: list[dict[str, _Entries]],
        terms: dict[str, _Term],
        training: LLPRTraining,
        sizes: Sequence[int],
    ) -> None:
        self.train, self.valid, self.terms, self.training = train, valid, terms, training
        self.sizes = np.asarray(sizes)
        self.blocks = Blocks(training.batch_size, training.max_atoms_per_batch, training.min_atoms_per_batch)
        decay = () if training.weight_decay is None else (optax.add_decayed_weights(training.weight_decay),)
        clip = optax.clip_by_global_norm(training.grad_clip_norm)
        self.optimizer = optax.chain(clip, optax.scale_by_adam(), *decay)
        widest = {name: max(len(e[name].residuals) for e in train if name in e) for name in self.names}
        most = max((len(batch) for batch in self.batches(0)), default=1)
        self.padded = {name: most * width for name, width in widest.items()}

    @property
    def names(self) -> list[str]:
        """Quantities with a term and with labels to train on."""
        return [name for name in self.terms if any(name in entries for entries in self.train)]

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Structures of each batch, in an order of the seed and the epoch alone."""
        rng = np.random.Generator(np.random.Philox(key=[self.training.seed, epoch]))
        order = rng.permutation(len(self.train))
        return [order[block] for block in self.blocks.of(self.sizes[order].tolist())]

    def to_the_end(self, start: Members, folder: Path | None, identity: Mapping[str, Any]) -> TrainedMembers:
        """Train up to the total number of epochs, or go on."""
        t = self.training
        total = t.num_epochs or 0
        members = jnp.asarray(start - start.mean(axis=0))
        state = _State(members, self.optimizer.init(members), members)
        first, best_epoch, history = 0, 0, [self.metrics(start, 0, 0.0)]
        newest = _newest(folder, total)
        if newest is not None:
            state, first, best_epoch, history = _loaded(newest, state, identity)
        else:
            self._warn_of_small_residuals(history[0])
        best = min(row[self._metric] for row in history)
        n_batches, terms = len(self.batches(0)), tuple((n, self.terms[n]) for n in self.names)
        for epoch in range(first + 1, total + 1):
            rate = 0.0
            for place, batch in enumerate(self.batches(epoch)):
                step = (epoch - 1) * n_batches + place
                rate = learning_rate_at(step, n_batches * total, t)
                arrays = {name: self._padded(name, batch) for name in self.names}
                after = _step(
                    state.members, state.optimizer, arrays, rate, optimizer=self.optimizer, terms=terms
                )
                state = _State(after[0], after[1], state.best)
            row = self.metrics(np.asarray(state.members), epoch, rate)
            history.append(row)
            if row[self._metric] < best:
                best, best_epoch, state = row[self._metric], epoch, state._replace(best=state.members)
            if epoch % t.log_interval == 0:
                logger.info("members: %s", ", ".join(f"{k} {v:.6g}" for k, v in row.items()))
            if folder is not None and (epoch % t.checkpoint_interval == 0 or epoch == total):
                _save(folder / f"model_{epoch}.ckpt", state, epoch, best_epoch, history, identity)
                shown = [r for r in history if r["epoch"] % t.log_interval == 0]
                write_atomic(folder / "members.csv", _csv(shown))
        if total and best_epoch == 0 and first < total:
            warnings.warn(
                "no epoch was better on the calibration set than the members as drawn; these are kept",
                stacklevel=4,
            )
        return TrainedMembers(np.asarray(state.best), best_epoch, history)

    @property
    def _metric(self) -> str:
        return f"valid_{self.training.best_model_metric}"

    def _padded(self, name: str, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, residuals and a mask of a batch, of one length for all."""
        joined = _joined([self.train[i] for i in batch], name)
        size, width = self.padded[name], next(e[name].rows.shape[1] for e in self.train if name in e)
        rows, residuals, mask = np.zeros((size, width)), np.zeros(size), np.zeros(size)
        if joined is not None:
            n = len(joined.residuals)
            rows[:n], residuals[:n], mask[:n] = joined.rows, joined.residuals, 1.0
        return rows, residuals, mask

    def metrics(self, members: Members, epoch: int, rate: float) -> dict[str, float]:
        """Metrics of one epoch on both sets.

        Raises:
            PotentialError: one is not a number.
        """
        row: dict[str, float] = {"epoch": epoch, "learning_rate": rate}
        for title, entries in (("train", self.train), ("valid", self.valid)):
            loss, rmses, maes = 0.0, [], []
            for name, term in self.terms.items():
                joined = _joined(entries, name)
                if joined is None:
                    continue
                deviations, r = joined.rows @ members.T, joined.residuals
                loss += term.weight * ensemble_loss(
                    term.loss, deviations + r[:, None], np.zeros(len(r)), term.eps
                )
                sigma = np.sqrt(np.maximum(deviations.var(axis=1, ddof=1), term.eps))
                whole = name in self.training.per_structure_targets or not quantity(name).per_atom
                per = np.ones(len(r)) if whole else joined.atoms
                row |= self._scores(f"{title}_{name}", r / per, sigma / per)
                if self.training.log_separate_blocks and quantity(name).components:
                    for c in np.unique(joined.components).tolist():
                        own = joined.components == c
                        row |= self._scores(f"{title}_{name}_{c}", r[own], sigma[own])
                rmses.append(row[f"{title}_{name}_rmse"])
                maes.append(float(np.mean(np.abs(r / per))))
            row[f"{title}_loss"] = loss
            row[f"{title}_rmse_prod"] = float(np.prod(rmses))
            if self.training.log_mae:
                row[f"{title}_mae_prod"] = float(np.prod(maes))
        bad = [name for name, value in row.items() if not np.isfinite(value)]
        if bad:
            raise PotentialError(
                f"{bad[0]} of epoch {epoch} is not a number", fix="use a smaller learning_rate"
            )
        return row

    def _scores(self, title: str, r: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
        scores = {
            f"{title}_rmse": float(np.sqrt(np.mean(r**2))),
            f"{title}_nll": float(gaussian_nll(r, sigma).mean()),
            f"{title}_crps": float(gaussian_crps(r, sigma).mean()),
            f"{title}_mean_z2": float(np.mean((r / sigma) ** 2)),
        }
        return scores | ({f"{title}_mae": float(np.mean(np.abs(r)))} if self.training.log_mae else {})

    def _warn_of_small_residuals(self, row: Mapping[str, float]) -> None:
        for name in self.names:
            of_train, of_valid = row[f"train_{name}_rmse"], row[f"valid_{name}_rmse"]
            if of_train < _OVERFITTED * of_valid:
                warnings.warn(
                    f"residuals of {name} are {of_valid / of_train:.1f} times larger on the calibration set "
                    f"({of_valid:.3g}) than on the training set ({of_train:.3g}): spreads learned from the "
                    "latter will be overconfident",
                    stacklevel=5,
                )


@partial(jax.jit, static_argnames=("optimizer", "terms"))
def _step(
    members: Array,
    state: Any,
    arrays: dict[str, tuple[Array, Array, Array]],
    rate: Array,
    *,
    optimizer: optax.GradientTransformation,
    terms: tuple[tuple[str, _Term], ...],
) -> tuple[Array, Any]:
    """Members and state of the optimiser after one step; members stay centred."""

    def loss(moved: Array) -> Array:
        total = jnp.zeros(())
        for name, term in terms:
            rows, residuals, mask = arrays[name]
            each = _entry_losses(moved, rows, residuals, jnp.asarray(term.eps), loss=term.loss)
            total += term.weight * jnp.sum(mask * each) / jnp.maximum(jnp.sum(mask), 1.0)
        return total

    updates, state = optimizer.update(jax.grad(loss)(members), state, members)
    moved = members - rate * jnp.asarray(updates)
    return moved - moved.mean(axis=0), state


def _newest(folder: Path | None, total: int) -> Path | None:
    """Checkpoint of the latest epoch that is not beyond the last one."""
    if folder is None:
        return None
    epochs = {int(p.stem.removeprefix("model_")): p for p in folder.glob("model_*.ckpt")}
    known = [epoch for epoch in epochs if epoch <= total]
    return epochs[max(known)] if known else None


def _save(
    path: Path,
    state: _State,
    epoch: int,
    best_epoch: int,
    history: list[dict[str, float]],
    identity: Mapping[str, Any],
) -> None:
    leaves = {f"state {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    header = {"epoch": epoch, "best_epoch": best_epoch, "history": history, "identity": dict(identity)}
    save_arrays(path, _KIND, header, leaves, compressed=False)


def _loaded(
    path: Path, like: _State, identity: Mapping[str, Any]
) -> tuple[_State, int, int, list[dict[str, float]]]:
    """State, epoch, best epoch and history of a checkpoint.

    Raises:
        PotentialError: damaged, of a newer version, or of another training.
    """
    header, arrays = load_arrays(path, _KIND)
    Checkpoint(None, "", identity).check(path, header["identity"])
    leaves = [jnp.asarray(arrays[f"state {i}"]) for i in range(len(arrays))]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return state, header["epoch"], header["best_epoch"], header["history"]


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(history[0]) if history else [])
    writer.writeheader()
    writer.writerows(history)
    return file.getvalue()
