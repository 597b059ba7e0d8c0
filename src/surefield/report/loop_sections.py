"""What the page of a loop shows while it runs, and in the end: rounds, walkers, picks, costs, failures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np

from surefield.execution.progress import duration
from surefield.exploration.walker import FINISHED, WalkerRecord
from surefield.report.headline import Card
from surefield.report.loop_state import Choice, LoopRound, LoopState, Tally, ends_of
from surefield.report.panels import Section
from surefield.report.scales import BLUE, GREEN, GREY, PALETTE, VERMILION
from surefield.report.scores import ONE_SIGMA, mapping, value_of
from surefield.report.structures_page import STRUCTURES
from surefield.report.svg import WIDTH, Band, Line, Rule, chart, shares
from surefield.report.tables import number, percent, table, titled
from surefield.report.viewer import structure_card

__all__ = ["UNDRAWN", "loop_cards", "loop_sections"]

_log = logging.getLogger(__name__)
#: Title of a section that failed.
UNDRAWN: Final = "Not drawn"

#: Structures of the latest picks that are drawn, and rows of failures.
_DRAWN: Final = 12
_ROWS: Final = 200
#: A share of fewer energies, one a structure, jumps between 0 and 100 %.
_FEWEST_ENERGIES: Final = 10
_ENDS: Final = {"finished": GREEN, "passed the limit": "#E69F00", "broke": VERMILION, "lost": GREY}
_PURPOSES: Final = {
    "initial": "first structures",
    "audit": "audits",
    "pick": "picks",
    "again": "failed ones, again",
}
_CHOSEN: Final = {"initial": "First structures", "audit": "Drawn at random for the audit", "pick": "Picks"}
_STATES: Final = {"labelled": GREEN, "failed": VERMILION, "waiting": GREY}


def loop_sections(state: LoopState) -> list[Section]:
    """The sections that this loop has something to show for, in the order of the page."""
    sections = []
    for make in (_rounds, _walkers, _picks, _costs, _failures, _changes):
        try:
            sections.append(make(state))
        except Exception as error:  # a loop of weeks must not end for what its page cannot show
            _log.exception("a section of the page of %s could not be drawn", state.folder)
            told = f"This section could not be drawn: {type(error).__name__}: {error}"
            sections.append(Section(make.__name__.strip("_"), UNDRAWN, told))
    return [section for section in sections if section is not None]


def loop_cards(state: LoopState) -> list[Card]:
    """The key numbers of a loop under way."""
    imported = f"and {state.n_imported} imported" if state.n_imported else ""
    cards = [Card("Labels paid for", str(state.n_labelled), aside=imported)]
    judged = [one for one in state.rounds if one.judged]
    if judged:
        last = judged[-1]
        where = f"{last.judged}, round {last.number}"
        for key, label in (("forces_mae", "Force MAE"), ("forces_rmse", "Force RMSE")):
            value = value_of(last.errors, key)
            if value is not None:
                cards.append(Card(label, number(1e3 * value), "meV/Å", where))
        covered = value_of(last.calibration.get("forces"), "coverage_68")
        if covered is not None:
            share, unit = percent(covered).split()
            cards.append(Card("Force errors within 1 σ", share, unit, f"ideal: {percent(ONE_SIGMA)}"))
    explored = [one for one in state.rounds if one.walkers]
    if explored:
        ends = ends_of(explored[-1].walkers)
        others = [f"{ends[name]} {name}" for name in ("passed the limit", "broke") if ends[name]]
        aside = "; ".join([f"of round {explored[-1].number}", ", ".join(others)]).strip("; ")
        cards.append(
            Card("Walkers that finished", f"{ends['finished']} of {sum(ends.values())}", aside=aside)
        )
    if state.core_hours > 0:
        unit, seconds = _core_unit(state)
        cards.append(Card("Labels have cost", number(3600 * state.core_hours / seconds), unit))
    if state.n_failed:
        cards.append(Card("Labels that failed", str(state.n_failed)))
    return cards


def _rounds(state: LoopState) -> Section | None:
    if not state.rounds:
        return None
    figures = [
        _figure("Force error", _error_chart(state.rounds), "Lower and further left is better."),
        _figure(
            "Calibration of σ",
            _coverage_chart(state.rounds),
            "Share of errors below the predicted σ; on the dashed line σ can be taken at its word. "
            f"Shares of fewer than {_FEWEST_ENERGIES} energies are not drawn.",
        ),
    ]
    judged = {
        "in the audit" if one.judged.startswith("audit") else "on the test set"
        for one in state.rounds
        if one.judged
    }
    lead = "One potential a round, fitted to all labels there are"
    lead += f"; its errors {' or '.join(sorted(judged))}." if judged else "."
    return Section("rounds", "Rounds", lead, (), _panels(figures) + _round_table(state.rounds))


def _error_chart(rounds: Sequence[LoopRound]) -> str:
    lines = []
    for key, name, color, mark in (
        ("forces_mae", "MAE", BLUE, "circle"),
        ("forces_rmse", "RMSE", VERMILION, "triangle"),
    ):
        x = [one.n_labels for one in rounds]
        y = [1e3 * (value_of(one.errors, key) or np.nan) for one in rounds]
        told = [
            f"round {one.number}, {one.n_labels} labels: {number(v)} meV/Å"
            for one, v in zip(rounds, y, strict=True)
        ]
        lines.append(Line(x, y, name, color, mark=mark, told=told))
    return chart(lines, "Number of labels", "Force error (meV/Å)", log_y=True, whole_x=True)


def _coverage_chart(rounds: Sequence[LoopRound]) -> str:
    lines = []
    for kind, color, mark in (("forces", BLUE, "circle"), ("energy", VERMILION, "triangle")):
        y = [100 * _coverage(one, kind) for one in rounds]
        if np.isnan(y).all():
            continue
        told = [f"round {one.number}: {number(v)} %" for one, v in zip(rounds, y, strict=True)]
        lines.append(Line([one.n_labels for one in rounds], y, kind, color, mark=mark, told=told))
    ideal = Rule(100 * ONE_SIGMA, f"ideal {percent(ONE_SIGMA)}")
    return chart(
        lines,
        "Number of labels",
        f"{_errors_of(lines)} within one σ (%)",
        rules=[ideal],
        y_range=(0.0, 102.0),
        whole_x=True,
    )


def _errors_of(lines: Sequence[Line]) -> str:
    """What is drawn; a single line has no name in the figure."""
    if len(lines) > 1:
        return "Errors"
    return {"forces": "Force errors", "energy": "Energy errors"}[lines[0].name] if lines else ""


def _coverage(one: LoopRound, kind: str) -> float:
    """Share of errors within one sigma; NaN where it is not known, or of too few energies."""
    scores = one.calibration.get(kind)
    share = value_of(scores, "coverage_68")
    few = kind == "energy" and (value_of(scores, "n_structures") or _FEWEST_ENERGIES) < _FEWEST_ENERGIES
    return np.nan if share is None or few else share


def _round_table(rounds: Sequence[LoopRound]) -> str:
    columns = [
        "Round",
        "Labels",
        "Force MAE (meV/Å)",
        "Force RMSE (meV/Å)",
        "Energy MAE (meV/atom)",
        "Judged by",
    ]
    columns += ["Within 1 σ (%)", "Candidates", "Picks"]
    rows = []
    for one in reversed(rounds):
        errors = [_thousandths(one.errors, key) for key in ("forces_mae", "forces_rmse", "energy_mae")]
        covered = value_of(one.calibration.get("forces"), "coverage_68")
        row = [one.number, one.n_labels, *errors, one.judged or "–"]
        row += ["–" if covered is None else round(100 * covered, 1)]
        rows.append([*row, "–" if one.n_candidates is None else one.n_candidates, one.n_picked or "–"])
    return table(columns, rows)


def _walkers(state: LoopState) -> Section | None:
    explored = [one for one in state.rounds if one.walkers]
    if not explored:
        return None
    last = explored[-1]
    figures = [
        _figure(title, drawn, caption)
        for title, drawn, caption in _sigma_charts(last.walkers, last.number)
        if drawn
    ]
    lead = (
        "Walkers move with the potential of the round, collect structures where the largest σ of an atom "
        "lies in the shaded window, and stop where it passes the limit or the structure breaks."
    )
    html = _panels(figures) + titled(f"Walkers of round {last.number}", _walker_table(last.walkers))
    return Section("walkers", "Walkers", lead, (), html, _ends_table(explored))


def _sigma_charts(walkers: Sequence[WalkerRecord], of_round: int) -> Iterator[tuple[str, str, str]]:
    """A figure of each window and kind of walker, with title and caption; one alone is a wide one."""
    groups: dict[tuple[str, str, float, float], list[WalkerRecord]] = {}
    for walker in walkers:
        groups.setdefault((walker.kind, walker.quantity, walker.lower, walker.limit), []).append(walker)
    for (kind, quantity, lower, limit), group in groups.items():
        unit = "meV/Å" if quantity == "forces" else "meV"
        long = max((walker.times_fs or (0.0,))[-1] for walker in group) > 5000
        temperatures = sorted({walker.temperature for walker in group if walker.temperature is not None})
        colors = dict(zip(temperatures, _heat(len(temperatures)), strict=True))
        lines = []
        for walker in sorted(group, key=lambda one: one.temperature or 0.0):
            x = [t / (1000 if long else 1) for t in walker.times_fs] or [float(s) for s in walker.looked_at]
            y = [1e3 * sigma for sigma in walker.sigma]
            color = BLUE if walker.temperature is None else colors[walker.temperature]
            name = "" if walker.temperature is None else f"{walker.temperature:g} K"
            mark = {FINISHED: "circle"}.get(
                walker.ended, "triangle" if walker.ended.startswith("sigma") else "cross"
            )
            told = [""] * (len(x) - 1) + [f"walker {walker.walker}, {walker.formula}: {walker.ended}"]
            lines.append(Line(x, y, name, color, "last", mark, 1.8, told=told))
        across = ("Time (ps)" if long else "Time (fs)") if kind == "dynamics" else "Step"
        rules = [Rule(1e3 * limit, "limit: stop", VERMILION), Rule(1e3 * lower, "collect from here", GREEN)]
        of = "force" if quantity == "forces" else "energy of an atom"
        drawn = chart(
            lines,
            across,
            f"Largest σ of a{'n' if of.startswith('e') else ''} {of} ({unit})",
            log_y=True,
            rules=[rule for rule in rules if 0 < rule.y < np.inf],
            bands=[Band(1e3 * lower, 1e3 * limit, GREEN)],
            width=WIDTH if len(groups) > 1 else 2 * WIDTH,
        )
        title = f"σ along {'dynamics' if kind == 'dynamics' else 'relaxations'}, round {of_round}"
        caption = "Ends: ● finished, ▲ passed the limit, ✕ broke."
        yield title, drawn, caption


def _heat(n: int) -> list[str]:
    """Colours from cold to hot."""
    ramp = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#7A0A0A")
    if n > len(ramp):
        return [PALETTE[i % len(PALETTE)] for i in range(n)]
    return [ramp[i] for i in np.linspace(0, len(ramp) - 1, n).round().astype(int)]


def _ends_table(explored: Sequence[LoopRound]) -> str:
    rows = ""
    for one in explored:
        ends = ends_of(one.walkers)
        bar = shares([(count, name, _ENDS[name]) for name, count in ends.items()])
        words = ", ".join(f"{count} {name}" for name, count in ends.items() if count)
        rows += f"<tr><td>{one.number}</td><td>{bar}</td><td>{escape(words)}</td></tr>"
    head = "<tr><th>Round</th><th>How its walkers ended</th><th></th></tr>"
    return f'<div class="scroll"><table class="ends"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _walker_table(walkers: Sequence[WalkerRecord]) -> str:
    columns = ["Walker", "Start", "How", "Steps", "Largest σ (meV/Å)", "Structures", "Ended"]
    if any(walker.quantity != "forces" for walker in walkers):
        columns[4] = "Largest σ (10⁻³)"
    rows = [
        [
            str(walker.walker),
            f"{walker.start} ({walker.formula})",
            walker.ensemble
            + ("" if walker.temperature is None else f", {walker.temperature:g} K")
            + (", biased" if walker.biased else ""),
            walker.steps,
            1e3 * max(walker.sigma, default=float("nan")),
            walker.n_frames,
            walker.ended,
        ]
        for walker in walkers[:_ROWS]
    ]
    return table(columns, rows)


def _picks(state: LoopState) -> Section | None:
    purpose, of_round, choices = state.latest
    if not choices:
        return None
    counts = [(sum(c.state == name for c in choices), name, color) for name, color in _STATES.items()]
    words = ", ".join(f"{count} {name}" for count, name, _ in counts if count)
    # One rule chose all of them: it is told once.
    rules = {choice.reason.partition("; ")[0] for choice in choices}
    rule = f" Each is the {rules.pop()}." if len(rules) == 1 and choices[0].reason else ""
    lead = f"{_CHOSEN[purpose]} of round {of_round}: {words}.{rule} Drag a structure to turn it."
    cards = "".join(_card(choice, k + 1, whole=not rule) for k, choice in enumerate(choices[:_DRAWN]))
    html = f'<div class="structures">{cards}</div>'
    if len(choices) > _DRAWN:
        html += f'<p class="lead">The first {_DRAWN} of {len(choices)} are drawn.</p>'
    if (state.folder / STRUCTURES).exists():
        html += f'<p class="lead"><a href="{STRUCTURES}">All structures that were chosen, as a map</a></p>'
    return Section("latest", "Latest choices", lead, (), html, shares(counts))


def _card(choice: Choice, place: int, *, whole: bool) -> str:
    """A structure with its numbers, and the whole reason of its choice or the part that is its own."""
    info = {} if choice.atoms is None else choice.atoms.info
    told = [f"gain {number(choice.gain)}"] if np.isfinite(choice.gain) else []
    sigma = info.get("sigma")
    if isinstance(sigma, int | float) and info.get("sigma_quantity") == "forces":
        told.append(f"largest σ {number(1e3 * float(sigma))} meV/Å")
    if isinstance(info.get("temperature_K"), int | float):
        told.append(f"{float(info['temperature_K']):g} K")
    if "walker" in info:
        told.append(f"walker {info['walker']}")
    elif "config_type" in info:
        told.append(str(info["config_type"]))
    reason = choice.reason if whole else choice.reason.partition("; ")[2]
    title, color = f"{place}. {choice.formula}", _STATES[choice.state]
    return structure_card(choice.atoms, title, ", ".join(told), reason, choice.state, color)


def _costs(state: LoopState) -> Section | None:
    if not state.tallies:
        return None
    order = [*_PURPOSES, *(t.purpose for t in state.tallies if t.purpose not in _PURPOSES)]
    tallies = sorted(state.tallies, key=lambda tally: order.index(tally.purpose))
    whole = Tally(
        "all",
        *(
            sum(getattr(t, name) for t in tallies)
            for name in ("n_labelled", "n_failed", "seconds", "core_seconds")
        ),
    )
    unit, unit_seconds = _core_unit(state)
    rows = []
    for tally in [*tallies, *([whole] if len(tallies) > 1 else [])]:
        n = tally.n_labelled + tally.n_failed
        row = [_PURPOSES.get(tally.purpose, tally.purpose), tally.n_labelled, tally.n_failed]
        rows.append([*row, duration(tally.seconds / max(n, 1)), tally.core_seconds / unit_seconds])
    columns = ["Labels of", "Done", "Failed", "Time of one, mean", unit.capitalize()]
    figures = [
        _figure("Cost", _cost_chart(state), "What labels have cost in all, in their order."),
        _figure("Time of each label", _time_chart(state), "Structures that take long stand out."),
    ]
    lead = "What the oracle was paid; the potential's own work is not counted here."
    return Section("costs", "Costs", lead, (), _panels(figures) + table(columns, rows))


def _paid(state: LoopState) -> list[Mapping[str, Any]]:
    return [event for event in state.events if event.get("event") in ("labelled", "failed")]


def _cost_chart(state: LoopState) -> str:
    unit, seconds = _core_unit(state)
    spent = np.cumsum([float(event.get("core_seconds") or 0.0) / seconds for event in _paid(state)])
    if not len(spent) or not spent[-1] > 0:
        return ""
    kept = np.unique(np.linspace(0, len(spent) - 1, 400).round().astype(int))
    line = Line((kept + 1).tolist(), spent[kept].tolist(), "", BLUE, "last")
    return chart([line], "Labels, failed ones too", unit.capitalize(), whole_x=True)


def _core_unit(state: LoopState) -> tuple[str, float]:
    """Name and seconds of a unit in which the cost of all labels can be read."""
    hours = state.core_hours
    return (
        ("core hours", 3600.0)
        if hours >= 0.1
        else ("core minutes", 60.0)
        if hours > 0.01
        else ("core seconds", 1.0)
    )


def _time_chart(state: LoopState) -> str:
    events = _paid(state)
    lines = []
    for kind, name, color, mark in (
        ("labelled", "labelled", BLUE, "circle"),
        ("failed", "failed", VERMILION, "triangle"),
    ):
        places = [k for k, event in enumerate(events) if event["event"] == kind][-2000:]
        seconds = [float(events[k].get("seconds") or np.nan) for k in places]
        lines.append(
            Line([k + 1.0 for k in places], seconds, name if places else "", color, "all", mark, 0.0)
        )
    return chart(lines, "Label", "Time (s)", log_y=True, whole_x=True)


def _failures(state: LoopState) -> Section | None:
    failed = state.of("failed")
    if not failed:
        return None
    causes: dict[str, int] = {}
    for event in failed:
        cause = str(event.get("cause", "")) or "no cause was told"
        causes[cause] = causes.get(cause, 0) + 1
    rows = []
    for event in reversed(failed[-_ROWS:]):
        attempts = [mapping(attempt) for attempt in event.get("attempts") or []]
        tried = "; ".join(
            ", ".join(f"{key} {value}" for key, value in attempt.items() if key != "cause")
            for attempt in attempts
        )
        row = [
            str(event.get("round", "")),
            str(event.get("formula", "")),
            str(event.get("structure", ""))[:12],
        ]
        rows.append([*row, str(event.get("cause", "")), str(max(len(attempts), 1)), tried or "–"])
    labelled = {event.get("structure") for event in state.of("labelled")}
    structures = {event.get("structure") for event in failed}
    lead = f"{len(structures - labelled)} structures could not be labelled and are left out; "
    lead += "they block no others."
    if structures & labelled:
        lead += f" {len(structures & labelled)} that had failed were labelled when they were tried again."
    counts = table(["Cause", "Failures"], sorted(causes.items(), key=lambda pair: -pair[1]))
    columns = ["Round", "Formula", "Structure", "Cause", "Attempts", "Settings tried"]
    return Section("failures", "Failures", lead, (), table(columns, rows), counts)


def _changes(state: LoopState) -> Section | None:
    rows = [
        [name, *(str(value) for value in values)]
        for event in state.of("changed")
        for name, values in mapping(event.get("changes")).items()
        if isinstance(values, list) and len(values) == 2
    ]
    if not rows:
        return None
    lead = "Settings that were changed while the loop was under way, oldest first."
    return Section("changes", "Changes", lead, (), table(["Setting", "Before", "After"], rows))


def _figure(title: str, drawn: str, caption: str) -> str:
    if not drawn:
        return ""
    words = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure class="panel"><h3>{escape(title)}</h3>{drawn}{words}</figure>'


def _panels(figures: Sequence[str]) -> str:
    drawn = "".join(figures)
    return f'<div class="panels">{drawn}</div>' if drawn else ""


def _thousandths(errors: Mapping[str, float], key: str) -> Any:
    value = value_of(errors, key)
    return "–" if value is None else 1e3 * value
