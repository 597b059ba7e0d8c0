"""What each verb does: read the configuration, call the library, write the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from surefield.acquisition.select import score_frames, select
from surefield.cli.config import RunConfig, located
from surefield.config import load, parse, to_yaml
from surefield.errors import ConfigError
from surefield.execution.cache import cache_statistics, enable_compilation_cache
from surefield.execution.progress import track
from surefield.execution.run_folder import RunFolder
from surefield.exploration.sampling import molecular_dynamics_pool
from surefield.files import atomic_path, write_atomic
from surefield.loop.config import LoopConfig, MolecularDynamicsPoolConfig
from surefield.loop.oracle import CalculatorOracle, ReplayOracle
from surefield.loop.oracle_config import ReplayOracleConfig, make_oracle
from surefield.loop.rounds import Loop, Predicted, predict_test
from surefield.potentials.atomic_network import AtomicNetwork, AtomicNetworkConfig
from surefield.potentials.moment_network import MomentNetwork
from surefield.potentials.potential import Potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import load_potential, save_potential
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.potentials.zbl import ZBL
from surefield.report import write_report
from surefield.structures.doctor import doctor
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.train import metrics_text, train
from surefield.uncertainty.llpr import LLPR

__all__ = ["VERBS", "run_verb"]

Job = Callable[[RunConfig, RunFolder], dict[str, Any]]


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
    found = cache_statistics()
    print(f"compiled programs: {found.hits} reused from earlier runs, {found.misses} new")
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
    potential: Potential
    if isinstance(config.potential, AtomicNetworkConfig):
        potential = AtomicNetwork.from_settings(config.potential, species)
    elif isinstance(config.potential, SnapConfig):
        potential = Snap.from_settings(config.potential, species)
    else:
        potential = MomentNetwork.from_settings(config.potential, species)
    if config.repulsion is None:
        return potential
    return potential + ZBL(potential.species, config.repulsion.inner, config.repulsion.outer)


def _species(*sources: Sequence[Any]) -> list[int]:
    return sorted({int(z) for source in sources for atoms in source for z in atoms.numbers})


def _doctor(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    path = _need(config.data.train, "train", "doctor")
    found = doctor(read_frames(path), reference=read_frames(config.data.test) if config.data.test else None)
    print(found.to_text())
    folder.write_json("doctor.json", found.to_dict())
    return {"verdict": f"{len(found.findings)} findings; the worst is: {found.worst or 'none'}"}


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
    llpr = LLPR.fit(
        fit.potential,
        fit.train_frames,
        fit.validation_frames,
        labels=data.labels,
        **config.uncertainty.model_dump(),
    )
    llpr.save(folder.path("llpr.npz"))
    summary["validation"] = fit.validation_errors.as_dict()
    if data.test is not None:
        summary |= _tested(llpr, prepare(data.test, llpr.potential, labels=data.labels), folder)
    return summary


def _tested(
    llpr: LLPR, test: LabelledSet, folder: RunFolder, found: Sequence[Prediction] | None = None
) -> dict[str, Any]:
    predicted = predict_test(llpr, test, found)
    _write_predictions(folder, predicted)
    return {"test": predicted.test(), "calibration": predicted.calibration(llpr)}


def _write_predictions(folder: RunFolder, predicted: Predicted) -> None:
    with atomic_path(folder.path("predictions.npz")) as path, path.open("wb") as file:
        np.savez_compressed(file, **predicted.arrays)  # pyright: ignore[reportArgumentType]


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
    found = potential.predict(test.frames)
    labels = [sample.labels for sample in test.samples]
    arrays = {
        "n_atoms": np.array([len(atoms) for atoms in test.frames]),
        "energy_reference": np.array([label.energy for label in labels]),
        "energy": np.array([p.energy for p in found]),
        "forces_reference": np.concatenate([np.ravel(cast(np.ndarray, label.forces)) for label in labels]),
        "forces": np.concatenate([np.ravel(cast(np.ndarray, p.forces)) for p in found]),
        "species": np.concatenate([atoms.numbers for atoms in test.frames]),
    }
    predicted = Predicted(arrays)
    _write_predictions(folder, predicted)
    write_frames(
        folder.path("predictions.xyz"),
        [p.written_to(atoms) for p, atoms in zip(found, test.frames, strict=True)],
    )
    return {"test": predicted.test()}


def _uq(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    llpr = LLPR.load(_trained(config, "llpr.npz", "uq"))
    test = prepare(_need(config.data.test, "test", "uq"), llpr.potential, labels=config.data.labels)
    found = llpr.predict(test.frames, per_atom=True, forces=True)
    write_frames(
        folder.path("predictions.xyz"),
        [p.written_to(atoms) for p, atoms in zip(found, test.frames, strict=True)],
    )
    return _tested(llpr, test, folder, found)


def _select(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    settings = config.selection
    llpr = LLPR.load(_trained(config, "llpr.npz", "select"))
    train_frames = read_frames(_trained(config, "train.xyz", "select"))
    pool = read_frames(_need(config.data.pool, "pool", "select"))
    name = settings.score
    picks = select(
        llpr,
        train_frames,
        pool,
        settings.method,
        settings.n,
        features=settings.features,
        scores=None if name is None else {name: score_frames(llpr, pool, name)},
        seed=settings.seed,
    )
    chosen = list(picks)
    folder.write_json(
        "selection.json",
        {
            "method": settings.method,
            "picks": chosen,
            "gains": [float(g) for g in picks.gains],
            "reasons": [str(reason) for reason in picks.reasons],
            "formulas": [pool[i].get_chemical_formula() for i in chosen],
        },
    )
    write_frames(folder.path("picks.xyz"), [pool[i] for i in chosen])
    return {"verdict": f"{len(chosen)} of {len(pool)} structures picked by {settings.method}; see picks.xyz"}


def _loop(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    pool, test, oracle, isolated = _pool(config, config.loop, folder)
    species = _species(pool, test)
    loop = Loop(
        folder.folder,
        config.loop,
        make_potential(config, species),
        config.training,
        oracle,
        pool,
        test,
        isolated,
    )
    return loop.run()


def _pool(config: RunConfig, loop: LoopConfig, folder: RunFolder) -> tuple[Any, ...]:
    if isinstance(loop.pool, MolecularDynamicsPoolConfig):
        if isinstance(loop.oracle, ReplayOracleConfig):
            raise ConfigError("loop.oracle 'replay' needs labelled structures: use loop.pool.kind: file")
        pool, test = _dynamics(loop.pool, folder)
        oracle = make_oracle(loop.oracle)
        return pool, _labelled_test(oracle, test, folder), oracle, {}
    labelled = read_frames(_need(config.data.train, "train", "loop"))
    test = read_frames(_need(config.data.test, "test", "loop"))
    prepared = prepare(labelled, config.potential.cutoff, labels=config.data.labels)
    frames = list(prepared.frames)
    if isinstance(loop.oracle, ReplayOracleConfig):
        oracle = ReplayOracle(frames, mapping=config.data.labels)
        return oracle.pool, list(test), oracle, dict(prepared.isolated_atoms)
    return frames, list(test), make_oracle(loop.oracle), dict(prepared.isolated_atoms)


def _dynamics(settings: MolecularDynamicsPoolConfig, folder: RunFolder) -> tuple[Frames, Frames]:
    """Structures for pool and test from different trajectories; made once per run folder."""
    from ase.build import molecule
    from ase.collections import g2

    path = folder.path("structures.xyz")
    if not path.exists():
        start = (
            molecule(settings.structure)
            if settings.structure in g2.names
            else read_frames(settings.structure)[0]
        )
        engine = make_oracle(settings.engine)
        if not isinstance(engine, CalculatorOracle):
            raise ConfigError("loop.pool.engine must be a calculator, not 'replay'")
        made = []
        with track(settings.n_pool + settings.n_test, "molecular dynamics", None) as bar:
            for part, (count, seed) in enumerate(((settings.n_pool, 0), (settings.n_test, 1))):
                frames = molecular_dynamics_pool(
                    start,
                    engine.make_calculator,
                    settings.temperatures,
                    count,
                    steps_between=settings.steps_between,
                    timestep_fs=settings.timestep_fs,
                    equilibration_steps=settings.equilibration_steps,
                    seed=2 * settings.seed + seed,
                    progress=bar,
                )
                for atoms in frames:
                    atoms.info["split"] = ("pool", "test")[part]
                made += frames
        write_frames(path, made)
    frames = read_frames(path)
    split = np.array([atoms.info["split"] for atoms in frames])
    return frames[np.flatnonzero(split == "pool")], frames[np.flatnonzero(split == "test")]


def _labelled_test(oracle: Any, test: Frames, folder: RunFolder) -> list[Any]:
    path = folder.path("test.xyz")
    if not path.exists():
        with track(len(test), "label test set", None) as bar:
            labelled = oracle.label(list(test), progress=bar)
        write_frames(path, [atoms for atoms in labelled if atoms is not None])
    return list(read_frames(path))


VERBS: dict[str, Job] = {
    "doctor": _doctor,
    "train": _train,
    "eval": _eval,
    "uq": _uq,
    "select": _select,
    "loop": _loop,
}
