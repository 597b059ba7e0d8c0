"""A potential or an uncertainty against labelled structures: arrays for files, errors, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefield.calibration.metrics import uq_metrics
from surefield.files import atomic_path
from surefield.keys import CONFIG_TYPE
from surefield.potentials.prediction import Prediction
from surefield.quantities import UNCERTAINTY, names, quantity
from surefield.training.dataset import LabelledSet
from surefield.training.loss import error_intervals, mean_and_half_width
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["Comparison", "compare", "evaluate_uncertainty", "sigmas_of"]

#: Errors that `test` does not have.
_TAILS = ("q95", "worst")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Labels, predictions and uncertainties of a labelled set, flat: the content of `predictions.npz`."""

    arrays: dict[str, np.ndarray]

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that are there."""
        return [name for name in names() if f"{name}_reference" in self.arrays]

    def errors(self, name: str) -> np.ndarray:
        """Prediction minus label, NaN where there is no label; energies per atom."""
        difference = self.arrays[name] - self.arrays[f"{name}_reference"]
        return difference / self.arrays["n_atoms"] if quantity(name).per_atom else difference

    def structures(self, name: str) -> np.ndarray:
        """Which structure each value of a quantity belongs to."""
        n_atoms = self.arrays["n_atoms"]
        rows = np.arange(len(n_atoms))
        rows = np.repeat(rows, n_atoms) if quantity(name).per == "atom" else rows
        return np.repeat(rows, len(self.arrays[name]) // len(rows))

    def scored(self, name: str) -> np.ndarray:
        """Which values have a label and do not vanish by symmetry."""
        return (self.arrays[f"{name}{UNCERTAINTY}"] > 0) & np.isfinite(self.errors(name))

    def residuals(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and sigmas of what is `scored`, energies per atom."""
        sigma, known = self.arrays[f"{name}{UNCERTAINTY}"], self.scored(name)
        sigma = sigma / self.arrays["n_atoms"] if quantity(name).per_atom else sigma
        return self.errors(name)[known], sigma[known]

    def test(self) -> dict[str, float]:
        """Errors in the units of the quantities, energies in eV/atom."""
        scores = {}
        for name in self.quantities:
            known = self.errors(name)[np.isfinite(self.errors(name))]
            scores[f"{name}_mae"] = float(np.abs(known).mean())
            scores[f"{name}_rmse"] = float(np.sqrt((known**2).mean()))
        return scores

    def tails(self) -> dict[str, Any]:
        """What averages over a set hide, of forces: `q95`, `worst`, and all errors by group.

        Returns:
            `forces_q95` (95 % quantile of the sizes of errors, eV/Å), `forces_worst` (largest root mean
            square of a structure), and `groups`: by `config_type`, where the set states any, these two with
            `forces_mae` and `forces_rmse`. Nothing without force labels.
        """
        if "forces" not in self.quantities or not np.isfinite(self.errors("forces")).any():
            return {}
        errors, owners = self.errors("forces"), self.structures("forces")
        tails: dict[str, Any] = {k: v for k, v in _force_errors(errors, owners).items() if k[7:] in _TAILS}
        groups = self.arrays.get("group")
        if groups is not None:
            parts = {str(group): (groups == group)[owners] for group in np.unique(groups)}
            tails["groups"] = {
                group: _force_errors(errors[part], owners[part])
                for group, part in parts.items()
                if np.isfinite(errors[part]).any()
            }
        return tails

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the errors of `test`: 95 % intervals, with the structures as independent (`error_intervals`)."""
        return {
            f"{name}_{what}": interval
            for name in self.quantities
            for what, interval in error_intervals(self.errors(name), self.structures(name)).items()
        }

    def baselines(self) -> dict[str, float]:
        """RMS of the labels about what needs no structure: constants of the elements, no force, mean stress.

        A potential whose RMSE is not well below has learned nothing.
        """
        n_atoms, species = self.arrays["n_atoms"], self.arrays["species"]
        spreads = {}
        for name in self.quantities:
            labels = self.arrays[f"{name}_reference"]
            labels = labels / n_atoms if quantity(name).per_atom else labels
            if quantity(name).source == "energy":
                rows = np.repeat(np.arange(len(n_atoms)), n_atoms)
                kinds, columns = np.unique(species, return_inverse=True)
                shares = np.zeros((len(n_atoms), len(kinds)))
                np.add.at(shares, (rows, columns), 1.0)
                shares /= n_atoms[:, None]
                known = np.isfinite(labels)
                constants = np.linalg.lstsq(shares[known], labels[known], rcond=None)[0]
                labels = labels - shares @ constants
            elif quantity(name).source != "gradient":
                parts = labels.reshape(-1, int(np.prod(quantity(name).components)))
                labels = (parts - np.nanmean(parts, axis=0)).ravel()
            spreads[f"{name}_rmse"] = float(np.sqrt(np.nanmean(labels**2)))
        return spreads

    def calibration(self, uncertainty: Uncertainty) -> dict[str, dict[str, Any]]:
        """Coverage, miscalibration area, NLL beside that of the best constant sigma, per quantity.

        `n_structures` are those with sigmas and labels here, `calibration_rows` the labels that the sigmas
        were calibrated on.
        """
        scores = {}
        rows = uncertainty.statistics.get("calibration_rows", {})
        for name in self.quantities:
            if f"{name}{UNCERTAINTY}" not in self.arrays:
                continue
            r, sigma = self.residuals(name)
            if not len(r):
                continue
            structures = self.structures(name)[self.scored(name)]
            metrics = uq_metrics(r, sigma)
            covered, half = mean_and_half_width((np.abs(r) <= sigma).astype(float), structures)
            interval = (max(covered - half, 0.0), min(covered + half, 1.0)) if np.isfinite(half) else None
            constant = float(np.sqrt(np.mean(r**2)))
            scores[name] = {
                "coverage_68": covered,
                "coverage_68_interval": interval,
                "coverage_95": metrics["coverage"]["0.95"],
                "miscalibration_area": metrics["miscalibration_area"],
                "nll": metrics["nll"],
                "nll_constant": float(0.5 * np.log(2 * np.pi * constant**2) + 0.5),
                "alpha": float(getattr(uncertainty.maps[name], "alpha", np.nan)),
                "n_structures": len(np.unique(structures)),
                "calibration_rows": rows.get(name, 0),
            }
        return scores

    def save(self, path: str | Path) -> None:
        """Write all arrays as one .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # pyright: ignore[reportArgumentType]


def _force_errors(errors: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    known = np.isfinite(errors)
    size, of = np.abs(errors[known]), owners[known]
    counts = np.maximum(np.bincount(of), 1)
    return {
        "forces_mae": float(size.mean()),
        "forces_rmse": float(np.sqrt(np.mean(size**2))),
        "forces_q95": float(np.quantile(size, 0.95)),
        "forces_worst": float(np.sqrt(np.max(np.bincount(of, weights=size**2) / counts))),
    }


def compare(predictions: Sequence[Prediction], data: LabelledSet, names: Iterable[str]) -> Comparison:
    """Predictions beside labels of the named quantities that any structure has both of; NaN where one lacks.

    With them `n_atoms`, `origin` (file and frame) and, where the set states any, `group` (`config_type`).
    """
    samples = data.samples
    arrays = {"n_atoms": np.array([sample.structure.n_atoms for sample in samples])}
    for name in names:
        columns = {
            f"{name}_reference": [sample.labels.get(name) for sample in samples],
            name: [prediction.get(name) for prediction in predictions],
            f"{name}{UNCERTAINTY}": [prediction.get(f"{name}{UNCERTAINTY}") for prediction in predictions],
        }
        kept = {
            key: np.concatenate(
                [np.ravel(_or_nan(name, v, n)) for v, n in zip(values, arrays["n_atoms"], strict=True)]
            )
            for key, values in columns.items()
        }
        if np.isfinite(kept[name] - kept[f"{name}_reference"]).any():
            arrays |= {key: values for key, values in kept.items() if not np.isnan(values).all()}
    arrays["species"] = np.concatenate([sample.structure.numbers for sample in samples])
    arrays["origin"] = np.array([sample.id for sample in samples])
    groups = [str(sample.atoms.info.get(CONFIG_TYPE, "")) for sample in samples]
    if any(groups):
        arrays["group"] = np.array(groups)
    return Comparison(arrays)


def _or_nan(name: str, value: Any, n_atoms: int) -> Any:
    return np.full(quantity(name).shape(n_atoms), np.nan) if value is None else value


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


def sigmas_of(uncertainty: Uncertainty, names: Iterable[str]) -> dict[str, Any]:
    """Options of `Uncertainty.predict` for the sigmas of the named quantities, as far as they were fitted."""
    return {name: name in names and name in uncertainty.maps for name in ("forces", "stress")}
