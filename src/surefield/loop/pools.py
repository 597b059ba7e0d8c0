"""What a loop starts from: candidates, the oracle that labels them, and test structures by dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from surefield.errors import ConfigError
from surefield.execution.identity import check_inputs
from surefield.execution.progress import track
from surefield.exploration.sampling import pool_and_test, start_structure
from surefield.loop.config import MolecularDynamicsPoolConfig
from surefield.loop.oracles.calculator import CalculatorOracle
from surefield.loop.oracles.config import OracleConfig, ReplayOracleConfig, make_oracle
from surefield.loop.oracles.oracle import Oracle
from surefield.loop.oracles.replay import ReplayOracle
from surefield.structures.contents import frame_contents
from surefield.structures.labels import Mapped
from surefield.structures.read import Frames, Source, read_frames, write_frames
from surefield.training.dataset import prepare

__all__ = ["Pool", "dynamics_pool", "file_pool"]


@dataclass(frozen=True)
class Pool:
    """Candidates and what goes with them.

    Attributes:
        candidates: structures without labels.
        oracle: labels candidates.
        isolated_atoms: energies of free atoms, eV.
    """

    candidates: Sequence[Atoms]
    oracle: Oracle
    isolated_atoms: Mapping[str | int, float] = field(default_factory=dict)


def file_pool(
    labelled: Source,
    cutoff: float,
    config: OracleConfig,
    labels: Mapped | None = None,
    *,
    beside: Path | None = None,
) -> Pool:
    """Candidates from labelled structures, whose labels a replay oracle reveals.

    Args:
        labelled: candidates; free atoms among them set the element offsets.
        cutoff: of the potential, Å.
        config: of the oracle.
        labels: explicit keys of the labels.
        beside: folder of the configuration, where calculators of users lie.

    Raises:
        DataError: a structure that cannot be computed, see `check_geometry`.
    """
    replayed = isinstance(config, ReplayOracleConfig)
    prepared = prepare(labelled, cutoff, labels=labels, require=("energy",) if replayed else ())
    candidates = prepared.frames
    isolated: dict[str | int, float] = dict(prepared.isolated_atoms.items())
    if not replayed:
        return Pool(candidates, make_oracle(config, folder=beside), isolated)
    oracle = ReplayOracle(candidates, mapping=labels)
    return Pool(oracle.pool, oracle, isolated)


def dynamics_pool(
    settings: MolecularDynamicsPoolConfig, config: OracleConfig, folder: Path, *, tested: bool = True
) -> tuple[Pool, list[Atoms]]:
    """Candidates and labelled test structures from molecular dynamics, made and labelled once per run folder.

    Structures for the test are labelled where the loop is `tested`.

    Raises:
        ConfigError: an engine or an oracle that only replays labels; or structures that are there already are
            those of other settings.
    """
    if isinstance(config, ReplayOracleConfig):
        raise ConfigError("loop.oracle 'replay' needs labelled structures: use loop.pool.kind: file")
    engine = make_oracle(settings.engine)
    if not isinstance(engine, CalculatorOracle):
        raise ConfigError("loop.pool.engine must be a calculator, not 'replay'")
    options = settings.model_dump(exclude={"kind", "structure", "engine"})
    start = start_structure(settings.structure)
    table = {"dynamics": settings.model_dump(mode="json", exclude={"engine"})}
    table |= {"engine": settings.engine.model_dump(mode="json"), "oracle": config.model_dump(mode="json")}
    table["structure"] = frame_contents([start])
    check_inputs(folder / "pool.json", table, "start anew with --overwrite, or in another folder")
    candidates, test = pool_and_test(folder / "structures.xyz", start, engine.make_calculator, **options)
    oracle = make_oracle(config)
    return Pool(candidates, oracle), _labelled_once(folder / "test.xyz", oracle, test) if tested else []


def _labelled_once(path: Path, oracle: Oracle, test: Frames) -> list[Atoms]:
    if not path.exists():
        with track(len(test), "label test set", None) as bar:
            labelled = oracle.label(list(test), progress=bar)
        write_frames(path, [atoms for atoms in labelled if atoms is not None])
    return list(read_frames(path))
