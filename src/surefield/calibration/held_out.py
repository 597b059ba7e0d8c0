"""What calibration sees: residuals of labels that count, and the maps that are fitted on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from surefield.calibration.fit import fit_calibration_map, structure_power
from surefield.calibration.maps import CalibrationMap
from surefield.errors import ConfigError, nearest
from surefield.potentials.prediction import Prediction
from surefield.quantities import quantity
from surefield.training.dataset import Sample

__all__ = ["HeldOut", "check_names", "fit_maps", "label_residuals", "row_zero"]

#: A row this much shorter than the median one vanishes by symmetry, but for the rounding of coordinates in
#: files: strained crystals of copper stand at 2e-4, the shortest of other structures at 1e-3 and above.
SYMMETRY_ZERO = 1e-3
#: The same of a value, which may also be small by chance; and of one that was added up in float32.
VALUE_ZERO, ROUNDED_ZERO = 1e-6, 1e-5
#: A row of fewer numbers may be short by chance, as a value.
MANY_FEATURES = 10


def row_zero(n_features: int) -> float:
    """Share of the median length below which a row vanishes by symmetry."""
    return SYMMETRY_ZERO if n_features >= MANY_FEATURES else VALUE_ZERO


class HeldOut(NamedTuple):
    """Residuals (prediction minus label) of one quantity, raw spreads and structures beside them, flat."""

    residuals: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]
    structures: Int[np.ndarray, " n"]


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
    """Calibration map of every quantity: the chosen kind of map, else that of the table of quantities.

    One power serves all: that of the forces, of which each structure has many, else that of the stresses.
    """
    chosen = chosen or {}
    known = next((held[name] for name in ("forces", "stress") if name in held), None)
    power = 0.0 if known is None else structure_power(*known)
    options: Any = {"method": method, "n_members": n_members or None, "power": power}
    return {
        name: fit_calibration_map(
            pair.residuals,
            pair.u,
            chosen.get(name) or str(quantity(name).calibration_map),
            structures=pair.structures,
            **options,
        )
        for name, pair in held.items()
    }


def check_names(names: Collection[str], known: Sequence[str], where: str) -> None:
    """Raise `ConfigError` for the first name that is not one of the known quantities."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown kind {name!r} {where}, {nearest(name, known)}")
