"""What `surefield loop` reads and does: one loop whose labels are all used, or a comparison of methods."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from surefield.cli.answer import say
from surefield.cli.config import RunConfig
from surefield.cli.inputs import make_potential, read_labelled, read_loop, read_test
from surefield.errors import ConfigError
from surefield.execution.config import make_executor
from surefield.execution.run_folder import RunFolder
from surefield.exploration.sampling import start_structure
from surefield.files import read_arrays, read_jsonl
from surefield.loop.campaign import Loop
from surefield.loop.candidates import CandidateSource, ExploredCandidates, PoolCandidates
from surefield.loop.config import LoopConfig, MolecularDynamicsPoolConfig
from surefield.loop.engine_trial import engine_trial
from surefield.loop.method_comparison import MethodComparison
from surefield.loop.oracles.calculator import CalculatorOracle
from surefield.loop.oracles.config import ReplayOracleConfig, make_oracle
from surefield.loop.oracles.oracle import Oracle, labelled_copy
from surefield.loop.pools import dynamics_pool, file_pool
from surefield.loop.registration import register
from surefield.potentials.potential import Potential
from surefield.report.live import write_loop_page
from surefield.structures.labels import resolve_labels
from surefield.structures.read import Frames, read_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.uncertainty.evaluation import Comparison

__all__ = ["CampaignInputs", "as_first_begun", "going_on", "read_campaign", "relative_settings", "run_loop"]

#: Settings that an override may raise by so many more: `loop.n_rounds=+4`.
_RAISED: Final = re.compile(r"(loop\.n_rounds)=\+(\d+)")
#: The page is written at most this often, and takes at most this share of the time.
_PAGE_SECONDS, _PAGE_SHARE = 5.0, 0.1
#: Part of the distances of the starts at which repulsion ends.
_COMPRESSED: Final = 0.75
#: Sections that a run may be gone on with although they are others now.
_SECTIONS: Final = ("training", "uncertainty", "selection", "replay", "stability", "compare")


@dataclass(frozen=True, eq=False)
class CampaignInputs:
    """What a loop with one arm starts from.

    Attributes:
        candidates: where they come from.
        oracle: who labels.
        potential: untrained, or the one to start from.
        test: for the errors, if there is one.
        imported: labels that are there already.
        isolated_atoms: energies of free atoms, eV.
        first: structures of the beginning, for a rehearsal.
    """

    candidates: CandidateSource
    oracle: Oracle
    potential: Potential
    test: LabelledSet | None = None
    imported: Sequence[Atoms] = ()
    isolated_atoms: Mapping[str | int, float] = field(default_factory=dict)
    first: Sequence[Atoms] = ()


def run_loop(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    """Do what is left of a loop; its summary.

    Args:
        config: of the run.
        folder: of the run.
        beside: folder of the configuration, where calculators of users lie.
    """
    if config.loop.compares:
        return _compare(config, folder)
    with make_executor(config.loop.executor, folder=folder.folder) as executor:
        inputs = read_campaign(config, folder.folder, beside, executor)
        loop = Loop(
            folder.folder,
            config.loop,
            inputs.potential,
            config.training,
            inputs.oracle,
            inputs.candidates,
            inputs.test,
            inputs.isolated_atoms,
            config.uncertainty,
            imported=inputs.imported,
            executor=executor,
            watch=_page(folder.folder),
        )
        summary = loop.run()
    predictions = folder.path("predictions.npz")
    if inputs.test is not None and predictions.exists():
        last = Comparison(read_arrays(predictions))
        summary["test"] = {**summary["test"], "n_structures": len(last.arrays["n_atoms"])}
        summary |= {"intervals": {"test": last.intervals()}, "baselines": last.baselines()}
    if config.loop.trial is not None:
        summary["verdict"] = f"{summary['verdict']} {_trial(config, inputs, loop, summary['potential'])}"
    if config.loop.registry is not None:
        place = Path(config.root) / config.loop.registry
        summary["registered"] = register(folder.folder, place, config.name)
        say(f"registered: {summary['registered']} in {place}")
    return summary


def _trial(config: RunConfig, inputs: CampaignInputs, loop: Loop, potential: str) -> str:
    """The final potential beside the engine; the verdict."""
    settings = config.loop.trial
    assert settings is not None
    if not isinstance(inputs.oracle, CalculatorOracle):
        raise ConfigError("loop.trial needs an oracle that drives dynamics", got=inputs.oracle.name)
    start = inputs.first[0] if settings.structure is None else _starts(settings.structure)[0]
    options: Any = {"potential": potential, "seed": config.loop.seeds[0]}
    outcome = engine_trial(loop.folder, settings, loop.plan, inputs.oracle, start, **options)
    return str(outcome["verdict"])


def _compare(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Methods and seeds beside one another, on one pool and one test set."""
    loop = config.loop
    if isinstance(loop.pool, MolecularDynamicsPoolConfig):
        pool, test = dynamics_pool(loop.pool, loop.oracle, folder.folder)
        potential = make_potential(config, pool.candidates, test)
    else:
        inputs = read_loop(config)
        pool, potential, test = inputs.pool, inputs.potential, inputs.test
    comparison = MethodComparison(
        folder.folder,
        loop,
        potential,
        config.training,
        pool.oracle,
        pool.candidates,
        test,
        pool.isolated_atoms,
        config.uncertainty,
    )
    summary = comparison.run()
    last = Comparison(read_arrays(folder.path("predictions.npz")))
    summary["test"] = {**summary["test"], "n_structures": len(last.arrays["n_atoms"])}
    return {**summary, "intervals": {"test": last.intervals()}, "baselines": last.baselines()}


def read_campaign(
    config: RunConfig, folder: Path | None, beside: Path, executor: Executor | None = None
) -> CampaignInputs:
    """Read and check all that a loop with one arm needs.

    Args:
        config: of the run.
        folder: of the run; None: nothing is written, and a pool of dynamics is not made.
        beside: folder of the configuration.
        executor: where walkers run.

    Raises:
        ConfigError: no candidates and no starts, or an oracle that cannot be made.
    """
    loop = config.loop
    imported, isolated = _imported(config)
    held = read_labelled(config, config.data.test) if config.data.test else None
    replayed = isinstance(loop.oracle, ReplayOracleConfig)
    if loop.explores:
        if replayed:
            raise ConfigError("loop.oracle 'replay' labels no explored structures", fix="name a live oracle")
        starts = sum((_starts(name) for name in loop.starts), Frames((), ()))
        candidates: CandidateSource = ExploredCandidates(
            starts,
            loop.explorations,
            displacements=loop.initial_displacements,
            temperatures=loop.initial_temperatures,
            seed=loop.seeds[0],
            n_frames=loop.n_candidates,
            executor=executor,
        )
        oracle, first = make_oracle(loop.oracle, folder=beside), starts
    elif isinstance(loop.pool, MolecularDynamicsPoolConfig):
        if folder is None:
            candidates, first = PoolCandidates([start := start_structure(loop.pool.structure)]), [start]
            oracle = make_oracle(loop.oracle, folder=beside)
        else:
            pool, _ = dynamics_pool(loop.pool, loop.oracle, folder, tested=False)
            candidates, oracle, first = PoolCandidates(pool.candidates), pool.oracle, pool.candidates
    else:
        source = config.data.train if replayed else (config.data.pool or config.data.train)
        if not source:
            fix = "loop.starts: [CH3CH2OH] to explore from a molecule or a file, or data.pool: candidates.xyz"
            raise ConfigError("the loop has no start structure and no pool of candidates", fix=fix)
        frames, labels = (
            read_labelled(config, source) if replayed else (read_frames(source), config.data.labels)
        )
        pool = file_pool(frames, config.potential.cutoff, loop.oracle, labels, beside=beside)
        candidates, oracle, first = PoolCandidates(pool.candidates), pool.oracle, pool.candidates
        isolated = {**pool.isolated_atoms, **isolated}
    known = [first, imported] if held is None else [first, imported, held[0]]
    # Dynamics come nearer than the structures that they start from.
    potential = make_potential(config, *known, share=_COMPRESSED if loop.explores else 1.0)
    test = None if held is None else read_test(config, potential, "loop", held)
    return CampaignInputs(candidates, oracle, potential, test, imported, isolated, first)


def _starts(name: str) -> Frames:
    """All structures of a file, or a molecule of ASE."""
    if Path(name.partition("@")[0]).is_file():
        return read_frames(name)
    return Frames((start_structure(name),), (f"start {name}",))


def _imported(config: RunConfig) -> tuple[list[Atoms], dict[str | int, float]]:
    """Labels of the files of `loop.labelled`, and energies of free atoms among them."""
    if not config.loop.labelled:
        return [], {}
    frames, mapping = read_labelled(config, config.loop.labelled)
    prepared = prepare(frames, config.potential.cutoff, labels=mapping)
    labels, note = resolve_labels(prepared.frames, mapping, require=("energy", "forces"))
    say(f"labels that are there already: {note}")
    copies = [
        labelled_copy(atoms, label.results()) for atoms, label in zip(prepared.frames, labels, strict=True)
    ]
    return copies, dict(prepared.isolated_atoms.items())


def _page(folder: Path) -> Callable[[], None]:
    """Writes the page of a run after what it shows, but not so often that it takes the time of the run."""
    written, took = float("-inf"), 0.0

    def write() -> None:
        nonlocal written, took
        begin = time.monotonic()
        if begin - written < max(_PAGE_SECONDS, took / _PAGE_SHARE):
            return
        write_loop_page(folder)
        written = time.monotonic()
        took = written - begin

    return write


#: Settings of the first labels, which a loop that goes on has.
_FIRST_LABELS: Final = ("n_initial", "initial_displacements", "initial_temperatures")


def going_on(known: RunConfig, now: RunConfig) -> RunConfig:
    """The configuration that a loop was begun with, with all that it may be gone on with as it is now."""
    if known.loop.compares or now.loop.compares:
        return known
    fixed = {name: getattr(known.loop, name) for name in ("pool", "seeds", *_FIRST_LABELS)}
    sections: dict[str, Any] = {name: getattr(now, name) for name in _SECTIONS}
    return known.model_copy(update={**sections, "loop": now.loop.model_copy(update=fixed)})


def relative_settings(overrides: Sequence[str], config: RunConfig) -> list[str]:
    """Overrides in which so many more rounds are a number: after those that the loop last ended with.

    Args:
        overrides: such as `loop.n_rounds=+4`.
        config: with the rounds that are meant where the loop has not ended yet.

    Raises:
        ConfigError: a comparison of methods, which has the rounds that it was begun with.
    """
    if not any(_RAISED.fullmatch(entry) for entry in overrides):
        return list(overrides)
    if config.loop.compares:
        raise ConfigError("a comparison of methods cannot be given more rounds", fix="start another one")
    path = Path(config.root) / f"{config.name}-loop" / "journal.jsonl"
    ends = [event["round"] for event in read_jsonl(path) if event.get("event") == "end"]
    before = ends[-1] if ends else config.loop.n_rounds

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}={before + int(found[2])}"

    return [_RAISED.sub(number, entry) if _RAISED.fullmatch(entry) else entry for entry in overrides]


def as_first_begun(config: RunConfig, begun: LoopConfig) -> RunConfig:
    """A configuration as version 0.1 read it, for a loop that it has begun: methods beside random."""
    named = config.loop.model_fields_set
    changes = {name: getattr(begun, name) for name in ("methods", "seeds", "pool") if name not in named}
    changes["methods"] = tuple(dict.fromkeys([*changes.get("methods", config.loop.methods), "random"]))
    return config.model_copy(update={"loop": config.loop.model_copy(update=changes)})
