"""Pruning of data sets: which structures keep a stated share of what all of them say, computed and verified.

Structures are taken or left out greedily. The share is no estimate: at the end it is computed from the kept
structures alone, and the result says that number.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, check_known
from surefield.scores.fim.matching_problem import checked_candidates, checked_target
from surefield.scores.fim.matching_score import CANDIDATE, TARGET
from surefield.scores.quests.arguments import BANDWIDTH, checked_bandwidth
from surefield.scores.quests.blocks import left_factor, right_factor
from surefield.scores.quests.entropy import SetEntropy, set_entropy
from surefield.scores.quests.environments import environments_of, selected_atoms
from surefield.scores.quests.novelty import Reference
from surefield.scoring.array_files import load_array
from surefield.selection.select_rows import select_rows
from surefield.structures.read import Source, read_frames

__all__ = [
    "Objective",
    "Pruning",
    "prune",
    "prune_by_determinant",
    "prune_by_entropy",
    "prune_by_information",
]

Objective = Literal["entropy", "diversity", "log_determinant", "information"]
#: Columns of kernel values that are computed at once.
_COLUMNS: Final = 2**14
#: Directions with less than this part of the largest information count as not informed.
_RANK: Final = 1e-10


@dataclass(frozen=True, eq=False)
class Pruning:
    """Structures that keep a share of what all say.

    Attributes:
        indices: (n_kept,) structures that are kept, in the order in which they were taken; ascending where
            structures were left out one by one.
        n_frames: structures there were.
        share: of the objective, computed from the kept structures alone.
        what: of which it is a share, in words.
        counts: numbers of kept structures on the way,
        shares: and the share that each keeps.
        details: further numbers, such as `largest_novelty`, the largest dH of an environment that was left
            out, against those that are kept.
    """

    indices: Int[np.ndarray, " n_kept"]
    n_frames: int
    share: float
    what: str
    counts: Int[np.ndarray, " n_steps"]
    shares: Float[np.ndarray, " n_steps"]
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What is kept, in words; the share is rounded down."""
        percent = math.floor(1000 * min(self.share, 1.0) + 1e-9) / 10
        return f"these {len(self.indices):,} of {self.n_frames:,} frames keep {percent:.1f} % of {self.what}"


def prune(frames: Source, objective: Objective = "entropy", share: float = 0.99, **options: Any) -> Pruning:
    """Fewest structures, as far as a greedy choice finds them, that keep a share of what all say.

    Args:
        frames: structures, or files of them.
        objective: `entropy` or `diversity` of environments (`prune_by_entropy`), `log_determinant` of
            features (`prune_by_determinant`, which needs `features`), or Fisher `information` about a target
            (`prune_by_information`).
        share: to be kept, above 0, at most 1.
        options: of that function.

    Raises:
        ConfigError: unknown objective or option, or a share out of range.
        DataError: no structures, or structures without what the objective needs.
    """
    check_known([objective], get_args(Objective), "unknown objective {}")
    structures = list(read_frames(frames))
    if objective == "log_determinant":
        features = options.pop("features", None)
        if features is None:
            fix = (
                "give features=surefield.feature_rows(potential, frames), or any (n_frames, n_features) array"
            )
            raise ConfigError("log_determinant needs features", fix=fix)
        if len(load_array(features, "features")) != len(structures):
            got = f"{len(load_array(features, 'features'))} rows for {len(structures)} structures"
            raise DataError("features must have one row per structure", got=got)
        return _called(prune_by_determinant, features, share, options)
    if objective == "information":
        return _called(prune_by_information, structures, share, options)
    return _called(prune_by_entropy, structures, share, {"objective": objective, **options})


def _called(of: Callable[..., Pruning], data: Any, share: float, options: Mapping[str, Any]) -> Pruning:
    known = [name for name in inspect.signature(of).parameters if name not in ("frames", "features", "share")]
    check_known(options, known, f"{of.__name__} has no option {{}}")
    return of(data, share=share, **options)


def prune_by_entropy(
    frames: Sequence[Atoms],
    share: float = 0.99,
    *,
    objective: Literal["entropy", "diversity"] = "entropy",
    descriptors_key: str = "descriptors",
    bandwidth: float = BANDWIDTH,
    apply_mask: bool = False,
) -> Pruning:
    """Structures that keep the entropy H, or the diversity D, of the environments of all.

    The next structure is that with the most new environments, Σ 1/(Σ_x K(y, x)) over its atoms y, with the
    sum over x among its own environments and those that are kept already.

    Args:
        frames: structures with descriptors; not changed.
        share: of H or D to be kept.
        objective: H is what an environment says on average and may grow as structures are left out; D, the
            logarithm of the number of distinct environments, is the harder demand.
        descriptors_key, bandwidth, apply_mask: as in `QUESTSEfficiencyScore.compute`.

    Raises:
        ConfigError: numbers out of range.
        DataError: descriptors or masks that are missing or unusable.
    """
    share, h = _checked_share(share), checked_bandwidth(bandwidth)
    rows = environments_of(frames, descriptors_key, apply_mask)
    counts = [len(atoms) for atoms in frames]
    if apply_mask:
        counts = [int(mask.sum()) for mask in selected_atoms(frames)]
    total = _value(set_entropy(rows, h), objective)
    cover = _Cover.of((rows - rows.mean(axis=0)) / h, np.asarray(counts))
    kept: list[int] = []
    values: list[float] = []
    while True:
        kept.append(cover.newest())
        cover.add(kept[-1])
        values.append(_share_of(cover.value(objective), total))
        if values[-1] >= share or not cover.left.any():
            true = _share_of(_value(set_entropy(rows[cover.kept_rows()], h), objective), total)
            if true >= share or not cover.left.any():
                break
    details = {}
    if cover.left.any():
        others = rows[~cover.kept_rows()]
        new = Reference.of(rows[cover.kept_rows()], h).novelty(others).values
        details = {"largest_novelty": float(new.max(initial=-np.inf))} if len(others) else {}
    steps = np.arange(1, len(kept) + 1)
    return Pruning(np.array(kept), len(frames), true, f"the {objective}", steps, np.array(values), details)


def _value(result: SetEntropy, objective: str) -> float:
    return result.entropy if objective == "entropy" else result.diversity


def _share_of(value: float, total: float) -> float:
    """Where all environments are alike, a single one says all that there is."""
    return value / total if total > 1e-12 else 1.0


@dataclass(frozen=True, eq=False)
class _Cover:
    """Kernel sums of all environments over those that are kept, while structures are added.

    Attributes:
        left: (n_frames,) whether a structure is not kept yet; without environments it says nothing.
    """

    right: Float[np.ndarray, "n n_factors"]
    starts: Int[np.ndarray, " n_limits"]
    own: Float[np.ndarray, " n"]  # sums over the structure that the environment belongs to
    sums: Float[np.ndarray, " n"]  # sums over all that is kept
    left: np.ndarray

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n n_features"], counts: Int[np.ndarray, " n_frames"]) -> _Cover:
        starts = np.concatenate([[0], np.cumsum(counts)])
        right, own = right_factor(rows), np.empty(len(rows))
        for first, last in itertools.pairwise(starts):
            exponents = left_factor(right[first:last]) @ right[first:last].T
            np.fill_diagonal(exponents, 0.0)
            own[first:last] = np.exp(np.minimum(exponents, 0.0)).sum(axis=1)
        return cls(right, starts, own, np.zeros(len(rows)), counts > 0)

    def newest(self) -> int:
        """The structure with the most new environments."""
        new = np.concatenate([[0.0], np.cumsum(1.0 / (self.sums + self.own))])
        gains = new[self.starts[1:]] - new[self.starts[:-1]]
        return int(np.argmax(np.where(self.left, gains, -np.inf)))

    def add(self, frame: int) -> None:
        """Keep a structure."""
        here = slice(self.starts[frame], self.starts[frame + 1])
        left = left_factor(self.right[here])
        for first in range(0, len(self.right), _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            exponents = left @ self.right[columns].T
            self.sums[columns] += np.exp(np.minimum(exponents, 0.0, out=exponents), out=exponents).sum(axis=0)
        self.left[frame] = False

    def kept_rows(self) -> np.ndarray:
        """(n,) whether an environment is kept."""
        return np.repeat(~self.left, np.diff(self.starts))

    def value(self, objective: str) -> float:
        """Entropy or diversity of what is kept."""
        sums = np.maximum(self.sums[self.kept_rows()], 1.0)
        if objective == "entropy":
            return float(np.mean(math.log(len(sums)) - np.log(sums)))
        return math.log(float(np.sum(1.0 / sums)))


def prune_by_determinant(features: ArrayLike, share: float = 0.99, *, sigma: float | None = None) -> Pruning:
    """Structures that keep ln det(I + K/σ²) of the features of all, K = φφᵀ; by `max_det`.

    Half of it is what labels with noise σ say of the weights of a linear model on the features. It grows with
    every structure, ever less, so that the greedy choice is within 1 - 1/e of the best one of its size.

    Args:
        features: (n_frames, n_features), such as `surefield.feature_rows(potential, frames)`; or a file.
        share: to be kept.
        sigma: noise of a label in the unit of the features; a tenth of their root mean square length by
            default.

    Raises:
        ConfigError: numbers out of range.
        DataError: features that are no finite numbers, or all zero.
    """
    share = _checked_share(share)
    rows = np.asarray(load_array(features, "features"), np.float64)
    if rows.ndim != 2 or not rows.size:
        raise DataError("features must be (n_frames, n_features)", got=rows.shape)
    size = float(np.sqrt(np.mean(np.einsum("ij,ij->i", rows, rows))))
    sigma = 0.1 * size if sigma is None else float(sigma)
    if not size > 0:
        raise DataError("features that are all zero, or not finite, say nothing", got=f"mean length {size}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError("sigma must be positive", got=repr(sigma))
    total = _log_determinant(rows, sigma)
    order = select_rows("max_det", rows, None, len(rows), sigma=sigma)
    shares = 2.0 * np.cumsum(order.gains) / total
    # Copies are not picked twice, though a second label of the same adds a little.
    picks = np.concatenate([order.indices, np.setdiff1d(np.arange(len(rows)), order.indices)])
    n_kept = min(int(np.searchsorted(shares, share)) + 1, len(rows))
    while (true := _log_determinant(rows[picks[:n_kept]], sigma) / total) < share and n_kept < len(rows):
        n_kept += 1
    steps = np.arange(1, min(n_kept, len(shares)) + 1)
    details = {"sigma": sigma, "log_determinant": total}
    return Pruning(
        picks[:n_kept], len(rows), true, "the log-determinant", steps, shares[: len(steps)], details
    )


def _log_determinant(rows: Float[np.ndarray, "n n_features"], sigma: float) -> float:
    singular = np.linalg.svd(rows / sigma, compute_uv=False)
    return float(np.log1p(singular**2).sum())


def prune_by_information(
    frames: Sequence[Any],
    share: float = 0.99,
    *,
    fim_property: Any = None,
    about: str | None = None,
    criterion: Literal["trace", "min_eigen"] = "trace",
) -> Pruning:
    """Structures that keep the Fisher information of all about a target property.

    With F the sum of the FIMs of the kept structures and J the FIM of the target, tr(J F⁻¹) is the variance
    of the target (of its values together, in units of their noise) that these structures leave, and its
    inverse the information about it. Of all structures the one that costs least is left out, again and again.

    Args:
        frames: structures with `info['fim_training_set_score']`, or (P, P) matrices.
        share: of the information to be kept.
        fim_property: (P, P) FIM of the target: an array, a `.npy` file, or a `.json` file with
            `fim_property_score`; None: all parameters, with equal weight on what all structures say of each.
        about: the target in words, such as 'C44'.
        criterion: 'trace', or 'min_eigen': the information about that combination of the target's values
            about which least is known.

    Raises:
        ConfigError: numbers out of range, or an unknown criterion.
        DataError: FIMs that are missing or none, or a target that no structure informs about.
    """
    share = _checked_share(share)
    check_known([criterion], ("trace", "min_eigen"), "unknown criterion {}")
    matrices = checked_candidates([_fim(frame, i) for i, frame in enumerate(frames)])
    size = matrices.shape[1]
    target = None
    if fim_property is not None:
        target = checked_target(load_array(fim_property, "fim_property", json_key=TARGET), size)
    informed = _Informed.of(matrices, target, criterion)
    total = informed.lost(informed.whole)
    kept = np.ones(len(matrices), bool)
    summed, shares = informed.whole.copy(), [1.0]
    left_out: list[int] = []
    while kept.sum() > 1:
        worst = informed.cheapest(summed, kept)
        rest = summed - informed.matrices[worst]
        value = total / informed.lost(rest)
        if not value >= share:
            break
        kept[worst], summed = False, rest
        left_out.append(worst)
        shares.append(value)
    # Anew from the kept ones alone; where rounding has added up, the last ones come back.
    while (true := total / informed.lost(informed.matrices[kept].sum(axis=0))) < share and left_out:
        kept[left_out.pop()] = True
        shares.pop()
    name = about or ("the target" if fim_property is not None else "the parameters")
    counts = len(matrices) - np.arange(len(shares))
    return Pruning(
        np.flatnonzero(kept), len(matrices), true, f"the information about {name}", counts, np.array(shares)
    )


def _fim(frame: Any, index: int) -> Any:
    if not isinstance(frame, Atoms):
        return frame
    if CANDIDATE not in frame.info:
        where, got = f"configuration {index}", f"the keys {sorted(map(str, frame.info))}"
        fix = "compute them with FIMTrainingSetScore, and save_results with the structures"
        raise DataError(f"no info[{CANDIDATE!r}]", where=where, got=got, fix=fix)
    return frame.info[CANDIDATE]


@dataclass(frozen=True, eq=False)
class _Informed:
    """FIMs in coordinates in which their sum is the unit matrix, on the directions that they inform about.

    Attributes:
        matrices: (n_frames, r, r)
        whole: (r, r) their sum.
        root: (r, n_target) of the target's FIM, root rootᵀ.
        worst_only: whether the largest variance counts, in place of their sum.
    """

    matrices: Float[np.ndarray, "n_frames r r"]
    whole: Float[np.ndarray, "r r"]
    root: Float[np.ndarray, "r n_target"]
    worst_only: bool

    @classmethod
    def of(cls, matrices: np.ndarray, target: np.ndarray | None, criterion: str) -> _Informed:
        summed = matrices.sum(axis=0)
        # Parameters have units of their own; ranks are decided on equal diagonals.
        units = np.sqrt(np.diag(summed))
        units = np.where(units > 0, units, 1.0)
        values, vectors = np.linalg.eigh(summed / np.outer(units, units))
        there = values > _RANK * values.max(initial=0.0)
        if not there.any():
            raise DataError("no structure informs about any parameter", got="FIMs of zeros")
        axes = vectors[:, there] / np.sqrt(values[there]) / units[:, None]
        root = np.eye(int(there.sum()))
        if target is not None:
            silent = vectors[:, ~there]
            scaled = target / np.outer(units, units)
            if silent.size and np.trace(silent.T @ scaled @ silent) > _RANK * np.trace(scaled):
                raise DataError(
                    "the target depends on a direction of the parameters that no structure informs about",
                    got=np.round(silent[:, np.argmax(np.diag(silent.T @ scaled @ silent))], 3).tolist(),
                    fix="add structures that do, or fix the parameters",
                )
            weights, directions = np.linalg.eigh(axes.T @ target @ axes)
            root = directions * np.sqrt(np.maximum(weights, 0.0))
            if not root.any():
                raise DataError("the target needs no information", got="a FIM of zeros")
        inside = np.einsum("pr,npq,qs->nrs", axes, matrices, axes, optimize=True)
        return cls(inside, inside.sum(axis=0), root, criterion == "min_eigen")

    def lost(self, summed: Float[np.ndarray, "r r"]) -> float:
        """Variance of the target; infinite where it is not informed about."""
        values = np.linalg.eigvalsh(summed)
        if not values[0] > _RANK * values[-1]:
            return math.inf
        left = self.root.T @ np.linalg.solve(summed, self.root)
        return float(np.linalg.eigvalsh(left)[-1] if self.worst_only else np.trace(left))

    def cheapest(self, summed: Float[np.ndarray, "r r"], kept: np.ndarray) -> int:
        """The structure whose loss costs least, to first order."""
        along = np.linalg.solve(summed, self.root)
        if self.worst_only:
            _, vectors = np.linalg.eigh(self.root.T @ along)
            along = along @ vectors[:, -1:]
        costs = np.einsum("nrs,rs->n", self.matrices, along @ along.T)
        return int(np.argmin(np.where(kept, costs, np.inf)))


def _checked_share(share: Any) -> float:
    value = float(share) if isinstance(share, int | float | np.number) else math.nan
    if not 0 < value <= 1:
        raise ConfigError("share must be above 0 and at most 1", got=repr(share))
    return value
