"""A potential or an uncertainty against labelled structures: arrays for files, errors, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surefield.files import atomic_path
from surefield.potentials.prediction import Prediction
from surefield.quantities import UNCERTAINTY, names, quantity
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.metrics import uq_metrics
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["Comparison", "compare", "evaluate_uncertainty", "sigmas_of"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Labels, predictions and uncertainties of a labelled set, flat: the content of `predictions.npz`."""

    arrays: dict[str, np.ndarray]

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that are there."""
        return [name for name in names() if f"{name}_reference" in self.arrays]

    def errors(self, name: str) -> np.ndarray:
        """Prediction minus label; energies per atom."""
        difference = self.arrays[name] - self.arrays[f"{name}_reference"]
        return difference / self.arrays["n_atoms"] if quantity(name).per_atom else difference

    def residuals(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and sigmas, energies per atom, components that vanish by symmetry left out."""
        sigma = self.arrays[f"{name}{UNCERTAINTY}"]
        sigma = sigma / self.arrays["n_atoms"] if quantity(name).per_atom else sigma
        return self.errors(name)[sigma > 0], sigma[sigma > 0]

    def test(self) -> dict[str, float]:
        """Errors in the units of the quantities, energies in eV/atom."""
        scores = {}
        for name in self.quantities:
            scores[f"{name}_mae"] = float(np.abs(self.errors(name)).mean())
            scores[f"{name}_rmse"] = float(np.sqrt((self.errors(name) ** 2).mean()))
        return scores

    def calibration(self, uncertainty: Uncertainty) -> dict[str, dict[str, float]]:
        """Coverage, miscalibration area, NLL beside that of the best constant sigma, per quantity."""
        scores = {}
        for name in self.quantities:
            if f"{name}{UNCERTAINTY}" not in self.arrays:
                continue
            r, sigma = self.residuals(name)
            metrics = uq_metrics(r, sigma)
            constant = float(np.sqrt(np.mean(r**2)))
            scores[name] = {
                "coverage_68": float(np.mean(np.abs(r) <= sigma)),
                "miscalibration_area": metrics["miscalibration_area"],
                "nll": metrics["nll"],
                "nll_constant": float(0.5 * np.log(2 * np.pi * constant**2) + 0.5),
                "alpha": float(getattr(uncertainty.maps[name], "alpha", np.nan)),
            }
        return scores

    def save(self, path: str | Path) -> None:
        """Write all arrays as one .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # pyright: ignore[reportArgumentType]


def compare(predictions: Sequence[Prediction], data: LabelledSet, names: Iterable[str]) -> Comparison:
    """Predictions beside labels, of those of the named quantities that all structures have both of."""
    samples = data.samples
    arrays = {"n_atoms": np.array([sample.structure.n_atoms for sample in samples])}
    for name in names:
        columns = {
            f"{name}_reference": [sample.labels.get(name) for sample in samples],
            name: [prediction.get(name) for prediction in predictions],
            f"{name}{UNCERTAINTY}": [prediction.get(f"{name}{UNCERTAINTY}") for prediction in predictions],
        }
        whole = {
            key: np.concatenate([np.ravel(value) for value in values])
            for key, values in columns.items()
            if all(value is not None for value in values)
        }
        if {name, f"{name}_reference"} <= whole.keys():
            arrays |= whole
    arrays["species"] = np.concatenate([sample.structure.numbers for sample in samples])
    return Comparison(arrays)


def evaluate_uncertainty(
    uncertainty: Uncertainty,
    data: LabelledSet,
    names: Iterable[str],
    predictions: Sequence[Prediction] | None = None,
) -> Comparison:
    """Predict a labelled set with the sigmas of the named quantities, unless `predictions` holds them."""
    names = tuple(names)
    if predictions is None:
        predictions = uncertainty.predict(data.frames, **sigmas_of(uncertainty, names))
    return compare(predictions, data, names)


def sigmas_of(uncertainty: Uncertainty, names: Iterable[str]) -> dict[str, bool]:
    """Options of `Uncertainty.predict` for the sigmas of the named quantities, as far as they were fitted."""
    return {name: name in names and name in uncertainty.maps for name in ("forces", "stress")}
