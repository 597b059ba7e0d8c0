"""What each verb does: read the configuration, call the library, write the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from surefield.acquisition.select import score_frames, select
from surefield.cli.config import RunConfig, located
from surefield.config import load, parse, to_yaml
from surefield.errors import ConfigError
from surefield.execution.cache import cache_statistics, enable_compilation_cache
from surefield.execution.run_folder import RunFolder
from surefield.files import write_atomic
from surefield.loop.config import MolecularDynamicsPoolConfig
from surefield.loop.pools import dynamics_pool, file_pool
from surefield.loop.rounds import Loop
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.moment_network import MomentNetwork
from surefield.potentials.potential import Potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import load_potential, save_potential
from surefield.potentials.snap.snap import Snap
from surefield.potentials.zbl import ZBL
from surefield.report import write_report
from surefield.structures.doctor import doctor
from surefield.structures.read import read_frames, write_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.loss import LossWeights
from surefield.training.train import metrics_text, train
from surefield.uncertainty.build import fit_uncertainty, load_uncertainty
from surefield.uncertainty.config import LLPRConfig
from surefield.uncertainty.evaluation import compare, evaluate_uncertainty, sigmas_of
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["VERBS", "run_verb"]

Job = Callable[[RunConfig, RunFolder], dict[str, Any]]
#: Class of each `potential.kind`.
_POTENTIALS: Final[Mapping[str, Any]] = {
    "moment_network": MomentNetwork,
    "neural_network": AtomicNetwork,
    "dropout_network": DropoutNetwork,
    "snap": Snap,
}


def run_verb(
    verb: str, path: Path, overrides: Sequence[str], *, dry_run: bool, overwrite: bool
) -> Path | None:
    """Run a verb in `root/name-verb` and write its report; return the report's path.

    Raises:
        SurefieldError: the cause of the failure; its traceback is in `error.log` of the run folder.
    """
    config = located(load(RunConfig, path, overrides), path.parent)
    if dry_run:
        print(to_yaml(config))
        print(f"would run '{verb}' in {Path(config.root) / f'{config.name}-{verb}'}{_cost(verb, config)}")
        return None
    enable_compilation_cache()
    with RunFolder.create(
        config.root, f"{config.name}-{verb}", to_yaml(config), overwrite=overwrite, completed=_completed
    ) as folder:
        if folder.resumed:
            print(f"continuing {folder.folder}: what is done is not done again")
        summary = VERBS[verb](config, folder)
        folder.write_json("summary.json", {"verb": verb, **summary})
        report = write_report(folder.folder)
    programs = cache_statistics()
    print(f"compiled programs: {programs.hits} reused from earlier runs, {programs.misses} new")
    print(f"report: {report.resolve()}")
    return report


def _completed(text: str) -> str:
    """A saved configuration with the defaults of newer settings; as it is if it is no longer valid."""
    try:
        return to_yaml(parse(RunConfig, yaml.safe_load(text)))
    except ConfigError:
        return text


def _cost(verb: str, config: RunConfig) -> str:
    if verb != "loop":
        return ""
    loop = config.loop
    labels = loop.n_initial + loop.n_rounds * loop.n_per_round
    fits = len(loop.methods) * len(loop.seeds) * (loop.n_rounds + 1)
    return f": {fits} fits; {labels} labels for each of {len(loop.methods) * len(loop.seeds)} arms"


def _need(value: str | tuple[str, ...] | None, key: str, verb: str) -> str | tuple[str, ...]:
    if not value:
        raise ConfigError(f"'{verb}' needs the key data.{key}")
    return value


def make_potential(config: RunConfig, species: Sequence[int | str]) -> Potential:
    """Untrained potential of a configuration."""
    potential: Potential = _POTENTIALS[config.potential.kind].from_settings(config.potential, species)
    if config.repulsion is None:
        return potential
    return potential + ZBL(potential.species, config.repulsion.inner, config.repulsion.outer)


def _species(*sources: Sequence[Any]) -> list[int]:
    return sorted({int(z) for source in sources for atoms in source for z in atoms.numbers})


def _doctor(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    path = _need(config.data.train, "train", "doctor")
    reference = read_frames(config.data.test) if config.data.test else None
    examination = doctor(read_frames(path), reference=reference)
    print(examination.to_text())
    folder.write_json("doctor.json", examination.to_dict())
    n, worst = len(examination.findings), examination.worst or "none"
    return {"verdict": f"{n} findings; the worst is: {worst}"}


def _train(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    data = config.data
    frames = read_frames(_need(data.train, "train", "train"))
    fit = train(
        make_potential(config, _species(frames)),
        frames,
        data.validation,
        config=config.training,
        labels=data.labels,
        folder=folder.path("checkpoint"),
    )
    print(fit.label_note)
    save_potential(folder.path("potential.npz"), fit.potential)
    write_frames(folder.path("train.xyz"), list(fit.train_frames))
    write_atomic(folder.path("metrics.csv"), metrics_text(fit.history))
    summary: dict[str, Any] = {"train": fit.train_errors.as_dict()}
    if fit.validation_errors is None:
        return summary
    write_frames(folder.path("validation.xyz"), list(fit.validation_frames))
    uncertainty = fit_uncertainty(config.uncertainty, fit.potential, fit.train_set, fit.validation_set)
    uncertainty.save(folder.path(_uncertainty_file(config)))
    summary["validation"] = fit.validation_errors.as_dict()
    if data.test is not None:
        test = prepare(data.test, fit.potential, labels=data.labels)
        summary |= _tested(config, uncertainty, test, folder)
    return summary


def _fitted(config: RunConfig) -> tuple[str, ...]:
    """Quantities that the training fits: their errors are shown."""
    return tuple(LossWeights(**config.training.loss_weights))


def _tested(
    config: RunConfig,
    uncertainty: Uncertainty,
    test: LabelledSet,
    folder: RunFolder,
    predictions: Sequence[Prediction] | None = None,
) -> dict[str, Any]:
    evaluation = evaluate_uncertainty(uncertainty, test, _fitted(config), predictions)
    evaluation.save(folder.path("predictions.npz"))
    return {"test": evaluation.test(), "calibration": evaluation.calibration(uncertainty)}


def _write_structures(folder: RunFolder, test: LabelledSet, predictions: Sequence[Prediction]) -> None:
    written = [p.written_to(atoms) for p, atoms in zip(predictions, test.frames, strict=True)]
    write_frames(folder.path("predictions.xyz"), written)


def _uncertainty_file(config: RunConfig) -> str:
    """Name in the run folder of `train`."""
    return "llpr.npz" if isinstance(config.uncertainty, LLPRConfig) else "uncertainty.npz"


def _trained(config: RunConfig, name: str, verb: str) -> Path:
    path = Path(config.root) / f"{config.name}-train" / name
    if not path.exists():
        raise ConfigError(
            f"'{verb}' needs the trained {path}: run 'surefield train' with this configuration first"
        )
    return path


def _eval(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    potential = load_potential(_trained(config, "potential.npz", "eval"))
    test = prepare(_need(config.data.test, "test", "eval"), potential, labels=config.data.labels)
    predictions = potential.predict(test.frames)
    evaluation = compare(predictions, test, _fitted(config))
    evaluation.save(folder.path("predictions.npz"))
    _write_structures(folder, test, predictions)
    return {"test": evaluation.test()}


def _uq(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    uncertainty = load_uncertainty(_trained(config, _uncertainty_file(config), "uq"))
    test = prepare(_need(config.data.test, "test", "uq"), uncertainty.potential, labels=config.data.labels)
    predictions = uncertainty.predict(test.frames, per_atom=True, **sigmas_of(uncertainty, _fitted(config)))
    _write_structures(folder, test, predictions)
    return _tested(config, uncertainty, test, folder, predictions)


def _select(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    settings = config.selection
    uncertainty = load_uncertainty(_trained(config, _uncertainty_file(config), "select"))
    train_frames = read_frames(_trained(config, "train.xyz", "select"))
    pool = read_frames(_need(config.data.pool, "pool", "select"))
    name = settings.score
    picks = select(
        uncertainty,
        train_frames,
        pool,
        settings.method,
        settings.n,
        features=settings.features,
        scores=None if name is None else {name: score_frames(uncertainty, pool, name)},
        seed=settings.seed,
    )
    chosen = list(picks)
    folder.write_json(
        "selection.json",
        {
            "method": settings.method,
            "picks": chosen,
            "gains": [float(g) for g in picks.gains],
            "reasons": [reason.to_dict() for reason in picks.reasons],
            "formulas": [pool[i].get_chemical_formula() for i in chosen],
        },
    )
    write_frames(folder.path("picks.xyz"), [pool[i] for i in chosen])
    return {"verdict": f"{len(chosen)} of {len(pool)} structures picked by {settings.method}; see picks.xyz"}


def _loop(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    loop = config.loop
    if isinstance(loop.pool, MolecularDynamicsPoolConfig):
        pool = dynamics_pool(loop.pool, loop.oracle, folder.folder)
    else:
        labelled = _need(config.data.train, "train", "loop")
        test = _need(config.data.test, "test", "loop")
        pool = file_pool(labelled, test, config.potential.cutoff, loop.oracle, config.data.labels)
    return Loop(
        folder.folder,
        loop,
        make_potential(config, _species(pool.candidates, pool.test)),
        config.training,
        pool.oracle,
        pool.candidates,
        pool.test,
        pool.isolated_atoms,
        config.uncertainty,
    ).run()


VERBS: dict[str, Job] = {
    "doctor": _doctor,
    "train": _train,
    "eval": _eval,
    "uq": _uq,
    "select": _select,
    "loop": _loop,
}
