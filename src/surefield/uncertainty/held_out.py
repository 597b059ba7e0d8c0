"""What calibration sees: residuals of labels that count, and the maps that are fitted on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from surefield.errors import ConfigError, nearest
from surefield.potentials.prediction import Prediction
from surefield.quantities import quantity
from surefield.training.dataset import Sample
from surefield.uncertainty.calibration import fit_calibration_map
from surefield.uncertainty.calibration_maps import CalibrationMap

__all__ = ["HeldOut", "check_names", "fit_maps", "label_residuals"]

#: What is this much smaller than the median one vanishes by symmetry.
SYMMETRY_ZERO = 1e-6
#: The same of values that were added up in float32.
ROUNDED_ZERO = 1e-5


class HeldOut(NamedTuple):
    """Residuals (prediction minus label) of one quantity and the raw spreads beside them, flat."""

    residuals: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]


def label_residuals(
    sample: Sample, prediction: Prediction, names: Collection[str]
) -> dict[str, tuple[Float[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"]]]:
    """Prediction minus label of the quantities that have both, and which of their values count.

    Residuals are those of the mean over the atoms where `Quantity.per_atom`. What has a weight of zero or no
    label does not count; a quantity of which nothing counts is left out.
    """
    residuals = {}
    for name in names:
        label, value = sample.labels.get(name), prediction.get(name)
        if label is None or value is None:
            continue
        entry = quantity(name)
        counts = np.asarray(sample.component_weights(name) > 0)
        if counts.any():
            n = sample.structure.n_atoms if entry.per_atom else 1
            residuals[name] = (np.asarray(value) - label) / n, counts
    return residuals


def fit_maps(
    held: Mapping[str, HeldOut], chosen: Mapping[str, str] | None, method: str, n_members: int = 0
) -> dict[str, CalibrationMap]:
    """Calibration map of every quantity: the chosen kind of map, else that of the table of quantities."""
    chosen = chosen or {}
    options: Any = {"method": method, "n_members": n_members or None}
    return {
        name: fit_calibration_map(*pair, chosen.get(name) or str(quantity(name).calibration_map), **options)
        for name, pair in held.items()
    }


def check_names(names: Collection[str], known: Sequence[str], where: str) -> None:
    """Raise `ConfigError` for the first name that is not one of the known quantities."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown kind {name!r} {where}, {nearest(name, known)}")
