"""When a loop ends: rounds, target error, budget, gain of the next batch; told from the journal alone."""

from __future__ import annotations

from typing import Any, Final

from surefield.loop.config import LoopConfig
from surefield.loop.journal import Journal
from surefield.loop.ledger import LabelLedger
from surefield.selection.selection import Selection
from surefield.selection.stopping import LabelledRound, stop_now

__all__ = ["affordable", "end_before_picks", "end_for_lack_of_gain", "node_hours"]

_HOUR: Final = 3600.0


def node_hours(ledger: LabelLedger, config: LoopConfig) -> float:
    """What all labels cost so far, failed ones too."""
    return ledger.core_seconds / _HOUR / config.stop.cores_per_node


def affordable(n: int, ledger: LabelLedger, config: LoopConfig) -> int:
    """How many of n labels the budget leaves."""
    stop = config.stop
    if stop.budget_node_hours is not None and node_hours(ledger, config) >= stop.budget_node_hours:
        return 0
    return n if stop.budget_labels is None else max(min(n, stop.budget_labels - ledger.paid), 0)


def end_before_picks(journal: Journal, ledger: LabelLedger, config: LoopConfig, number: int) -> str:
    """Why a loop ends with the audit of a round; empty if it does not."""
    audited = journal.last(event="audited", round=number) or {}
    for name in ("forces_mae", "forces_rmse"):
        target = getattr(config.stop, f"target_{name.replace('forces', 'force')}")
        error = audited.get("test", {}).get(name)
        if target is not None and error is not None and error <= target:
            words = {"forces_mae": "mean absolute force error", "forces_rmse": "force RMSE"}[name]
            n = audited["n"]
            return f"target: {words} {error:.3g} eV/Å in an audit of {n} structures (target {target:g})"
    if not affordable(1, ledger, config):
        spent = f"{ledger.paid} labels, {node_hours(ledger, config):.3g} node hours"
        return f"budget: {spent}"
    if number >= config.n_rounds:
        return f"rounds: {number} are done"
    return ""


def end_for_lack_of_gain(journal: Journal, config: LoopConfig, batch: Selection) -> str:
    """Why a batch is not worth its labels; empty if it is."""
    if not len(batch):
        return f"exhausted: no candidate is left ({batch.stopped or 'all are labelled'})"
    distances: list[Any] = [event["squared_distances"] for event in journal.find(event="picked")]
    if config.stop.least_gain is None or not distances:
        return ""
    distances.append(batch.squared_distances)
    rounds = [LabelledRound(squared_distances=row, features=config.features) for row in distances]
    decision = stop_now(rounds, {"coverage": config.stop.least_gain})
    if not decision:
        return ""
    value = decision.values["coverage"]["value"]
    least = config.stop.least_gain
    return f"gain: the next batch reaches {value:.3g} of the first feature distance (least {least:g})"
