"""What the verbs read: all of it is read and checked before any work begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from surefield.acquisition.broken import Sound
from surefield.acquisition.config import SelectionConfig
from surefield.cli.answer import say
from surefield.cli.config import RepulsionConfig, RunConfig
from surefield.cli.needed import FORCE_ERRORS, need, trained
from surefield.errors import ConfigError, DataError
from surefield.foreign.published import configured
from surefield.loop.pools import Pool, file_pool
from surefield.potentials.atomic_network import AtomicNetwork
from surefield.potentials.config import AutoPotentialConfig, ForeignConfig
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.evaluate import check_frames
from surefield.potentials.message_network import MessageNetwork
from surefield.potentials.moment_network import MomentNetwork
from surefield.potentials.potential import Potential, SumPotential
from surefield.potentials.saving import load_potential
from surefield.potentials.snap.snap import Snap
from surefield.potentials.zbl import INNER, ZBL
from surefield.structures.convert import convert_labels
from surefield.structures.doctor.repeats import check_leakage
from surefield.structures.geometry import check_geometry
from surefield.structures.labels import Mapped, check_named
from surefield.structures.read import Frames, Source, read_frames
from surefield.training.continuation import starting_potential
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.growth import with_species
from surefield.uncertainty.build import TrainingRecord
from surefield.uncertainty.config import LLPRConfig, LTAUConfig
from surefield.uncertainty.llpr import check_size
from surefield.uncertainty.loss_trajectories import logged_structures

__all__ = [
    "Candidates",
    "TrainingInputs",
    "logs_force_errors",
    "make_potential",
    "read_candidates",
    "read_fitted",
    "read_labelled",
    "read_pool",
    "read_test",
    "read_training",
    "training_record",
]

#: Class of each `potential.kind`.
_POTENTIALS: Final[Mapping[str, Any]] = {
    "message_network": MessageNetwork,
    "moment_network": MomentNetwork,
    "neural_network": AtomicNetwork,
    "dropout_network": DropoutNetwork,
    "snap": Snap,
}


#: Settings that a potential to start from need not share.
_OPEN: Final = {"species", "seed"}


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """Untrained potential and everything that a training and what follows it will need."""

    potential: Potential
    train: LabelledSet
    validation: float | LabelledSet
    test: LabelledSet | None


def make_potential(config: RunConfig, *sources: Sequence[Any], share: float = 1.0) -> Potential:
    """Potential of a configuration for the elements of structures: untrained, or the one to start from.

    Repulsion ends at a share of the shortest distances of the structures, if it is not told where.
    """
    species = sorted({int(z) for source in sources for atoms in source for z in np.unique(atoms.numbers)})
    if config.training.start_from is not None:
        start = starting_potential(config.training.start_from)
        _check_shape(config, start)
        return with_species(start, config.potential.species or species)
    settings, repulsion = config.potential, config.repulsion
    if isinstance(settings, AutoPotentialConfig):
        periodic = all(atoms.pbc.all() for source in sources for atoms in source if len(atoms) > 1)
        if repulsion is None and settings.repulsion:
            repulsion = RepulsionConfig()
        settings = settings.chosen(len(settings.species or species), periodic)
    if isinstance(settings, ForeignConfig):
        potential: Potential = configured(settings)
    else:
        potential = _POTENTIALS[settings.kind].from_settings(settings, species)
    if repulsion is None:
        return potential
    inner, outer = repulsion.inner, repulsion.outer
    if outer is None:
        return potential + ZBL.below(itertools.chain.from_iterable(sources), potential.species, share)
    return potential + ZBL(potential.species, INNER * outer if inner is None else inner, outer)


def _check_shape(config: RunConfig, start: Potential) -> None:
    """Raise `ConfigError` where a configuration states another potential than the one that it starts from."""
    learned, baseline = (start.learned, start.baseline) if isinstance(start, SumPotential) else (start, None)
    automatic = isinstance(config.potential, AutoPotentialConfig)
    stated: dict[str, dict[str, Any]] = {
        "potential": config.potential.model_dump(
            mode="json", exclude_unset=True, exclude=_OPEN | ({"kind"} if automatic else set())
        ),
        "repulsion": {} if config.repulsion is None else config.repulsion.model_dump(exclude_none=True),
    }
    saved = {
        "potential": _flat(learned.config()) | {"cutoff": learned.cutoff},
        "repulsion": {"inner": None, "outer": None} if baseline is None else baseline.config(),
    }
    differing = [
        f"{section}.{key}: {value}, there {saved[section][key]}"
        for section, settings in stated.items()
        if section in config.model_fields_set
        for key, value in settings.items()
        if not _same(saved[section].get(key, value), value)
    ]
    if differing:
        raise ConfigError(
            "the potential that training.start_from names has another shape",
            got="; ".join(differing),
            fix="leave these settings out: the shape is that of the file",
        )


def _same(there: Any, stated: Any) -> bool:
    both_numbers = isinstance(there, float | int) and isinstance(stated, float | int)
    return math.isclose(there, stated, rel_tol=1e-9) if both_numbers else there == stated


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the sections in them, such as of a descriptor, beside them."""
    inner = {
        k: v for section in settings.values() if isinstance(section, Mapping) for k, v in section.items()
    }
    return inner | dict(settings)


def read_training(config: RunConfig) -> TrainingInputs:
    """Training set, validation file, test set and pool of a configuration, as far as it names them."""
    data = config.data
    frames, labels = read_labelled(config, need(data.train, "train", "train"), named=True)
    block = config.architecture
    if block is None:
        potential = make_potential(config, frames)
    else:
        potential = load_potential(str(block.training.model_checkpoint))
    if isinstance(config.uncertainty, LLPRConfig):
        check_size(potential.last_layer())
    train = prepare(frames, potential, labels=labels)
    say(f"training: {train.label_note}")
    validation = data.validation
    if isinstance(validation, str):
        held, labels = read_labelled(config, validation)
        validation = prepare(held, potential, labels=labels)
        say(f"validation: {validation.label_note}")
    test = read_test(config, potential) if data.test else None
    for name, other in (("validation", validation), ("test", test)):
        if isinstance(other, LabelledSet):
            _say_leakage(name, other, train)
    if data.pool:
        # A pool may be made after the training, which does not read it.
        if Path(data.pool.partition("@")[0]).exists():
            read_candidates(config, potential)
        else:
            say(f"pool: {data.pool} is not there yet; 'select' needs it")
    return TrainingInputs(potential, train, validation, test)


def _say_leakage(name: str, held: LabelledSet, train: LabelledSet) -> None:
    """Say which structures of a set are in the training set, too: their errors are no errors of new ones."""
    labels = ([sample.labels for sample in each.samples] for each in (held, train))
    of_held, of_train = labels
    for finding in check_leakage(held.frames, of_held, train.frames, of_train, name):
        say(f"warning: {finding.message}; {finding.remedy}")


@dataclass(frozen=True, eq=False)
class LoopInputs:
    """What a loop on files starts from."""

    pool: Pool
    potential: Potential
    test: LabelledSet


def read_loop(config: RunConfig) -> LoopInputs:
    """Candidates, oracle, untrained potential and test set of a loop whose candidates are in a file."""
    train, test = (need(getattr(config.data, key), key, "loop") for key in ("train", "test"))
    candidates, labels = read_labelled(config, train, named=True)
    held = read_labelled(config, test)
    pool = file_pool(candidates, config.potential.cutoff, config.loop.oracle, labels)
    potential = make_potential(config, pool.candidates, held[0])
    return LoopInputs(pool, potential, read_test(config, potential, "loop", held))


def read_labelled(config: RunConfig, source: Source, *, named: bool = False) -> tuple[Frames, Mapped | None]:
    """Structures of a file and the keys of their labels, which are converted where `data.units` says so.

    Args:
        config: of the run.
        source: of the structures.
        named: whether keys that the configuration names must be there, as in a training set.
    """
    data, frames = config.data, read_frames(source)
    if named:
        check_named(frames, data.labels)
    if not data.units:
        return frames, data.labels
    units = {f"{name}_unit": unit for name, unit in data.units.items()}
    return convert_labels(frames, mapping=data.labels, **units), None


def read_test(
    config: RunConfig,
    potential: Potential,
    verb: str = "train",
    held: tuple[Frames, Mapped | None] | None = None,
) -> LabelledSet:
    """Test set with the labels that are there; of what `read_labelled` gave if it has been read.

    Raises:
        DataError: unusable, or without any label.
    """
    frames, labels = read_labelled(config, need(config.data.test, "test", verb)) if held is None else held
    data = prepare(frames, potential, labels=labels, require=())
    if not any(len(sample.labels.results()) for sample in data.samples):
        raise DataError(f"no structure of {config.data.test} has a label", got=data.label_note)
    say(f"test: {data.label_note}")
    return data


def read_pool(config: RunConfig, potential: Potential, verb: str = "train") -> Frames:
    """Candidates that the potential can be evaluated on."""
    pool = read_frames(need(config.data.pool, "pool", verb))
    check_geometry(pool)
    check_frames(potential, pool)
    say(f"pool: {len(pool)} structures")
    return pool


class Candidates(NamedTuple):
    """The pool of a selection.

    Attributes:
        pool: structures that can be computed.
        settings: of the selection, for this pool.
        places: where the structures stand in the file.
        notes: what was left out.
        held_out: labelled structures beside the training set of the run.
    """

    pool: Frames
    settings: SelectionConfig
    places: list[int]
    notes: list[str]
    held_out: Frames


def read_candidates(config: RunConfig, potential: Potential) -> Candidates:
    """What `select` selects from, all checked; with `drop_broken` without what cannot be labelled."""
    settings, notes = config.selection, []
    if not settings.drop_broken:
        pool = read_pool(config, potential, "select")
        kept, exclude = list(range(len(pool))), list(settings.constraints.exclude)
    else:
        sound = _without_broken(config, potential)
        pool, kept, notes = sound.frames, sound.kept, sound.notes
        exclude = sound.exclude(settings.constraints.exclude)
    constraints = settings.constraints.model_copy(update={"exclude": tuple(exclude)})
    settings = settings.model_copy(update={"constraints": constraints})
    return Candidates(pool, settings, kept, notes, _held_out(config))


def _held_out(config: RunConfig) -> Frames:
    path = Path(config.root) / f"{config.name}-train" / "validation.xyz"
    return read_frames(path) if path.exists() else Frames((), ())


def _without_broken(config: RunConfig, potential: Potential) -> Sound:
    """Structures of the pool that can be labelled, where they stand in it, and why the others cannot."""
    sound = Sound.of(read_frames(need(config.data.pool, "pool", "select")))
    pool = sound.frames
    check_geometry(pool)
    check_frames(potential, pool)
    say(f"pool: {len(pool)} of {len(sound.whole)} structures")
    return sound


def logs_force_errors(config: RunConfig) -> bool:
    """Whether the training of a run logs the force errors of all atoms."""
    return any(isinstance(each, LTAUConfig) for each in (config.uncertainty, *config.compare.estimators))


def training_record(config: RunConfig, folder: Path, isolated_atoms: Mapping[int, float]) -> TrainingRecord:
    """How the potential in a run folder of `train` was trained."""
    log = folder / FORCE_ERRORS
    atoms: dict[str | int, float] = {number: float(energy) for number, energy in isolated_atoms.items()}
    return TrainingRecord(config.training, atoms, log if log.is_dir() else None)


def read_fitted(config: RunConfig, verb: str) -> Frames:
    """Structures that `train` fitted, under the ids that its log of force errors has."""
    path = trained(config, "train.xyz", verb)
    frames, log = read_frames(path), path.parent / FORCE_ERRORS
    if not log.is_dir():
        return frames
    ids = tuple(dict.fromkeys(logged_structures(log)))
    return Frames(tuple(frames), ids) if len(ids) == len(frames) else frames
