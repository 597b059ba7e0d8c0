"""The verb `score`: what is scored, with what, and the files that say what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.cli.answer import say
from surefield.cli.config import RunConfig
from surefield.cli.needed import FORCE_ERRORS, need, score_settings, trained, uses_trained_potential
from surefield.errors import ConfigError
from surefield.execution.run_folder import RunFolder
from surefield.files import read_json, write_arrays
from surefield.potentials.evaluate import check_frames
from surefield.potentials.saving import load_potential
from surefield.scores.config import (
    FIMMatchingConfig,
    FIMPropertyConfig,
    FIMTrainingSetConfig,
    LTAUScoreConfig,
    PotentialScoreConfig,
    QUESTSConfig,
    QUESTSDeltaEntropyConfig,
    QUESTSDiversityConfig,
    QUESTSEfficiencyConfig,
    ScoreJobsConfig,
    StructureScoreConfig,
)
from surefield.scores.fim import FIMMatchingScore, FIMPropertyScore, FIMTrainingSetScore
from surefield.scores.learned_descriptors import POTENTIAL, QUESTS, with_descriptors
from surefield.scores.quests.classes import (
    QUESTSDeltaEntropyScore,
    QUESTSDiversityScore,
    QUESTSEfficiencyScore,
)
from surefield.scoring import DatasetScore, ModelScore
from surefield.scoring.contract import Score
from surefield.scoring.results import METADATA, write_labelled, write_value
from surefield.sensitivity.rows import atom_features
from surefield.structures.contents import frame_contents
from surefield.structures.geometry import check_geometry
from surefield.structures.read import Frames, Source, read_frames
from surefield.training.force_errors import DESCRIPTORS, ERRORS, HISTOGRAM
from surefield.uncertainty.ltau_score import LTAUForcesUQScore

__all__ = ["rehearse_score", "run_score", "score_contents"]

_DESCRIPTORS: Final = "descriptors"
_VERB: Final = "score"


def run_score(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    """Compute the score of a configuration, and write results, numbers for the report, and a verdict."""
    del beside
    settings = score_settings(config)
    frames = _structures(config, settings)
    if frames is not None:
        say(f"structures: {len(frames)}")
    _check_elements(config, settings, frames)
    work = _KINDS[type(settings)](config, settings, frames)
    score = work.score
    if settings.jobs is None:
        results = work.compute()
        path = score.save_results(results, folder.folder, frames)
    else:
        path, results = _as_jobs(work, settings.jobs, folder.folder)
    facts, arrays = _facts(score, results)
    if (parameters := _metadata(path, score.key).get("fim_index_to_parameter")) is not None:
        facts["parameters"] = parameters
    folder.write_json("score.json", {"kind": settings.kind, **facts})
    write_arrays(folder.path("score.npz"), arrays)
    return {"verdict": f"{facts['words']}; see {path.name}"}


@dataclass(frozen=True)
class _Work:
    """A call of a score.

    Attributes:
        score: of which.
        data: what it is called with.
        arguments: of the call.
        temporary: array of descriptors that is not kept with the results.
    """

    score: Score
    data: Any
    arguments: Mapping[str, Any]
    temporary: str | None = None

    def compute(self) -> Any:
        """Results, here and now."""
        whole = isinstance(self.score, DatasetScore)
        call = self.score.compute if whole else self.score.compute_batch
        return call(self.data, **self.arguments)


def _as_jobs(work: _Work, settings: ScoreJobsConfig, folder: Path) -> tuple[Path, Any]:
    """File of the results, and the results, of jobs in the folder of the run."""
    flow = {"workflow_type": settings.workflow_type, "workflow_args": {"root": str(folder / "jobs")}}
    whole = isinstance(work.score, DatasetScore | ModelScore)
    size = 1 if whole else settings.batch_size
    calc_ids = work.score.run(_VERB, work.data, work.arguments, flow, settings.job_details, size)
    say(f"jobs: {len(calc_ids)}, in {folder / 'jobs'}")
    read = work.score.data_from_calc_ids(calc_ids, flow)
    key = work.score.key
    if whole:
        return write_value(folder, key, read[0][key], read[0][METADATA]), read[0][key]
    for atoms in read:
        if work.temporary is not None:
            del atoms.arrays[work.temporary]
    results = [atoms.arrays[key] if key in atoms.arrays else atoms.info[key] for atoms in read]
    return write_labelled(folder, read), results


def _metadata(path: Path, key: str) -> Mapping[str, Any]:
    """What a file of results says of how they were computed."""
    if path.suffix == ".json":
        return read_json(path)[METADATA]
    return read_frames(path, 0)[0].info[METADATA][key]


def rehearse_score(config: RunConfig) -> None:
    """Read what the verb reads, and say what it would compute."""
    settings = score_settings(config)
    frames = _structures(config, settings)
    _check_elements(config, settings, frames)
    of = "" if frames is None else f" of {len(frames)} structures, {sum(map(len, frames))} atoms"
    say(f"score: {settings.kind}{of}")


def _check_elements(config: RunConfig, settings: StructureScoreConfig, frames: Frames | None) -> None:
    """Refuse files that are missing, and structures with elements that the potential does not know."""
    path = _needed(config, settings).get("trained potential", getattr(settings, "potential", None))
    if isinstance(path, str | Path):
        potential = load_potential(path)
        if frames is not None:
            check_frames(potential, frames)


def score_contents(config: RunConfig) -> dict[str, Any]:
    """Table of all that enters the score, as far as it is there."""
    settings = score_settings(config)
    files = {**settings.files(), **{k: str(v) for k, v in _needed(config, settings).items()}}
    if log := files.get("force errors"):
        files |= {f"force errors {name}": str(Path(log).with_name(name)) for name in (ERRORS, HISTOGRAM)}
    table: dict[str, Any] = {
        f"score.{name}": _file_hash(Path(path)) for name, path in files.items() if Path(path).is_file()
    }
    frames = _structures(config, settings)
    if frames is not None:
        table["structures to score" if settings.structures else "pool"] = frame_contents(frames)
    return table


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _structures(config: RunConfig, settings: StructureScoreConfig) -> Frames | None:
    if isinstance(settings, FIMPropertyConfig):
        return None
    return _computable(settings, settings.structures or need(config.data.pool, "pool", _VERB))


def _computable(settings: StructureScoreConfig, source: Source) -> Frames:
    """Structures; where anything is computed of their geometry, it must be one that can be."""
    frames = read_frames(source)
    computed = getattr(settings, "descriptors", None) in (POTENTIAL, QUESTS)
    if computed or isinstance(settings, FIMTrainingSetConfig):
        check_geometry(frames)
    return frames


def _needed(config: RunConfig, settings: StructureScoreConfig) -> dict[str, Path]:
    """Files of `surefield train` that enter, where the configuration names no others."""
    files = {}
    if isinstance(settings, LTAUScoreConfig) and None in (settings.train_descriptors, settings.error_pdfs):
        files["force errors"] = _force_errors(config)
    if isinstance(settings, QUESTSDeltaEntropyConfig) and settings.reference_set is None:
        for number, path in enumerate(np.atleast_1d(need(config.data.train, "train", _VERB))):
            files[f"reference {number}"] = Path(str(path))
    if uses_trained_potential(settings):
        files["trained potential"] = trained(config, "potential.npz", _VERB)
    return files


def _force_errors(config: RunConfig) -> Path:
    potential = trained(config, "potential.npz", _VERB)
    path = potential.parent / FORCE_ERRORS / DESCRIPTORS
    if not path.is_file():
        fix = "train with uncertainty.kind: ltau, or give score.train_descriptors and score.error_pdfs"
        raise ConfigError("'score' of kind ltau needs a log of force errors", got=f"none at {path}", fix=fix)
    return path


def _ltau(config: RunConfig, settings: LTAUScoreConfig, frames: Sequence[Atoms]) -> _Work:
    files = _needed(config, settings)
    log = files["force errors"].parent if "force errors" in files else None
    arguments = settings.model_dump(
        exclude={"kind", "structures", "jobs", "descriptors", "num_nearest_neighbors"}, exclude_none=True
    )
    score = LTAUForcesUQScore(
        **{
            "train_descriptors": log,
            "error_pdfs": log,
            **arguments,
            "index_args": settings.index_args or None,
        }
    )
    given = frames
    if settings.descriptors == POTENTIAL:
        frames, key = _as_logged(frames, files["trained potential"]), _DESCRIPTORS
    else:
        frames, key = _described(config, settings, frames)
    call = {"descriptors_key": key, "num_nearest_neighbors": settings.num_nearest_neighbors}
    return _Work(score, list(frames), call, None if frames is given else key)


def _as_logged(frames: Sequence[Atoms], potential: Path) -> list[Atoms]:
    """Copies of structures with descriptors as those of the log of force errors."""
    layer = load_potential(potential).last_layer()
    copies = [atoms.copy() for atoms in frames]
    for atoms in copies:
        atoms.arrays[_DESCRIPTORS] = atom_features(layer, layer.neighborhood(atoms))
    return copies


def _described(
    config: RunConfig, settings: LTAUScoreConfig | QUESTSConfig, frames: Sequence[Atoms]
) -> tuple[Sequence[Atoms], str]:
    """Structures with the descriptors of a configuration, and the key of these."""

    def potential() -> Any:
        return load_potential(_needed(config, settings)["trained potential"])

    arguments = getattr(settings, "descriptor_args", {})
    given = list(frames)
    described, key = with_descriptors(given, settings.descriptors, potential, arguments)
    return frames if described is given else described, key


def _quests(config: RunConfig, settings: QUESTSConfig, frames: Sequence[Atoms]) -> _Work:
    described, key = _described(config, settings, frames)
    arguments = settings.model_dump(include={"bandwidth", "apply_mask", "batch_size"})
    arguments["descriptors_key"] = key
    temporary = None if described is frames else key
    if not isinstance(settings, QUESTSDeltaEntropyConfig):
        efficiency = isinstance(settings, QUESTSEfficiencyConfig)
        number = QUESTSEfficiencyScore() if efficiency else QUESTSDiversityScore()
        return _Work(number, list(described), {"score_quantity": number.quantity, **arguments}, temporary)
    source = settings.reference_set or need(config.data.train, "train", _VERB)
    reference: Any = source
    if not (isinstance(source, str) and source.endswith((".npy", ".txt", ".dat"))):
        reference = list(_described(config, settings, _computable(settings, source))[0])
    score = QUESTSDeltaEntropyScore()
    arguments |= settings.model_dump(include={"approx", "num_nearest_neighbors"})
    arguments |= {"score_quantity": score.quantity, "reference_set": reference}
    return _Work(score, list(described), arguments, temporary)


def _fim(config: RunConfig, settings: FIMTrainingSetConfig, frames: Sequence[Atoms]) -> _Work:
    score = FIMTrainingSetScore()
    arguments = settings.model_dump(exclude={"kind", "structures", "jobs"})
    arguments |= {"score_quantity": score.quantity, "potential": _potential(config, settings)}
    return _Work(score, list(frames), arguments)


def _property(config: RunConfig, settings: FIMPropertyConfig, frames: None) -> _Work:
    del frames
    score = FIMPropertyScore()
    arguments = settings.model_dump(exclude={"kind", "structures", "jobs", "list_of_target_property"})
    arguments["cov"] = arguments["cov"] if isinstance(settings.cov, str) else np.array(settings.cov)
    arguments |= {"score_quantity": score.quantity, "potential": _potential(config, settings)}
    return _Work(score, list(settings.list_of_target_property), arguments)


def _matching(config: RunConfig, settings: FIMMatchingConfig, frames: Sequence[Atoms]) -> _Work:
    del config
    score = FIMMatchingScore()
    arguments = settings.model_dump(exclude={"kind", "structures", "jobs"})
    return _Work(score, list(frames), {"score_quantity": score.quantity, **arguments})


def _potential(config: RunConfig, settings: PotentialScoreConfig) -> Any:
    if isinstance(settings.potential, Mapping):
        return settings.potential
    return load_potential(settings.potential or _needed(config, settings)["trained potential"])


_KINDS: Final[dict[type[StructureScoreConfig], Callable[..., _Work]]] = {
    LTAUScoreConfig: _ltau,
    QUESTSEfficiencyConfig: _quests,
    QUESTSDiversityConfig: _quests,
    QUESTSDeltaEntropyConfig: _quests,
    FIMTrainingSetConfig: _fim,
    FIMPropertyConfig: _property,
    FIMMatchingConfig: _matching,
}


def _facts(score: Score, results: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Numbers and words for the report: values, or the matrix, that a figure shows."""
    facts: dict[str, Any] = {"key": score.key, "quantity": score.quantity.name, "score": type(score).__name__}
    if not isinstance(results, list):
        value = np.asarray(results)
        words = f"{score.key} is {float(value):.6g}" if not value.ndim else f"{score.key}: {_size(value)}"
        return facts | {"words": words}, {"value": value} if not value.ndim else {"matrix": value}
    if np.ndim(results[0]) == 2:
        total = np.sum(results, axis=0)
        traces = np.array([np.trace(matrix) for matrix in results])
        arrays = {"matrix": total, "values": traces, "structure": np.arange(len(results))}
        return facts | {"words": f"{score.key} of {len(results)} structures: {_size(total)}"}, arrays
    values = np.concatenate([np.atleast_1d(np.asarray(r, np.float64)) for r in results])
    structure = np.repeat(np.arange(len(results)), [np.size(r) for r in results])
    known = np.isfinite(values)
    most = int(np.argmax(np.where(known, values, -np.inf)))
    things = "atoms" if np.ndim(results[0]) else "structures"
    words = (
        f"{score.key} of {int(known.sum())} {things}: median {np.median(values[known]):.4g}, largest "
        f"{values[most]:.4g} (structure {structure[most]})"
    )
    return facts | {"words": words}, {"values": values, "structure": structure}


def _size(matrix: np.ndarray) -> str:
    rank = int(np.linalg.matrix_rank(matrix, hermitian=True))
    return f"{rank} of {len(matrix)} directions of the parameters are informed"
