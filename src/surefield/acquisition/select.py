"""Selection of structures: features of a potential, then the batch selectors that see arrays only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.acquisition.broken import Sound
from surefield.acquisition.candidate_score_config import PerStructure, Score
from surefield.acquisition.config import FeatureMap
from surefield.acquisition.score_values import Window, outside_window, structure_scores
from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.files import json_text
from surefield.potentials.abilities import ClosedForm
from surefield.potentials.evaluate import check_frames, neighborhoods_of
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.selection.chunked_features import ChunkedFeatures
from surefield.selection.constraints import Constraints
from surefield.selection.duplicates import HELD_OUT, find_duplicates
from surefield.selection.feature_function import potential_identity, structure_content
from surefield.selection.feature_store import FeatureStore
from surefield.selection.features import Features
from surefield.selection.kernel_selection import stored_features, with_costs
from surefield.selection.methods import check_method
from surefield.selection.select_rows import select_features
from surefield.selection.selection import Dropped, Selection
from surefield.selection.transforms import RowTransform, transform_features
from surefield.sensitivity.force_information import force_information
from surefield.sensitivity.gradients import gradient_features
from surefield.sensitivity.rows import energy_features
from surefield.structures.read import Frames, Source, read_frames
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = [
    "FeatureMap",
    "Score",
    "default_selection",
    "feature_rows",
    "features_of",
    "score_frames",
    "select",
]


def feature_rows(
    potential: Potential | HasPotential,
    frames: Source,
    kind: FeatureMap = "full_grad_rp",
    *,
    seed: int = 0,
) -> Float[np.ndarray, "n_structures n_features"]:
    """Features of structures, one row each, float64, of the total energy (extensive).

    Args:
        potential: any potential; `ll_posterior` needs an `LLPR`.
        frames: structures, or files of them.
        kind: `ll_grad`: dE/d(last-layer weights); `full_grad_rp`: dE/d(all parameters), sketched to 512
            numbers; `ll_posterior`: `ll_grad` times the root of the posterior covariance, so that squared
            distances are the posterior variances of energy differences; `ll_force`: what the forces say about
            the last-layer weights, see `force_information`, in directions that follow from these frames.
        seed: of the sketch.

    Raises:
        ConfigError: unknown kind, no potential, or `ll_posterior` without an LLPR.
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: unknown element, or no linear last layer.
    """
    if kind not in get_args(FeatureMap):
        raise ConfigError(f"unknown features {kind!r}, {nearest(kind, get_args(FeatureMap))}")
    if kind == "ll_posterior" and not isinstance(potential, LLPR):
        fix = "LLPR.fit(potential, train, calibration), or features 'll_grad' or 'full_grad_rp'"
        raise ConfigError("features 'll_posterior' need an LLPR", got=type(potential).__name__, fix=fix)
    plain = as_potential(potential)
    structures = neighborhoods_of(plain, read_frames(frames))
    if kind == "full_grad_rp":
        return gradient_features(plain, structures, seed=seed)
    if kind == "ll_force":
        return force_information(plain.last_layer(), structures)
    rows = energy_features(plain.last_layer(), structures)
    if kind == "ll_grad":
        return rows
    assert isinstance(potential, LLPR)
    return potential.posterior.whiten(rows)


def score_frames(
    uncertainty: Uncertainty, frames: Source, score: Score
) -> Float[np.ndarray, " n_structures"]:
    """Expected squared error of each structure from its sigmas, for `scores` of the selectors.

    Args:
        uncertainty: calibrated, of any kind.
        frames: structures, or files of them.
        score: `forces_variance`: mean over the force components, (eV/Å)^2; `energy_variance`: of the
            energy per atom, eV^2.

    Raises:
        ConfigError: no uncertainty, or one that was fitted without forces.
        DataError: a structure that cannot be computed, see `check_geometry`.
        PotentialError: unknown element.
    """
    if not isinstance(uncertainty, Uncertainty):
        fix = "wrap one around it: surefield.LLPR.fit(potential, train, calibration)"
        kind = type(as_potential(uncertainty)).__name__
        raise ConfigError("scores need an uncertainty", got=kind, fix=fix)
    frames = read_frames(frames)
    predictions = uncertainty.predict(frames, forces=score == "forces_variance")
    if score == "forces_variance":
        return np.array([np.mean(np.square(cast(np.ndarray, p.forces_uncertainty))) for p in predictions])
    sigma = [cast(float, p.energy_uncertainty) / len(a) for p, a in zip(predictions, frames, strict=True)]
    return np.square(sigma)


def features_of(
    potential: Potential | HasPotential,
    train: Frames,
    pool: Frames,
    kind: FeatureMap = "full_grad_rp",
    *,
    seed: int = 0,
    pool_rows: np.ndarray | None = None,
) -> Features:
    """`feature_rows` of labelled structures and candidates, as the selectors take them.

    `pool_rows` are those of the candidates where they are known; those of `ll_force` follow from both sets.
    """
    sizes = [np.array([len(atoms) for atoms in frames]) for frames in (train, pool)]
    if kind == "ll_force":
        if pool_rows is not None:
            raise ConfigError("rows of 'll_force' follow from all structures", fix="leave pool_rows out")
        both = Frames((*train.atoms, *pool.atoms), (*train.origins, *pool.origins))
        rows = feature_rows(potential, both, kind, seed=seed)
        return Features(rows[: len(train)], rows[len(train) :], *sizes, spec=kind, information=True)
    known = feature_rows(potential, train, kind, seed=seed) if len(train) else None
    rows = feature_rows(potential, pool, kind, seed=seed) if pool_rows is None else pool_rows
    return Features(known, rows, *sizes, spec=kind)


def default_selection(
    potential: Potential,
    method: str | None = None,
    features: FeatureMap | None = None,
    *,
    plainly: bool = False,
) -> tuple[str, FeatureMap]:
    """Method and features where one or both are left open: of `select`, its verb, and loops.

    `bait_f` on `ll_force` lowers the errors of forces most (`benchmarks/replay_sets.py`), where the potential
    has rows of its forces at little cost. Others, and features that are kept, transformed or compared between
    rounds (`plainly`), take `lcmd` on `full_grad_rp`.
    """
    if features is None:
        cheap = method is None and not plainly and _cheap_rows(potential)
        features = "ll_force" if cheap else "full_grad_rp"
    return method or ("bait_f" if features == "ll_force" else "lcmd"), features


def _cheap_rows(potential: Potential) -> bool:
    try:
        layer = potential.last_layer()
    except PotentialError:
        return False
    return layer.local_features or (isinstance(layer, ClosedForm) and layer.cheap_rows)


def select(
    potential: Potential | HasPotential,
    train_frames: Source,
    pool_frames: Source,
    method: str | None = None,
    n: int | None = 10,
    *,
    features: FeatureMap | None = None,
    transforms: Sequence[RowTransform] = (),
    scores: Mapping[str, ArrayLike | Sequence[ArrayLike]] | str | None = None,
    per_structure: PerStructure = "max",
    window: Window | None = None,
    constraints: Constraints | None = None,
    mode: str | None = None,
    sigma: float = 0.1,
    seed: int = 0,
    store: FeatureStore | str | Path | None = None,
    executor: Executor | str | None = None,
    pool_rows: Float[np.ndarray, "n_pool n_features"] | None = None,
    drop_broken: bool = False,
    held_out: Source = (),
) -> Selection:
    """Choose which structures of a pool to label next.

    Args:
        potential: one whose features tell structures apart, or an uncertainty.
        train_frames: labelled structures, or files of them; picks keep away from them.
        pool_frames: candidates, or files of them.
        method: `lcmd`, `max_dist`, `kmeanspp`, `max_det`, `bait_f`, `bait_fb`, `frank_wolfe`, `max_diag` or
            `random`; see `surefield.selection.select_rows`. None: `bait_f` on what forces and energies say of
            the last layer where that is cheap, see `default_selection`; else `lcmd`.
        n: picks wanted; None: as many as the budget of the constraints allows.
        features: see `feature_rows`. None: those that go with the method.
        transforms: of the features, in order: `PerAtom()`, `Posterior(sigma)` and others of
            `surefield.selection`.
        scores: one named score of the candidates, by which they are ranked (`max_diag`) or weighed: values,
            what `compute_batch` of any score gave, or the name under which one is stored in the candidates;
            see `structure_scores`, and `select_rows` for what it does.
        per_structure: how scores of atoms become that of their structure: 'max', 'mean' or 'sum'.
        window: least and largest score of a pick, see `outside_window`. Scores then say who may be picked and
            weigh no longer; `max_diag` still ranks by them.
        constraints: excluded structures, quotas of groups, costs and a budget, least distances, copies; see
            `surefield.selection.Constraints`. By default copies of training structures and of others of the
            pool are dropped.
        mode: `tp`: picks keep away from train; `p`: only the pool matters; see `select_rows`.
        sigma: noise of a label that `max_det` and `bait` assume, relative to the root mean square length of
            the transformed features of the training set (of the pool without any).
        seed: of the sketch and of random methods.
        store: folder that keeps the features of the pool, shard by shard: only those that are not there are
            computed, interrupted work goes on, and without `transforms` the pool is read chunk by chunk and
            never held as a whole.
        executor: where the features of a store are computed, see `get_executor`: `processes`, or any executor
            to which potential and structures can be sent.
        pool_rows: what `feature_rows` gives for the pool, where that is there already.
        drop_broken: leave out structures that cannot be computed, or with atoms nearer than half the sum of
            their covalent radii (`sanity_filter`); else those that cannot be computed are an error.

        held_out: structures that are labelled and not trained on, such as a validation set: their copies are
            never picked, unless `deduplicate` of the constraints is None.

    Returns:
        Indices into `pool_frames` in pick order, with gains and reasons.

    Raises:
        ConfigError: no potential, an unknown method, or an option out of range.
        DataError: empty pool, a structure that cannot be computed, see `check_geometry`, or constraints that
            do not fit the pool.
        PotentialError: unknown element.
    """
    _check_options(method, store, executor)
    plain = as_potential(potential)
    known, candidates = _both(train_frames, pool_frames)
    constraints, sound = constraints or Constraints(), None
    if drop_broken:
        sound = Sound.of(candidates)
        candidates, constraints = sound.frames, sound.constraints(constraints)
        scores, pool_rows = sound.scores(scores), sound.values(pool_rows)
    # Before the features of either are computed.
    values = structure_scores(scores, candidates, per_structure)
    check_frames(plain, candidates)
    check_frames(plain, known)
    _check_rows(pool_rows, len(candidates), store)
    plainly = store is not None or pool_rows is not None or bool(transforms)
    method, features = default_selection(plain, method, features, plainly=plainly)
    constraints = with_costs(constraints, candidates)
    dropped = _copies(candidates, known, read_frames(held_out), constraints)
    dropped += [] if window is None else outside_window(values, window, len(candidates))
    values = values if window is None or method == "max_diag" else None
    if store is None:
        of_both = features_of(potential, known, candidates, features, seed=seed, pool_rows=pool_rows)
        rows: Any = transform_features(of_both, transforms)
    else:
        rows = _from_store(potential, known, candidates, features, seed, store, executor, transforms)
    options: Any = {"mode": mode, "seed": seed, "scores": values, "constraints": constraints}
    noise = sigma * rows.root_mean_square()
    picks = select_features(method, rows, n, sigma=noise, dropped=dropped, **options)
    picks = replace(picks, config={**picks.config, "relative_sigma": float(sigma)})
    return picks if sound is None else sound.in_pool(picks)


def _check_options(method: str | None, store: object, executor: object) -> None:
    if method is not None:
        check_method(method)
    if executor is not None and store is None:
        raise ConfigError("executor is where the features of a store are computed", fix="store='features'")


def _copies(pool: Frames, train: Frames, held_out: Frames, constraints: Constraints) -> list[Dropped]:
    """Structures of the pool that are there before, as far as constraints leave them out."""
    if constraints.deduplicate == "exact":
        return find_duplicates(pool, train, held_out)
    if constraints.deduplicate is None or not len(held_out):
        return []
    return [entry for entry in find_duplicates(pool, (), held_out) if entry.kept_in == HELD_OUT]


def _both(train: Source, pool: Source) -> tuple[Frames, Frames]:
    known, candidates = read_frames(train).of_set("train"), read_frames(pool).of_set("the pool")
    if len(candidates) == 0:
        raise DataError("the pool is empty: there is nothing to select from")
    return known, candidates


def _check_rows(pool_rows: np.ndarray | None, n_pool: int, store: object) -> None:
    if pool_rows is not None and (len(pool_rows) != n_pool or store is not None):
        what = "pool_rows are one row of each structure, without a store of rows"
        raise ConfigError(what, got=f"{len(pool_rows)} rows of {n_pool} structures")


def _from_store(
    potential: Potential | HasPotential,
    known: Frames,
    pool: Frames,
    kind: FeatureMap,
    seed: int,
    store: FeatureStore | str | Path,
    executor: Executor | str | None,
    transforms: Sequence[RowTransform],
) -> Features | ChunkedFeatures:
    if kind == "ll_force":
        fix = "features='ll_grad' or 'full_grad_rp', or no store"
        raise ConfigError("rows of 'll_force' follow from all structures and are not stored", fix=fix)
    train = feature_rows(potential, known, kind, seed=seed) if len(known) else None
    rows = _stored_rows(_PoolRows(potential, pool, kind, seed), store, executor)
    sizes = [np.array([len(atoms) for atoms in frames]) for frames in (known, pool)]
    found = stored_features(train, rows, sizes, kind, in_memory=bool(transforms))
    return transform_features(found, transforms) if isinstance(found, Features) else found


@dataclass(frozen=True)
class _PoolRows:
    """`feature_rows` of some structures of a pool, as a job that can be sent elsewhere."""

    potential: Potential | HasPotential
    frames: Frames
    kind: FeatureMap
    seed: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return feature_rows(self.potential, self.frames[start:stop], self.kind, seed=self.seed)

    def identity(self) -> str:
        """What tells the rows from those of another potential, map or seed."""
        made: list[Any] = [self.kind, self.seed, potential_identity(as_potential(self.potential))]
        if self.kind == "ll_posterior" and isinstance(self.potential, LLPR):
            made.append(hashlib.sha256(self.potential.posterior.covariance.tobytes()).hexdigest())
        return json_text(made)


def _stored_rows(
    rows: _PoolRows, store: FeatureStore | str | Path, executor: Executor | str | None
) -> FeatureStore:
    """The rows in a store, of which only what is not there yet is computed."""
    kept = store if isinstance(store, FeatureStore) else FeatureStore(store)
    kept.fill([structure_content(atoms) for atoms in rows.frames], rows.identity(), rows, executor=executor)
    return kept
