"""What an uncertainty is: an estimator gives raw spreads; calibration, sigmas and files are shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from ase import Atoms, units
from jaxtyping import Float

from surefield.calibration.held_out import (
    ROUNDED_ZERO,
    VALUE_ZERO,
    HeldOut,
    check_names,
    fit_maps,
    label_residuals,
    row_zero,
)
from surefield.calibration.maps import CalibrationMap, of_atoms
from surefield.errors import ConfigError, DataError, PotentialError, nearest
from surefield.execution.stopwatch import Stopwatch, times
from surefield.potentials.calculator import SurefieldCalculator
from surefield.potentials.dropout_network import MEAN
from surefield.potentials.evaluate import neighborhoods_of, predict
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.potentials.prediction import Prediction
from surefield.potentials.saving import build, load_arrays, pack, save_arrays, unpack
from surefield.quantities import ENSEMBLE, UNCERTAINTY, quantity, uncertain
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet, as_labelled
from surefield.uncertainty.abilities import FromFeatures, HasMembers, HasSources, check_source
from surefield.uncertainty.guard import (
    CALIBRATION,
    LARGEST_FORCE,
    LARGEST_SIGMA,
    SIGMA_RANGE,
    OnUncertain,
    SigmaGuard,
    WatchedModel,
    sigma_limits,
    sizes,
)
from surefield.uncertainty.propagation import (
    Propagated,
    arguments_of,
    linear,
    member_values,
    scaled_vectors,
    trajectory_average,
)
from surefield.uncertainty.spread import Spread

__all__ = ["Spread", "Uncertainty"]

#: Structures of the calibration set, about, whose sigmas of forces are looked at.
_FORCE_RANGE: Final = 32


@dataclass(frozen=True, eq=False)
class Uncertainty(ABC):
    """A potential whose predictions come with calibrated standard deviations; used like a potential.

    Final classes supply the raw spread u, and whatever they must save besides; sigma = map(u).

    Attributes:
        potential: makes the predictions; wrapping it does not change them.
        maps: calibration map of each quantity.
        thresholds: of quantities whose components may vanish by symmetry: magnitudes up to this have a sigma
            of zero.
        statistics: numbers for the log and the report: rows, and under 'cost' how many times as long as
            the bare potential's prediction the fit (of the same structures) and a prediction with all sigmas
            take, as measured by the fit.
    """

    #: Of its files.
    kind: ClassVar[str]
    #: Of the names of the potential's arrays in its files.
    prefix: ClassVar[str] = "potential:"
    #: What vanishes by symmetry is told by the predicted values themselves, not by the spreads.
    zeros_by_values: ClassVar[bool] = False
    #: Number of the first member; 0 where the potential without what makes members differ counts as one.
    first_member: ClassVar[int] = 1

    potential: Potential
    maps: Mapping[str, CalibrationMap]
    thresholds: Mapping[str, float]
    statistics: Mapping[str, Any]

    @abstractmethod
    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index and raw spreads of every structure, in any order.

        Args:
            structures: neighbourhoods.
            names: quantities that are wanted; one that a structure does not have, such as the stress of a
                molecule, is left out.
            batch_size: structures per batch, about.
        """

    @property
    def n_members(self) -> int:
        """Number of members; 0 for an estimator without members."""
        return self.count_members() if isinstance(self, HasMembers) else 0

    def member(self, member: int) -> Potential:
        """The potential of member k > 0, or the one that predicts (-1).

        Raises:
            PotentialError: no such member.
        """
        if member == MEAN:
            return self.potential
        known = range(self.first_member, self.n_members + 1) if self.n_members else range(0)
        if isinstance(member, bool) or not isinstance(member, int | np.integer) or member not in known:
            name = type(self).__name__
            others = f" or {known[0]} to {known[-1]}" if known else f": {name} has no members"
            raise PotentialError("no such member", got=repr(member), expected=f"-1 (prediction){others}")
        assert isinstance(self, HasMembers)
        return self.member_potential(int(member))

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """What its file holds besides potential, maps, thresholds and statistics."""

    @classmethod
    @abstractmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Attributes of its own from what `arrays` gave."""

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers the potential knows."""
        return self.potential.species

    @property
    def cutoff(self) -> float:
        """Range of the neighbour list, Å."""
        return self.potential.cutoff

    @property
    def force_threshold(self) -> float:
        """Threshold of the forces."""
        return self.thresholds.get("forces", 0.0)

    def last_layer(self) -> LastLayerPotential:
        """Last layer of the potential."""
        return self.potential.last_layer()

    def at_potential(self, phi: float | None) -> Self:
        """Copy with another electrode potential (V) for structures that state none."""
        return self._replaced(potential=self.potential.at_potential(phi))

    def calibrated(
        self,
        calibration: Source | LabelledSet,
        *,
        calibration_map: Mapping[str, str] | None = None,
        calibration_method: str = "squared_residuals",
        labels: Mapped | None = None,
        batch_size: int = 16,
    ) -> Self:
        """Copy whose sigmas are calibrated on data that the potential was not trained on.

        Args:
            calibration: labelled structures; the labels that are there are used.
            calibration_map: quantity to map, see `fit_calibration_map`; default: 'alpha_power' of the energy,
                'structure_floor' of forces and stresses, 'alpha' of the rest.
            calibration_method: of the maps 'alpha' and 'alpha_power'.
            labels: explicit keys of the labels.
            batch_size: structures per batch, about.

        Raises:
            ConfigError: an unknown quantity.
            DataError: no labelled structure.
            PotentialError: an element that the potential does not know.
        """
        names = uncertain(self.potential.supplies)
        check_names(calibration_map or {}, names, "in calibration_map")
        data = as_labelled(calibration, self.potential, labels, require=())
        bare, extra = Stopwatch(), Stopwatch()
        with bare:
            predictions = predict(
                self.potential, data.frames, neighborhoods=data.structures, batch_size=batch_size
            )
        with extra:
            pairs, thresholds = self._held_out(data, predictions, names, batch_size)
        if not pairs:
            raise DataError(
                f"no structure for the calibration has a label: {', '.join(names[:-1])} or {names[-1]}"
            )
        rows = {name: len(pair.residuals) for name, pair in pairs.items()}
        cost = times(bare.seconds, bare.seconds + extra.seconds)
        calibrated = self._replaced(
            maps={**self.maps, **fit_maps(pairs, calibration_map, calibration_method, self.n_members)},
            thresholds={**self.thresholds, **thresholds},
            statistics={
                "cost": {"fit": cost, "prediction": cost},
                **self.statistics,
                "calibration_rows": rows,
            },
        )
        return calibrated._with_largest(data, batch_size)

    def _with_largest(self, data: LabelledSet, batch_size: int = 16) -> Self:
        """Copy that knows the sigmas of its calibration set: the largest of an atom in each structure.

        Those of forces, which cost more, are of some structures only. Labelled forces are kept beside them.
        """
        structures = data.structures
        name = "energies" if "energies" in self.potential.supplies else "energy"
        some = structures[:: max(len(structures) // _FORCE_RANGE, 1)] if "forces" in self.maps else ()
        ranges: dict[str, tuple[float, float]] = {}
        for kind, part in ((name, structures), ("forces", some)):
            asked, largest = ["energy", kind] if kind == name else [kind], []
            for index, spreads in self.spreads(part, asked, batch_size=batch_size):
                n_atoms = part[index].n_atoms
                largest.append(sizes(kind, self._sigma(kind, spreads[kind], n_atoms), n_atoms).max())
            if largest and max(largest) > 0:
                ranges[kind] = float(np.median(largest)), float(max(largest))
        known: dict[str, Any] = {LARGEST_SIGMA: {name: ranges[name][1]}} if name in ranges else {}
        labels = [sample.labels.forces for sample in data.samples]
        lengths = [float(np.nanmax(np.linalg.norm(f, axis=1))) for f in labels if f is not None]
        if lengths:
            known[LARGEST_FORCE] = float(np.median(lengths))
        return self._replaced(statistics={**self.statistics, **known, SIGMA_RANGE: ranges})

    def _held_out(
        self, data: LabelledSet, predictions: Sequence[Prediction], names: Collection[str], batch_size: int
    ) -> tuple[dict[str, HeldOut], dict[str, float]]:
        """Residuals and spreads of labels that count and do not vanish by symmetry, and the thresholds."""
        residuals = [
            label_residuals(sample, prediction, names)
            for sample, prediction in zip(data.samples, predictions, strict=True)
        ]
        labelled = [name for name in names if any(name in own for own in residuals)]
        parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in labelled}
        n_features: dict[str, int] = {}
        for index, spreads in self.spreads(data.structures, labelled, batch_size=batch_size):
            for name, (residual, counts) in residuals[index].items():
                if (spread := spreads.get(name)) is not None:
                    if spread.magnitude is not None and spread.vectors is not None:
                        n_features[name] = spread.vectors.shape[-1]
                    magnitude = self._magnitude(spread, predictions[index][name])
                    numbers = np.full(np.shape(residual), index)
                    columns = (residual, np.asarray(spread.u), np.asarray(magnitude), numbers)
                    parts[name].append(tuple(column[counts].ravel() for column in columns))
        pairs, thresholds = {}, {}
        for name, columns in parts.items():
            if columns:
                r, u, magnitude, numbers = (np.concatenate(column) for column in zip(*columns, strict=True))
                pairs[name] = HeldOut(r, u, numbers)
                if quantity(name).symmetric_zeros:
                    thresholds[name] = self._symmetry_zero(n_features.get(name, 0)) * float(
                        np.median(magnitude)
                    )
                    pairs[name] = HeldOut(*(column[magnitude > thresholds[name]] for column in pairs[name]))
        return pairs, thresholds

    def answering(
        self, source: str = "auto", method: str = "exact", n_probes: int = 64, seed: int = 0
    ) -> Self:
        """The uncertainty whose sigmas have this source and method, see `predict`; most have one of each.

        Raises:
            ConfigError: a name that is not known, or a source that there is not.
            PotentialError: a source that is no longer that of the potential.
        """
        check_source(source, method)
        if isinstance(self, HasSources):
            return self.with_sigmas(source, method, n_probes, seed)
        if source == "ensemble" and not self.n_members:
            raise ConfigError(f"{type(self).__name__} has no members whose spread could be the sigma")
        if source == "analytic" or method == "sampled":
            what = "analytic" if source == "analytic" else "sampled"
            raise ConfigError(f"{type(self).__name__} has no {what} sigmas", fix="use LLPR")
        return self

    @property
    def relative_standard_error(self) -> float | None:
        """Of sigmas that are sampled; None of others."""
        return self.sampling_error() if isinstance(self, HasSources) else None

    def predict(
        self,
        frames: Sequence[Atoms],
        *,
        member: int = MEAN,
        per_atom: bool = False,
        forces: bool = False,
        stress: bool = False,
        ensemble: bool = False,
        source: str = "auto",
        method: str = "exact",
        n_probes: int = 64,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[Prediction]:
        """Predict structures with the uncertainty of the energy, and of what else is asked for.

        Args:
            frames: structures.
            member: -1 for the prediction with uncertainties; those of single members (k > 0) have none.
            per_atom: also `energies_uncertainty`.
            forces: also `forces_uncertainty`.
            stress: also `stress_uncertainty`, for periodic structures.
            ensemble: also the values of all members, such as `energy_ensemble`, which are not calibrated.
            source: of sigmas: 'analytic', of an LLPR's posterior; 'ensemble', the spread of its members
                as it is; 'auto': the analytic one while it is that of the potential.
            method: 'exact', or 'sampled': the spread of random weights of the posterior, which costs one pass
                back for each of them; `relative_standard_error` of the predictions states its error.
            n_probes: random weights of the method 'sampled', at least 2.
            seed: of these.
            batch_size: structures per batch, about.

        Returns:
            Predictions; energies, forces and stresses are those of the potential itself. Outputs of a
            potential besides its energy, such as excess electrons, always have their uncertainty.

        Raises:
            ConfigError: an uncertainty that was not fitted, values of members where there are none, or a
                source or method that there is not.
            DataError: a structure that cannot be computed, see `check_geometry`.
            PotentialError: an element the potential does not know, no such member, or analytic sigmas of a
                potential that was trained since.
        """
        if member != MEAN:
            return self.member(member).predict(frames, batch_size=batch_size)
        if ensemble and not self.n_members:
            raise ConfigError(f"{type(self).__name__} has no members to give the values of")
        sure = self.answering(source, method, n_probes, seed)
        names = sure._names(per_atom, forces, stress)
        structures = neighborhoods_of(self.potential, frames)
        options: Any = {"batch_size": batch_size, "neighborhoods": structures}
        if isinstance(sure, FromFeatures) and not ensemble and sure.features_suffice(names):
            along: dict[int, Mapping[str, Spread]] = {}

            def look(index: int, features: np.ndarray) -> None:
                along[index] = sure.spreads_of_features(features, structures[index], names)

            predictions = predict(self.potential, frames, on_features=look, **options)
            pairs = iter(along.items())
        else:
            predictions = predict(self.potential, frames, **options)
            pairs = sure.spreads(structures, names, batch_size=batch_size)
        for index, spreads in pairs:
            results: dict[str, Any] = {"relative_standard_error": sure.relative_standard_error}
            for name, spread in spreads.items():
                value = predictions[index][name]
                results[f"{name}{UNCERTAINTY}"] = sure._sigma(name, spread, structures[index].n_atoms, value)
                if ensemble and spread.members is not None:
                    results[f"{name}{ENSEMBLE}"] = predictions[index][name] + spread.members
            predictions[index] = predictions[index].replace(**results)
        return predictions

    def _names(self, per_atom: bool, forces: bool, stress: bool) -> list[str]:
        asked = {"energy": True, "gradient": forces, "strain": stress, "output": True}
        for name, wanted in (("forces", forces), ("stress", stress)):
            if wanted and name not in self.maps:
                raise ConfigError(f"the uncertainty was fitted without {name}: add it to row_kinds")
        names = [name for name in self.maps if asked[quantity(name).source]]
        return [*names, "energies"] if per_atom and "energies" in self.potential.supplies else names

    def _symmetry_zero(self, n_features: int) -> float:
        """Share of the median magnitude below which a value vanishes by symmetry."""
        if self.zeros_by_values:
            return ROUNDED_ZERO if self.potential.dtype == np.float32 else VALUE_ZERO
        return row_zero(n_features)

    def _magnitude(self, spread: Spread, value: Any) -> Any:
        if self.zeros_by_values:
            return np.abs(value)
        return spread.u if spread.magnitude is None else spread.magnitude

    def _without_zeros(self, name: str, spread: Spread, value: Any = None) -> np.ndarray:
        """Raw spreads, zero where the quantity vanishes by symmetry."""
        if not quantity(name).symmetric_zeros or (self.zeros_by_values and value is None):
            return spread.u
        return np.where(self._magnitude(spread, value) <= self.thresholds.get(name, 0.0), 0.0, spread.u)

    def _calibration(self, name: str) -> CalibrationMap:
        """The map of a quantity; an atom's share of the energy has that of the energy."""
        known = "energy" if name == "energies" else name
        if known not in self.maps:
            raise ConfigError(f"{name!r} has no uncertainty", fix=nearest(name, self.maps))
        return self.maps[name] if name == known else of_atoms(self.maps[known])

    def _sigma(self, name: str, spread: Spread, n_atoms: int, value: Any = None) -> Any:
        entry = quantity(name)
        sigma = self._calibration(name).sigma(self._without_zeros(name, spread, value))
        # u is calibrated per atom, as residuals are; the total's sigma is n times that of the mean.
        sigma = sigma * n_atoms if entry.per_atom else sigma
        return float(sigma) if sigma.ndim == 0 else sigma

    def covariance(
        self,
        a: Sequence[Atoms],
        b: Sequence[Atoms] | None = None,
        kinds: Sequence[str] = ("energy",),
        *,
        batch_size: int = 16,
    ) -> Float[np.ndarray, "n_a n_b"]:
        """Covariances of predictions of structures, and of different quantities of them.

        Args:
            a: structures.
            b: others; None: those of `a`, and the diagonal holds the squares of the sigmas.
            kinds: quantities such as "energy" (of the whole structure), "energies" (of atoms), "forces",
                "stress".
            batch_size: structures per batch, about.

        Returns:
            Covariances in products of the units; along both axes quantity by quantity, structure by
            structure and value by value.

        Raises:
            ConfigError: a quantity without uncertainty.
            DataError: a stress of a structure that is not periodic.
            PotentialError: this estimator knows no covariances.
        """
        rows, noise = self._vectors(a, kinds, batch_size)
        if b is None:
            return rows @ rows.T + np.diag(noise)
        return rows @ self._vectors(b, kinds, batch_size)[0].T

    def difference(self, a: Atoms, b: Atoms) -> float:
        """Sigma of the energy of one structure minus that of another, eV; errors that they share cancel.

        Raises:
            PotentialError: this estimator knows no covariances.
        """
        return self.combination([a, b], [1.0, -1.0])

    sigma_difference = difference

    def combination(self, frames: Sequence[Atoms], coefficients: Sequence[float]) -> float:
        """Standard deviation of a linear combination of energies, such as a reaction energy, eV.

        Raises:
            DataError: not one coefficient for each structure.
            PotentialError: this estimator knows no covariances.
        """
        if len(coefficients) != len(frames):
            raise DataError("one coefficient for each structure", got=len(coefficients), expected=len(frames))
        rows, noise = self._vectors(frames, ("energy",), 16)
        c = np.asarray(coefficients, np.float64)
        return float(np.sqrt(np.sum((c @ rows) ** 2) + c**2 @ noise))

    def propagate(
        self,
        fn: Callable[..., Any],
        frames: Sequence[Atoms],
        *,
        method: str = "linear",
        temperature: float | None = None,
        batch_size: int = 16,
    ) -> Propagated:
        """What a function of predictions is, with its sigma.

        Args:
            fn: for 'linear' and 'ensemble' a function of `energy` (n_frames,), `energies`, `forces`
                (n_frames, n_atoms, 3) or `stress` (n_frames, 6), told by the names of its arguments; lists
                where structures are not of one size. For averages a function of one structure.
            frames: structures; for averages those of a trajectory of this potential.
            method: 'linear': by derivatives of the function; 'ensemble': of each member; 'reweight' and
                'cea': averages over a trajectory, see `trajectory_average`.
            temperature: of that trajectory, K.
            batch_size: structures per batch, about.

        Raises:
            ConfigError: an unknown method or argument, no members, no temperature.
            PotentialError: this estimator knows no covariances.
        """
        methods = ("linear", "ensemble", "reweight", "cea")
        if method not in methods:
            raise ConfigError(f"unknown method {method!r}", fix=nearest(method, methods))
        if method == "linear":
            names = arguments_of(fn)
            rows, noise = self._vectors(frames, names, batch_size)
            predictions = predict(self.potential, frames, batch_size=batch_size)
            return linear(fn, {name: [p[name] for p in predictions] for name in names}, rows, noise)
        if method == "ensemble":
            asked = {name: name in arguments_of(fn) for name in ("forces", "stress")}
            per_atom = "energies" in arguments_of(fn)
            options: Any = {"per_atom": per_atom, **asked, "ensemble": True, "batch_size": batch_size}
            return member_values(fn, self.predict(frames, **options))
        if temperature is None or not temperature > 0:
            raise ConfigError("averages need the temperature of the trajectory, K", got=temperature)
        predictions = self.predict(frames, ensemble=True, batch_size=batch_size)
        deviations = np.stack([p.energy_ensemble - p.energy for p in predictions], axis=1)
        values = np.stack([np.asarray(fn(atoms), np.float64) for atoms in frames])
        return trajectory_average(values, deviations, 1 / (units.kB * temperature), method)

    def _vectors(
        self, frames: Sequence[Atoms], names: Sequence[str], batch_size: int
    ) -> tuple[Float[np.ndarray, "n_values n"], Float[np.ndarray, " n_values"]]:
        """Scaled vectors and noise of all values, quantity by quantity and structure by structure."""
        calibrations = [self._calibration(name) for name in names]
        structures = neighborhoods_of(self.potential, frames)
        parts: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for index, spreads in self.spreads(structures, tuple(names), batch_size=batch_size):
            for place, name in enumerate(names):
                if name not in spreads:
                    raise DataError(f"there is no {name}", where=f"frame {index}", fix="leave it out")
                spread = spreads[name]._replace(u=self._without_zeros(name, spreads[name]))
                n_atoms = structures[index].n_atoms
                parts[place, index] = scaled_vectors(name, spread, calibrations[place], n_atoms)
        ordered = [parts[key] for key in sorted(parts)]
        return np.concatenate([w for w, _ in ordered]), np.concatenate([n for _, n in ordered])

    def calculator(
        self,
        *,
        per_atom: bool = True,
        forces_every: int | None = None,
        max_sigma: float | str | Mapping[str, float] | None = CALIBRATION,
        on_uncertain: OnUncertain = "warn",
        **options: Any,
    ) -> SurefieldCalculator:
        """ASE calculator whose results hold uncertainties as well.

        By default these are `energy_uncertainty` and `energies_uncertainty` of the atoms, which cost little.
        ASE's own writers drop results that they do not know, and say nothing: `ase.io.write` and `Trajectory`
        keep no sigma, while `surefield.structures.read.write_frames` keeps all of them in extxyz, traj and
        db. `exploration.sigma_limit.SigmaLimit` stops dynamics, or collects frames.

        Args:
            per_atom: also `energies_uncertainty`, if the potential has energies of atoms.
            forces_every: also `forces_uncertainty` and `max_force_uncertainty`, of every n-th structure; with
                the option forces=True of each. They cost about as much as a training step.
            max_sigma: limit, see `sigma_limits`; by default of the energies of atoms, twice the largest sigma
                of the calibration set, which `statistics` state; None: none.
            on_uncertain: what happens beyond it, see `SigmaGuard`.
            options: `extrapolation` as `SurefieldCalculator` takes it, and others of `predict`.

        Raises:
            ConfigError: an unknown action, or a limit or number of structures out of range.
        """
        guard = SigmaGuard(sigma_limits(max_sigma, self.statistics), on_uncertain)
        model = WatchedModel(self, guard, forces_every)
        return SurefieldCalculator(model, per_atom=per_atom, **options)

    def save(self, path: str | Path) -> None:
        """Save the potential, what the spreads need and the calibration as one .npz file."""
        header = {
            "potential": self.potential.config(),
            "maps": {name: calibration.to_dict() for name, calibration in self.maps.items()},
            "force_threshold": self.force_threshold,
            "thresholds": dict(self.thresholds),
            "statistics": dict(self.statistics),
        }
        save_arrays(path, self.kind, header, pack(self.potential, self.prefix) | self.arrays())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what `save` wrote; see `load_arrays` for the errors."""
        header, arrays = load_arrays(path, cls.kind)
        entries = dict(header["maps"])
        if header.get("electrons"):  # version 0.1 kept this map apart
            entries["excess_electrons"] = header["electrons"]
        return cls._of(
            potential=unpack(build(header["potential"]), arrays, cls.prefix),
            maps={name: CalibrationMap.from_dict(entry) for name, entry in entries.items()},
            thresholds=header.get("thresholds", {"forces": header["force_threshold"]}),
            statistics=header.get("statistics", {}),
            **cls.fields_from(arrays),
        )

    @classmethod
    def _of(cls, **values: Any) -> Self:
        """Instance with these attributes: constructors of final classes may take other arguments."""
        instance = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(instance, name, value)
        return instance

    def calibrated_as(self, other: Uncertainty, statistics: Collection[str]) -> Self:
        """Copy with the calibration maps of another uncertainty, and with some of its statistics."""
        known = {name: other.statistics[name] for name in statistics if name in other.statistics}
        return self._replaced(maps=other.maps, statistics={**self.statistics, **known})

    def _replaced(self, **changes: Any) -> Self:
        return self._of(**{field.name: getattr(self, field.name) for field in fields(self)} | changes)
