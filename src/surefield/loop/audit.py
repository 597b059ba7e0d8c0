"""Held-out audits: the error of a potential on random candidates, before it is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from surefield.structures.images import image_key
from surefield.structures.read import Frames
from surefield.training.dataset import prepare
from surefield.uncertainty.evaluation import Comparison, evaluate_uncertainty
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["audit", "worst_structure"]


def audit(
    uncertainty: Uncertainty, labelled: Sequence[Atoms], fitted: Sequence[str]
) -> tuple[dict[str, Any], Comparison]:
    """Errors and calibration on structures that the potential has not seen.

    Args:
        uncertainty: with its potential, as it was when they were chosen.
        labelled: structures.
        fitted: quantities that count.

    Returns:
        Entries of the journal: `n`, `test` (errors), `intervals` (95 %, of these), `calibration`, `worst`;
        and all values.
    """
    frames = Frames(tuple(labelled), tuple(f"audit {i}" for i in range(len(labelled))))
    comparison = evaluate_uncertainty(uncertainty, prepare(frames, uncertainty.potential), fitted)
    scores = {
        "n": len(frames),
        "test": comparison.test(),
        "intervals": comparison.intervals(),
        "calibration": comparison.calibration(uncertainty),
    }
    if worst := worst_structure(comparison):
        place, error = worst
        scores["worst"] = {"structure": image_key(frames[place]), "forces_rmse": error}
    return scores, comparison


def worst_structure(comparison: Comparison) -> tuple[int, float] | None:
    """Place and RMSE (eV/Å) of the structure with the largest error of its forces; None without forces."""
    if "forces" not in comparison.quantities:
        return None
    errors, rows = comparison.errors("forces"), comparison.structures("forces")
    known = np.isfinite(errors)
    n = len(comparison.arrays["n_atoms"])
    squares = np.bincount(rows[known], errors[known] ** 2, n) / np.maximum(
        np.bincount(rows[known], minlength=n), 1
    )
    worst = int(np.argmax(squares))
    return worst, float(np.sqrt(squares[worst]))
