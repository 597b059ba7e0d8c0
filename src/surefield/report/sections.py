"""What a report shows of a run: sections of figures and tables, each figure with one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from surefield.quantities import names, quantity
from surefield.report import figures
from surefield.report.run import Pick, Run
from surefield.report.tables import entries, number, records, table
from surefield.uncertainty.metrics import coverage

__all__ = ["Panel", "Section", "sections"]

#: More rows than this per table are cut, with a line that says so.
MAX_ROWS: Final = 500
#: Names, units and display factors of the kinds of prediction.
KINDS: Final = {
    "forces": ("force component", "eV/Å"),
    "energy": ("energy per atom", "eV/atom"),
    "stress": ("stress", "eV/Å³"),
}
LEARNING: Final = {
    "forces_mae": "the typical error of a force component",
    "forces_rmse": "the same with large force errors counting more",
    "energy_mae": "the typical error of the energy per atom",
    "energy_rmse": "the same with large energy errors counting more",
}
CALIBRATION_NAMES: Final = {
    "coverage_68": "errors within one σ (ideal 0.68)",
    "miscalibration_area": "miscalibration area (ideal 0)",
    "nll": "negative log likelihood",
    "nll_constant": "the same for one constant σ",
    "alpha": "calibration factor α",
}


@dataclass(frozen=True)
class Panel:
    """A figure with its title and caption."""

    title: str
    figure: figures.Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page; `html` holds its tables, already escaped, shown after the figures."""

    key: str
    title: str
    lead: str = ""
    panels: tuple[Panel, ...] = ()
    html: str = ""


def sections(run: Run) -> list[Section]:
    """The sections that this run has something to show for, in the order of the page."""
    all_sections = (
        _doctor(run),
        _learning(run),
        _parity(run),
        _uncertainty(run),
        _picks(run),
        _training(run),
        _configuration(run),
        _versions(run),
    )
    return [section for section in all_sections if section is not None]


def _learning(run: Run) -> Section | None:
    panels = []
    for score, words in LEARNING.items():
        caption = f"Lower and further left is better: {words} on structures never used for training."
        panels += _panel(figures.SCORES[score][0], figures.learning_curve(run.curves, score), caption)
    if not panels:
        return None
    n_test = run.start.get("n_test")
    lead = (
        "How fast the potential improves as structures are labelled. Bold lines are means over the seeds, "
        "the band spans the seeds, faint lines are the single seeds"
        + (f"; the test set has {n_test} structures." if n_test else ".")
    )
    return Section("learning", "Learning curves", lead, tuple(panels), _final_errors(run))


def _final_errors(run: Run) -> str:
    rows = []
    for curve in sorted(run.curves, key=lambda curve: (curve.method == "random", curve.method, curve.seed)):
        last = [1e3 * float(curve.test[name][-1]) for name in LEARNING]
        state = "finished" if curve.finished else "unfinished"
        rows.append([curve.method, str(curve.seed), int(curve.n_labels[-1]), *last, state])
    columns = ["Method", "Seed", "Labels", "Force MAE (meV/Å)", "Force RMSE (meV/Å)"]
    return table([*columns, "Energy MAE (meV/atom)", "Energy RMSE (meV/atom)", "State"], rows)


def _parity(run: Run) -> Section | None:
    panels = []
    for kind, (name, unit) in _kinds(run).items():
        pair = _values(run, kind)
        if pair is None:
            continue
        reference, predicted = pair
        caption = (
            f"Points on the dashed line are predicted exactly; {_error_words(predicted - reference, unit)}."
        )
        panels += _panel(
            f"{name.capitalize()}s" if kind == "forces" else name.capitalize(),
            figures.parity(reference, predicted, name, unit),
            caption,
        )
    if not panels:
        return None
    lead = "Predictions against reference values; brighter points lie where there are more of them."
    return Section("parity", "Parity", lead, tuple(panels), _errors_by_element(run))


def _errors_by_element(run: Run) -> str:
    pair, species = _values(run, "forces"), run.predictions.get("species")
    if pair is None or species is None or 3 * len(species) != len(pair[0]):
        return ""
    residuals = (pair[1] - pair[0]).reshape(-1, 3)
    rows = []
    for z in np.unique(species):
        n, *errors = _errors(residuals[species == z])
        if n:
            rows.append([_symbol(int(z)), int(np.sum(species == z)), *errors])
    columns = ["Element", "Atoms", "Force MAE (meV/Å)", "Force RMSE (meV/Å)", "Largest error (meV/Å)"]
    return table(columns, rows)


def _uncertainty(run: Run) -> Section | None:
    scored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    panels: list[Panel] = []
    for kind, (name, unit) in _kinds(run).items():
        pair = _residuals(run, kind)
        if pair is None:
            continue
        scored[kind] = pair
        caption = (
            "If σ is right, half of the points lie below the dotted line, 68 % below the solid, 95 % below "
            "the dashed one, and the diamonds lie near the solid line."
        )
        panels += _panel(f"Error against σ: {name}", figures.error_against_sigma(*pair, name, unit), caption)
    if scored:
        caption = (
            "A curve on the dashed line means that the predicted σ can be taken at its word. "
            + " ".join(_coverage_words(kind, *pair) for kind, pair in scored.items())
        )
        panels += _panel("Calibration", figures.calibration(scored), caption)
    for kind in dict.fromkeys([*KINDS, *(kind for curve in run.curves for kind in curve.calibration)]):
        caption = f"Share of test errors of the {kind} that are smaller than the predicted σ, round by round."
        title = f"Calibration along the loop: {kind}"
        panels += _panel(title, figures.coverage_history(run.curves, kind), caption)
    html = _calibration_scores(run)
    if not panels and not html:
        return None
    lead = "Whether the potential knows how wrong it is: predicted standard deviations σ against real errors."
    return Section("uncertainty", "Uncertainty", lead, tuple(panels), html)


def _calibration_scores(run: Run) -> str:
    calibration = run.summary.get("calibration")
    if not isinstance(calibration, Mapping):
        return ""
    kinds = {kind: scores for kind, scores in calibration.items() if isinstance(scores, Mapping) and scores}
    if not kinds:
        return ""
    names = dict.fromkeys(name for scores in kinds.values() for name in scores)
    rows = [
        [
            CALIBRATION_NAMES.get(name, name.replace("_", " ")),
            *(_number_or_dash(s.get(name)) for s in kinds.values()),
        ]
        for name in names
    ]
    lines = [_against_constant(kind, scores) for kind, scores in kinds.items()]
    return table(["Score", *kinds], rows) + "".join(
        f'<p class="lead">{escape(line)}</p>' for line in lines if line
    )


def _against_constant(kind: str, scores: Mapping[str, Any]) -> str:
    ours, constant = scores.get("nll"), scores.get("nll_constant")
    if not isinstance(ours, int | float) or not isinstance(constant, int | float):
        return ""
    word = "better" if ours < constant else "no better"
    return (
        f"For the {kind} the predicted σ is {word} than one constant σ for all structures "
        f"(negative log likelihood {number(ours)} against {number(constant)}; lower is better)."
    )


def _picks(run: Run) -> Section | None:
    if not run.picks:
        return None
    caption = "A high gain means that much is to be learnt; once the lines stay low, the pool has little new."
    if len({pick.seed for pick in run.picks}) > 1:
        caption += " Every seed has its own marker."
    panels = _panel("Gain of the picks", figures.gains(run.picks), caption)
    groups = [
        (key, list(group))
        for key, group in groupby(
            sorted(run.picks, key=lambda pick: (pick.method == "random", pick.method, pick.seed or 0)),
            key=lambda pick: (pick.method, pick.seed),
        )
    ]
    html = []
    for place, ((method, seed), picks) in enumerate(groups):
        title = (
            f"{method or 'selection'}" + ("" if seed is None else f", seed {seed}") + f": {len(picks)} picks"
        )
        opened = " open" if place == 0 else ""
        html.append(f"<details{opened}><summary>{escape(title)}</summary>{_pick_table(picks)}</details>")
    lead = "The structures that were chosen for labelling, in order, and why."
    return Section("picks", "Picks", lead, tuple(panels), "".join(html))


def _pick_table(picks: Sequence[Pick]) -> str:
    in_loop = any(pick.seed is not None for pick in picks)
    formulas, gains = any(pick.formula for pick in picks), any(np.isfinite(pick.gain) for pick in picks)
    columns = ["Round" if in_loop else "Pick", "Structure"]
    columns += ["Formula"] * formulas + ["Gain"] * gains + ["Reason"]
    rows = []
    for pick in picks[:MAX_ROWS]:
        row: list[Any] = [str(pick.round if in_loop else pick.order + 1), str(pick.index)]
        row += [pick.formula] * formulas + [_number_or_dash(pick.gain)] * gains + [pick.reason]
        rows.append(row)
    cut = (
        f'<p class="lead">The first {MAX_ROWS} of {len(picks)} are shown.</p>'
        if len(picks) > MAX_ROWS
        else ""
    )
    return table(columns, rows) + cut


def _training(run: Run) -> Section | None:
    captions = {
        "forces": "Both should fall together; validation rising while training falls means overfitting.",
        "energy": "The same for the energy per atom.",
        "loss": "What the optimiser minimises; a flat end means that longer training would gain little.",
    }
    panels: list[Panel] = []
    for kind, caption in captions.items():
        title = {"forces": "Force RMSE", "energy": "Energy RMSE", "loss": "Loss"}[kind] + " during training"
        panels += _panel(title, figures.training_curve(run.metrics, kind), caption)
    if not panels:
        return None
    seconds = run.metrics.get("seconds", np.array([]))
    known = seconds[np.isfinite(seconds)]
    lead = (
        f"How the fit went; it took {_duration(float(known.max()))}." if len(known) else "How the fit went."
    )
    return Section("training", "Training", lead, tuple(panels))


def _doctor(run: Run) -> Section | None:
    if not run.doctor:
        return None
    plain = {key: value for key, value in run.doctor.items() if not _is_records(value)}
    html = ""
    for key, value in run.doctor.items():
        if _is_records(value):
            html += f"<h3>{escape(key.replace('_', ' ').capitalize())}</h3>{records(value[:MAX_ROWS])}"
    html += entries(plain) if plain else ""
    return Section(
        "doctor", "Data doctor", "What the data files themselves reveal, and what to do about it.", (), html
    )


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _configuration(run: Run) -> Section | None:
    if not run.config_text.strip():
        return None
    html = f'<div class="scroll"><pre>{escape(run.config_text)}</pre></div>'
    return Section(
        "configuration", "Configuration", "Every setting of this run, defaults included.", (), html
    )


def _versions(run: Run) -> Section | None:
    if not run.versions:
        return None
    return Section("versions", "Versions", "The software that made this run.", (), entries(run.versions))


def _panel(title: str, figure: figures.Figure | None, caption: str) -> list[Panel]:
    return [] if figure is None else [Panel(title, figure, caption)]


def _kinds(run: Run) -> dict[str, tuple[str, str]]:
    """Names and units of the quantities that may be shown: the usual ones, and what else was predicted."""
    others = [name.removesuffix("_reference") for name in run.predictions if name.endswith("_reference")]
    return KINDS | {
        name: (name.replace("_", " "), quantity(name).unit if name in names() else "")
        for name in others
        if name not in KINDS
    }


def _values(run: Run, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Reference and prediction of a kind, flat; energies per atom."""
    reference, predicted = run.predictions.get(f"{kind}_reference"), run.predictions.get(kind)
    if reference is None or predicted is None:
        return None
    scale = _per_atom(run, kind)
    if scale is None:
        return None
    return (reference / scale).ravel(), (predicted / scale).ravel()


def _residuals(run: Run, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Residuals and σ of a kind, flat; energies per atom. Rows without a usable σ are NaN (masked)."""
    pair, sigma, scale = _values(run, kind), run.predictions.get(f"{kind}_uncertainty"), _per_atom(run, kind)
    if pair is None or sigma is None or scale is None:
        return None
    sigma = (sigma / scale).ravel()
    # σ is exactly zero where symmetry makes the force zero: such rows say nothing about calibration
    residuals = np.where(np.isfinite(sigma) & (sigma > 0), pair[1] - pair[0], np.nan)
    residuals[~np.isfinite(residuals)] = np.nan
    return (residuals, sigma) if np.isfinite(residuals).any() else None


def _per_atom(run: Run, kind: str) -> np.ndarray | float | None:
    """Divisor of a kind: the number of atoms where it is per atom (None if not recorded), else 1."""
    return run.predictions.get("n_atoms") if kind in names() and quantity(kind).per_atom else 1.0


def _errors(residuals: np.ndarray) -> tuple[int, float, float, float]:
    """Number of known residuals; their MAE, RMSE and largest, in thousandths; zeros where there are none."""
    known = 1e3 * np.abs(residuals[np.isfinite(residuals)])
    if not len(known):
        return 0, 0.0, 0.0, 0.0
    return len(known), float(known.mean()), float(np.sqrt(np.mean(known**2))), float(known.max())


def _error_words(residuals: np.ndarray, unit: str) -> str:
    n, mae, rmse, largest = _errors(residuals)
    if not n:
        return "no labels"
    return (
        f"{n} values, MAE {number(mae)} m{unit}, RMSE {number(rmse)} m{unit}, "
        f"largest error {number(largest)} m{unit}"
    )


def _coverage_words(kind: str, residuals: np.ndarray, sigma: np.ndarray) -> str:
    observed = 100 * coverage(residuals, sigma, 0.68)
    trust = (
        "about right"
        if abs(observed - 68) <= 5
        else "too small (overconfident)"
        if observed < 68
        else "too large (cautious)"
    )
    name = "force" if kind == "forces" else kind
    return f"Of 100 {name} errors {observed:.0f} are within one σ (ideal 68): σ is {trust}."


def _number_or_dash(value: Any) -> Any:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return value if usable else "–"


def _symbol(z: int) -> str:
    return chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
