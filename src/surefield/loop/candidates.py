"""Where candidates of a loop come from: a pool that is there, or exploration with the current potential."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, ExecutionError
from surefield.exploration.config import ExplorationConfig, PoolFilesConfig, RattleConfig
from surefield.exploration.explore import explore, write_walkers
from surefield.exploration.variations import rattled
from surefield.loop.oracles.replay import POOL_INDEX
from surefield.structures.contents import frame_contents
from surefield.structures.geometry import check_geometry
from surefield.structures.images import image_key
from surefield.structures.read import Frames
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["CandidateSource", "ExploredCandidates", "PoolCandidates"]

#: What a prediction wrote into a structure is of a potential of its time.
_PREDICTED: Final = "surefield_"
WALKERS: Final = "walkers.json"


class CandidateSource(ABC):
    """Structures without labels: those of the beginning, and those of every round."""

    @abstractmethod
    def initial(self, n: int, seed: int) -> Frames:
        """Structures to begin with, where there is no potential yet; at most n.

        Raises:
            ConfigError: there are none.
        """

    @abstractmethod
    def of_round(self, number: int, uncertainty: Uncertainty, folder: Path) -> tuple[Frames, dict[str, Any]]:
        """Candidates of a round, the same for the same potential, and what the journal says of them.

        Args:
            number: of the round.
            uncertainty: of the current potential.
            folder: of the round, for what the page shows.
        """

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What the candidates are made from and must not change, as a table of `execution.identity`."""


@final
class PoolCandidates(CandidateSource):
    """Structures that are there from the beginning, the same in every round.

    Raises:
        ConfigError: no structures.
        DataError: a structure that cannot be computed, see `check_geometry`.
    """

    def __init__(self, pool: Sequence[Atoms]) -> None:
        if not len(pool):
            fix = "name candidates: data.pool or loop.starts"
            raise ConfigError("the pool of the loop is empty", fix=fix)
        copies = tuple(atoms.copy() for atoms in pool)
        for place, atoms in enumerate(copies):
            atoms.info[POOL_INDEX] = place
        self.pool = Frames(copies, tuple(f"pool {i}" for i in range(len(copies))))
        check_geometry(pool if isinstance(pool, Frames) else self.pool)

    def initial(self, n: int, seed: int) -> Frames:
        """Random structures of the pool, no two the same."""
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(self.pool))
        return self.pool[_different([self.pool[int(i)] for i in order], order)[:n]]

    def of_round(self, number: int, uncertainty: Uncertainty, folder: Path) -> tuple[Frames, dict[str, Any]]:
        """The pool."""
        return self.pool, {"n_candidates": len(self.pool)}

    def inputs(self) -> dict[str, Any]:
        """Contents of the pool."""
        return {"pool": frame_contents(self.pool, (POOL_INDEX,))}


@final
class ExploredCandidates(CandidateSource):
    """Structures that walkers and random changes of starts find with the potential of the round.

    Args:
        starts: what is explored from.
        config: how.
        displacements: Å, of the starts, for the structures of the beginning.
        temperatures: K, of molecules in place of displacements, see `RattleConfig`.
        seed: of all that is random.
        n_frames: candidates of a round, at most; None: all.
        executor: where walkers run.
        progress: show a progress bar.

    Raises:
        ConfigError: no start structure where one is needed.
    """

    def __init__(
        self,
        starts: Sequence[Atoms],
        config: Sequence[ExplorationConfig],
        *,
        displacements: Sequence[float] = (0.05, 0.1, 0.2),
        temperatures: Sequence[float] = (300.0, 500.0, 700.0),
        seed: int = 0,
        n_frames: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        if not len(starts) and not all(isinstance(entry, PoolFilesConfig) for entry in config):
            fix = "name molecules of ASE or files: loop.starts: [CH3CH2OH]"
            raise ConfigError("the exploration of the loop has no start structure", fix=fix)
        self.starts = Frames(tuple(starts), tuple(f"start {i}" for i in range(len(starts))))
        check_geometry(starts if isinstance(starts, Frames) else self.starts)
        self.config, self.displacements = tuple(config), tuple(displacements)
        self.temperatures = tuple(temperatures)
        self.seed, self.n_frames, self.executor = seed, n_frames, executor

    def initial(self, n: int, seed: int) -> Frames:
        """Starts with random displacements."""
        settings = RattleConfig(
            displacements=self.displacements, temperatures=self.temperatures, n_structures=n
        )
        return _numbered(rattled(self.starts, settings, (seed,)), "initial structure")

    def of_round(self, number: int, uncertainty: Uncertainty, folder: Path) -> tuple[Frames, dict[str, Any]]:
        """What is found with the potential of the round.

        Raises:
            ExecutionError: nothing: all walkers left at once.
        """
        seed = _seed_of(self.seed, number)
        options: Any = {"n_frames": self.n_frames, "executor": self.executor, "folder": folder}
        found = explore(uncertainty, self.starts, self.config, seed=seed, **options)
        write_walkers(folder / WALKERS, found.walkers, round=number)
        if not found.frames:
            ends = dict.fromkeys(f"walker {w.walker} from start {w.start}: {w.ended}" for w in found.walkers)
            raise ExecutionError(
                f"exploration found no candidate in round {number}",
                got="; ".join([*ends][:5]) or "no walker",
                fix="lower loop.exploration temperatures, raise its window.limit, or add kind: rattle to it",
            )
        keep = ("walker", "kind", "start", "ensemble", "temperature", "steps", "ended", "n_frames")
        told = [{key: value for key, value in w.to_dict().items() if key in keep} for w in found.walkers]
        frames = _numbered([_bare(atoms) for atoms in found.frames], f"round {number} candidate")
        return frames, {"n_candidates": len(frames), "walkers": told}

    def inputs(self) -> dict[str, Any]:
        """Nothing: starts and temperatures may change from one round to the next."""
        return {}


def _different(frames: Sequence[Atoms], places: Sequence[int] | np.ndarray) -> list[int]:
    """Places without those of copies of earlier structures."""
    first: dict[str, int] = {}
    for atoms, place in zip(frames, places, strict=True):
        first.setdefault(image_key(atoms), int(place))
    return list(first.values())


def _numbered(frames: Sequence[Atoms], name: str) -> Frames:
    return Frames(tuple(frames), tuple(f"{name} {i}" for i in range(len(frames))))


def _seed_of(seed: int, number: int) -> int:
    """Seed of a round: no two rounds, and no two loops, walk the same way."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _bare(atoms: Atoms) -> Atoms:
    """Copy without what a potential said of it, which the next one says otherwise."""
    copy = atoms.copy()
    for place in (copy.info, copy.arrays):
        for name in [name for name in place if str(name).startswith(_PREDICTED)]:
            del place[name]
    return copy
