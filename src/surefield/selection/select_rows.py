"""Select rows of feature arrays by the name of a method."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.selection.chunked_features import CHUNK_ROWS, ChunkedFeatures
from surefield.selection.constraints import Constraints, checked_exclude, limits_of
from surefield.selection.copies import find_copies
from surefield.selection.duplicates import HELD_OUT
from surefield.selection.feature_store import FeatureStore
from surefield.selection.features import Features, positive_int
from surefield.selection.methods import METHODS, Method, check_method, warn_if_short
from surefield.selection.request import ClusterWeight, Picks, Request, checked_mode, generator
from surefield.selection.selection import Dropped, Reason, Selection
from surefield.selection.transforms import RowTransform, transform_features

__all__ = ["notes_on_dropped", "select_features", "select_rows"]

_log = logging.getLogger(__name__)
#: Methods whose picks by gain per cost are not known to be near the best. `max_det` is within (1 − 1/e)/2.
_HEURISTIC: Final = ("max_dist", "lcmd", "kmeanspp", "bait_f", "bait_fb", "frank_wolfe", "max_diag")
EXCLUDED: Final = "excluded"
#: Noise of labels, relative to the root mean square length of the features, where none is given.
_RELATIVE_NOISE: Final = 0.1
#: Features that follow the number of atoms this closely mostly rank structures by size.
SIZE_CORRELATION = 0.8


def select_rows(
    method: str,
    pool: ArrayLike | FeatureStore,
    train: ArrayLike | None = None,
    batch_size: int | None = 10,
    *,
    mode: str | None = None,
    sigma: float = 0.1,
    seed: int = 0,
    scores: Mapping[str, ArrayLike] | None = None,
    constraints: Constraints | None = None,
    weight: str = "sq-dist",
    overselect: float = 2.0,
    transforms: Sequence[RowTransform] = (),
    chunk_size: int | None = None,
    preselect: int | None = None,
) -> Selection:
    """Select rows of the pool, arrays in, indices out.

    Args:
        method: `max_dist`, `lcmd`, `kmeanspp`, `max_det`, `bait_f`, `bait_fb`, `frank_wolfe`, `max_diag` or
            `random`; each is explained where it is defined, see `methods.METHODS`.
        pool: (n_pool, n_features) features of the candidates: arrays or memory maps; cast to float64.
        train: (n_train, n_features) features of the labelled structures, or None.
        batch_size: picks wanted; None: as many as the budget of the constraints allows.
        mode: `p`: only the pool matters; `tp`: stay away from train, too; None: `p` for `max_diag` and
            `frank_wolfe`, else `tp`.
        sigma: σ of the noise of a label that `max_det` (0 allowed), `bait_f` and `bait_fb` assume, in units
            of the features.
        seed: of `random` and `kmeanspp`.
        scores: {name: (n_pool,) values}, one name. `max_diag` ranks by them; in the other methods but
            `random` they multiply the value of a candidate (relative to their mean; 0 = never picked).
        constraints: what the batch must keep to: excluded rows, quotas of groups, costs and a budget, least
            distances; see `Constraints`. With costs, picks are made by gain per cost.
        weight: what the clusters of `lcmd` are compared by: `sq-dist` (the method), `dist` or `none`
            (members).
        overselect: picks that `bait_fb` makes before it removes some, as a multiple of `batch_size`.
        transforms: of the rows before the selection, in order, fitted on train (on the pool without train):
            `Center()`, `Posterior(sigma)` and others of `surefield.selection`. `sigma` is in units of what
            they give.
        chunk_size: the pool, a memory map or a `FeatureStore` (16,384 for the latter), is read this many rows
            at a time and never held as a whole, with the same picks. `max_dist` and `max_det` look again only
            at chunks that may hold the next pick; the others but `max_diag` and `random` pass over the pool
            for each.
        preselect: choose among this many times `batch_size` rows only, those that `max_dist` picks. The
            result says that it is approximate. For methods that pass over the pool for each pick.

    Returns:
        The picks in order. Fewer than asked for, with one warning, if the pool is used up, only copies are
        left, or the constraints allow no more; `stopped` says which.

    Raises:
        ConfigError: unknown method or mode, option out of range, option that the method does not have.
        DataError: unusable features, scores, groups or costs; features that carry no information; a quota
            that cannot be filled, with `strict_quota`.
    """
    if chunk_size is None and not isinstance(pool, FeatureStore):
        features = transform_features(Features(train, pool), transforms)
    elif transforms:
        fix = "transform the rows before they are stored"
        raise ConfigError("transforms need the pool in memory", got="a pool in chunks", fix=fix)
    else:
        features = ChunkedFeatures(train, pool, CHUNK_ROWS if chunk_size is None else chunk_size)
    return select_features(
        method,
        features,
        batch_size,
        mode=mode,
        sigma=sigma,
        seed=seed,
        scores=scores,
        constraints=constraints,
        weight=weight,
        overselect=overselect,
        preselect=preselect,
    )


def select_features(
    method: str,
    features: Features | ChunkedFeatures,
    batch_size: int | None = 10,
    *,
    mode: str | None = None,
    sigma: float | None = None,
    seed: int = 0,
    scores: Mapping[str, ArrayLike] | None = None,
    constraints: Constraints | None = None,
    weight: str = "sq-dist",
    overselect: float = 2.0,
    dropped: Sequence[Dropped] = (),
    preselect: int | None = None,
) -> Selection:
    """`select_rows` for features that know how they were made and how large the structures are.

    Without `sigma` it is a tenth of the root mean square length of the features. Rows that are `dropped`
    already, such as copies of structures, are left out of the pool.
    """
    check_method(method)
    rule = METHODS[method]
    chunked = isinstance(features, ChunkedFeatures)
    limited = constraints is not None
    constraints = constraints or Constraints(deduplicate=None)
    if batch_size is None and constraints.budget is None:
        raise ConfigError("batch_size must be a whole number", got="None", fix="None needs a budget")
    size = features.n_pool if batch_size is None else positive_int(batch_size, "batch_size")
    generator(seed)
    score, values = _checked_scores(method, rule, scores, features.n_pool)
    noise = _RELATIVE_NOISE * features.root_mean_square() if sigma is None else sigma
    options = (_checked_weight(method, weight), _checked_sigma(method, rule, noise))
    dropped = _dropped(dropped, constraints, features)
    stays = np.ones(features.n_pool, dtype=bool)
    stays[[entry.index for entry in dropped if constraints.drop or entry.reason != EXCLUDED]] = False
    kept = np.flatnonzero(stays)
    notes = notes_on_dropped(dropped)
    chosen = rule.default_mode if mode is None else checked_mode(mode)
    if chosen == "tp" and not features.n_train:
        chosen = "p"
        if rule.uses_features:
            notes.append("no training rows: mode 'tp' fell back to 'p'")
    request = Request(
        cast(Features, features),
        size,
        chosen,
        seed,
        values,
        *options,
        _checked_overselect(method, overselect),
    )
    usable = np.ones(features.n_pool, dtype=bool)
    if rule.weighted and values is not None:
        usable = values > 0
    if preselect is not None:
        factor = _checked_preselect(method, rule, preselect, batch_size)
        usable[checked_exclude(constraints.exclude, features.n_pool)] = False
        kept = _preselected(request, kept[usable[kept]], factor * size)
        notes.append(f"approximate: among {len(kept)} rows that max_dist preselected")
    if limited:
        limits = limits_of(constraints, features, batch_size, usable, kept)
        request = replace(request, limits=limits)
    if rule.uses_features and (rule.weighted or values is None):
        if not features.carry_information():
            raise DataError(
                "features carry no information",
                got="rows that are all zero or all equal",
                fix="check the map",
            )
        notes += _size_note(features)
    picks = _run(rule, request, kept)
    if constraints.cost is not None and method in _HEURISTIC:
        notes.append(f"{method} by gain per cost is a heuristic: no bound of what is lost is known")
    if not (batch_size is None and picks.stopped == "budget" and len(picks.indices)):
        warn_if_short(picks, size)
    for note in picks.notes:
        _log.info(note)
    config = _described(method, request, score)
    if limited:
        config["constraints"] = constraints.describe()
    if preselect is not None:
        config["preselect"] = preselect
    return Selection(
        indices=picks.indices,
        gains=picks.gains,
        squared_distances=picks.squared_distances,
        n_requested=size,
        stopped=picks.stopped,
        reasons=_reasons(method, picks, score, values),
        dropped=dropped,
        notes=(*notes, *picks.notes),
        config=config,
        g_train=features.train,
        g_pool=features.source if chunked else features.pool,
    )


def _dropped(
    dropped: Sequence[Dropped], constraints: Constraints, features: Features | ChunkedFeatures
) -> tuple[Dropped, ...]:
    """What is not considered and why: what is dropped already, copies of rows, and the excluded."""
    entries = {entry.index: entry for entry in dropped}
    if constraints.deduplicate == "features":
        if isinstance(features, ChunkedFeatures):
            raise ConfigError("deduplicate='features' needs the pool in memory, not in chunks")
        for entry in find_copies(features, without=entries):
            entries.setdefault(entry.index, entry)
    for index in checked_exclude(constraints.exclude, features.n_pool).tolist():
        entries.setdefault(index, Dropped(index, EXCLUDED))
    return tuple(entries[index] for index in sorted(entries))


def notes_on_dropped(dropped: Sequence[Dropped]) -> list[str]:
    """What a reader should know of a pool that holds what cannot be picked."""
    counts = Counter(entry.kept_in for entry in dropped if entry.kept is not None)
    words = {
        "train": "training structures",
        HELD_OUT: "validation structures",
        "pool": "others of the pool",
    }
    notes = [
        f"copies of {of} in the pool, which are never picked: {counts[where]}"
        for where, of in words.items()
        if counts[where]
    ]
    others = [entry for entry in dropped if entry.kept is None and entry.reason != EXCLUDED]
    if others:
        first = f"structure {others[0].index}: {others[0].reason}"
        notes.append(f"left out of the pool: {len(others)} (the first, {first})")
    return notes


def _run(rule: Method, request: Request, kept: Int[np.ndarray, " n_kept"]) -> Picks:
    """Picks among the rows that are kept, as indices of the whole pool."""
    features = request.features
    if not len(kept):
        nothing = np.zeros(0)
        return Picks(nothing.astype(np.int64), nothing, nothing, "exhausted")
    if len(kept) < features.n_pool:
        scores = None if request.scores is None else request.scores[kept]
        request = replace(request, features=features.of(kept), scores=scores)
    lazy = rule.by_chunks if isinstance(features, ChunkedFeatures) else None
    picks = (lazy or rule.run)(request)
    return replace(picks, indices=kept[picks.indices])


def _checked_preselect(method: str, rule: Method, factor: int, batch_size: int | None) -> int:
    if rule.by_chunks is not None or not rule.uses_features or not rule.weighted:
        passing = [n for n, m in METHODS.items() if m.uses_features and m.weighted and m.by_chunks is None]
        raise ConfigError(f"{method} needs no preselect", expected=f"a method of {', '.join(passing)}")
    if batch_size is None:
        raise ConfigError("preselect is a multiple of batch_size, and there is none", fix="batch_size=")
    return positive_int(factor, "preselect")


def _preselected(request: Request, kept: Int[np.ndarray, " n_kept"], number: int) -> Int[np.ndarray, " n"]:
    """The rows among some of the pool that `max_dist` picks, in the order of the pool."""
    if number >= len(kept):
        return kept
    asked = Request(request.features, number, mode=request.mode)
    return np.sort(_run(METHODS["max_dist"], asked, kept).indices)


def _checked_scores(
    method: str, rule: Method, scores: Mapping[str, ArrayLike] | None, n_pool: int
) -> tuple[str | None, Float[np.ndarray, " n_pool"] | None]:
    if scores is None:
        return None, None
    if not isinstance(scores, Mapping) or len(scores) != 1:
        raise ConfigError("scores must be one entry {name: values}", got=type(scores).__name__)
    if not rule.uses_features:
        raise ConfigError(f"{method} takes no scores; max_diag ranks by them")
    [(name, column)] = scores.items()
    values = np.array(column, dtype=np.float64)
    if values.shape != (n_pool,):
        raise DataError(
            f"score {name!r} must have one value per pool row",
            got=f"shape {values.shape}",
            expected=(n_pool,),
        )
    bad = ~np.isfinite(values) | (rule.weighted & (values < 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        expected = "finite and not negative" if rule.weighted else "finite"
        raise DataError(f"unusable score {name!r}", where=f"row {row}", got=values[row], expected=expected)
    if rule.weighted and not values.any():
        raise DataError(f"score {name!r} is 0 for every row of the pool: nothing could be picked")
    return str(name), values


def _checked_weight(method: str, weight: str) -> ClusterWeight:
    known: tuple[ClusterWeight, ...] = ("sq-dist", "dist", "none")
    if weight not in known:
        raise ConfigError(f"unknown weight {weight!r}: {nearest(weight, known)}")
    if method != "lcmd" and weight != "sq-dist":
        raise ConfigError(f"weight applies to lcmd only, got weight={weight!r} with {method}")
    return known[known.index(weight)]


def _checked_sigma(method: str, rule: Method, sigma: float) -> float:
    try:
        value = float(sigma)
    except (TypeError, ValueError):
        raise ConfigError("sigma must be a number", got=repr(sigma)) from None
    if not 0 <= value < np.inf or (value == 0 and rule.noise == "positive"):
        expected = "a positive number" if rule.noise == "positive" else "a number of at least 0"
        raise ConfigError(f"sigma of {method} out of range", got=sigma, expected=expected)
    return value


def _checked_overselect(method: str, overselect: float) -> float:
    if not 1 <= overselect < np.inf:
        raise ConfigError("overselect out of range", got=overselect, expected="a number of at least 1")
    if method != "bait_fb" and overselect != 2.0:
        raise ConfigError(f"overselect applies to bait_fb only, got overselect={overselect} with {method}")
    return float(overselect)


def _size_note(features: Features | ChunkedFeatures) -> list[str]:
    correlation = features.size_correlation()
    if correlation is None or abs(correlation) <= SIZE_CORRELATION:
        return []
    return [
        f"feature norms follow the number of atoms (correlation {correlation:.2f}): "
        "use per-atom features (the transform PerAtom) unless large structures are what you want"
    ]


def _reasons(
    method: str, picks: Picks, score: str | None, values: Float[np.ndarray, " n_pool"] | None
) -> tuple[Reason, ...]:
    rows = zip(picks.indices, picks.gains, strict=True)
    return tuple(
        Reason(
            method,
            None if np.isnan(gain) else float(gain),
            score,
            None if values is None else float(values[index]),
        )
        for index, gain in rows
    )


def _described(method: str, request: Request, score: str | None) -> dict[str, Any]:
    features = request.features
    return {
        "method": method,
        "batch_size": request.batch_size,
        "mode": request.mode,
        "seed": int(request.seed),
        "score": score,
        "weight": request.weight,
        "sigma": None if METHODS[method].noise == "none" else request.sigma,
        "overselect": request.overselect if method == "bait_fb" else None,
        "features": features.spec,
        "transforms": [dict(entry) for entry in features.transforms],
        "n_train": features.n_train,
        "n_pool": features.n_pool,
        "n_features": features.n_features,
    }
