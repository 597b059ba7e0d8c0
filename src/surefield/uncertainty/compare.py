"""`uq_compare`: one potential and test set under several uncertainties, side by side."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from surefield.calibration.metrics import (
    AUROC_QUANTILE,
    auroc,
    calibration_curve,
    coverage,
    ence,
    gaussian_crps,
    gaussian_nll,
    miscalibration_area,
    spearman,
)
from surefield.config import parse
from surefield.errors import ConfigError, DataError
from surefield.execution.progress import track
from surefield.execution.stopwatch import Stopwatch
from surefield.files import json_text, write_arrays, write_atomic
from surefield.potentials.potential import HasPotential, as_potential
from surefield.quantities import UNCERTAINTY, fitted, quantity
from surefield.structures.labels import Mapped
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.uncertainty.build import TrainingRecord, fit_uncertainty
from surefield.uncertainty.config import CompareConfig, UncertaintyConfig
from surefield.uncertainty.evaluation import Comparison, evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["METRICS", "EstimatorScores", "EstimatorTable", "uq_compare"]

#: Metrics of the table, and what they mean in a few words.
METRICS: Final[Mapping[str, str]] = {
    "nll": "NLL (lower is better)",
    "crps": "CRPS (lower is better)",
    "miscalibration_area": "miscalibration area (0 is best)",
    "ence": "ENCE (0 is best)",
    "spearman": "rank correlation of |error| and σ",
    "auroc_error": "AUROC for large errors",
    "auroc_ood": "AUROC for out of distribution",
    "coverage_68": "errors within the 68 % interval",
    "coverage_95": "errors within the 95 % interval",
}
#: What a comparison is decided by, first come first served.
_DECISIVE: Final = ("forces", "energy", "stress")
CONSTANT: Final = "constant"
_USUAL: Final = (CONSTANT, "llpr", "distance")
Score = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class EstimatorScores:
    """One estimator on the test set.

    Attributes:
        metrics: by quantity and metric the value and its 95 % interval (low, high); NaN where undefined.
        fit_seconds: of the fit, without compiling; NaN for an uncertainty that was fitted before.
        atom_seconds: of a prediction of all sigmas, for each atom, without compiling.
        comparison: labels, predictions and sigmas.
    """

    metrics: Mapping[str, Mapping[str, Score]]
    fit_seconds: float
    atom_seconds: float
    comparison: Comparison = field(repr=False)


@dataclass(frozen=True, eq=False)
class EstimatorTable:
    """What `uq_compare` found; `str` of it is the table as text.

    Attributes:
        scores: of each estimator, by its name.
        levels: by quantity the size of error above which an error is large.
        better: by quantity and estimator the 95 % interval of its NLL minus that of the best one.
        n_structures: of the test set.
    """

    scores: Mapping[str, EstimatorScores]
    levels: Mapping[str, float]
    better: Mapping[str, Mapping[str, tuple[float, float]]]
    n_structures: int

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that were compared."""
        return list(self.better)

    @property
    def recommendation(self) -> str:
        """One sentence: which to use, and why.

        Of those whose NLL is not significantly above the best one the cheapest; the constant one only if no
        other is better.
        """
        name = next((name for name in _DECISIVE if name in self.better), self.quantities[0])
        gaps, scores = self.better[name], self.scores
        best = min(gaps, key=lambda e: scores[e].metrics[name]["nll"][0])
        nll = {estimator: scores[estimator].metrics[name]["nll"][0] for estimator in gaps}
        equal = [e for e in gaps if e == best or gaps[e][0] <= 0]
        if CONSTANT in equal:
            return (
                f"Use {CONSTANT}: no other has a significantly lower NLL of the {name} than one sigma "
                f"for all ({nll[CONSTANT]:.3g}), so their sigmas do not tell good from bad here."
            )
        chosen = min(equal, key=lambda e: scores[e].atom_seconds)
        why = f"its NLL of the {name}, {nll[chosen]:.3g}, is the lowest"
        if chosen != best:
            why = (
                f"its NLL of the {name}, {nll[chosen]:.3g}, is not significantly above the lowest "
                f"({best}, {nll[best]:.3g}), and it is the cheapest of these"
            )
        beside = f", against {nll[CONSTANT]:.3g} of a constant sigma" if CONSTANT in nll else ""
        cost = 1e6 * scores[chosen].atom_seconds
        return f"Use {chosen}: {why}{beside}; a prediction costs {cost:.3g} µs for each atom."

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each quantity and estimator, flat."""
        for name in self.quantities:
            for estimator, scores in self.scores.items():
                row: dict[str, Any] = {"quantity": name, "estimator": estimator}
                for metric in METRICS:
                    value, low, high = scores.metrics[name][metric]
                    row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
                yield row | {"fit_seconds": scores.fit_seconds, "atom_seconds": scores.atom_seconds}

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as JSON types; NaN is null."""
        rows = [{key: _plain(value) for key, value in row.items()} for row in self.rows()]
        return {
            "recommendation": self.recommendation,
            "n_structures": self.n_structures,
            "levels": dict(self.levels),
            "nll_above_best": {
                name: {e: [_plain(end) for end in gap] for e, gap in gaps.items()}
                for name, gaps in self.better.items()
            },
            "rows": rows,
        }

    def to_csv(self) -> str:
        """The rows as CSV."""
        rows, text = list(self.rows()), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def __str__(self) -> str:
        lines = []
        for name in self.quantities:
            unit = quantity(name).unit + ("/atom" if quantity(name).per_atom else "")
            lines += ["", f"{name} ({unit}); large errors are those above {self.levels[name]:.3g}"]
            table = [["estimator", *METRICS, "fit, s", "µs per atom"]]
            for estimator, scores in self.scores.items():
                cells = [_text(scores.metrics[name][metric]) for metric in METRICS]
                costs = [f"{scores.fit_seconds:.3g}", f"{1e6 * scores.atom_seconds:.3g}"]
                table.append([estimator, *cells, *costs])
            widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
            for row in table:
                padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append("  ".join(padded).rstrip())
        return "\n".join([*lines[1:], "", self.recommendation])

    def save(self, folder: str | Path) -> None:
        """Write comparison.json, comparison.csv, comparison.txt, and comparison.npz with all sigmas."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "comparison.json", json_text(self.as_dict()) + "\n")
        write_atomic(folder / "comparison.csv", self.to_csv())
        write_atomic(folder / "comparison.txt", f"{self}\n")
        arrays: dict[str, np.ndarray] = {}
        for estimator, scores in self.scores.items():
            own = scores.comparison
            for name in own.quantities:
                if f"{name}{UNCERTAINTY}" in own.arrays:
                    residuals, sigma = own.residuals(name)
                    arrays |= {f"{estimator}:{name}:residuals": residuals, f"{estimator}:{name}:sigma": sigma}
                    if "group" in own.arrays:
                        groups = own.arrays["group"][own.structures(name)[own.scored(name)]]
                        arrays[f"{estimator}:{name}:group"] = groups
        write_arrays(folder / "comparison.npz", arrays)


def uq_compare(
    potential: HasPotential,
    train: Source | LabelledSet,
    calibration: Source | LabelledSet,
    test: Source | LabelledSet,
    estimators: Sequence[str | UncertaintyConfig]
    | Mapping[str, str | UncertaintyConfig | Uncertainty] = _USUAL,
    *,
    ood: Source | None = None,
    level: Mapping[str, float] | None = None,
    record: TrainingRecord | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
    labels: Mapped | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> EstimatorTable:
    """Fit several uncertainties around one potential and score them on the same test set.

    Args:
        potential: trained.
        train: structures it was trained on.
        calibration: labelled structures it has not seen.
        test: labelled structures that nothing was fitted to.
        estimators: kinds, configurations, or by names of one's own also uncertainties that are fitted.
        ood: structures unlike those of the training, to be told from those of the test set.
        level: by quantity the size above which an error is large; by default what a fifth of the errors of
            the first estimator exceeds. Energies per atom.
        record: how the potential was trained, for deep ensembles and LTAU.
        n_bootstrap: draws of test structures for the 95 % intervals.
        seed: of the draws.
        labels: explicit keys of the labels.
        folder: for the tables, see `EstimatorTable.save`, and for what is done of long fits.
        progress: show a progress bar.

    Raises:
        ConfigError: an unknown kind, or a name twice.
        DataError: no labels in the test set.
        PotentialError: an estimator that does not serve the potential.
    """
    plain = as_potential(potential)
    chosen = _named(estimators)
    train_set, held = (as_labelled(part, plain, labels, require=()) for part in (train, calibration))
    data = as_labelled(test, plain, labels, require=())
    names = fitted(plain.supplies)
    found: dict[str, tuple[Comparison, Uncertainty, float, float]] = {}
    with track(len(chosen), "uncertainties", progress) as bar:
        for name, config in chosen.items():
            fit_watch, watch = Stopwatch(), Stopwatch()
            with fit_watch:
                if isinstance(config, Uncertainty):
                    sure = config
                else:
                    own = None if folder is None else _made(Path(folder) / "fits" / name)
                    sure = fit_uncertainty(
                        config, plain, train_set, held, record=record, folder=own, progress=False
                    )
            with watch:
                comparison = evaluate_uncertainty(sure, data, names)
            n_atoms = float(comparison.arrays["n_atoms"].sum())
            seconds = float("nan") if isinstance(config, Uncertainty) else fit_watch.seconds
            found[name] = comparison, sure, seconds, watch.seconds / n_atoms
            bar.advance(1, estimator=name)
    outside = {} if ood is None else {name: _structure_sigmas(entry[1], ood) for name, entry in found.items()}
    table = _scored(found, outside, dict(level or {}), n_bootstrap, seed)
    if folder is not None:
        table.save(folder)
    return table


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _named(estimators: Any) -> dict[str, UncertaintyConfig | Uncertainty]:
    if not isinstance(estimators, Mapping):
        kinds = [e if isinstance(e, str) else e.kind for e in estimators]
        named = {
            kind if kinds.count(kind) == 1 else f"{kind}-{place}": e
            for place, (kind, e) in enumerate(zip(kinds, estimators, strict=True), 1)
        }
    else:
        named = dict(estimators)
    if not named:
        raise ConfigError("nothing to compare: no estimators")
    return {
        name: parse(CompareConfig, {"estimators": [{"kind": e}]}).estimators[0] if isinstance(e, str) else e
        for name, e in named.items()
    }


def _scored(
    found: Mapping[str, tuple[Comparison, Uncertainty, float, float]],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    levels: dict[str, float],
    n_bootstrap: int,
    seed: int,
) -> EstimatorTable:
    """All metrics with intervals; every estimator sees the same draws of structures, and the same labels."""
    first = next(iter(found.values()))[0]
    n = len(first.arrays["n_atoms"])
    rng = np.random.Generator(np.random.Philox(key=seed))
    draws = [rng.integers(n, size=n) for _ in range(n_bootstrap)]
    metrics: dict[str, dict[str, dict[str, Score]]] = {name: {} for name in found}
    better: dict[str, dict[str, tuple[float, float]]] = {}
    for name in first.quantities:
        comparisons = {e: entry[0] for e, entry in found.items() if f"{name}{UNCERTAINTY}" in entry[0].arrays}
        if len(comparisons) < len(found):
            continue
        known = np.all([c.scored(name) for c in comparisons.values()], axis=0)
        if not known.any():
            continue
        structures = first.structures(name)[known]
        columns = {}
        for e, own in comparisons.items():
            sigma = own.arrays[f"{name}{UNCERTAINTY}"]
            sigma = sigma / own.arrays["n_atoms"] if quantity(name).per_atom else sigma
            columns[e] = own.errors(name)[known], sigma[known]
        sizes = np.abs(next(iter(columns.values()))[0])
        levels.setdefault(name, float(np.quantile(sizes, AUROC_QUANTILE)))
        places = _places(structures, n)
        drawn_nll = {}
        for e, (residuals, sigma) in columns.items():
            inside = _structure_values(sigma, structures, n)
            far = outside.get(e, {}).get(name)
            one = _Metrics(residuals, sigma, levels[name], inside, far)
            whole = one.of(np.arange(len(residuals)), np.arange(n))
            each = [one.of(np.concatenate([places[i] for i in draw]), draw) for draw in draws]
            metrics[e][name] = {m: (whole[m], *_interval([d[m] for d in each])) for m in METRICS}
            drawn_nll[e] = np.array([d["nll"] for d in each])
        best = min(columns, key=lambda e: metrics[e][name]["nll"][0])
        better[name] = {e: _interval(drawn_nll[e] - drawn_nll[best]) for e in columns}
    if not better:
        raise DataError("no quantity of the test set has labels and sigmas of all estimators")
    scores = {e: EstimatorScores(metrics[e], entry[2], entry[3], entry[0]) for e, entry in found.items()}
    return EstimatorTable(scores, {name: levels[name] for name in better}, better, n)


@dataclass(frozen=True, eq=False)
class _Metrics:
    """Metrics of one quantity, of any draw of rows and structures."""

    residuals: Float[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    level: float
    inside: Float[np.ndarray, " n_structures"]
    outside: Float[np.ndarray, " n_ood"] | None

    def of(self, rows: Int[np.ndarray, " m"], structures: Int[np.ndarray, " k"]) -> dict[str, float]:
        r, s = self.residuals[rows], self.sigma[rows]
        levels, observed = calibration_curve(r, s)
        ood = float("nan")
        if self.outside is not None:
            inside = self.inside[structures]
            inside = inside[np.isfinite(inside)]
            flags = np.r_[np.zeros(len(inside), bool), np.ones(len(self.outside), bool)]
            ood = auroc(flags, np.r_[inside, self.outside])
        return {
            "nll": float(gaussian_nll(r, s).mean()),
            "crps": float(gaussian_crps(r, s).mean()),
            "miscalibration_area": miscalibration_area(levels, observed),
            "ence": ence(r, s),
            "spearman": spearman(np.abs(r), s),
            "auroc_error": auroc(np.abs(r) > self.level, s),
            "auroc_ood": ood,
            "coverage_68": coverage(r, s, 0.68),
            "coverage_95": coverage(r, s, 0.95),
        }


def _places(structures: Int[np.ndarray, " n"], n: int) -> list[np.ndarray]:
    """Rows of each structure."""
    stops = np.searchsorted(structures, np.arange(n + 1))
    return [np.arange(a, b) for a, b in itertools.pairwise(stops)]


def _structure_values(sigma: np.ndarray, structures: np.ndarray, n: int) -> np.ndarray:
    """Root mean square of the sigmas of each structure; NaN where it has none."""
    size = float(sigma.max(initial=0.0)) or 1.0  # equal sigmas must not differ by rounding
    counts = np.bincount(structures, minlength=n)
    sums = np.bincount(structures, weights=(sigma / size) ** 2, minlength=n)
    return size * np.sqrt(np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0))


def _structure_sigmas(sure: Uncertainty, frames: Source) -> dict[str, np.ndarray]:
    """Root mean square of the sigmas of each structure by quantity; energies per atom."""
    data = as_labelled(frames, sure.potential, None, require=())
    options: Any = {name: name in sure.maps for name in ("forces", "stress")}
    predictions = sure.predict(data.frames, **options)
    values: dict[str, np.ndarray] = {}
    for name in sure.maps:
        own = [
            np.ravel(p[f"{name}{UNCERTAINTY}"]) / (len(a) if quantity(name).per_atom else 1)
            for p, a in zip(predictions, data.frames, strict=True)
            if f"{name}{UNCERTAINTY}" in p
        ]
        if own:
            structures = np.repeat(np.arange(len(own)), [len(sigma) for sigma in own])
            values[name] = _structure_values(np.concatenate(own), structures, len(own))
    return values


def _interval(values: Any) -> tuple[float, float]:
    """Central 95 % of the draws; NaN where there are none."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _text(score: Score) -> str:
    value, low, high = score
    if not np.isfinite(value):
        return "–"
    return f"{value:.3g}" if not np.isfinite(low) else f"{value:.3g} [{low:.3g}, {high:.3g}]"
