"""What a replay of selections says: error curves, paired differences to random, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, nearest
from surefield.selection.label_share import LabelShare, label_share, labels_to_reach, saving_sentence
from surefield.selection.request import generator

__all__ = ["ERRORS", "HEADLINE", "RANDOM", "Replay", "Verdict", "error_summary"]

#: Errors on the test structures, by name.
ERRORS: Final = ("mae", "rmse", "q95", "q99", "max", "worst")
#: Those among which a headline names the one in which most was gained.
HEADLINE: Final = ("mae", "rmse", "q95", "worst")
RANDOM: Final = "random"
_RESAMPLES: Final = 10_000


def error_summary(residuals: Sequence[ArrayLike]) -> dict[str, float]:
    """Errors of structures, of each an array of residuals.

    Mean and root mean square of all, the 95 % and 99 % quantiles of their sizes, the largest, and `worst`,
    the largest root mean square of a structure.
    """
    each = [np.abs(np.ravel(residual)) for residual in residuals]
    size = np.concatenate(each)
    q95, q99 = np.quantile(size, [0.95, 0.99])
    return {
        "mae": float(size.mean()),
        "rmse": float(np.sqrt(np.mean(size**2))),
        "q95": float(q95),
        "q99": float(q99),
        "max": float(size.max()),
        "worst": max(float(np.sqrt(np.mean(one**2))) for one in each if one.size),
    }


@dataclass(frozen=True)
class Verdict:
    """One method against random selection, for one error.

    Attributes:
        method: name of the method.
        quantity: `energy` (eV/atom) or `forces` (eV/Å).
        error: one of `ERRORS`.
        final: geometric mean over the seeds of the error after the last round.
        difference: mean over seeds and rounds after the first of ln(error) − ln(error of random).
        interval: 95 % interval of the difference, by bootstrap over the seeds.
        labels: of the method in the end.
        labels_of_random: labels that random selection needs for the same error, on curves averaged over the
            seeds; inf if it never gets there.
        words: `better than random`, `worse than random` or `no difference shown`.
    """

    method: str
    quantity: str
    error: str
    final: float
    difference: float
    interval: tuple[float, float]
    labels: float
    labels_of_random: float
    words: str

    def __str__(self) -> str:
        change = 100 * np.expm1([self.difference, *self.interval])
        return (
            f"{self.method}, {self.quantity} {self.error}: {self.words} "
            f"({change[0]:+.0f} %, 95 % interval {change[1]:+.0f} to {change[2]:+.0f} %)"
        )


@dataclass(frozen=True, eq=False)
class Replay:
    """Errors of methods that selected from labelled data, round by round.

    Attributes:
        methods: names, `random` last.
        seeds: one repetition each.
        labels: by method, (n_seeds, n_rounds + 1) labels in the training set.
        costs: by method, the same of the cost of all labels.
        errors: by quantity, error and method, (n_seeds, n_rounds + 1).
        group_errors: by quantity, group, error (`HEADLINE`) and method, (n_seeds,) after the last round; NaN
            where a seed has no test structure of the group.
        picks: by method, per seed, indices of the structures in the order in which they were picked.
        notes: what a reader should know.
        config: how it was done.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: Mapping[str, np.ndarray]
    costs: Mapping[str, np.ndarray]
    errors: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
    group_errors: Mapping[str, Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]]
    picks: Mapping[str, Sequence[Sequence[int]]]
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def curve(self, quantity: str, error: str, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the seeds of ln(error) after every round, and its standard error."""
        values = np.log(self._curves(quantity, error)[method])
        return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))

    def verdict(self, method: str, quantity: str = "energy", error: str = "rmse", seed: int = 0) -> Verdict:
        """A method against random selection; `seed` is that of the bootstrap.

        Raises:
            ConfigError: unknown method, quantity or error.
        """
        curves = self._curves(quantity, error)
        if method not in curves:
            raise ConfigError(f"{method!r} was not replayed: {nearest(method, curves)}")
        # The first round is the same for all methods.
        paired = (np.log(curves[method]) - np.log(curves[RANDOM]))[:, 1:].mean(axis=1)
        drawn = generator(seed).integers(0, len(paired), size=(_RESAMPLES, len(paired)))
        low, high = np.quantile(paired[drawn].mean(axis=1), [0.025, 0.975])
        words = (
            "better than random" if high < 0 else "worse than random" if low > 0 else "no difference shown"
        )
        mean = np.exp(self.curve(quantity, error, method)[0])
        random = np.exp(self.curve(quantity, error, RANDOM)[0])
        needed = labels_to_reach(self.labels[RANDOM].mean(axis=0), random, float(mean[-1]))
        return Verdict(
            method,
            quantity,
            error,
            float(mean[-1]),
            float(paired.mean()),
            (float(low), float(high)),
            float(self.labels[method].mean(axis=0)[-1]),
            needed,
            words,
        )

    def share(self, method: str, quantity: str = "energy", error: str = "rmse") -> LabelShare:
        """Labels that a method needs for random's final error, as a share of those of random.

        Raises:
            ConfigError: unknown method, quantity or error.
        """
        curves = self._curves(quantity, error)
        if method not in curves:
            raise ConfigError(f"{method!r} was not replayed: {nearest(method, curves)}")
        return label_share(self.labels[method], curves[method], self.labels[RANDOM], curves[RANDOM])

    def headlines(self) -> dict[str, str]:
        """By quantity and method, as `forces, lcmd`: the error in which most was gained, and the MAE."""
        words = {"forces": "force"}
        return {
            f"{quantity}, {method}": saving_sentence(
                method,
                {error: self.share(method, quantity, error) for error in HEADLINE if error in by_error},
                words.get(quantity, quantity),
            )
            for quantity, by_error in self.errors.items()
            for method in self.methods
            if method != RANDOM
        }

    def verdicts(self) -> list[Verdict]:
        """All methods but random, all quantities, all errors."""
        return [
            self.verdict(method, quantity, error)
            for quantity in self.errors
            for error in self.errors[quantity]
            for method in self.methods
            if method != RANDOM
        ]

    def overlap(self) -> dict[str, dict[str, float]]:
        """Shared share of picks (Jaccard): `methods`, pairs of the same seed; `seeds`, of one method.

        Test sets and first labels differ between seeds, which bounds the latter.
        """
        sets = {method: [set(chosen) for chosen in self.picks[method]] for method in self.methods}
        pairs = [(a, b) for i, a in enumerate(self.methods) for b in self.methods[i + 1 :]]
        between = {
            f"{a}, {b}": float(np.mean([_jaccard(*two) for two in zip(sets[a], sets[b], strict=True)]))
            for a, b in pairs
        }
        within = {
            method: float(np.mean([_jaccard(x, y) for i, x in enumerate(each) for y in each[i + 1 :]]))
            for method, each in sets.items()
        }
        return {"methods": between, "seeds": within}

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: curves, verdicts, overlap."""
        numbers = {"labels": self.labels, "costs": self.costs, "errors": self.errors}
        numbers["group_errors"] = self.group_errors
        return {
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            **{name: _plain(values) for name, values in numbers.items()},
            "picks": {method: [list(chosen) for chosen in each] for method, each in self.picks.items()},
            "verdicts": [_plain(vars(verdict)) for verdict in self.verdicts()],
            "headlines": self.headlines(),
            "overlap": self.overlap(),
            "notes": list(self.notes),
            "config": dict(self.config),
        }

    def __str__(self) -> str:
        """A table of all verdicts, and for every method what was gained most, beside the MAE."""
        head = [
            "quantity",
            "error",
            "method",
            "final",
            "to random",
            "95 % interval",
            "labels",
            "of random",
            "",
        ]
        rows = [head]
        for v in self.verdicts():
            change = 100 * np.expm1([v.difference, *v.interval])
            needed = f"> {self.labels[RANDOM][:, -1].mean():.0f}"
            if np.isfinite(v.labels_of_random):
                needed = f"{v.labels_of_random:.0f}"
            row = [v.quantity, v.error, v.method, f"{v.final:.4g}", f"{change[0]:+.1f} %"]
            row += [f"{change[1]:+.1f} to {change[2]:+.1f} %", f"{v.labels:.0f}", needed, v.words]
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in [*lines, *self.headlines().values(), *self.notes])

    def _curves(self, quantity: str, error: str) -> Mapping[str, np.ndarray]:
        if quantity not in self.errors:
            raise ConfigError(f"no errors of {quantity!r}: {nearest(quantity, self.errors)}")
        if error not in self.errors[quantity]:
            raise ConfigError(f"unknown error {error!r}: {nearest(error, self.errors[quantity])}")
        return self.errors[quantity][error]


def _jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def _plain(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(name): _plain(value) for name, value in values.items()}
    if isinstance(values, np.ndarray | tuple):
        return [_plain(value) for value in values]
    return values.item() if isinstance(values, np.generic) else values
