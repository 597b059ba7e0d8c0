"""Exact solution of the last layer: ridge regression on all labels that the loss weighs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from surefield.execution.memory import check_memory
from surefield.potentials.potential import LastLayerPotential
from surefield.quantities import quantity
from surefield.sensitivity.covariance import RowCovariance, peak_memory
from surefield.sensitivity.rows import structure_rows
from surefield.training.checkpoint import PartialSums, part_of
from surefield.training.dataset import Sample
from surefield.training.loss import LossWeights

__all__ = ["Solution", "solution_memory", "solve_readout"]

#: Ridge strengths that are tried, relative to the mean diagonal of the Gram matrix.
RIDGES = tuple(float(x) for x in np.logspace(-9, -2, 15))
#: What a core does in an hour, for estimates.
_OPERATIONS_PER_HOUR = 3.6e13
#: Parts of the training set that are left out in turn, and the number of features beyond which none is.
FOLDS, LARGEST_FOLDED = 5, 3000
#: The weakest ridge whose loss is this close to the least is taken: the network that follows corrects noise
#: better than a lack of fit.
TOLERATED = 0.2


@dataclass(frozen=True)
class Solution:
    """Outcome of `solve_readout`: ridge strength taken and the loss on both sets."""

    ridge: float
    train_loss: float
    validation_loss: float


def solve_readout(
    potential: LastLayerPotential,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    weights: LossWeights,
    *,
    all_columns: bool = False,
    ridges: Sequence[float] = RIDGES,
    tolerated: float = TOLERATED,
    max_force_rows: int = 60_000,
    progress: Callable[[], None] = lambda: None,
    sums: Callable[[str], PartialSums] = lambda part: PartialSums(None, {}),
) -> tuple[LastLayerPotential, Solution]:
    """Minimise the loss over the last layer exactly, with a ridge that does well on structures left out.

    Left out are the validation structures and, in turn, fifths of the training structures: a few validation
    structures alone would choose by chance. Of the ridges with nearly the least loss the weakest is taken.
    Losses need no predictions: with the Gram matrix C_v of the rows left out they are
    w C_v w - 2 b_v w + c_v. Only the first `potential.n_solvable` weights of a block are solved for, the
    others become zero; unless all columns are asked for.

    Args:
        potential: with what it takes from the data, see `Potential.prepared`.
        train: labelled samples.
        validation: labelled samples.
        weights: of the loss.
        all_columns: solve for all weights, which needs a body that is trained.
        ridges: strengths that are tried, relative to the mean diagonal of the Gram matrix, ascending.
        tolerated: relative excess of a loss that is still near the least.
        max_force_rows: force rows that are used at most; structures whose forces and stresses are used are
            thinned evenly beyond.
        progress: called after every structure.
        sums: what keeps the sums of the "training" and the "validation" structures while the pass goes on.
    """
    n_blocks, width = potential.readout.shape
    linear = potential if all_columns else potential.solvable()
    n_folds = FOLDS if linear.n_features <= LARGEST_FOLDED and len(train) >= FOLDS else 1
    _check_size(linear.n_features, n_folds, [*train, *validation], max_force_rows)
    accumulate = partial(_accumulate, linear, weights=weights, max_force_rows=max_force_rows)
    folds = accumulate(train, progress=progress, sums=sums("training"), n_folds=n_folds)
    gram = np.sum(folds, axis=0) if n_folds > 1 else folds[0]
    check = accumulate(validation, progress=progress, sums=sums("validation"))[0] if validation else None
    d = gram.shape[0] - 1
    scale = np.trace(gram[:d, :d]) / d
    whole = _ridge_path(gram, n_blocks, scale, ridges)
    losses = np.zeros(len(ridges))
    if check is not None:
        losses += len(validation) * np.array([_quadratic(check, w) for w in whole])
    if n_folds > 1:
        for fold in folds:
            without = _ridge_path(gram - fold, n_blocks, scale, ridges)
            losses += len(train) * np.array([_quadratic(fold, w) for w in without])
    elif check is None:
        losses += np.array([_quadratic(gram, w) for w in whole])
    best = int(np.argmax(losses <= (1 + tolerated) * np.nanmin(losses)))
    ridge, w = ridges[best], whole[best]
    value = _quadratic(gram if check is None else check, w)
    readout = np.zeros((n_blocks, width))
    readout[:, : linear.readout.shape[1]] = w[:-n_blocks].reshape(n_blocks, -1)
    dtype = potential.dtype
    solved = eqx.tree_at(
        lambda p: (p.readout, p.bias),
        potential,
        (jnp.asarray(readout, dtype), jnp.asarray(w[-n_blocks:], dtype)),
    )
    return solved, Solution(ridge, _quadratic(gram, w), value)


def _ridge_path(
    gram: np.ndarray, n_constants: int, scale: float, ridges: Sequence[float] = RIDGES
) -> list[np.ndarray]:
    """Solution for each ridge, from one eigenbasis; NaN where rounding makes the matrix indefinite."""
    d = gram.shape[0] - 1
    # Constants are all but free of the penalty; scaled-up columns let one eigenbasis serve all ridges.
    column = np.append(np.ones(d - n_constants), np.full(n_constants, 1e3))
    matrix, right = column[:, None] * gram[:d, :d] * column, column * gram[:d, d]
    if d > LARGEST_FOLDED:  # fifteen factorisations take a fraction of one eigenbasis
        return [column * _cholesky_solution(matrix, r * scale, right) for r in ridges]
    values, vectors = scipy.linalg.eigh(matrix)
    projected = vectors.T @ right
    return [column * (vectors @ (projected / (np.maximum(values, 0.0) + r * scale))) for r in ridges]


def _cholesky_solution(matrix: np.ndarray, ridge: float, right: np.ndarray) -> np.ndarray:
    shifted = matrix.copy()
    shifted.ravel()[:: len(matrix) + 1] += ridge
    try:
        factor = scipy.linalg.cho_factor(shifted, overwrite_a=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return np.full(len(matrix), np.nan)
    return scipy.linalg.cho_solve(factor, right, check_finite=False)


def solution_memory(n_features: int, n_folds: int = FOLDS) -> float:
    """Bytes that the exact solution takes at its peak; one fold alone beyond `LARGEST_FOLDED` features."""
    folded = n_features <= LARGEST_FOLDED
    return peak_memory(n_features, 1 + (n_folds if folded else 1), eigenbasis=folded)


def _check_size(n_features: int, n_folds: int, samples: Sequence[Sample], max_force_rows: int) -> None:
    """Refuse matrices that do not fit into memory, before any row is computed."""
    n_rows = min(3 * sum(s.n_atoms for s in samples), max_force_rows) + len(samples)
    hours = (len(RIDGES) * n_features**3 / 3 + n_rows * n_features**2) / _OPERATIONS_PER_HOUR
    detail = f"{n_features} weights of the last layer, which would take {hours:.1g} hours or less"
    fix = "train on fewer elements, or take fewer features per element (moment network: n_channels, n_triple)"
    check_memory("the exact solution of the last layer", solution_memory(n_features, n_folds), detail, fix)


def _quadratic(gram: np.ndarray, w: np.ndarray) -> float:
    extended = np.append(w, -1.0)
    return float(extended @ gram @ extended)


def _accumulate(
    potential: LastLayerPotential,
    samples: Sequence[Sample],
    weights: LossWeights,
    max_force_rows: int,
    progress: Callable[[], None],
    sums: PartialSums,
    n_folds: int = 1,
) -> list[Float[np.ndarray, "d_plus_1 d_plus_1"]]:
    """Gram matrices of [rows, target]: features, biases, label without what a zero last layer gives.

    Structures go to the matrices in turn, those whose forces and stresses are used and the others each for
    themselves: thinning must not leave all forces in one matrix. The sum of the matrices is that of all.
    """
    n_blocks = potential.readout.shape[0]
    total_rows = sum(3 * s.structure.n_atoms for s in samples)
    keep = min(1.0, max_force_rows / max(total_rows, 1))
    taken = np.diff(np.floor(np.arange(len(samples) + 1) * keep)) > 0
    differentiated = [
        bool(t) and ("forces" in s.labels or "stress" in s.labels)
        for s, t in zip(samples, taken, strict=True)
    ]
    derivatives = [name for name in weights if quantity(name).source in ("gradient", "strain")]
    # Outputs of a potential with a solvable layer are linear in it, like the energy.
    names = [name for name in weights if name not in derivatives and name in potential.supplies]
    asked = {True: [*names[:1], *derivatives, *names[1:]], False: names}
    counts: Counter[str] = Counter()
    for sample, use in zip(samples, differentiated, strict=True):
        counts.update({name: int(np.sum(sample.component_weights(name) > 0)) for name in asked[use]})
    folds = [RowCovariance(potential.n_features + n_blocks + 1) for _ in range(n_folds)]
    done, known = 0, sums.load()
    if known is not None:
        done = int(known["done"])
        folds = [RowCovariance.from_arrays(part_of(known, f"{i}:")) for i in range(n_folds)]
        del known
    turns = np.where(taken, np.cumsum(taken), np.cumsum(~taken)) - 1
    # Rows of many structures at once need few programs; both kinds are drawn from in the samples' order.
    sources = {
        use: structure_rows(
            potential,
            [s.structure for s, u in zip(samples[done:], differentiated[done:], strict=True) if u == use],
            asked[use],
        )
        for use in (True, False)
    }
    steps = list(zip(samples, differentiated, turns.tolist(), strict=True))
    for number, (sample, use, turn) in enumerate(steps[done:], start=done + 1):
        rows, numbers = next(sources[use]), sample.structure.numbers
        for name in asked[use]:
            weight = np.ravel(sample.component_weights(name))
            counted = weight > 0
            if not counted.any():
                continue
            target, biases = np.reshape(sample.label(name), (-1, 1)), np.zeros((len(weight), n_blocks))
            if name == "energy":
                target = target - potential.constant_energy(numbers)
                biases = potential.bias_row(numbers)[None]
            full = np.hstack([rows[name].reshape(len(target), -1), biases, target])[counted]
            full *= weight[counted, None] / (len(numbers) if quantity(name).extensive else 1)
            # One kind: a matrix of its own for each would be held.
            folds[turn % n_folds].add(full, "loss", weights[name] / counts[name])
        progress()
        sums.save(lambda number=number: _state(number, folds))
    return [fold.matrix for fold in folds]


def _state(done: int, folds: Sequence[RowCovariance]) -> dict[str, np.ndarray]:
    arrays = {f"{i}:{name}": array for i, fold in enumerate(folds) for name, array in fold.arrays().items()}
    return {"done": np.array(done), **arrays}
