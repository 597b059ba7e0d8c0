"""Deep ensembles: potentials that were trained apart from each other, and the spread of what they say."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import equinox as eqx
import jax
import numpy as np

from surefield.calibration.maps import AlphaMap
from surefield.errors import ConfigError
from surefield.execution.executor import get_executor
from surefield.execution.in_flight import map_ordered
from surefield.execution.progress import track
from surefield.potentials.evaluate import evaluate_jit
from surefield.potentials.learned_part import learned_part, with_learned_part
from surefield.potentials.mean_potential import MeanPotential
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.potentials.saving import load_arrays, pack, save_arrays, unpack
from surefield.quantities import uncertain
from surefield.structures.batching import padded_batches
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.structures.tensors import row_slices
from surefield.training.checkpoint import Checkpoint, identity_of, potential_entries, sample_contents
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.training.recipe import settled_for
from surefield.training.train import fit_samples
from surefield.uncertainty.abilities import HasMembers
from surefield.uncertainty.spread import Spread, check_n_members, spread_of_members, value_of
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["DeepEnsemble", "restarted"]

#: File of a member that is trained.
_DONE: Final = "member.npz"


@final
@dataclass(frozen=True, eq=False, init=False)
class DeepEnsemble(Uncertainty, HasMembers):
    """Mean and spread (ddof = 1) of independently trained potentials.

    The prediction is the mean energy, and forces and stresses are its derivatives.
    Lakshminarayanan, Pritzel, Blundell, NeurIPS (2017). Before `calibrated` (or `fit`) sigma is the plain
    spread.

    Args:
        models: at least two trained potentials, or handles of such.

    Raises:
        ConfigError: fewer than two.
        PotentialError: they differ in elements, cutoff or results.
    """

    kind: ClassVar[str] = "deep_ensemble"
    zeros_by_values: ClassVar[bool] = True

    def __init__(self, models: Sequence[Potential | HasPotential]) -> None:
        if len(models) < 2:
            raise ConfigError("an ensemble needs at least 2 potentials", got=len(models))
        potential = MeanPotential([as_potential(model) for model in models])
        vars(self).update(
            potential=potential,
            maps={name: AlphaMap(1.0, calibrated=False) for name in uncertain(potential.supplies)},
            thresholds={},
            statistics={"n_members": len(models)},
        )

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        M: int = 4,
        seed: int = 0,
        bootstrap: bool = False,
        training: TrainConfig | None = None,
        trained: Sequence[Potential] = (),
        isolated_atoms: Mapping[str | int, float] | None = None,
        executor: Executor | str | None = None,
        max_workers: int | None = None,
        folder: str | Path | None = None,
        labels: Mapped | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> Self:
        """Train members from other random weights and in other orders, and calibrate their spread.

        Args:
            potential: what the members are like; its weights do not matter.
            train: structures to train on.
            calibration: structures held out, for the early stop and the calibration.
            M: members, at least 2.
            seed: member k has the seed plus k, for its start, its order and its draw.
            bootstrap: each member sees as many structures drawn with replacement.
            training: how; None: the defaults.
            trained: members that are trained already, which count.
            isolated_atoms: energies of free atoms in eV, as `train` takes them.
            executor: where members are trained, see `get_executor`; one after the other by default.
            max_workers: of worker processes.
            folder: keeps members that are trained and checkpoints of the others; a fit that was interrupted
                goes on from them.
            labels: explicit keys of the labels.
            progress: show a progress bar.
            options: of `calibrated`.

        Raises:
            ConfigError: M < 2, or members that would all be the same.
            DataError: unusable structures or labels.
            PotentialError: files in the folder are of another training.
        """
        start = as_potential(potential)
        config = training or TrainConfig()
        check_n_members(M)
        if config.start_from is not None:
            what = "members of an ensemble start from random weights"
            raise ConfigError(what, got=f"training.start_from {config.start_from}", fix="leave it out")
        if not bootstrap and not _random_start(start):
            what = f"members of a {type(start).__name__}, which has no random start, would all be the same"
            raise ConfigError(what, fix="set bootstrap, or take another kind of uncertainty")
        train_set, held = (as_labelled(part, start, labels) for part in (train, calibration))
        atoms = dict(train_set.isolated_atoms) | dict(isolated_atoms or {})
        jobs = [
            _Job(
                start=restarted(start, seed + k),
                train_set=_drawn(train_set, seed + k) if bootstrap else train_set,
                held=held,
                config=config.model_copy(update={"seed": config.seed + seed + k}),
                isolated_atoms=atoms,
                folder=None if folder is None else Path(folder) / f"member-{k}",
            )
            for k in range(len(trained) + 1, M + 1)
        ]
        # Files of another training are refused before anything is trained.
        members = [_done(job) for job in jobs]
        left = [job for job, member in zip(jobs, members, strict=True) if member is None]
        pool = get_executor(executor, max_workers)
        try:
            with track(len(jobs), "members", progress, done=len(jobs) - len(left)) as bar:
                new = iter(map_ordered(pool, _train_member, left, bar))
        finally:
            if pool is not executor:
                pool.shutdown()
        members = [next(new) if member is None else member for member in members]
        ensemble = cls([*trained[:M], *members])._replaced(
            statistics={"n_members": M, "bootstrap": bootstrap}
        )
        return ensemble.calibrated(held, **options)

    @property
    def members(self) -> tuple[Potential, ...]:
        """The potentials."""
        assert isinstance(self.potential, MeanPotential)
        return self.potential.members

    def count_members(self) -> int:
        """Number of members."""
        return len(self.members)

    def member_potential(self, member: int) -> Potential:
        """One of the potentials."""
        return self.members[member - 1]

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and the spreads over the members, batch by batch."""
        offsets = np.array([np.asarray(member.offsets, np.float64) for member in self.members])
        for chunk, graph in padded_batches(structures, batch_size, self.potential.dtype):
            each = [evaluate_jit(member, graph)._replace(extrapolation=None) for member in self.members]
            values = jax.tree.map(lambda *own: np.stack([np.asarray(x, np.float64) for x in own]), *each)
            slices = row_slices(structures[index].n_atoms for index in chunk)
            for place, (index, rows) in enumerate(zip(chunk, slices, strict=True)):
                s = structures[index]
                spreads = {}
                for name in names:
                    own = value_of(name, values, s, place, rows)
                    if own is None:
                        continue
                    if name == "energies":
                        own = own + offsets[:, np.searchsorted(self.species, s.numbers)]
                    spreads[name] = spread_of_members(name, own - own.mean(axis=0), s.n_atoms)
                yield index, spreads

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the members are the potential."""
        return {}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True, eq=False)
class _Job:
    """One member to train."""

    start: Potential
    train_set: LabelledSet
    held: LabelledSet
    config: TrainConfig
    isolated_atoms: Mapping[str | int, float]
    folder: Path | None

    @property
    def identity(self) -> dict[str, Any]:
        """All that its training depends on."""
        settings = settled_for(self.config, self.start).model_dump(mode="json")
        return identity_of(
            training=settings | {"isolated_atoms": self.isolated_atoms},
            **potential_entries(self.start),
            **{"training set": sample_contents(self.train_set.samples)},
            **{"validation set": sample_contents(self.held.samples)},
        )


def _done(job: _Job) -> Potential | None:
    """The member of a file that is there already."""
    path = None if job.folder is None else job.folder / _DONE
    if path is None or not path.exists():
        return None
    header, arrays = load_arrays(path, "member")
    Checkpoint(None, "", job.identity).check(path, header)
    return unpack(job.start, arrays)


def _train_member(job: _Job) -> Potential:
    """A member, which is also kept in its file."""
    fit = fit_samples(
        job.start,
        job.train_set,
        job.held,
        job.config,
        isolated_atoms=job.isolated_atoms,
        folder=job.folder,
        progress=False,
    )
    if job.folder is not None:
        save_arrays(job.folder / _DONE, "member", job.identity, pack(fit.potential))
    return fit.potential


def _random_start(potential: Potential) -> bool:
    return "seed" in inspect.signature(type(learned_part(potential)).__init__).parameters


def restarted(potential: Potential, seed: int) -> Potential:
    """An untrained potential of the same shape with random weights of a seed, where it has any."""
    if not _random_start(potential):
        return potential
    learned = learned_part(potential)
    fresh = type(learned).from_config({**learned.config(), "seed": seed})
    # What is taken from data, or was given with the potential, is not among the settings.
    fresh = eqx.tree_at(lambda p: p.constants(), fresh, learned.constants())
    return with_learned_part(potential, fresh)


def _drawn(data: LabelledSet, seed: int) -> LabelledSet:
    """As many samples, drawn with replacement."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    return data[np.sort(rng.integers(len(data), size=len(data)))]
