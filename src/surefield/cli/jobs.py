"""What each verb does: read the configuration, call the library, write the run folder."""

from __future__ import annotations

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import yaml

from surefield.acquisition.candidate_score_config import Score
from surefield.acquisition.explanation import explain
from surefield.acquisition.replay import replay
from surefield.acquisition.select import score_frames, select
from surefield.acquisition.transform_config import make_transforms
from surefield.cli.answer import answer, say
from surefield.cli.config import RunConfig, as_begun, read_config, settled, with_former_selection
from surefield.cli.inputs import (
    TrainingInputs,
    logs_force_errors,
    make_potential,
    read_candidates,
    read_fitted,
    read_labelled,
    read_test,
    read_training,
    training_record,
)
from surefield.cli.loop_job import as_first_begun, going_on, relative_settings, run_loop
from surefield.cli.made_from import made_from, may_change
from surefield.cli.needed import FORCE_ERRORS, need, trained, uncertainty_file
from surefield.cli.properties import run_properties
from surefield.cli.rehearsal import rehearse
from surefield.cli.scores import run_score
from surefield.config import parse, to_yaml
from surefield.errors import ConfigError, DataError, worded
from surefield.execution.cache import cache_statistics, enable_compilation_cache
from surefield.execution.run_folder import CONFIG, RunFolder
from surefield.execution.stopwatch import compiling_seconds
from surefield.exploration.stability import check_stability
from surefield.files import write_arrays, write_atomic
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import load_potential, save_potential
from surefield.quantities import fitted
from surefield.report import load_run, write_index, write_report
from surefield.selection.reason_words import ENDINGS
from surefield.structures.doctor import doctor
from surefield.structures.doctor.finding import worst_first
from surefield.structures.read import read_frames, write_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.train import metrics_text, train
from surefield.uncertainty.build import fit_uncertainty, load_uncertainty
from surefield.uncertainty.compare import uq_compare
from surefield.uncertainty.evaluation import Comparison, compare, evaluate_uncertainty, sigmas_of
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["VERBS", "run_verb"]

_log = logging.getLogger(__name__)
#: Configuration, run folder and folder of the configuration to the summary.
Job = Callable[[RunConfig, RunFolder, Path], dict[str, Any]]
#: Arguments of the library as keys of the configuration.
_KEYS: Final = {
    r"convert_labels\(source, energy_unit=(\S+), mapping=(\{.*?\})\)": (
        r"data.labels=\2 data.units={'energy': \1}"
    ),
    r"(?<!\.)\b(?:mapping|labels)=\{": "data.labels={",
    r"(data\.labels=\{[^}]*: )None\}": r"\1null}",
    r"`labels`": "data.labels",
    r", or pass allow_nan=True if NaN marks entries that are not to be trained on": "",
    r"add it to row_kinds": "add it to uncertainty.row_kinds and train again",
    r"LLPR\.fit\(potential, train, calibration\)": "uncertainty.kind: llpr",
    r"use another folder": "give the run another name, or start anew with --overwrite",
}


def run_verb(
    verb: str, path: Path, overrides: Sequence[str], *, dry_run: bool, overwrite: bool
) -> Path | None:
    """Run a verb in `root/name-verb` and write its report; return the report's path.

    Raises:
        SurefieldError: the cause of the failure; its traceback is in `error.log` of the run folder.
    """
    given = read_config(path, overrides)
    if verb == "loop":
        begun = read_config(path, [entry for entry in overrides if "=+" not in entry])
        overrides = relative_settings(overrides, begun)
        given = read_config(path, overrides)
    config = _as_begun(given, verb, overwrite)
    # Calculators of users lie beside their configuration.
    sys.path.insert(0, str(path.parent.resolve()))
    enable_compilation_cache()
    if dry_run:
        with worded(_KEYS):
            rehearse(verb, config, path.parent)
        return None
    begin = time.perf_counter()
    text, options = to_yaml(config), {"overwrite": overwrite, "completed": _completed(verb, config)}
    with RunFolder.create(config.root, f"{config.name}-{verb}", text, **options) as folder:
        _log.info("surefield %s %s", verb, shlex.join([str(path), *overrides]))
        if folder.resumed:
            say(f"continuing {folder.folder}: what is done is not done again")
            if verb == "loop":
                folder.go_on_with(text, _with_defaults)
        with worded(_KEYS):
            varying = may_change(config, path.parent) if verb == "loop" else {}
            summary = folder.finished(made_from(verb, config), varying)
            if summary is None:
                summary = VERBS[verb](config, folder, path.parent)
            else:
                say("nothing has changed since this run ended: nothing is done again")
        seconds = time.perf_counter() - begin
        folder.finish({"verb": verb, "seconds": seconds, **summary}, varying)
        report = write_report(folder.folder)
        write_index(Path(config.root), config.name)
        answer(load_run(folder.folder), config, path, overrides, seconds, compiling_seconds())
        programs = cache_statistics()
        say(f"compiled programs: {programs.hits} reused from earlier runs, {programs.misses} new")
        say(f"report: {report.resolve()}")
    return report


def _completed(verb: str, config: RunConfig) -> Callable[[str], str]:
    """What is compared with a saved configuration: that with the defaults of newer settings.

    A loop goes on with other rounds, methods and the like: those are as they are now. A configuration that is
    no longer valid is compared as it is.
    """

    def completed(text: str) -> str:
        known = _saved_config(text)
        return _with_defaults(text) if known is None or verb != "loop" else to_yaml(going_on(known, config))

    return completed


def _with_defaults(text: str) -> str:
    """A saved configuration with the defaults of newer settings; as it is if it is no longer valid."""
    known = _saved_config(text)
    return text if known is None else to_yaml(known)


def _saved_config(text: str) -> RunConfig | None:
    try:
        return settled(parse(RunConfig, yaml.safe_load(text)))
    except (ConfigError, yaml.YAMLError):
        return None


def _as_begun(config: RunConfig, verb: str, overwrite: bool) -> RunConfig:
    """The configuration with what it leaves open as in its run; the kind of potential as in its training."""
    for name in dict.fromkeys((verb, "train")):
        path = Path(config.root) / f"{config.name}-{name}" / CONFIG
        if path.is_file() and not (overwrite and name == verb):
            text = path.read_text("utf-8")
            begun = _saved_config(text)
            if begun is None:
                return config
            if verb == name:
                if "stop" not in yaml.safe_load(text)["loop"]:
                    config = as_first_begun(config, begun.loop)
                config = with_former_selection(config, begun)
            return as_begun(config, begun)
    return config


def _doctor(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    frames, keys = read_labelled(config, need(config.data.train, "train", "doctor"))
    examination = doctor(frames, keys)
    say(examination.to_text())
    examined, findings = examination.to_dict(), examination.findings
    if config.data.test:
        test, _ = read_labelled(config, config.data.test)
        of_test = doctor(test, keys, reference=frames, reference_labels=keys)
        say(f"\n{of_test.to_text()}")
        examined["test"] = of_test.to_dict()
        findings = worst_first([*findings, *of_test.findings])
    folder.write_json("doctor.json", examined)
    worst = findings[0].severity if findings else "none"
    return {"verdict": f"{len(findings)} finding{'s' * (len(findings) != 1)}; the worst is: {worst}"}


def _train(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    inputs = read_training(config)
    if config.architecture is not None:
        return _fit_around(config, inputs, folder)
    fit = train(
        None if config.training.start_from else inputs.potential,
        inputs.train,
        inputs.validation,
        config=config.training,
        folder=folder.path("checkpoint"),
        force_error_log=folder.path(FORCE_ERRORS) if logs_force_errors(config) else None,
    )
    if fit.weight_note:
        say(fit.weight_note)
    save_potential(folder.path("potential.npz"), fit.potential)
    write_frames(folder.path("train.xyz"), list(fit.train_frames))
    write_atomic(folder.path("metrics.csv"), metrics_text(fit.history))
    sets = {"train": fit.train_set, "validation": fit.validation_set, "test": inputs.test}
    errors = {"train": fit.train_errors, "validation": fit.validation_errors}
    summary: dict[str, Any] = {name: e.as_dict() for name, e in errors.items() if e}
    summary["exact_start"] = fit.solution is not None
    summary["intervals"] = {name: e.intervals for name, e in errors.items() if e}
    uncertainty = None
    if fit.validation_errors is not None:
        write_frames(folder.path("validation.xyz"), list(fit.validation_frames))
        uncertainty = fit_uncertainty(
            config.uncertainty,
            fit.potential,
            fit.train_set,
            fit.validation_set,
            record=training_record(config, folder.folder, fit.train_set.isolated_atoms),
            folder=folder.path("checkpoint"),
        )
        uncertainty.save(folder.path(uncertainty_file(config)))
    evaluated, data = [(name, data) for name, data in sets.items() if data][-1]
    if uncertainty is None:
        comparison = compare(fit.potential.predict(data.frames), data, fitted(fit.potential.supplies))
    else:
        comparison = evaluate_uncertainty(uncertainty, data, fitted(fit.potential.supplies))
    if config.stability is not None:
        say("stability: short molecular dynamics with the trained potential")
        summary["stability"] = check_stability(fit.potential, fit.train_set, config.stability).as_dict()
    return _merged(summary, _evaluated(comparison, folder, uncertainty, evaluated))


def _fit_around(config: RunConfig, inputs: TrainingInputs, folder: RunFolder) -> dict[str, Any]:
    """An LLPR around a potential that was trained before."""
    assert isinstance(inputs.validation, LabelledSet)
    save_potential(folder.path("potential.npz"), inputs.potential)
    write_frames(folder.path("train.xyz"), list(inputs.train.frames))
    write_frames(folder.path("validation.xyz"), list(inputs.validation.frames))
    (checkpoint := folder.path("checkpoint")).mkdir(exist_ok=True)
    llpr = LLPR.fit(
        inputs.potential, inputs.train, inputs.validation, config=config.architecture, folder=checkpoint
    )
    llpr.save(folder.path("llpr.npz"))
    name, data = ("test", inputs.test) if inputs.test else ("validation", inputs.validation)
    comparison = evaluate_uncertainty(llpr, data, fitted(inputs.potential.supplies))
    return {"intervals": {}, **_evaluated(comparison, folder, llpr, name)}


def _evaluated(
    comparison: Comparison, folder: RunFolder, uncertainty: Uncertainty | None = None, name: str = "test"
) -> dict[str, Any]:
    """Write what was compared; its part of the summary."""
    comparison.save(folder.path("predictions.npz"))
    summary: dict[str, Any] = {
        "evaluated": name,
        name: {**comparison.test(), "n_structures": len(comparison.arrays["n_atoms"])},
        "intervals": {name: comparison.intervals()},
        "baselines": comparison.baselines(),
    }
    if uncertainty is not None:
        summary["calibration"] = comparison.calibration(uncertainty)
    return summary


def _merged(summary: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**summary, **more, "intervals": {**summary["intervals"], **more["intervals"]}}


def _write_structures(folder: RunFolder, test: LabelledSet, predictions: Sequence[Prediction]) -> None:
    written = [p.written_to(atoms) for p, atoms in zip(predictions, test.frames, strict=True)]
    write_frames(folder.path("predictions.xyz"), written)


def _eval(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    potential = load_potential(trained(config, "potential.npz", "eval"))
    test = read_test(config, potential, "eval")
    predictions = potential.predict(test.frames)
    _write_structures(folder, test, predictions)
    return _evaluated(compare(predictions, test, fitted(potential.supplies)), folder)


def _uq(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    uncertainty = load_uncertainty(trained(config, uncertainty_file(config), "uq"))
    test = read_test(config, uncertainty.potential, "uq")
    names = fitted(uncertainty.potential.supplies)
    predictions = uncertainty.predict(test.frames, per_atom=True, **sigmas_of(uncertainty, names))
    _write_structures(folder, test, predictions)
    return _evaluated(compare(predictions, test, names), folder, uncertainty)


def _uq_compare(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    settings = config.compare
    potential = load_potential(trained(config, "potential.npz", "uq-compare"))
    labels = None if config.data.units else config.data.labels  # those of other units are converted
    fitted_set = prepare(read_fitted(config, "uq-compare"), potential, labels=labels)
    validation = trained(config, "validation.xyz", "uq-compare")
    held = prepare(read_frames(validation), potential, labels=labels)
    test = read_test(config, potential, "uq-compare")
    # As the potential has them: free atoms are not among the structures that were fitted.
    offsets = dict(zip(potential.species, np.asarray(potential.offsets).tolist(), strict=True))
    table = uq_compare(
        potential,
        fitted_set,
        held,
        test,
        settings.estimators,
        ood=None if settings.ood is None else read_frames(settings.ood),
        level=settings.level,
        record=training_record(config, validation.parent, offsets),
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
        folder=folder.folder,
    )
    say(str(table))
    return {"verdict": table.recommendation}


def _select(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    uncertainty = load_uncertainty(trained(config, uncertainty_file(config), "select"))
    train_frames = read_frames(trained(config, "train.xyz", "select"))
    pool, settings, places, left_out, held_out = read_candidates(config, uncertainty.potential)
    scores: Any = settings.score
    if scores in get_args(Score):
        scores = {scores: score_frames(uncertainty, pool, scores)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "selection stopped with")  # the notes say it
        picks = select(
            uncertainty,
            train_frames,
            pool,
            settings.method,
            settings.n,
            features=settings.features,
            transforms=make_transforms(settings.transforms),
            sigma=settings.sigma,
            scores=scores,
            per_structure=settings.per_structure,
            window=settings.window,
            constraints=settings.constraints.of(pool),
            seed=settings.seed,
            held_out=held_out,
        )
    notes = [*left_out, *picks.notes]
    if picks.stopped and (settings.n is not None or not len(picks)):
        notes.append(f"{len(picks)} of {picks.n_requested} picks: {ENDINGS[picks.stopped]}")
    for note in notes:
        say(f"note: {note}")
    chosen = list(picks)
    if not chosen:
        raise DataError(
            "no structure of the pool is left to pick",
            where=config.data.pool,
            got="; ".join(notes) or f"{len(pool)} structures",
            fix="add others to data.pool, or allow these: selection.constraints.deduplicate=null",
        )
    entries, arrays = explain(picks, train_frames, pool, uncertainty)
    folder.write_json(
        "selection.json",
        {
            "method": picks.config["method"],
            "features": picks.config["features"],
            "transforms": picks.config["transforms"],
            "n_pool": len(pool),
            "picks": [places[i] for i in chosen],
            "gains": [float(g) for g in picks.gains],
            "reasons": entries,
            "formulas": [pool[i].get_chemical_formula() for i in chosen],
            "notes": notes,
        },
    )
    write_arrays(folder.path("map.npz"), arrays)
    write_frames(folder.path("picks.xyz"), [pool[i] for i in chosen])
    kinds = [entry["kind"] for entry in picks.config["transforms"]]
    picked_by = " on ".join([picks.config["method"], ", ".join([picks.config["features"], *kinds])])
    return {"verdict": f"{len(chosen)} of {len(pool)} structures picked by {picked_by}; see picks.xyz"}


def _select_replay(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    settings = config.replay
    frames, labels = read_labelled(config, need(config.data.train, "train", "select --replay"))
    result = replay(
        frames,
        settings.methods,
        n_init=settings.n_initial,
        batch_size=settings.n_per_round,
        n_rounds=settings.n_rounds,
        seeds=settings.seeds,
        test_fraction=settings.test_fraction,
        learner=settings.learner,
        features=settings.features,
        potential=make_potential(config, frames),
        config=config.training,
        groups=settings.groups,
        labels=labels,
    )
    say(str(result))
    folder.write_json("replay.json", result.to_dict())
    quantity = "forces" if "forces" in result.errors else "energy"
    sentences = [text for name, text in result.headlines().items() if name.startswith(f"{quantity}, ")]
    return {"verdict": " ".join(sentences)}


VERBS: dict[str, Job] = {
    "doctor": _doctor,
    "train": _train,
    "eval": _eval,
    "uq": _uq,
    "uq-compare": _uq_compare,
    "select": _select,
    "select-replay": _select_replay,
    "score": run_score,
    "properties": run_properties,
    "loop": run_loop,
}
