"""`train`: from frames to a fitted potential in one call."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np

from surefield.errors import ConfigError
from surefield.execution.cache import enable_compilation_cache
from surefield.execution.identity import Table
from surefield.execution.memory_maps import release_compiled
from surefield.execution.progress import track
from surefield.files import write_atomic
from surefield.potentials.potential import (
    LastLayerPotential,
    Potential,
    SumPotential,
    TrainingData,
    as_potential,
    trainable,
)
from surefield.potentials.saving import arrays_hash, load_arrays, pack, save_arrays, unpack
from surefield.structures.electrode import PHI
from surefield.structures.labels import Mapped
from surefield.structures.offsets import energy_offsets
from surefield.structures.read import Frames, Source, read_frames
from surefield.structures.splits import split_frames
from surefield.training.checkpoint import (
    Checkpoint,
    PartialSums,
    data_digest,
    identity_of,
    potential_entries,
    sample_contents,
)
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet, as_labelled, without_baseline
from surefield.training.epochs import History, Row, State
from surefield.training.force_errors import ForceErrorLog, finish_log, force_error_norms, open_log
from surefield.training.gradient import fit_gradient, initial_state, step_settings
from surefield.training.loss import Errors, LossWeights, balanced_stress_weight, errors, residuals
from surefield.training.readout import Solution, solve_readout

__all__ = ["METRICS", "Fit", "fit_samples", "is_linear", "train"]

METRICS: tuple[str, ...] = (
    "step",
    "epoch",
    "seconds",
    "loss",
    "learning_rate",
    "train_energy_rmse",
    "train_forces_rmse",
    "valid_energy_mae",
    "valid_energy_rmse",
    "valid_forces_mae",
    "valid_forces_rmse",
)


_START: Final = "start.npz"
#: Sets whose rows are summed on the way to it.
_SUMMED: Final = ("training", "validation")


@runtime_checkable
class MakesPotential(Protocol):
    """Something that becomes a potential once it sees structures, such as `NeuralNetwork`."""

    def potential_for(self, frames: Frames) -> Potential:
        """Untrained potential of the elements (or the one system) of the frames."""
        ...


@dataclass(frozen=True, eq=False)
class Fit:
    """Outcome of `train`.

    Attributes:
        potential: with the last weights whose validation score is near the least.
        train_errors: on the structures it was fitted to.
        validation_errors: on those held out; None without validation.
        solution: of the exact last layer the training started from; None for potentials without one.
        weights: of the loss; that of stresses may follow from the data.
        weight_note: what stresses count, in words, where it follows from the data; else empty.
        history: one row per epoch.
        train_set: structures that were fitted, with labels and neighbours; an uncertainty is fitted on them.
        validation_set: structures held out, likewise; they calibrate an uncertainty.
    """

    potential: Potential
    train_errors: Errors
    validation_errors: Errors | None
    solution: Solution | None
    weights: LossWeights
    weight_note: str
    history: tuple[Mapping[str, float], ...]
    train_set: LabelledSet
    validation_set: LabelledSet

    @property
    def train_frames(self) -> Frames:
        """Structures that were fitted."""
        return self.train_set.frames

    @property
    def validation_frames(self) -> Frames:
        """Structures held out."""
        return self.validation_set.frames

    @property
    def label_note(self) -> str:
        """Which labels were taken, and what stresses count."""
        return "; ".join(filter(None, (self.train_set.label_note, self.weight_note)))


def train(
    potential: Potential | MakesPotential,
    frames: Source | LabelledSet,
    validation: float | Source | LabelledSet = 0.1,
    *,
    config: TrainConfig | None = None,
    labels: Mapped | None = None,
    isolated_atoms: Mapping[str | int, float] | None = None,
    folder: str | Path | None = None,
    force_error_log: str | Path | Mapping[str, Any] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Fit:
    """Fit a potential to labelled structures.

    First the element offsets and, where it is linear, the last layer are found exactly (ridge regression on
    energies and forces); then the rest, if there is any, is trained with AdamW, and the last state whose
    validation score (product of the RMSEs) is within its standard error of the least is kept.

    Args:
        potential: any potential with parameters, the sum of one and a baseline, or something that makes one
            from the frames, such as `NeuralNetwork`; it is not changed.
        frames: labelled structures: a file, files, a list of `Atoms`, or what `prepare` made of these for
            this potential. Isolated atoms among them set the element offsets and are not fitted; of
            structures without forces the energies count.
        validation: fraction of the frames to hold out, or other frames; 0 for none.
        config: how to train.
        labels: explicit keys of the labels, kind to key.
        isolated_atoms: energies of free atoms in eV, by symbol or atomic number.
        folder: for metrics.csv and checkpoint.npz; an interrupted training in it is continued.
        force_error_log: folder for the errors of the forces on training atoms after each epoch, with the
            averaged weights, or the final ones where there are no epochs; or options of `ForceErrorLog`.
        progress: show a progress bar; None: on a terminal.
        settings: single fields of `TrainConfig`, such as `epochs=20`.

    Raises:
        ConfigError: an unknown setting, no potential, or a fraction outside [0, 1).
        DataError: unusable structures or labels.
        PotentialError: an element the potential does not know; a checkpoint of another run.
    """
    enable_compilation_cache()
    config = _with_settings(config or TrainConfig(), settings)
    if isinstance(potential, MakesPotential):
        frames = frames.frames if isinstance(frames, LabelledSet) else read_frames(frames)
        potential = potential.potential_for(frames)
    potential = as_potential(potential)
    data = as_labelled(frames, potential, labels)
    if isinstance(validation, int | float):
        if not 0 <= validation < 1:
            raise ConfigError(f"validation must be a fraction in [0, 1) or frames, got {validation}")
        held, fitted = np.array([], int), np.arange(len(data))
        if validation > 0 and len(data) > 1:
            fitted, held = split_frames(data.frames, validation, seed=config.seed)
        train_set, valid_set = data[fitted], data[held]
    else:
        train_set, valid_set = data, as_labelled(validation, potential, labels)
    given = dict(data.isolated_atoms) | dict(isolated_atoms or {})
    return fit_samples(
        potential,
        train_set,
        valid_set,
        config,
        isolated_atoms=given,
        folder=folder,
        force_error_log=force_error_log,
        progress=progress,
    )


def fit_samples(
    potential: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    config: TrainConfig,
    *,
    isolated_atoms: Mapping[str | int, float] | None = None,
    folder: str | Path | None = None,
    force_error_log: str | Path | Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Fit:
    """`train` on data that are prepared already."""
    release_compiled()
    identity = None
    if folder is not None:
        identity = identity_of(
            training=config.model_dump(mode="json") | {"isolated_atoms": isolated_atoms or {}},
            **potential_entries(potential),
            **{"training set": sample_contents(train_set.samples)},
            **{"validation set": sample_contents(valid_set.samples)},
        )
    files = _Files(None if folder is None else Path(folder), identity)
    return _fit(
        potential, train_set, valid_set, config, files, isolated_atoms or {}, force_error_log, progress
    )


def _fit(
    potential: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    config: TrainConfig,
    files: _Files,
    isolated_atoms: Mapping[str | int, float],
    force_error_log: str | Path | Mapping[str, Any] | None,
    progress: bool | None,
) -> Fit:
    """`fit_samples`, of a potential without its baseline."""
    if isinstance(potential, SumPotential):
        baseline = potential.baseline
        inner = _fit(
            potential.learned,
            replace(train_set, samples=tuple(without_baseline(potential, train_set.samples)[1])),
            replace(valid_set, samples=tuple(without_baseline(potential, valid_set.samples)[1])),
            config,
            files,
            isolated_atoms,
            force_error_log,
            progress,
        )
        whole = SumPotential(inner.potential, baseline)
        return replace(inner, potential=whole, train_set=train_set, validation_set=valid_set)
    if not any(jax.tree.leaves(trainable(potential))):
        raise ConfigError(f"{type(potential).__name__} has no parameters to train")
    weight_note = ""
    if config.stress_weight is None:
        weight = balanced_stress_weight(train_set.samples, config.forces_weight)
        config = config.model_copy(update={"stress_weight": weight})
        weight_note = f"stress counts with a weight of {weight:g} in the loss" if weight else ""
    weights = step_settings(config, potential).weights
    energies = [sample.labels.energy for sample in train_set.samples]
    offsets = _offsets(train_set, energies, isolated_atoms)
    start = potential.prepared(TrainingData(train_set.structures, energies, offsets))
    begun = files.read_start(start, lambda: _older(config, potential, start, train_set, valid_set))
    if begun is None:
        solution = None
        if isinstance(start, LastLayerPotential) and start.n_solvable:
            count = len(train_set) + len(valid_set)
            done = sum(files.sums(part).done for part in _SUMMED)
            with track(count, "solve last layer", progress, done=done) as bar:
                start, solution = solve_readout(
                    start,
                    train_set.samples,
                    valid_set.samples,
                    weights,
                    max_force_rows=config.max_force_rows,
                    progress=bar.advance,
                    sums=files.sums,
                )
        files.write_start(start, solution)
    else:
        start, solution = begun
    log = None if force_error_log is None else _opened(force_error_log, train_set)
    fitted, history = start, History()
    if not is_linear(start):
        fitted, history = _trained(start, train_set, valid_set, config, files, log, progress)
    if log is not None:
        if not history.rows:
            log.append(0, force_error_norms(fitted, train_set.samples))
        finish_log(log, fitted, train_set.samples)
    return Fit(
        potential=fitted,
        train_errors=errors(residuals(fitted, train_set.samples)),
        validation_errors=errors(residuals(fitted, valid_set.samples)) if len(valid_set) else None,
        solution=solution,
        weights=weights,
        weight_note=weight_note,
        history=tuple(history.rows),
        train_set=train_set,
        validation_set=valid_set,
    )


def _trained(
    start: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    config: TrainConfig,
    files: _Files,
    log: ForceErrorLog | None,
    progress: bool | None,
) -> tuple[Potential, History]:
    """The potential after the epochs, with a checkpoint to go on from."""
    checkpoint = files.checkpoint
    state, history = checkpoint.load(initial_state(start, config)) or (None, History())
    with track(config.epochs, "train", progress, done=len(history.rows)) as bar:

        def show(_: State, row: Row) -> None:
            shown = {"loss": row["loss"]}
            if np.isfinite(row.get("valid_forces_rmse", np.nan)):
                shown["valid F RMSE eV/Å"] = row["valid_forces_rmse"]
            elif np.isfinite(row.get("valid_energy_rmse", np.nan)):
                shown["valid E RMSE eV/atom"] = row["valid_energy_rmse"]
            bar.advance(1, **shown)

        def log_errors(state: State, row: Row) -> None:
            if log is not None and np.isfinite(row["loss"]):
                potential = eqx.combine(state.average, start)
                log.append(state.epoch - 1, force_error_norms(potential, train_set.samples))

        def on_step(state: State, _: float) -> None:
            if state.step % config.checkpoint_every == 0:
                checkpoint.save(state, history)

        fitted, _, history = fit_gradient(
            start,
            train_set.samples,
            valid_set.samples,
            config,
            state=state,
            history=history,
            on_step=[on_step],
            on_epoch=[
                log_errors,
                lambda *_: files.write_metrics(history),
                lambda state, _: checkpoint.save(state, history),
                show,
            ],
        )
    return fitted, history


def _opened(given: str | Path | Mapping[str, Any], data: LabelledSet) -> ForceErrorLog | None:
    options = dict(given) if isinstance(given, Mapping) else {"folder": given}
    if "folder" not in options:
        raise ConfigError("force_error_log needs a folder", got=options)
    return open_log(options.pop("folder"), data.samples, options)


def is_linear(potential: Potential) -> bool:
    """Whether the exact solution leaves nothing to train."""
    if not isinstance(potential, LastLayerPotential) or potential.n_solvable < potential.readout.shape[1]:
        return False
    rest = eqx.tree_at(lambda p: (p.readout, p.bias), trainable(potential), (False, False))
    return not any(jax.tree.leaves(rest))


def _with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    from surefield.config import parse

    return parse(TrainConfig, {**config.model_dump(), **settings}, where="train") if settings else config


def _offsets(
    data: LabelledSet, energies: Sequence[float | None], isolated_atoms: Mapping[str | int, float]
) -> dict[int, float]:
    known = [(s.numbers, e) for s, e in zip(data.structures, energies, strict=True) if e is not None]
    return energy_offsets([numbers for numbers, _ in known], [e for _, e in known], isolated_atoms)


class _Files:
    """Files of a training in a folder; without a folder there are none."""

    def __init__(self, folder: Path | None, identity: Table | None) -> None:
        self.folder, self.identity = folder, identity or {}
        path = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "checkpoint.npz"
        self.checkpoint = Checkpoint(path, "checkpoint", self.identity)
        if folder is not None and (folder / _START).exists():
            self.checkpoint.check(folder / _START, load_arrays(folder / _START, "start")[0])

    def read_start(
        self, potential: Potential, older: Callable[[], Table]
    ) -> tuple[Potential, Solution | None] | None:
        """Potential and exact solution that the training started from; None where there are none yet."""
        if self.folder is None or not (self.folder / _START).exists():
            return None
        header, arrays = load_arrays(self.folder / _START, "start")
        self.checkpoint.older = older()
        self.checkpoint.check(self.folder / _START, header)
        solution = Solution(**header["solution"]) if header["solution"] else None
        return unpack(potential, arrays), solution

    def write_start(self, potential: Potential, solution: Solution | None) -> None:
        if self.folder is not None:
            header = {**self.identity, "solution": solution and asdict(solution)}
            save_arrays(self.folder / _START, "start", header, pack(potential))
            for part in _SUMMED:
                self.sums(part).remove()

    def sums(self, part: str) -> PartialSums:
        """Sums of one of the two sets, on the way to the exact solution."""
        return PartialSums(self.folder and self.folder / f"{part}-sums.npz", self.identity)

    def write_metrics(self, history: History) -> None:
        if self.folder is not None:
            write_atomic(self.folder / "metrics.csv", metrics_text(history.rows))


def _older(
    config: TrainConfig,
    potential: Potential,
    start: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
) -> dict[str, Any]:
    """What files of older versions state of their training."""
    return {
        "train": config.model_dump(mode="json"),
        "samples": data_digest(train_set.samples, valid_set.samples),
        "data": _potential_and_data(potential, train_set),
        "start": arrays_hash(start),
    }


def _potential_and_data(potential: Potential, data: LabelledSet) -> str:
    """Hash by which files of version 0.1 know their training; it leaves out forces, stresses and weights."""
    digest = hashlib.sha256(repr(jax.tree.structure(potential)).encode())
    for leaf in jax.tree.leaves(eqx.filter(potential, eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
    for sample in data.samples:
        digest.update(sample.structure.positions.tobytes() + sample.structure.numbers.tobytes())
        known = (sample.labels.energy, sample.labels.excess_electrons, sample.structure.inputs.get(PHI))
        digest.update(np.array([np.nan if x is None else x for x in known]).tobytes())
    return digest.hexdigest()


def metrics_text(rows: Sequence[Mapping[str, float]]) -> str:
    """The history as CSV with the columns of `METRICS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, METRICS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
