"""One training run in its folder: everything is written there, the result last; and read back from there."""

from __future__ import annotations

import copy
import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from surefield.errors import ConfigError, ExecutionError, PotentialError
from surefield.execution.cache import use_compilation_cache
from surefield.execution.identity import check_inputs, digest
from surefield.execution.memory_maps import release_compiled
from surefield.files import json_text, read_json, write_atomic
from surefield.potentials.potential import Potential
from surefield.potentials.saving import arrays_hash, load_potential
from surefield.storage import PotentialRegistry
from surefield.storage.dataset import package_version
from surefield.structures.splits import copies_joined, split_configurations
from surefield.trainers.fitting import Fitting
from surefield.trainers.handle import POTENTIAL_FILE, PotentialHandle
from surefield.trainers.inputs import Inputs, make_configurations
from surefield.trainers.result import FORCE_ERRORS, Call, FitResult, TrainingResult, TrainingWarning
from surefield.training.breakdown import ErrorTable, LossBreakdown, LossForm, breakdown, errors_text
from surefield.training.checkpoint import potential_entries, sample_contents
from surefield.training.dataset import Sample
from surefield.training.force_errors import finish_log, open_log
from surefield.training.problem import EVALUATIONS, ROW_SUMS, Problem, TrainingRun, Weights

__all__ = ["evaluated", "execute", "read_result"]

RESULT = "result.json"
CONFIG = "config.resolved.yaml"
HISTORY = "history.json"
INPUTS = "inputs.json"


def execute(trainer: Fitting, handle: PotentialHandle, inputs: Inputs, call: Call, folder: Path) -> None:
    """Train and write everything into the folder; the handle is left as it is.

    A folder whose training has ended is left as it is, one that was interrupted is gone on with.

    Args:
        trainer: of the run.
        handle: with the start parameters.
        inputs: configurations.
        call: arguments.
        folder: of the run, there already.

    Raises:
        ConfigError: the folder holds the training of something else.
    """
    use_compilation_cache()
    release_compiled()
    run = TrainingRun(folder)
    run.log(f"{type(trainer).__name__} on {len(inputs.frames)} configurations, surefield {package_version()}")
    configurations = make_configurations(handle.model, inputs, call.weights)
    fitted, held = _split(trainer, handle, configurations, call, run)
    ids = {configurations[i].id for i in fitted}
    configurations = trainer.weighted(configurations, handle, ids)
    train, validation = [configurations[i] for i in fitted], [configurations[i] for i in held]
    ended = run.path(INPUTS).exists() and run.path(RESULT).exists()
    table = _table(trainer, handle, call, train, validation)
    check_inputs(run.path(INPUTS), table, "train into another folder, or remove this one to start anew")
    if ended:
        run.log("nothing has changed since this training ended: nothing is done again")
        return
    write_atomic(run.path(CONFIG), yaml.safe_dump(_resolved(trainer, handle, inputs, call), sort_keys=False))
    split = {"train": [c.id for c in train], "validation": [c.id for c in validation]}
    write_atomic(run.path("split.json"), json_text(split, indent=1) + "\n")
    write_atomic(run.path("weights.csv"), _weights_table(configurations))
    problem = Problem(tuple(train), tuple(validation), call.weights, call.seed, run, handle)
    fit = trainer.fit(handle.model, problem)
    if fit.model.cutoff > handle.model.cutoff:
        train, validation = (
            [replace(c, structure=fit.model.neighborhood(c.atoms)) for c in part]
            for part in (train, validation)
        )
    if call.force_error_log and not run.path(FORCE_ERRORS).exists():
        log = open_log(run.path(FORCE_ERRORS), train)
        if log is not None:
            finish_log(log, fit.model, train)
    run.log(f"{'converged' if fit.success else 'not converged'}: {fit.message}")
    fitted_loss = _breakdown(trainer, fit.model, train, call.weights)
    entries, groups = dict(fitted_loss.errors), dict(fitted_loss.groups)
    if validation:
        held_out = _breakdown(trainer, fit.model, validation, call.weights, "validation")
        entries |= held_out.errors
        for name, table in held_out.groups.items():
            groups[name] = ErrorTable({**groups.get(name, {}), **table})
    errors = ErrorTable(entries)
    _warn(fit, errors, problem)
    trained = copy.copy(handle)
    trained.set_model(fit.model)
    files = trained.save_potential_files(run.path("potential"))
    _write_metrics(run, errors, groups, fitted_loss, call, str(fit.notes.get("row_unit", "")))
    write_atomic(run.path(HISTORY), json_text(list(fit.history)) + "\n")
    result = {
        "success": fit.success,
        "message": fit.message,
        "loss": fitted_loss.total,
        "loss_parts": {kind: getattr(fitted_loss, kind) for kind in Weights._fields},
        "errors": errors.records(),
        "groups": {name: table.records() for name, table in groups.items()},
        "rows": _rows(train),
        "n_evals": fit.n_evals,
        "notes": dict(fit.notes),
        "training_hash": arrays_hash(fit.model),
        "kim_id": None,
        "version": None,
    }
    if call.upload_to_kimkit:
        result["kim_id"] = _register(trainer, trained, inputs, call, files, run, result)
        result["version"] = int(result["kim_id"].rsplit("_", 1)[1])
        run.log(f"kept as {result['kim_id']}")
    write_atomic(run.path(RESULT), json_text(result, indent=1) + "\n")
    for file in (ROW_SUMS, EVALUATIONS):
        run.path(file).unlink(missing_ok=True)


def read_result(folder: Path, handle: PotentialHandle) -> TrainingResult:
    """Read a finished run; the handle gets the trained model.

    Raises:
        ExecutionError: the run has not finished.
        PotentialError: its potential is damaged or of another class than the handle's.
    """
    if not (folder / RESULT).is_file():
        raise ExecutionError(f"{folder} holds no {RESULT}: this run has not finished")
    result = read_json(folder / RESULT)
    model = load_potential(folder / "potential" / POTENTIAL_FILE)
    if arrays_hash(model) != result["training_hash"]:
        raise PotentialError(f"the potential in {folder} is not the one that the training wrote")
    if type(model) is not type(handle.model):
        raise PotentialError(
            f"{folder} holds a {type(model).__name__}, the potential given is a {type(handle.model).__name__}"
        )
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    handle.set_model(model)
    handle.training_hash = result["training_hash"]
    handle.parameter_path = str(folder / "potential")
    if result["kim_id"] is not None:
        handle.kim_id, handle.version = result["kim_id"], result["version"]
    return TrainingResult(
        potential=handle,
        success=result["success"],
        message=result["message"],
        loss=result["loss"],
        errors=ErrorTable.from_records(result["errors"]),
        groups={name: ErrorTable.from_records(r) for name, r in result.get("groups", {}).items()},
        split=read_json(folder / "split.json"),
        path=folder,
        kim_id=result["kim_id"],
        history=tuple(read_json(folder / HISTORY)),
        rows=result["rows"],
        seed=config["call"]["seed"],
        n_evals=result["n_evals"],
        notes=result["notes"],
    )


def evaluated(trainer: Fitting, handle: PotentialHandle, inputs: Inputs, weights: Weights) -> LossBreakdown:
    """Loss and errors of the present parameters on all configurations, without a fit."""
    configurations = make_configurations(handle.model, inputs, weights)
    configurations = trainer.weighted(configurations, handle, set(inputs.ids))
    return _breakdown(trainer, handle.model, configurations, weights)


def _breakdown(
    trainer: Fitting, model: Potential, samples: Sequence[Sample], weights: Weights, part: str = "train"
) -> LossBreakdown:
    rows = trainer.minimised_rows(model, samples, weights)
    return breakdown(model, samples, weights, _form(trainer), part, rows)


def _form(trainer: Fitting) -> LossForm:
    return LossForm(trainer.bracket, trainer.loss_method, trainer.energy_per_atom)


def _table(
    trainer: Fitting,
    handle: PotentialHandle,
    call: Call,
    train: Sequence[Sample],
    validation: Sequence[Sample],
) -> dict[str, Any]:
    """All that enters the result."""
    split = call.split if call.split is None or isinstance(call.split, str) else digest(call.split)
    return {
        "trainer": {"class": type(trainer).__name__, **trainer.settings()},
        "handle": {"class": type(handle).__name__, "kim_id": handle.kim_id, **handle.settings()},
        **potential_entries(handle.model),
        "call": asdict(call) | {"split": split},
        "training set": sample_contents(train, ids=True),
        "validation set": sample_contents(validation, ids=True),
    }


def _resolved(trainer: Fitting, handle: PotentialHandle, inputs: Inputs, call: Call) -> dict[str, Any]:
    weights = "one per atom, see weights.csv" if inputs.atom_weights is not None else False
    return {
        "surefield": package_version(),
        "trainer": {"class": type(trainer).__name__, "settings": trainer.settings()},
        "potential": {
            "class": type(handle).__name__,
            "settings": handle.settings(),
            "model": type(handle.model).__name__,
            "kim_id": handle.kim_id,
            "start_hash": arrays_hash(handle.model),
        },
        "call": asdict(call) | {"per_atom_weights": weights},
        "datasets": [dict(d) for d in inputs.datasets],
        "storage": inputs.url,
    }


def _split(
    trainer: Fitting,
    handle: PotentialHandle,
    configurations: Sequence[Sample],
    call: Call,
    run: TrainingRun,
) -> tuple[list[int], list[int]]:
    """Indices of the fitted and of the other configurations; copies of one geometry are on one side.

    Raises:
        ConfigError: the potential's settings rule the split, and the call asks for another.
    """
    ids, frames = [c.id for c in configurations], [c.atoms for c in configurations]
    own = trainer.own_split(configurations, handle, call.seed)
    if own is not None:
        if call.split is not None or call.training_split != 1:
            raise ConfigError(
                "the settings state which configurations are fitted: leave training_split and split out, or "
                "the training sizes of the settings"
            )
        fitted, held = copies_joined(frames, *own)
        if len(held) < len(own[1]):
            run.log(
                f"{len(own[1]) - len(held)} copies of training configurations are not kept for validation"
            )
        return fitted, held
    return split_configurations(ids, frames, call.training_split, call.split, call.seed)


def _rows(train: Sequence[Sample]) -> dict[str, int]:
    return {
        **{kind: sum(int(c.known(kind).sum()) for c in train) for kind in Weights._fields},
        "configurations": len(train),
    }


def _weights_table(configurations: Sequence[Sample]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["configuration", "atom", "structure_weight", "atomic_weight"])
    for c in configurations:
        writer.writerows([c.id, atom, c.weight, w] for atom, w in enumerate(c.weights_of_atoms.tolist()))
    return buffer.getvalue()


def _write_metrics(
    run: TrainingRun,
    errors: ErrorTable,
    groups: Mapping[str, ErrorTable],
    loss: LossBreakdown,
    call: Call,
    row_unit: str,
) -> None:
    weights = f"eweight {call.eweight}, fweight {call.fweight}, vweight {call.vweight}"
    text = (
        f"Weights: {weights} (eV/atom, eV/Å, eV/Å^3). Loss {loss.total!r}: energy {loss.energy!r}, "
        f"forces {loss.forces!r}, stress {loss.stress!r}.\n\n{errors_text({'': errors}, row_unit)}\n"
    )
    if groups:
        text += f"\nBy group:\n\n{errors_text(groups, row_unit)}\n"
    write_atomic(run.path("metrics.md"), text)
    if not run.path("metrics.csv").exists():
        for record in errors.records():
            run.add_metrics(record | {"weights": weights})


def _register(
    trainer: Fitting,
    trained: PotentialHandle,
    inputs: Inputs,
    call: Call,
    files: Sequence[Path],
    run: TrainingRun,
    result: Mapping[str, Any],
) -> str:
    registry = PotentialRegistry(call.registry or "./potentials")
    manifest = {
        "trainer": {"class": type(trainer).__name__, "settings": trainer.settings()},
        "potential": {"class": type(trained).__name__, "settings": trained.settings()},
        "arguments": asdict(call) | {"per_atom_weights": inputs.atom_weights is not None},
        "datasets": [dict(d) for d in inputs.datasets],
        "split": read_json(run.path("split.json")),
        "metrics": result["errors"],
        "seed": call.seed,
    }
    exports = {f.relative_to(run.path("potential")).as_posix(): f for f in files if f.name != POTENTIAL_FILE}
    attached = exports | {name: run.path(name) for name in (CONFIG, "metrics.md")}
    return registry.save(
        trained.model,
        prefix=trained.model_name_prefix,
        parent=trained.kim_id if trained.kim_id and registry.holds(trained.kim_id) else None,
        fork=call.fork_potential,
        manifest=manifest,
        files=attached,
    )


def _warn(fit: FitResult, errors: ErrorTable, problem: Problem) -> None:
    if not fit.success:
        warnings.warn(f"the fit did not converge: {fit.message}", TrainingWarning, stacklevel=3)
    rows = [problem.residual_weights(c) for c in problem.train]
    for (kind, part, weighting), e in errors.items():
        bad = np.isfinite(e.r2) and e.r2 < 0 and any(np.any(getattr(w, kind) > 0) for w in rows)
        if bad and part == "train" and weighting == "unweighted":
            warnings.warn(
                f"R2 of the {kind} is {e.r2:.3g}: the fit is worse than the mean of the labels; "
                "another kind of label outweighs it",
                TrainingWarning,
                stacklevel=3,
            )
