"""LLPR: calibrated uncertainties of energies, forces and stresses from the last layer of a potential."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, PotentialError, explain, nearest
from surefield.execution.memory_maps import release_compiled
from surefield.execution.progress import track
from surefield.keys import KINDS, Kind
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.evaluate import check_frames, predict
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import build, load_arrays, pack, save_arrays, unpack
from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.posterior import LLPRPosterior, resolve_regularizer
from surefield.sensitivity.rows import StructureRows, atom_features, electron_rows, structure_rows
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source, read_frames
from surefield.training.dataset import Dataset, prepare
from surefield.uncertainty.calibration import fit_calibration_map
from surefield.uncertainty.calibration_maps import AlphaMap, AlphaSigma0Map, CalibrationMap

__all__ = ["LLPR"]

#: A force row this much shorter than the median one is zero by symmetry.
SYMMETRY_ZERO = 1e-6
#: Maps from the raw spread u to a standard deviation; a floor serves what the last layer cannot see.
MAPS: Mapping[Kind, str] = {"energy": "alpha", "forces": "alpha_sigma0", "stress": "alpha_sigma0"}


@dataclass(frozen=True, eq=False)
class LLPR:
    """Last-layer prediction rigidity around a potential; made by `fit`, and used like a potential.

    sigma = map(u), u^2 = g (C + s^2 I)^-1 g, with g the derivative of the quantity with respect to the
    last-layer weights, C the sum of such rows over the training set (energies, forces, stresses), and one
    calibration map per kind, fitted on data the potential was not trained on.
    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024).

    Attributes:
        potential: makes the predictions; wrapping it does not change them.
        posterior: of the last-layer weights.
        maps: calibration map of each kind.
        force_threshold: force rows shorter than this vanish by symmetry; their sigma is zero.
        statistics: rows per kind, row weights, regulariser, rank; for the log and the report.
        electrons: map of the number of excess electrons; None where the potential has none.
    """

    potential: Potential
    posterior: LLPRPosterior
    maps: Mapping[Kind, CalibrationMap]
    force_threshold: float
    statistics: Mapping[str, Any]
    electrons: CalibrationMap | None = None

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | Dataset,
        calibration: Source | Dataset,
        *,
        row_kinds: Sequence[Kind] | None = None,
        regularizer: float | str | Mapping[str, float] | None = None,
        calibration_map: Mapping[str, str] | None = None,
        calibration_method: str = "squared_residuals",
        shared_alpha: float = 0.0,
        labels: Mapped | None = None,
        progress: bool | None = None,
    ) -> LLPR:
        """Sum the rows of the training set, choose the regulariser by evidence, calibrate on held-out data.

        Args:
            potential: trained, with a linear last layer; or a handle that holds one, such as `NeuralNetwork`.
            train: structures it was trained on.
            calibration: labelled structures it has not seen.
            row_kinds: "energy", "forces", "stress"; None: every kind that has labels.
            regularizer: see `resolve_regularizer`; None chooses by evidence.
            calibration_map: kind to map; see `fit_calibration_map`.
            calibration_method: of the map "alpha".
            shared_alpha: number of calibration energies that the alpha of the forces counts as when the alpha
                of the energy is fitted; for sets with few structures, which have many forces.
            labels: explicit keys of the labels.
            progress: show a progress bar.

        Raises:
            ConfigError: an unknown kind.
            DataError: no labelled structure in one of the sets.
            PotentialError: the potential has no linear last layer, or does not know an element.
        """
        for kind in {*(row_kinds or ()), *(calibration_map or {})} - set(KINDS):
            raise ConfigError(f"unknown kind {kind!r} of row, {nearest(kind, KINDS)}")
        if not shared_alpha >= 0:
            raise ConfigError(f"shared_alpha must not be negative, got {shared_alpha}")
        release_compiled()
        potential = as_potential(potential)
        layer = potential.last_layer()
        sets = [_dataset(part, potential, labels) for part in (train, calibration)]
        if not all(len(part) for part in sets):
            raise DataError("LLPR needs at least one labelled structure to fit and one to calibrate")
        kinds = _kinds(sets, row_kinds)
        covariance = RowCovariance(layer.n_features)
        norms: list[np.ndarray] = []
        with track(sum(map(len, sets)), "last-layer rows", progress) as bar:
            for rows, found in _labelled_rows(potential, sets[0], kinds):
                for kind, (g, r) in found.items():
                    covariance.add(g, kind, residuals=r)
                if rows.forces is not None:
                    norms.append(np.linalg.norm(rows.forces, axis=1))
                bar.advance()
            threshold = SYMMETRY_ZERO * float(np.median(np.concatenate(norms))) if norms else 0.0
            held: dict[Kind, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in kinds}
            for _, found in _labelled_rows(potential, sets[1], kinds):
                for kind, (g, r) in found.items():
                    held[kind].append(_without_zeros(g, r, threshold) if kind == "forces" else (g, r))
                bar.advance()
        validation: dict[Kind, tuple[np.ndarray, np.ndarray]] = {
            kind: (np.concatenate([g for g, _ in parts]), np.concatenate([r for _, r in parts]))
            for kind, parts in held.items()
            if parts
        }
        if not np.any(np.asarray(layer.readout)):
            what = f"all last-layer weights of the {type(layer).__name__} are zero"
            raise PotentialError(explain(what, fix="train it first: sigmas belong to fitted weights"))
        weights = _precision_weights(covariance, validation)
        matrix = covariance.combined(weights)
        used = {kind: value for kind, value in covariance.n_rows.items() if weights[kind] > 0}
        varsigma2 = resolve_regularizer(
            regularizer,
            matrix,
            n_rows=sum(used.values()),
            sum_sq_residuals=sum(weights[k] * covariance.sum_squared_residuals[k] for k in used),
            weight_norm2=float(np.sum(np.asarray(layer.readout, np.float64) ** 2)),
            validation=validation,
            floor=covariance.regularizer_floor if layer.dtype == np.float64 else 1e-6,
        )
        posterior = LLPRPosterior.from_covariance(matrix, varsigma2)
        maps: dict[Kind, CalibrationMap] = {}
        for kind in kinds:
            g, r = validation.get(kind, (np.zeros((0, layer.n_features)), np.zeros(0)))
            name = {**MAPS, **(calibration_map or {})}[kind]
            maps[kind] = fit_calibration_map(r, posterior.u(g), name, method=calibration_method)  # type: ignore[arg-type]
        if "energy" not in maps:
            # Without energies that count, as in nearsighted training, the forces know the one alpha.
            alpha = float(getattr(maps.get("forces"), "alpha", 1.0))
            maps["energy"] = AlphaMap(alpha if alpha > 0 else 1.0, calibrated=False)
        maps |= _energy_with_forces(maps, shared_alpha, len(validation.get("energy", ([],))[0]))
        statistics = {
            "rows": dict(covariance.n_rows),
            "weights": weights,
            "varsigma2": varsigma2,
            "n_features": layer.n_features,
            "rank": posterior.rank,
            "effective_dof": posterior.effective_dof,
            "calibration_rows": {kind: len(r) for kind, (_, r) in validation.items()},
        }
        electrons = None
        if "excess_electrons" in layer.supplies:
            electrons = _electron_map(potential, posterior, sets[1], maps)
        return cls(potential, posterior, maps, threshold, statistics, electrons)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers the potential knows."""
        return self.potential.species

    @property
    def cutoff(self) -> float:
        """Range of the neighbour list, Å."""
        return self.potential.cutoff

    def last_layer(self) -> Any:
        """Last layer of the potential."""
        return self.potential.last_layer()

    def at_potential(self, phi: float | None) -> LLPR:
        """Copy with another electrode potential (V) for structures that state none."""
        return replace(self, potential=self.potential.at_potential(phi))

    def predict(
        self,
        frames: Sequence[Atoms],
        *,
        per_atom: bool = False,
        forces: bool = False,
        stress: bool = False,
        batch_size: int = 16,
    ) -> list[Prediction]:
        """Predict structures with the uncertainty of the energy, and of what else is asked for.

        Args:
            frames: structures.
            per_atom: also `energies_uncertainty`.
            forces: also `forces_uncertainty`.
            stress: also `stress_uncertainty`, for periodic structures.
            batch_size: structures per batch.

        Returns:
            Predictions; energies, forces and stresses are those of the potential itself.
        """
        check_frames(self.potential, frames)
        for name, asked in (("forces", forces), ("stress", stress)):
            if asked and name not in self.maps:
                raise ConfigError(f"the uncertainty was fitted without {name}: add it to row_kinds")
        found = [self.potential.neighborhood(atoms) for atoms in frames]
        plain = predict(self.potential, frames, batch_size=batch_size, neighborhoods=found)
        layer = self.potential.last_layer()
        if self.electrons is not None:
            sigma = self.electrons.sigma(self.posterior.u(electron_rows(layer, found)))
            plain = [
                replace(p, excess_electrons_uncertainty=s) for p, s in zip(plain, sigma.tolist(), strict=True)
            ]
        return [
            replace(prediction, **self._sigmas(rows, structure, per_atom))
            for prediction, structure, rows in zip(
                plain, found, structure_rows(layer, found, forces=forces, stress=stress), strict=True
            )
        ]

    def _sigmas(self, rows: StructureRows, structure: Neighborhood, per_atom: bool) -> dict[str, Any]:
        energy = self.maps["energy"]
        # u is calibrated per atom, as residuals are; the total's sigma is n times that of the mean.
        mean = energy.sigma(self.posterior.u(rows.energy[None] / rows.n_atoms))[0]
        result: dict[str, Any] = {"energy_uncertainty": float(mean) * rows.n_atoms}
        if per_atom and "energies" in self.potential.supplies:
            result["energies_uncertainty"] = energy.sigma(
                self.posterior.u(atom_features(self.potential.last_layer(), structure))
            )
        if rows.forces is not None:
            result["forces_uncertainty"] = self.force_sigma(rows.forces).reshape(-1, 3)
        if rows.stress is not None and "stress" in self.maps:
            result["stress_uncertainty"] = self.maps["stress"].sigma(self.posterior.u(rows.stress))
        return result

    def force_sigma(self, rows: Float[np.ndarray, "n_rows n_features"]) -> Float[np.ndarray, " n_rows"]:
        """Sigma of force components from their rows, eV/Å; zero where symmetry makes the row vanish."""
        sigma = self.maps["forces"].sigma(self.posterior.u(rows))
        return np.where(np.linalg.norm(rows, axis=1) <= self.force_threshold, 0.0, sigma)

    def calculator(self, **options: Any) -> SurefieldCalculator:
        """ASE calculator whose results hold the uncertainties as well; options as in `predict`."""
        available: dict[str, Any] = {"forces": "forces" in self.maps, "stress": "stress" in self.maps}
        return SurefieldCalculator(self, **(available | options))

    def save(self, path: str | Path) -> None:
        """Save the potential, the posterior and the calibration as one .npz file."""
        header = {
            "potential": self.potential.config(),
            "maps": {kind: found.to_dict() for kind, found in self.maps.items()},
            "force_threshold": self.force_threshold,
            "electrons": self.electrons and self.electrons.to_dict(),
            "statistics": dict(self.statistics),
        }
        arrays = pack(self.potential, "potential:")
        arrays["eigenvalues"] = self.posterior.eigenvalues
        arrays["factor"] = self.posterior.factor
        arrays["varsigma2"] = np.array(self.posterior.varsigma2)
        save_arrays(path, "llpr", header, arrays)

    @classmethod
    def load(cls, path: str | Path) -> LLPR:
        """Load what `save` wrote; see `load_arrays` for the errors."""
        header, arrays = load_arrays(path, "llpr")
        potential = unpack(build(header["potential"]), arrays, "potential:")
        posterior = LLPRPosterior(float(arrays["varsigma2"]), arrays["eigenvalues"], arrays["factor"])
        maps = {kind: CalibrationMap.from_dict(entry) for kind, entry in header["maps"].items()}
        electrons = header.get("electrons")
        return cls(
            potential,
            posterior,
            maps,
            header["force_threshold"],
            header["statistics"],
            None if electrons is None else CalibrationMap.from_dict(electrons),
        )


def _dataset(source: Source | Dataset, potential: Potential, labels: Mapped | None) -> Dataset:
    if isinstance(source, Dataset):
        return source
    return prepare(read_frames(source), potential, labels=labels)


def _kinds(sets: Sequence[Dataset], asked: Sequence[Kind] | None) -> tuple[Kind, ...]:
    samples = [sample for part in sets for sample in part.samples]
    present: dict[Kind, bool] = {
        "energy": any(s.trained_energy for s in samples),
        "forces": any(s.labels.forces is not None for s in samples),
        "stress": any(s.labels.stress is not None and s.structure.periodic for s in samples),
    }
    chosen: tuple[Kind, ...] = tuple(
        kind for kind in KINDS if (asked is None and present[kind]) or kind in (asked or ())
    )
    missing = [kind for kind in chosen if not present[kind]]
    if missing:
        raise DataError(f"row_kinds asks for {missing[0]}, but no structure has such a label")
    return chosen


def _labelled_rows(
    potential: Potential, data: Dataset, kinds: Sequence[Kind]
) -> Iterator[tuple[StructureRows, dict[Kind, tuple[np.ndarray, np.ndarray]]]]:
    """Rows and residuals (prediction minus label) of each structure, energies per atom."""
    predictions = predict(potential, data.frames, neighborhoods=data.structures)
    all_rows = structure_rows(
        potential.last_layer(), data.structures, forces="forces" in kinds, stress="stress" in kinds
    )
    for sample, prediction, rows in zip(data.samples, predictions, all_rows, strict=True):
        labels, found = sample.labels, {}
        if "energy" in kinds and sample.trained_energy and labels.energy is not None:
            residual = (prediction.energy - labels.energy) / rows.n_atoms
            found["energy"] = rows.energy[None] / rows.n_atoms, np.array([residual])
        if rows.forces is not None and labels.forces is not None:
            trained = np.repeat(sample.trained_atoms, 3)
            found["forces"] = rows.forces[trained], (prediction.forces - labels.forces).ravel()[trained]
        if rows.stress is not None and labels.stress is not None:
            found["stress"] = rows.stress, prediction.stress - labels.stress
        yield rows, found


def _energy_with_forces(
    maps: Mapping[Kind, CalibrationMap], shared: float, n: int
) -> dict[Kind, CalibrationMap]:
    """The map of the energy, its alpha^2 averaged with that of the forces, which counts as `shared` energies.

    Rows are weighted by precision, so one alpha would serve all kinds if the posterior were exact.
    """
    energy, forces = maps.get("energy"), maps.get("forces")
    if shared == 0 or not isinstance(energy, AlphaMap) or not isinstance(forces, AlphaMap | AlphaSigma0Map):
        return {}
    if forces.alpha == 0:  # all floor: the spread of the last layer says nothing
        return {}
    n = n if energy.calibrated else 0
    alpha2 = (n * energy.alpha**2 + shared * forces.alpha**2) / (n + shared)
    return {"energy": replace(energy, alpha=float(np.sqrt(alpha2)), calibrated=True)}


def _electron_map(
    potential: Potential, posterior: LLPRPosterior, held: Dataset, maps: Mapping[Kind, CalibrationMap]
) -> CalibrationMap:
    """Map of the excess electrons from held-out labels; without labels, alpha of the energies."""
    known = [i for i, s in enumerate(held.samples) if s.labels.excess_electrons is not None]
    if not known:
        return AlphaMap(float(getattr(maps["energy"], "alpha", 1.0)), calibrated=False)
    structures = [held.structures[i] for i in known]
    predictions = predict(potential, held.frames[known], neighborhoods=structures)
    labels = [held.samples[i].labels.excess_electrons for i in known]
    residuals = np.array([p.excess_electrons for p in predictions]) - np.array(labels)
    rows = electron_rows(potential.last_layer(), structures)
    return fit_calibration_map(residuals, posterior.u(rows), "alpha")


def _without_zeros(g: np.ndarray, r: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    keep = np.linalg.norm(g, axis=1) > threshold
    return g[keep], r[keep]


def _precision_weights(
    covariance: RowCovariance, validation: Mapping[Kind, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """1/s^2 with s the RMSE of the validation residuals (of the training ones if there are none)."""
    weights = {}
    for kind, n in covariance.n_rows.items():
        if kind in validation:
            mean_square = float(np.mean(validation[kind][1] ** 2))  # type: ignore[index]
        else:
            mean_square = covariance.sum_squared_residuals[kind] / n
            warnings.warn(
                f"no calibration label for {kind}: its row weight comes from the training set", stacklevel=3
            )
        if mean_square == 0:
            raise DataError(
                f"all residuals of {kind} are zero: the labels are the potential's own predictions"
            )
        weights[kind] = 1.0 / mean_square
    return weights
