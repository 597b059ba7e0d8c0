"""`train`: from frames to a fitted potential in one call."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import equinox as eqx
import jax
import numpy as np

from surefield.errors import ConfigError, PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.execution.identity import Table
from surefield.execution.memory_maps import release_compiled
from surefield.execution.progress import duration, track
from surefield.files import write_atomic
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import (
    HasPotential,
    LastLayerPotential,
    Potential,
    SumPotential,
    TrainingData,
    as_potential,
    trainable,
)
from surefield.potentials.saving import arrays_hash, load_arrays, pack, save_arrays, unpack
from surefield.structures.electrode import PHI
from surefield.structures.labels import Mapped, check_named
from surefield.structures.offsets import energy_offsets
from surefield.structures.read import Frames, Source, read_frames
from surefield.structures.splits import split_frames
from surefield.training.budget import Budget
from surefield.training.checkpoint import (
    Checkpoint,
    PartialSums,
    data_digest,
    identity_of,
    potential_entries,
    sample_contents,
)
from surefield.training.config import TrainConfig
from surefield.training.continuation import (
    check_body,
    continued,
    solve_around,
    starting_potential,
    with_fitted_offsets,
)
from surefield.training.dataset import LabelledSet, as_labelled, without_baseline
from surefield.training.epochs import History, Row, State
from surefield.training.force_errors import ForceErrorLog, finish_log, force_error_norms, open_log
from surefield.training.gradient import fit_gradient, initial_state, step_settings
from surefield.training.growth import with_species
from surefield.training.loss import Errors, LossWeights, balanced_stress_weight, errors, residuals
from surefield.training.readout import Solution, solve_readout
from surefield.training.recipe import recipe, settled_for

__all__ = ["METRICS", "Fit", "fit_samples", "is_linear", "train"]

_log = logging.getLogger(__name__)
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
_FITTED: Final = "fitted.npz"
#: Sets whose rows are summed on the way to the start.
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
        weight_note: what stresses count, in words, where it follows from the data or is nothing; else empty.
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
    potential: Potential | MakesPotential | None,
    frames: Source | LabelledSet,
    validation: float | Source | LabelledSet = 0.1,
    *,
    start_from: HasPotential | str | Path | None = None,
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

    A trained potential is continued with `start_from`: elements that only the frames have are added, offsets
    of elements change by what fits the labels, the last layer by as little as it must, and then all of it is
    trained on; with `train_body=False` the last layer alone is solved for. That is also what happens to a
    model of another package (`surefield.foreign`): its body is left alone.

    Args:
        potential: any potential with parameters, the sum of one and a baseline, or something that makes one
            from the frames, such as `NeuralNetwork`; it is not changed. None with `start_from`.
        frames: labelled structures: a file, files, a list of `Atoms`, or what `prepare` made of these for
            this potential. Isolated atoms among them set the element offsets and are not fitted; of
            structures without forces the energies count.
        validation: fraction of the frames to hold out, or other frames; 0 for none.
        start_from: trained potential to go on from, what holds one, or its file; it is not changed.
        config: how to train.
        labels: explicit keys of the labels, kind to key.
        isolated_atoms: energies of free atoms in eV, by symbol or atomic number.
        folder: for metrics.csv and checkpoint.npz; an interrupted training in it is continued.
        force_error_log: folder for the errors of the forces on training atoms after each epoch, with the
            averaged weights, or the final ones where there are no epochs; or options of `ForceErrorLog`.
        progress: show a progress bar; None: on a terminal.
        settings: single fields of `TrainConfig`, such as `epochs=20`.

    Raises:
        ConfigError: an unknown setting, no potential or two, or a fraction outside [0, 1).
        DataError: unusable structures or labels.
        PotentialError: an element the potential neither knows nor can learn; a checkpoint of another run; no
            epoch that was better than an untrained potential.
    """
    if isinstance(start_from, str | Path):
        settings["start_from"] = str(start_from)
    config = _with_settings(config or TrainConfig(), settings)
    budget = Budget(config.minutes)
    given = config.start_from if start_from is None else start_from
    start = None if given is None else starting_potential(given)
    if (potential is None) == (start is None):
        what = "a potential to train, or a trained one to start from"
        raise ConfigError(f"train needs {what}", got="none" if start is None else "both")
    if not isinstance(frames, LabelledSet):
        frames = read_frames(frames)
    if start is not None:
        numbers = [atoms.numbers for atoms in (frames.frames if isinstance(frames, LabelledSet) else frames)]
        potential = with_species(start, sorted({int(z) for z in np.concatenate(numbers)}))
    elif isinstance(potential, MakesPotential):
        potential = potential.potential_for(frames.frames if isinstance(frames, LabelledSet) else frames)
    assert potential is not None
    potential = as_potential(potential)
    if not isinstance(frames, LabelledSet):
        check_named(frames, labels)
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
    atoms = dict(data.isolated_atoms) | dict(isolated_atoms or {})
    return fit_samples(
        potential,
        train_set,
        valid_set,
        config,
        start=start,
        isolated_atoms=atoms,
        folder=folder,
        force_error_log=force_error_log,
        progress=progress,
        budget=budget,
    )


def fit_samples(
    potential: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    config: TrainConfig,
    *,
    start: Potential | None = None,
    isolated_atoms: Mapping[str | int, float] | None = None,
    folder: str | Path | None = None,
    force_error_log: str | Path | Mapping[str, Any] | None = None,
    progress: bool | None = None,
    budget: Budget | None = None,
) -> Fit:
    """`train` on data that are prepared already; its time, if it is limited, may have begun before.

    With a trained `start` the potential is the same one with the elements of the data, see `with_species`.
    """
    use_compilation_cache()
    budget = Budget(config.minutes) if budget is None else budget
    release_compiled()
    if start is None and learned_part(potential).pretrained:
        start = potential
    if start is not None and learned_part(start).pretrained:
        config = config.model_copy(update={"train_body": False})
    if not config.train_body:
        if start is None:
            fix = "give a trained potential as start_from; epochs=0 solves the last layer of an untrained one"
            raise ConfigError("train_body=False keeps a body that is trained", got="no start_from", fix=fix)
        check_body(start)
    identity = None
    if folder is not None:
        settled = settled_for(config, potential).model_dump(mode="json")
        settings = settled | {"start_from": start is not None}
        identity = identity_of(
            training=settings | {"isolated_atoms": isolated_atoms or {}},
            **potential_entries(potential if start is None else start),
            **{"training set": sample_contents(train_set.samples)},
            **{"validation set": sample_contents(valid_set.samples)},
        )
    files = _Files(None if folder is None else Path(folder), identity)
    job = _Job(config, files, isolated_atoms or {}, force_error_log, progress, budget)
    return _fit(potential, start, train_set, valid_set, job)


@dataclass(frozen=True, eq=False)
class _Job:
    """What a fit is told besides potential and data; see `train`."""

    config: TrainConfig
    files: _Files
    isolated_atoms: Mapping[str | int, float]
    force_error_log: str | Path | Mapping[str, Any] | None
    progress: bool | None
    budget: Budget


def _fit(
    potential: Potential,
    trained: Potential | None,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    job: _Job,
) -> Fit:
    """`fit_samples`, of a potential without its baseline."""
    if isinstance(potential, SumPotential):
        inner = _fit(
            potential.learned,
            None if trained is None else learned_part(trained),
            replace(train_set, samples=tuple(without_baseline(potential, train_set.samples)[1])),
            replace(valid_set, samples=tuple(without_baseline(potential, valid_set.samples)[1])),
            job,
        )
        whole = SumPotential(inner.potential, potential.baseline)
        return replace(inner, potential=whole, train_set=train_set, validation_set=valid_set)
    if not any(jax.tree.leaves(trainable(potential))):
        raise ConfigError(f"{type(potential).__name__} has no parameters to train")
    config, files, weight_note = job.config, job.files, ""
    if config.stress_weight is None:
        weight = balanced_stress_weight(train_set.samples, config.forces_weight)
        config = config.model_copy(update={"stress_weight": weight})
        job = replace(job, config=config)
        weight_note = f"stress counts with a weight of {weight:g} in the loss" if weight else ""
    elif not config.stress_weight and any("stress" in sample.labels for sample in train_set.samples):
        weight_note = "stress has labels and is not trained on: stress_weight is 0"
    if trained is None:
        energies = [sample.labels.energy for sample in train_set.samples]
        offsets = _offsets(train_set, energies, job.isolated_atoms)
        scale = _force_scale(train_set)
        start = potential.prepared(TrainingData(train_set.structures, energies, offsets, scale))
    else:
        start = continued(trained, potential, train_set.samples, job.isolated_atoms)
    begun = files.read_start(start, lambda: _older(config, potential, start, train_set, valid_set))
    if begun is None:
        start, solution = _solved(start, trained, train_set, valid_set, job)
        files.write_start(start, solution)
    else:
        start, solution = begun
    log = None if job.force_error_log is None else _opened(job.force_error_log, train_set)
    fitted, history = start, History()
    if config.train_body and not is_linear(start):
        fitted, history, last = _trained(start, train_set, valid_set, job, log)
        if solution is None and trained is None:
            _check_better(start, last, history)
        counts = step_settings(config, start).weights["energy"] > 0
        if history.rows and counts and recipe(config, start).fit_offsets:
            fitted = files.kept(fitted, lambda: with_fitted_offsets(fitted, train_set.samples))
    if log is not None:
        if not history.rows:
            log.append(0, force_error_norms(fitted, train_set.samples))
        finish_log(log, fitted, train_set.samples)
    return Fit(
        potential=fitted,
        train_errors=errors(residuals(fitted, train_set.samples)),
        validation_errors=errors(residuals(fitted, valid_set.samples)) if len(valid_set) else None,
        solution=solution,
        weights=step_settings(config, start).weights,
        weight_note=weight_note,
        history=tuple(history.rows),
        train_set=train_set,
        validation_set=valid_set,
    )


def _solved(
    start: Potential, trained: Potential | None, train_set: LabelledSet, valid_set: LabelledSet, job: _Job
) -> tuple[Potential, Solution | None]:
    """The potential with its last layer solved for, as far as it can be; of a trained one around its own."""
    config, files = job.config, job.files
    if not isinstance(start, LastLayerPotential) or not (start.n_solvable or not config.train_body):
        return start, None
    done = sum(files.sums(part).done for part in _SUMMED)
    alone = not config.train_body
    solve = solve_readout if trained is None else partial(solve_around, all_columns=alone)
    with track(len(train_set) + len(valid_set), "solve last layer", job.progress, done=done) as bar:
        return solve(
            start,
            train_set.samples,
            valid_set.samples,
            step_settings(config, start).weights,
            max_force_rows=config.max_force_rows,
            progress=bar.advance,
            sums=files.sums,
        )


def _trained(
    start: Potential,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    job: _Job,
    log: ForceErrorLog | None,
) -> tuple[Potential, History, State]:
    """The potential after the epochs, with a checkpoint to go on from; their rows, and the last state."""
    config, files, budget = job.config, job.files, job.budget
    checkpoint = files.checkpoint
    state, history = checkpoint.load(initial_state(start, config)) or (None, History())
    total = None if budget.limited else recipe(config, start).n_epochs_of(len(train_set))
    with track(total, "train", job.progress, done=len(history.rows)) as bar:

        def show(state: State, row: Row) -> None:
            shown: dict[str, object] = {}
            if budget.limited:
                epochs = round(state.epoch * budget.n_steps(state.step, 0) / state.step)
                shown = {"of about": epochs, "time left": duration(budget.left)}
                if row is history.rows[0]:
                    _log.info("train: about %d epochs fit into the time left, %s", *shown.values())
            shown["loss"] = row["loss"]
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

        fitted, last, history = fit_gradient(
            start,
            train_set.samples,
            valid_set.samples,
            config,
            state=state,
            history=history,
            budget=budget,
            on_step=[on_step],
            on_epoch=[
                log_errors,
                lambda *_: files.write_metrics(history),
                lambda state, _: checkpoint.save(state, history),
                show,
            ],
        )
    if budget.limited:
        spent, compiled = duration(min(budget.spent, budget.seconds)), duration(budget.compiled)
        done = f"{last.epoch} epochs, {last.step} steps in {spent} of {config.minutes:g} min"
        _log.info("train: %s, of these %s compiling", done, compiled)
        if last.step == 0:
            _log.warning("nothing was trained: all before the first step took the whole time")
    return fitted, history, last


def _check_better(start: Potential, last: State, history: History) -> None:
    """Refuse to pass off as trained a potential that was neither solved for nor bettered by any epoch."""
    if not history.rows or last.best_epoch:
        return
    n, loss = len(history.rows), history.rows[-1]["loss"]
    got = f"no score below {last.best_loss:.3g}, that of the start, in {n} epoch{'s' * (n != 1)}"
    diverged = not np.isfinite(loss)
    raise PotentialError(
        "no epoch of the training was better on the validation set than the untrained potential",
        where=f"the training of a {type(start).__name__}",
        got=f"{got}; the last loss was {loss}" if diverged else got,
        expected="a lower product of RMSEs",
        fix="set a lower learning_rate"
        if diverged
        else "train for more epochs, or with another learning_rate",
    )


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


def _force_scale(data: LabelledSet) -> float:
    """Root mean square of the components of the labelled forces, eV/Å; 1 where there are none."""
    forces = [sample.labels.forces for sample in data.samples if sample.labels.forces is not None]
    known = np.concatenate([np.ravel(f) for f in forces]) if forces else np.ones(1)
    scale = float(np.sqrt(np.nanmean(known**2)))
    return scale if scale > 0 else 1.0


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

    def kept(self, trained: Potential, fit: Callable[[], Potential]) -> Potential:
        """What was fitted to a trained potential before, to the bit; fitted and kept if nothing was."""
        if self.folder is None:
            return fit()
        path, of = self.folder / _FITTED, arrays_hash(trained)
        if path.exists():
            header, arrays = load_arrays(path, "fitted")
            if header["trained"] == of:
                return unpack(trained, arrays)
        fitted = fit()
        save_arrays(path, "fitted", {"trained": of}, pack(fitted))
        return fitted

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
        "train": settled_for(config, potential).model_dump(mode="json"),
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
