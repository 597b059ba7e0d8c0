"""Training of the members of a last-layer ensemble, by proper scores of their spread: the loop of epochs.

Kellner and Ceriotti, Mach. Learn.: Sci. Technol. 5 (2024) 035006. Either the members alone are trained, whose
mean is the potential itself and does not change, or the potential with them.
"""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from surefield.calibration.metrics import gaussian_crps, gaussian_nll
from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_arrays, save_arrays
from surefield.quantities import quantity
from surefield.training.checkpoint import Checkpoint, identity_of, potential_entries, sample_contents
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.frozen_body import FrozenBody
from surefield.uncertainty.last_layer_ensemble import ensemble_loss
from surefield.uncertainty.member_learner import (
    Displacements,
    Learner,
    gradient_steps,
    terms_of,
)
from surefield.uncertainty.trained_body import TrainedBody

__all__ = ["TrainedMembers", "learning_rate_at", "train_members"]

logger = logging.getLogger(__name__)

_KIND: Final = "llpr_members"
#: Residuals of training smaller than this times those of validation teach spreads that are too small.
_OVERFITTED: Final = 0.7


@dataclass(frozen=True, eq=False)
class TrainedMembers:
    """The kept state of a training.

    Attributes:
        potential: the one that was given, or as it was trained with the members.
        displacements: (n_members, n_features).
        epoch: after which it was reached; 0: the state before the training.
        history: metrics of every epoch.
    """

    potential: Potential
    displacements: Displacements
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
    start: Displacements,
    sets: Sequence[LabelledSet],
    thresholds: Mapping[str, float],
    training: LLPRTraining,
    target: str,
    folder: Path | None,
    *,
    calibrated_later: bool = False,
    rate_factors: tuple[float, float] | None = None,
) -> TrainedMembers:
    """Train the members of a target, or go on from the newest checkpoint of the folder.

    Args:
        potential: whose last layer is displaced; with `train_all_parameters` it is trained, too.
        start: displacements at the start.
        sets: to train on, and to choose the state that is kept by.
        thresholds: of lengths of rows that vanish by symmetry.
        training: settings.
        target: "energy" (with forces and stresses, where there are labels) or an output.
        folder: of `model_{epoch}.ckpt` and `members.csv`; None: nothing is written.
        calibrated_later: spreads that are too small are made larger after the training: no word on them.
        rate_factors: see `TrainedBody`.

    Raises:
        ConfigError: rows that do not fit into memory.
        PotentialError: a checkpoint of another training, a metric that is not a number, or nothing to train
            but the members.
    """
    learner: Learner
    if training.train_all_parameters:
        learner = TrainedBody(potential, start, sets, training, target, rate_factors)
    else:
        learner = FrozenBody(potential, start, sets, thresholds, training, target)
    run = _Run(learner, training, target, calibrated_later)
    state, epoch, history = run.to_the_end(folder, _identity(potential, start, sets, training, target))
    if isinstance(learner, TrainedBody):
        potential, members = learner.potential(state), state.displacements
    else:
        members = state
    return TrainedMembers(potential, np.asarray(members), epoch, history)


def _identity(
    potential: Potential,
    start: Displacements,
    sets: Sequence[LabelledSet],
    training: LLPRTraining,
    target: str,
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


class _State(NamedTuple):
    """All that a training goes on from."""

    parameters: Any
    optimizer: Any
    best: Any


class _Run:
    """One training: a learner, its loss, and its optimiser."""

    def __init__(self, learner: Learner, training: LLPRTraining, target: str, calibrated_later: bool) -> None:
        self.learner, self.training, self.calibrated_later = learner, training, calibrated_later
        self.optimizer = gradient_steps(training)
        self.terms = terms_of(training, target, learner.scored(learner.start, 1))
        learner.prepared(self.terms, self.optimizer)

    def to_the_end(
        self, folder: Path | None, identity: Mapping[str, Any]
    ) -> tuple[Any, int, list[dict[str, float]]]:
        """Train up to the total number of epochs, or go on: the best parameters, their epoch, the metrics."""
        t, learner = self.training, self.learner
        total = t.num_epochs or 0
        state = _State(learner.start, self.optimizer.init(learner.start), learner.start)
        first, best_epoch, history = 0, 0, [self.metrics(learner.start, 0, 0.0)]
        newest = _newest(folder, total)
        if newest is not None:
            state, first, best_epoch, history = _loaded(newest, state, identity)
        elif not self.calibrated_later:
            self._warn_of_small_residuals(history[0])
        best = min(row[self._metric] for row in history)
        n_batches = len(learner.batches(0))
        for epoch in range(first + 1, total + 1):
            rate = 0.0
            for place, batch in enumerate(learner.batches(epoch)):
                step = (epoch - 1) * n_batches + place
                rate = learning_rate_at(step, n_batches * total, t)
                after = learner.step(state.parameters, state.optimizer, batch, rate)
                state = _State(*after, state.best)
            row = self.metrics(state.parameters, epoch, rate)
            history.append(row)
            if row[self._metric] < best:
                best, best_epoch, state = row[self._metric], epoch, state._replace(best=state.parameters)
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
        return state.best, best_epoch, history

    @property
    def _metric(self) -> str:
        return f"valid_{self.training.best_model_metric}"

    def metrics(self, parameters: Any, epoch: int, rate: float) -> dict[str, float]:
        """Metrics of one epoch on both sets.

        Raises:
            PotentialError: one is not a number.
        """
        row: dict[str, float] = {"epoch": epoch, "learning_rate": rate}
        for part, title in enumerate(("train", "valid")):
            loss, rmses, maes = 0.0, [], []
            every = self.learner.scored(parameters, part)
            for name, term in self.terms.items():
                if name not in every:
                    continue
                scored = every[name]
                deviations, r = scored.deviations, scored.residuals
                loss += term.weight * ensemble_loss(
                    term.loss, deviations + r[:, None], np.zeros(len(r)), term.eps
                )
                sigma = np.sqrt(np.maximum(deviations.var(axis=1, ddof=1), term.eps))
                whole = name in self.training.per_structure_targets or not quantity(name).per_atom
                per = np.ones(len(r)) if whole else scored.atoms
                row |= self._scores(f"{title}_{name}", r / per, sigma / per)
                if self.training.log_separate_blocks and quantity(name).components:
                    for c in np.unique(scored.components).tolist():
                        own = scored.components == c
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
        for name in self.terms:
            of_train, of_valid = row.get(f"train_{name}_rmse", np.inf), row[f"valid_{name}_rmse"]
            if of_train < _OVERFITTED * of_valid:
                warnings.warn(
                    f"residuals of {name} are {of_valid / of_train:.1f} times larger on the calibration set "
                    f"({of_valid:.3g}) than on the training set ({of_train:.3g}): spreads learned from the "
                    "latter will be overconfident",
                    stacklevel=5,
                )


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
