"""`--dry-run`: all that a verb reads is read and checked, nothing is written; and roughly what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax
import numpy as np

from surefield.acquisition.select import default_selection
from surefield.cli.answer import say
from surefield.cli.config import RunConfig
from surefield.cli.inputs import (
    make_potential,
    read_candidates,
    read_labelled,
    read_loop,
    read_test,
    read_training,
)
from surefield.cli.loop_job import read_campaign
from surefield.cli.needed import need, trained, uncertainty_file
from surefield.cli.properties import rehearse_properties
from surefield.cli.scores import rehearse_score
from surefield.errors import ConfigError, ExecutionError
from surefield.execution.config import make_executor
from surefield.execution.memory import check_memory
from surefield.execution.progress import duration
from surefield.execution.stopwatch import Stopwatch
from surefield.exploration.sampling import start_structure
from surefield.loop.candidates import PoolCandidates
from surefield.loop.config import MolecularDynamicsPoolConfig
from surefield.loop.method_comparison import check_size, compared_methods
from surefield.loop.oracles.config import ReplayOracleConfig, make_oracle
from surefield.loop.settings import with_selection
from surefield.potentials.evaluate import predict
from surefield.potentials.learned_part import learned_part
from surefield.potentials.potential import (
    LastLayerPotential,
    Potential,
    as_potential,
    trainable,
)
from surefield.potentials.saving import load_potential
from surefield.structures.read import read_frames
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.readout import solution_memory
from surefield.training.recipe import recipe
from surefield.training.train import is_linear
from surefield.uncertainty.build import load_uncertainty
from surefield.uncertainty.config import LLPRConfig
from surefield.uncertainty.llpr import fit_memory

__all__ = ["rehearse"]

#: Structures that are predicted for the estimate.
_SAMPLE: Final = 8
#: Cost of a step of training, and of the exact solution with an uncertainty, in predictions; measured on
#: moment networks, within a factor of three for other potentials.
_STEP, _EXACT = 3.0, 40.0


def rehearse(verb: str, config: RunConfig, beside: Path) -> None:
    """Say what a verb would do, after all checks; a loop has its engine label one structure.

    Args:
        verb: of the command line.
        config: of the run.
        beside: folder of the configuration.

    Raises:
        SurefieldError: what would stop the run at its start.
    """
    if verb == "loop":
        _loop(config, beside)
    else:
        _CHECKS[verb](config)
    say(f"would run '{verb}' in {Path(config.root) / f'{config.name}-{verb}'}; nothing was written")


def _doctor(config: RunConfig) -> None:
    say(f"training: {len(read_frames(need(config.data.train, 'train', 'doctor')))} structures")
    if config.data.test:
        say(f"test: {len(read_frames(config.data.test))} structures")


def _train(config: RunConfig) -> None:
    inputs = read_training(config)
    held = inputs.validation if isinstance(inputs.validation, float | int) else 0.0
    n = len(inputs.train) * (1 - held)
    _describe(inputs.potential)
    if config.architecture is not None:
        say("an uncertainty around this potential, which is not trained further")
        return
    _estimate(inputs.potential, inputs.train, n, config, 1)


def _eval(config: RunConfig) -> None:
    potential = load_potential(trained(config, "potential.npz", "eval"))
    _describe(potential)
    read_test(config, potential, "eval")


def _uq(config: RunConfig) -> None:
    uncertainty = load_uncertainty(trained(config, uncertainty_file(config), "uq"))
    _describe(uncertainty.potential)
    read_test(config, uncertainty.potential, "uq")


def _uq_compare(config: RunConfig) -> None:
    potential = load_potential(trained(config, "potential.npz", "uq-compare"))
    for name in ("train.xyz", "validation.xyz"):
        trained(config, name, "uq-compare")
    _describe(potential)
    read_test(config, potential, "uq-compare")
    say(f"estimators: {', '.join(estimator.kind for estimator in config.compare.estimators)}")


def _select(config: RunConfig) -> None:
    uncertainty = load_uncertainty(trained(config, uncertainty_file(config), "select"))
    trained(config, "train.xyz", "select")
    pool, settings, *_ = read_candidates(config, uncertainty.potential)
    settings.constraints.of(pool)
    asked: Any = (as_potential(uncertainty), settings.method, settings.features)
    say(f"picks by {' on '.join(default_selection(*asked, plainly=bool(settings.transforms)))}")
    if settings.n is not None and settings.n > len(pool):
        say(f"selection.n is {settings.n}, but the pool has {len(pool)} structures: all would be picked")


def _select_replay(config: RunConfig) -> None:
    frames, _ = read_labelled(config, need(config.data.train, "train", "select --replay"))
    settings = config.replay
    _describe(make_potential(config, frames))
    n_labels = settings.n_initial + settings.n_rounds * settings.n_per_round
    left = len(frames) * (1 - settings.test_fraction)
    if n_labels > left:
        raise ConfigError(f"the replay wants {n_labels} labels, but {left:.0f} structures are no test set")
    arms = settings.seeds * len({*settings.methods, "random"})
    say(f"replay: {arms * settings.n_rounds + settings.seeds} fits by {settings.learner}, {n_labels} labels")


def _comparison(config: RunConfig) -> None:
    loop = config.loop
    n_labels = loop.n_initial + loop.n_rounds * loop.n_per_round
    if isinstance(loop.pool, MolecularDynamicsPoolConfig):
        check_size(loop, loop.pool.n_pool)
        if isinstance(loop.oracle, ReplayOracleConfig):
            raise ConfigError("loop.oracle 'replay' needs labelled structures: use loop.pool.kind: file")
        make_oracle(loop.pool.engine)
        oracle, start = make_oracle(loop.oracle), start_structure(loop.pool.structure)
        data, potential = None, make_potential(config, [start])
        say(f"pool: {loop.pool.n_pool} structures of {start.get_chemical_formula()} by molecular dynamics")
    else:
        inputs = read_loop(config)
        check_size(loop, len(inputs.pool.candidates))
        oracle, potential, data = inputs.pool.oracle, inputs.potential, inputs.test
    _describe(potential)
    loop, features = with_selection(loop, potential, config.uncertainty)
    methods = compared_methods(loop)
    arms = len(methods) * len(loop.seeds)
    n_fits = arms * (loop.n_rounds + 1)
    if data is not None:
        mean = 0.5 * (loop.n_initial + n_labels) * (1 - loop.validation)
        _estimate(potential, data, mean, config, n_fits)
    say(f"loop: {n_fits} fits; {n_labels} labels by {oracle.name} for each of {arms} arms, which share them")
    say(f"picks by {', '.join(methods)} on {features}")


def _campaign(config: RunConfig, beside: Path) -> None:
    """What a loop with one arm would do; its engine and its executor label one structure."""
    loop = config.loop
    with make_executor(loop.executor, folder=beside) as executor:
        inputs = read_campaign(config, None, beside, executor)
        _describe(inputs.potential)
        begin = time.perf_counter()
        (tried,) = inputs.oracle.outcomes([inputs.first[0]], executor=executor)
        took = time.perf_counter() - begin
    oracle = inputs.oracle.name
    if tried.atoms is None:
        what = f"{oracle} cannot label the first structure ({inputs.first[0].get_chemical_formula()})"
        raise ExecutionError(what, got=tried.cause, fix="mend what this names before the loop begins")
    times = f"{duration(tried.seconds)}, {duration(took)} in all"
    say(f"tried: one label by {oracle} on executor {loop.executor.kind}: {times}")
    n_audit, known = loop.audits(inputs.test is not None), len(inputs.imported)
    initial = max(loop.n_initial - known, 0)
    n_labels = initial + loop.n_rounds * (loop.n_per_round + n_audit) + n_audit
    budget = loop.stop.budget_labels
    n_labels = n_labels if budget is None else min(n_labels, budget)
    workers = getattr(loop.executor, "n_workers", None) or 1
    say(
        f"loop: {n_labels} labels by {oracle} ({known} are there, {initial} to begin with, then "
        f"{loop.n_rounds} rounds of {loop.n_per_round} picks and {n_audit} audits): roughly "
        f"{duration(n_labels * tried.seconds / workers)}, "
        f"{n_labels * tried.core_seconds / 3600 / loop.stop.cores_per_node:.3g} node hours"
    )
    if loop.explores:
        told = ", ".join(_walks(entry) for entry in loop.explorations)
        say(f"exploration in every round: {told}")
    elif isinstance(inputs.candidates, PoolCandidates) and len(inputs.candidates.pool) < n_labels:
        say(f"pool: {len(inputs.candidates.pool)} structures: the loop ends when all are labelled")
    chosen, features = with_selection(loop, inputs.potential, config.uncertainty)
    say(f"picks by {chosen.methods[0]} on {features}")
    data = inputs.test or prepare([tried.atoms], inputs.potential)
    mean = max(0.5 * (2 * known + loop.n_initial + n_labels) * (1 - loop.validation), 1.0)
    say(f"fits: {loop.n_rounds + 3}, of about {mean:.0f} structures")
    _estimate(inputs.potential, data, mean, config, loop.n_rounds + 3)


def _walks(entry: Any) -> str:
    """A kind of exploration with its number of tasks."""
    if hasattr(entry, "n_walkers"):
        kelvin = (
            f" at {', '.join(f'{t:g}' for t in entry.temperatures)} K"
            if hasattr(entry, "temperatures")
            else ""
        )
        return f"{entry.n_walkers} walkers of {entry.kind}{kelvin}, {entry.steps} steps each"
    n = getattr(entry, "n_structures", None)
    return f"{'all' if n is None else n} structures by {entry.kind}"


def _loop(config: RunConfig, beside: Path) -> None:
    if config.loop.compares:
        _comparison(config)
    else:
        _campaign(config, beside)


_CHECKS: Final[dict[str, Callable[[RunConfig], None]]] = {
    "doctor": _doctor,
    "train": _train,
    "eval": _eval,
    "uq": _uq,
    "uq-compare": _uq_compare,
    "select": _select,
    "select-replay": _select_replay,
    "score": rehearse_score,
    "properties": rehearse_properties,
}


def _describe(potential: Potential) -> None:
    leaves = jax.tree.leaves(eqx.filter(potential, trainable(potential)))
    count = sum(int(np.size(leaf)) for leaf in leaves)
    inner = learned_part(potential)
    say(f"potential: {type(inner).__name__} with {count} parameters, cutoff {potential.cutoff:g} Å")


def _estimate(potential: Potential, data: LabelledSet, n: float, config: RunConfig, n_fits: int) -> None:
    """Rough time and memory of fits, from predictions of a few structures and the size of the last layer."""
    training, uncertainty = config.training, config.uncertainty
    sample = data[np.linspace(0, len(data) - 1, min(_SAMPLE, len(data))).astype(int)]
    watch = Stopwatch()
    for _ in range(2):  # the first one also compiles, and loads what it needs
        watch = Stopwatch()
        with watch:
            predict(potential, sample.frames, neighborhoods=sample.structures)
    each = watch.seconds / len(sample)
    inner = learned_part(potential)
    width = inner.n_features if isinstance(inner, LastLayerPotential) else 0
    size = float(max(structure.n_atoms for structure in sample.structures))
    epochs = 0 if is_linear(inner) or training.minutes else recipe(training, inner).n_epochs_of(round(n))
    # Eigenbases of the last layer.
    seconds = n_fits * 5e-10 * width**3 + n_fits * n * each * (epochs * _STEP + (_EXACT if width else 0))
    if training.minutes and not is_linear(inner):
        seconds = max(seconds, n_fits * 60 * training.minutes)
    # One after the other, with the rows of some structures and the neighbours of all.
    memory = max(solution_memory(width), fit_memory(width) if isinstance(uncertainty, LLPRConfig) else 0.0)
    memory += 8 * 16 * 3 * size * width + _bytes(data.structures) * n / len(data)
    check_memory(
        "this run",
        memory,
        f"{width} weights of the last layer, {len(data)} structures",
        "take fewer features per element, fewer elements or fewer structures",
    )
    say(
        f"roughly {duration(seconds)} without compiling, which the first run adds minutes for, and "
        f"{max(memory / 1e9, 0.1) + 0.5:.1f} GB of memory (within a factor of three)"
    )


def _bytes(structures: Sequence[object]) -> float:
    return float(
        sum(value.nbytes for s in structures for value in vars(s).values() if isinstance(value, np.ndarray))
    )
