"""What a report shows of a run: sections of figures and tables, each figure with one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np

from surefield.calibration.metrics import coverage
from surefield.execution.progress import duration
from surefield.report import figures
from surefield.report.comparison import comparison_section
from surefield.report.engine_trial import engine_trial_section
from surefield.report.errors import errors_section
from surefield.report.loop_sections import loop_sections
from surefield.report.loop_state import LoopState
from surefield.report.panels import KINDS, Panel, Section, kinds, panel, per_atom, values
from surefield.report.picks import picks_section
from surefield.report.properties import properties_section
from surefield.report.replay import replay_section
from surefield.report.run import TAILS, Run
from surefield.report.score_figures import score_section
from surefield.report.scores import ONE_SIGMA, coverage_sentence, mapping, trust
from surefield.report.stability import stability_section
from surefield.report.tables import entries, number, percent, records, table, titled
from surefield.selection.label_share import ERROR_NAMES
from surefield.selection.replay_result import HEADLINE

__all__ = ["Panel", "Section", "sections"]

#: More rows than this per table are cut.
MAX_ROWS: Final = 500
LEARNING: Final = {
    "forces_mae": "the typical error of a force component",
    "forces_rmse": "the same with large force errors counting more",
    "energy_mae": "the typical error of the energy per atom",
    "energy_rmse": "the same with large energy errors counting more",
}
CALIBRATION_NAMES: Final = {
    "n_structures": "structures",
    "coverage_68": f"errors within one σ (ideal {percent(ONE_SIGMA)})",
    "coverage_68_interval": "95 % interval of this share",
    "coverage_95": "errors within 1.96 σ (ideal 95 %)",
    "miscalibration_area": "miscalibration area (ideal 0)",
    "nll": "negative log likelihood",
    "nll_constant": "the same for one constant σ",
    "alpha": "calibration factor α",
    "calibration_rows": "labels that σ was calibrated on",
}


def sections(run: Run, state: LoopState | None = None) -> list[Section]:
    """The sections that a run has something to show for, in the order of the page; `state` of a loop."""
    all_sections = (
        *(() if state is None else loop_sections(state)),
        engine_trial_section(run),
        _doctor(run),
        _learning(run),
        errors_section(run),
        _uncertainty(run),
        comparison_section(run),
        replay_section(run),
        score_section(run),
        properties_section(run),
        stability_section(run),
        picks_section(run),
        _training(run),
        _configuration(run),
        _versions(run),
    )
    return [section for section in all_sections if section is not None]


def _learning(run: Run) -> Section | None:
    panels = []
    for score, words in LEARNING.items():
        caption = f"Lower and further left is better: {words} on structures never used for training."
        panels += panel(figures.SCORES[score][0], figures.learning_curve(run.curves, score), caption)
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
    rows, by_group = [], []
    for curve in sorted(run.curves, key=lambda curve: (curve.method == "random", curve.method, curve.seed)):
        last = [1e3 * float(curve.test[name][-1]) for name in ("forces_mae", "forces_rmse")]
        last += [1e3 * float(curve.tails[name][-1]) if name in curve.tails else np.nan for name in TAILS]
        last += [1e3 * float(curve.test[name][-1]) for name in ("energy_mae", "energy_rmse")]
        state = "finished" if curve.finished else "unfinished"
        rows.append([curve.method, str(curve.seed), int(curve.n_labels[-1]), *last, state])
        for group, errors in curve.groups.items():
            values = [1e3 * float(errors.get(f"forces_{name}", np.nan)) for name in HEADLINE]
            by_group.append([group or "(none)", curve.method, str(curve.seed), *values])
    forces = [f"Force {ERROR_NAMES[name]} (meV/Å)" for name in HEADLINE]
    energies = ["Energy MAE (meV/atom)", "Energy RMSE (meV/atom)"]
    html = table(["Method", "Seed", "Labels", *forces, *energies, "State"], rows)
    if by_group:
        by_group.sort(key=lambda row: (row[0], row[1] == "random"))
        html += titled("By group (config_type)", table(["Group", "Method", "Seed", *forces], by_group))
    return html


def _uncertainty(run: Run) -> Section | None:
    scored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    panels: list[Panel] = []
    for kind, (name, unit) in kinds(run).items():
        pair = _residuals(run, kind)
        if pair is None:
            continue
        scored[kind] = pair
        caption = (
            "If σ is right, half of the points lie below the dotted line, 68 % below the solid, 95 % below "
            "the dashed one, and the diamonds lie near the solid line."
        )
        panels += panel(f"Error against σ: {name}", figures.error_against_sigma(*pair, name, unit), caption)
    if scored:
        caption = (
            "A curve on the dashed line means that the predicted σ can be taken at its word. "
            + " ".join(f"{_coverage(run, kind, *pair)}." for kind, pair in scored.items())
        )
        panels += panel("Calibration", figures.calibration(scored), caption)
    for kind in dict.fromkeys([*KINDS, *(kind for curve in run.curves for kind in curve.calibration)]):
        caption = f"Share of test errors of the {kind} that are smaller than the predicted σ, round by round."
        title = f"Calibration along the loop: {kind}"
        panels += panel(title, figures.coverage_history(run.curves, kind), caption)
    html = _calibration_scores(run)
    if not panels and not html:
        return None
    lead = "Whether the potential knows how wrong it is: predicted standard deviations σ against real errors."
    return Section("uncertainty", "Uncertainty", lead, tuple(panels), html)


def _coverage(run: Run, kind: str, residuals: np.ndarray, sigma: np.ndarray) -> str:
    """The recorded coverage, or that of the points that are drawn."""
    recorded = mapping(mapping(run.summary.get("calibration")).get(kind))
    drawn = {
        "coverage_68": coverage(residuals, sigma, ONE_SIGMA),
        "coverage_95": coverage(residuals, sigma, 0.95),
    }
    return coverage_sentence(kind, {**drawn, **recorded})


def _calibration_scores(run: Run) -> str:
    calibration = mapping(run.summary.get("calibration"))
    shown = {kind: scores for kind, scores in calibration.items() if isinstance(scores, Mapping) and scores}
    if not shown:
        return ""
    rows = [
        [words, *(_score(name, scores.get(name)) for scores in shown.values())]
        for name, words in CALIBRATION_NAMES.items()
        if any(scores.get(name) is not None for scores in shown.values())
    ]
    lines = [trust(kind, scores) for kind, scores in shown.items()]
    lines += [_against_constant(kind, scores) for kind, scores in shown.items()]
    return table(["Score", *shown], rows) + "".join(
        f'<p class="lead">{escape(line)}</p>' for line in lines if line
    )


def _score(name: str, value: Any) -> Any:
    if name.endswith("_interval"):
        return " to ".join(percent(end) for end in value) if value else "–"
    return percent(value) if name.startswith("coverage") and value is not None else _number_or_dash(value)


def _against_constant(kind: str, scores: Mapping[str, Any]) -> str:
    ours, constant = scores.get("nll"), scores.get("nll_constant")
    if not isinstance(ours, int | float) or not isinstance(constant, int | float):
        return ""
    word = "better" if ours < constant else "no better"
    return (
        f"For the {kind} the predicted σ is {word} than one constant σ for all structures "
        f"(negative log likelihood {number(ours)} against {number(constant)}; lower is better)."
    )


def _training(run: Run) -> Section | None:
    both = "train_forces_rmse" in run.metrics
    captions = {
        "forces": "Both should fall together; validation rising while training falls means overfitting."
        if both
        else "It should fall; where it stays or rises, further epochs gain nothing.",
        "energy": "The same for the energy per atom.",
        "loss": "What the optimiser minimises; a flat end means that longer training would gain little.",
    }
    panels: list[Panel] = []
    for kind, caption in captions.items():
        title = {"forces": "Force RMSE", "energy": "Energy RMSE", "loss": "Loss"}[kind] + " during training"
        panels += panel(title, figures.training_curve(run.metrics, kind), caption)
    if not panels:
        return None
    seconds = run.metrics.get("seconds", np.array([]))
    known = seconds[np.isfinite(seconds)]
    steps = "epochs" if "epoch" in run.metrics else "steps"
    took = f"; its {steps} took {duration(float(known.max()))}" if len(known) else ""
    lead = f"How the fit went{took}."
    return Section("training", "Training", lead, tuple(panels))


def _doctor(run: Run) -> Section | None:
    if not run.doctor:
        return None
    html = "".join(_examined(mapping(part)) for part in (run.doctor, run.doctor.get("test")) if part)
    return Section(
        "doctor", "Data doctor", "What the data files themselves reveal, and what to do about it.", (), html
    )


def _examined(examination: Mapping[str, Any]) -> str:
    """What one set of structures is, and what was found in it."""
    source, n = examination.get("source", "structures"), examination.get("n_frames")
    told = f"{source}: {n} structures" if n is not None else str(source)
    findings = [mapping(finding) for finding in examination.get("findings") or []]
    order = ("severity", "check", "message", "frames", "remedy")
    rows = [{key: finding.get(key, "") for key in order} for finding in findings[:MAX_ROWS]]
    found = records(rows) if rows else '<p class="lead">Nothing was found to be wrong.</p>'
    overview = mapping(examination.get("overview"))
    return titled(told, (entries(overview) if overview else "") + found)


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


def _residuals(run: Run, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Residuals and σ of a kind, flat; energies per atom. Rows without a usable σ are NaN (masked)."""
    pair, sigma, scale = values(run, kind), run.predictions.get(f"{kind}_uncertainty"), per_atom(run, kind)
    if pair is None or sigma is None or scale is None:
        return None
    sigma = (sigma / scale).ravel()
    # σ is exactly zero where symmetry makes the force zero: such rows say nothing about calibration
    residuals = np.where(np.isfinite(sigma) & (sigma > 0), pair[1] - pair[0], np.nan)
    residuals[~np.isfinite(residuals)] = np.nan
    return (residuals, sigma) if np.isfinite(residuals).any() else None


def _number_or_dash(value: Any) -> Any:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return value if usable else "–"
