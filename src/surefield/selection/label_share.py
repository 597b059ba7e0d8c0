"""How many of the labels of random selection a method needs for the same error, and the sentence on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from surefield.selection.request import generator

__all__ = ["ERROR_NAMES", "LabelShare", "label_share", "labels_to_reach", "most_gained", "saving_sentence"]

#: Errors on test structures, by name.
ERROR_NAMES: Final = MappingProxyType(
    {
        "mae": "MAE",
        "rmse": "RMSE",
        "q95": "95 % quantile of the errors",
        "q99": "99 % quantile of the errors",
        "max": "largest error",
        "worst": "RMSE of the worst structure",
    }
)
_RESAMPLES: Final = 1000
#: Equal labels in another order have errors that differ by this much.
_ROUNDING: Final = 1e-9


def labels_to_reach(labels: np.ndarray, error: np.ndarray, target: float) -> float:
    """Labels at which an error curve first meets a target, by linear interpolation; infinity if never."""
    below = np.flatnonzero(error <= target * (1 + _ROUNDING))
    if not len(below):
        return float("inf")
    i = int(below[0])
    if i == 0:
        return float(labels[0])
    share = min((error[i - 1] - target) / (error[i - 1] - error[i]), 1.0)
    return float(labels[i - 1] + share * (labels[i] - labels[i - 1]))


@dataclass(frozen=True)
class LabelShare:
    """Labels that a method needs for the final error of random selection, as a share of those of random.

    Attributes:
        fraction: on curves averaged over the seeds; None if the error is never reached.
        per_seed: the same of single seeds, which are noisy enough to miss a target, or to meet it by luck.
        interval: 95 % interval of `fraction` by bootstrap over the seeds, None at an end that is never
            reached; None with fewer than three seeds.
        of_random: the same of random selection itself: less than 1 where its error does not fall to the end.
    """

    fraction: float | None
    per_seed: tuple[float | None, ...] = ()
    interval: tuple[float | None, float | None] | None = None
    of_random: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self)


def label_share(
    labels: np.ndarray, errors: np.ndarray, random_labels: np.ndarray, random_errors: np.ndarray
) -> LabelShare:
    """The share of labels from curves of a method and of random selection, each (n_seeds, n_rounds).

    Curves are averaged over the seeds as logarithms; seeds are paired in the bootstrap.
    """

    def share(seeds: Any, labels: np.ndarray = labels, errors: np.ndarray = errors) -> float:
        curve = np.exp(np.log(errors[seeds]).mean(axis=0))
        target = float(np.exp(np.log(random_errors[seeds, -1]).mean()))
        return labels_to_reach(labels[seeds].mean(axis=0), curve, target) / random_labels[seeds, -1].mean()

    every = np.arange(len(labels))
    interval = None
    if len(labels) > 2:
        drawn = generator(0).integers(0, len(labels), size=(_RESAMPLES, len(labels)))
        # Of sorted values, so that a share that is never reached stays one.
        low, high = np.sort([share(seeds) for seeds in drawn])[[_RESAMPLES // 40, -1 - _RESAMPLES // 40]]
        interval = (_finite(low), _finite(high))
    own = share(every, random_labels, random_errors)
    return LabelShare(_finite(share(every)), tuple(_finite(share([i])) for i in every), interval, own)


def most_gained(shares: Mapping[str, LabelShare]) -> str:
    """Name of the error whose final value for random selection takes the least share of labels."""
    return min(shares, key=lambda name: _order(shares[name]))


def saving_sentence(method: str, shares: Mapping[str, LabelShare], of: str = "force") -> str:
    """One honest sentence: the error in which most was gained, and the MAE beside it.

    Args:
        method: name of the method.
        shares: by names of `ERROR_NAMES`, `mae` among them.
        of: what the errors are of.
    """
    best = most_gained(shares)
    n = len(shares["mae"].per_seed)
    curves = f"mean curves of {n} repetitions" if n > 1 else "one repetition"
    fraction, mae = shares[best].fraction, shares["mae"]
    if fraction is None:
        names = " or ".join(_named(name, of) for name in shares)
        return f"{method} did not reach the final {names} of random selection ({curves})."
    itself = shares[best].of_random
    if fraction >= itself:
        own = f" and random selection itself {_percent(itself)}" if _early(itself) else ""
        return (
            f"{method} shows no saving over random selection: for its final {_named(best, of)} it needs "
            f"{_percent(fraction)} of the labels{own}, {_of_mae(mae, best, of)} ({curves})."
        )
    missed = sum(share is None for share in shares[best].per_seed)
    alone = f"; {missed} of {n} alone did not reach it" if missed and n > 1 else ""
    between = f", 95 % interval {_interval(shares[best])}" if shares[best].interval is not None else ""
    others = "" if best == "mae" else f"; {_of_mae(mae, best, of)}"
    own = f", where random selection itself needs {_percent(itself)} of them" if _early(itself) else ""
    return (
        f"{method} reaches the final {_named(best, of)} of random selection with {_percent(fraction)} of its "
        f"labels{own} ({curves}{between}{alone}){others}."
    )


def _of_mae(mae: LabelShare, best: str, of: str) -> str:
    if best == "mae":
        return "and no other error shows more"
    if mae.fraction is None:
        return f"the final {_named('mae', of)} it did not reach"
    return f"for the {_named('mae', of)} it needs {_percent(mae.fraction)}"


def _named(error: str, of: str) -> str:
    name = ERROR_NAMES[error]
    return f"{of} {name}" if name.isupper() else f"{name} ({of})"


def _interval(share: LabelShare) -> str:
    assert share.interval is not None
    low, high = ("never" if end is None else _percent(end) for end in share.interval)
    return f"{low} to {high}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _order(share: LabelShare) -> float:
    return float("inf") if share.fraction is None else share.fraction / share.of_random


def _early(of_random: float) -> bool:
    """Whether random selection had its final error before its last labels."""
    return of_random < 0.995
