"""Selection of structures: features of a potential, then the batch selectors that see arrays only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import numpy as np
from ase import Atoms
from jaxtyping import Float
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.potentials.evaluate import check_frames
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.selection.select_rows import select_rows
from surefield.selection.selection import Selection
from surefield.sensitivity.gradients import gradient_features
from surefield.sensitivity.rows import energy_features
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["FeatureMap", "Score", "feature_rows", "score_frames", "select"]

FeatureMap = Literal["ll_grad", "full_grad_rp", "ll_posterior"]
Score = Literal["forces_variance", "energy_variance"]


def feature_rows(
    potential: Potential | HasPotential,
    frames: Sequence[Atoms],
    kind: FeatureMap = "full_grad_rp",
    *,
    seed: int = 0,
) -> Float[np.ndarray, "n_structures n_features"]:
    """Features of structures, one row each, float64, of the total energy (extensive).

    Args:
        potential: any potential; `ll_posterior` needs an `LLPR`.
        frames: structures.
        kind: `ll_grad`: dE/d(last-layer weights); `full_grad_rp`: dE/d(all parameters), sketched to 512
            numbers; `ll_posterior`: `ll_grad` times the root of the posterior covariance, so that squared
            distances are the posterior variances of energy differences.
        seed: of the sketch.

    Raises:
        ConfigError: unknown kind, or `ll_posterior` without an LLPR.
        PotentialError: unknown element, or no linear last layer.
    """
    if kind not in get_args(FeatureMap):
        raise ConfigError(f"unknown features {kind!r}, {nearest(kind, get_args(FeatureMap))}")
    plain = as_potential(potential)
    check_frames(plain, frames)
    structures = [plain.neighborhood(atoms) for atoms in frames]
    if kind == "full_grad_rp":
        return gradient_features(plain, structures, seed=seed)
    rows = energy_features(plain.last_layer(), structures)
    if kind == "ll_grad":
        return rows
    if not isinstance(potential, LLPR):
        fix = "LLPR.fit(potential, train, calibration), or features 'll_grad' or 'full_grad_rp'"
        raise ConfigError("features 'll_posterior' need an LLPR", got=type(potential).__name__, fix=fix)
    return potential.posterior.whiten(rows)


def score_frames(
    uncertainty: Uncertainty, frames: Sequence[Atoms], score: Score
) -> Float[np.ndarray, " n_structures"]:
    """Expected squared error of each structure from its sigmas, for `scores` of the selectors.

    Args:
        uncertainty: calibrated, of any kind.
        frames: structures.
        score: `forces_variance`: mean over the force components, (eV/Å)^2; `energy_variance`: of the
            energy per atom, eV^2.

    Raises:
        ConfigError: the uncertainty was fitted without forces.
        PotentialError: unknown element.
    """
    predictions = uncertainty.predict(frames, forces=score == "forces_variance")
    if score == "forces_variance":
        return np.array([np.mean(np.square(cast(np.ndarray, p.forces_uncertainty))) for p in predictions])
    sigma = [cast(float, p.energy_uncertainty) / len(a) for p, a in zip(predictions, frames, strict=True)]
    return np.square(sigma)


def select(
    potential: Potential | HasPotential,
    train_frames: Sequence[Atoms],
    pool_frames: Sequence[Atoms],
    method: str = "lcmd",
    n: int = 10,
    *,
    features: FeatureMap = "full_grad_rp",
    scores: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> Selection:
    """Choose which structures of a pool to label next.

    Args:
        potential: potential or uncertainty whose features tell structures apart.
        train_frames: labelled structures; picks keep away from them.
        pool_frames: candidates.
        method: `lcmd`, `max_dist`, `kmeanspp`, `max_diag` or `random`; see `surefield.selection.select_rows`.
        n: picks wanted.
        features: see `feature_rows`.
        scores: one named score per candidate; see `select_rows`.
        seed: of the sketch and of random methods.

    Returns:
        Indices into `pool_frames` in pick order, with gains and reasons.

    Raises:
        DataError: empty pool.
    """
    if len(pool_frames) == 0:
        raise DataError("the pool is empty: there is nothing to select from")

    train = feature_rows(potential, train_frames, features, seed=seed) if len(train_frames) else None
    pool = feature_rows(potential, pool_frames, features, seed=seed)
    return select_rows(method, pool, train, n, seed=seed, scores=scores)
