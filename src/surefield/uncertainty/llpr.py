"""LLPR: calibrated uncertainties of energies, forces and stresses from the last layer of a potential."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, final

import numpy as np
from jaxtyping import Float

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.memory import check_memory
from surefield.execution.memory_maps import release_compiled
from surefield.execution.progress import Track, track
from surefield.execution.stopwatch import Stopwatch
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import HasPotential, LastLayerPotential, Potential, as_potential
from surefield.quantities import labelled, quantity, uncertain
from surefield.sensitivity.covariance import RowCovariance, peak_memory
from surefield.sensitivity.posterior import LLPRPosterior, resolve_regularizer
from surefield.sensitivity.rows import structure_rows
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.checkpoint import (
    PartialSums,
    identity_of,
    part_of,
    potential_entries,
    sample_contents,
)
from surefield.training.dataset import LabelledSet, Sample, as_labelled
from surefield.uncertainty.calibration_maps import AlphaMap, AlphaSigma0Map, CalibrationMap
from surefield.uncertainty.held_out import (
    SYMMETRY_ZERO,
    HeldOut,
    check_names,
    fit_maps,
    label_residuals,
)
from surefield.uncertainty.spread import Spread
from surefield.uncertainty.uncertainty import Uncertainty, times

__all__ = ["LLPR", "check_size", "fit_memory"]

Rows = Float[np.ndarray, "n_rows n_features"]
#: Rows and residuals of one structure by quantity.
LabelledRows = Mapping[str, tuple[Rows, Float[np.ndarray, " n_rows"]]]
#: Kinds of rows that are summed apart: of energies, forces, stresses.
_KINDS: Final = 3


@final
@dataclass(frozen=True, eq=False)
class LLPR(Uncertainty):
    """Last-layer prediction rigidity around a potential; made by `fit`, and used like a potential.

    sigma = map(u), u^2 = g (C + s^2 I)^-1 g, with g the derivative of the quantity with respect to the
    last-layer weights, C the sum of such rows over the training set (energies, forces, stresses), and one
    calibration map per quantity, fitted on data the potential was not trained on. Force rows that are much
    shorter than others vanish by symmetry.
    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024).

    Attributes:
        posterior: of the last-layer weights.
    """

    kind: ClassVar[str] = "llpr"

    posterior: LLPRPosterior

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        row_kinds: Sequence[str] | None = None,
        regularizer: float | str | Mapping[str, float] | None = None,
        calibration_map: Mapping[str, str] | None = None,
        calibration_method: str = "squared_residuals",
        shared_alpha: float = 0.0,
        labels: Mapped | None = None,
        folder: str | Path | None = None,
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
            folder: there already; keeps the rows of an interrupted fit, which goes on from them.
            progress: show a progress bar.

        Raises:
            ConfigError: an unknown kind.
            DataError: no labelled structure in one of the sets.
            PotentialError: the potential has no linear last layer, or does not know an element; rows in the
                folder are of other structures or of another potential.
        """
        potential = as_potential(potential)
        known = uncertain(potential.supplies)
        check_names({*(row_kinds or ()), *(calibration_map or {})}, known, "of row")
        if not shared_alpha >= 0:
            raise ConfigError(f"shared_alpha must not be negative, got {shared_alpha}")
        release_compiled()
        layer = potential.last_layer()
        check_size(layer)
        sets = [as_labelled(part, potential, labels) for part in (train, calibration)]
        if not all(len(part) for part in sets):
            raise DataError("LLPR needs at least one labelled structure to fit and one to calibrate")
        kinds = _kinds(sets, known, row_kinds)
        outputs = [name for name in known if name not in kinds and quantity(name).source == "output"]
        if not np.any(np.asarray(layer.readout)):
            what = f"all last-layer weights of the {type(layer).__name__} are zero"
            raise PotentialError(what, fix="train it first: sigmas belong to fitted weights")
        clocks, solving = [_Clock(Stopwatch(), Stopwatch()) for _ in sets], Stopwatch()
        files = _files(folder, potential, sets, kinds)
        done = sum(file.done for file in files)
        with track(sum(map(len, sets)), "last-layer rows", progress, done=done) as bar:
            passes = [_Pass(potential, *rest, bar) for rest in zip(sets, clocks, files, strict=True)]
            covariance, thresholds = _summed(passes[0], kinds, layer.n_features)
            held = _collected(passes[1], [*kinds, *outputs], thresholds)
        with solving:
            validation = {kind: held[kind] for kind in kinds if kind in held}
            posterior, weights = _posterior(layer, covariance, validation, regularizer)
            nothing = np.zeros((0, layer.n_features)), np.zeros(0)
            rows = {kind: nothing for kind in kinds} | held
            pairs = {name: HeldOut(r, posterior.u(g)) for name, (g, r) in rows.items()}
            maps = fit_maps(pairs, calibration_map, calibration_method)
        bare, rest = (sum(clock[i].seconds for clock in clocks) for i in (0, 1))
        statistics = {
            "rows": dict(covariance.n_rows),
            "weights": weights,
            "varsigma2": posterior.varsigma2,
            "n_features": layer.n_features,
            "rank": posterior.rank,
            "effective_dof": posterior.effective_dof,
            "calibration_rows": {name: len(r) for name, (_, r) in held.items()},
            "cost": {
                "fit": times(bare, bare + rest + solving.seconds),
                "prediction": times(clocks[1].bare.seconds, sum(watch.seconds for watch in clocks[1])),
            },
        }
        for file in files:
            file.remove()
        maps = _completed(maps, outputs, shared_alpha, pairs)
        return cls(potential, maps, thresholds, statistics, posterior)._with_largest(sets[1].structures)

    @property
    def n_members(self) -> int:
        """None: spreads follow from the posterior."""
        return 0

    def member(self, member: int) -> Potential:
        """The potential that predicts (-1); there are no members."""
        if member != -1:
            raise PotentialError("no such member", got=member, expected="none: LLPR has no members")
        return self.potential

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and its spreads from the posterior; one structure after the other."""
        for index, rows in enumerate(_quantity_rows(self.last_layer(), structures, names)):
            n_atoms = structures[index].n_atoms
            yield index, {name: self._spread(name, g, n_atoms) for name, g in rows.items()}

    def _spread(self, name: str, rows: Rows, n_atoms: int) -> Spread:
        shape = quantity(name).shape(n_atoms)
        lengths = np.linalg.norm(rows, axis=1).reshape(shape) if quantity(name).symmetric_zeros else None
        vectors = self.posterior.whiten(rows)
        u = np.linalg.norm(vectors, axis=1).reshape(shape)
        return Spread(u, lengths, vectors=vectors.reshape(*shape, -1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The posterior."""
        return {
            "eigenvalues": self.posterior.eigenvalues,
            "factor": self.posterior.factor,
            "varsigma2": np.array(self.posterior.varsigma2),
        }

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The posterior."""
        varsigma2 = float(arrays["varsigma2"])
        return {"posterior": LLPRPosterior(varsigma2, arrays["eigenvalues"], arrays["factor"])}


def check_size(layer: LastLayerPotential) -> None:
    """Refuse a last layer whose covariances do not fit into memory, before any row is computed.

    Raises:
        ConfigError: they do not.
    """
    n = layer.n_features
    detail = f"{n} weights of the last layer, whose eigenbasis takes about {(n / 1e4) ** 3:.1g} hours"
    fix = "use a potential of fewer elements or fewer features per element, or another kind of uncertainty"
    check_memory("LLPR", fit_memory(n), detail, fix)


def fit_memory(n_features: int) -> float:
    """Bytes that a fit takes at its peak."""
    return peak_memory(n_features, _KINDS)


class _Clock(NamedTuple):
    """Seconds of plain predictions, and of rows beside them."""

    bare: Stopwatch
    rows: Stopwatch


def _quantity_rows(
    layer: LastLayerPotential, structures: Sequence[Neighborhood], names: Collection[str]
) -> Iterator[dict[str, Rows]]:
    """Rows of each structure by quantity, one per component; of means over the atoms where it is per atom."""
    for rows in structure_rows(layer, structures, names):
        yield {
            name: np.atleast_2d(g) / (rows.n_atoms if quantity(name).per_atom else 1)
            for name, g in rows.values.items()
        }


def _files(
    folder: str | Path | None, potential: Potential, sets: Sequence[LabelledSet], kinds: Sequence[str]
) -> list[PartialSums]:
    """What keeps the rows of both sets while a fit goes on."""
    if folder is None:
        return [PartialSums(None, {}) for _ in sets]
    parts = ("training", "calibration")
    contents = [sample_contents(part.samples) for part in sets]
    named = {f"{part} set": content for part, content in zip(parts, contents, strict=True)}
    identity = identity_of(**potential_entries(potential), rows=list(kinds), **named)
    return [PartialSums(Path(folder) / f"{part}-rows.npz", identity) for part in parts]


class _Pass:
    """One pass over the rows of a labelled set, which goes on where one that was interrupted had got to.

    Attributes:
        known: what that one had kept; None for nothing.
    """

    def __init__(
        self, potential: Potential, data: LabelledSet, clock: _Clock, files: PartialSums, bar: Track
    ) -> None:
        self.potential, self.clock, self.files, self.bar = potential, clock, files, bar
        self.known, self.done = files.load(), 0
        if self.known is not None:
            self.done = int(self.known["done"])
            clock.bare.seconds, clock.rows.seconds = self.known["seconds"].tolist()
        self.data = data[np.arange(self.done, len(data))] if self.done else data

    def rows(self, names: Sequence[str]) -> Iterator[LabelledRows]:
        """Rows and residuals of each structure that is left by quantity, of labels that count."""
        potential, data = self.potential, self.data
        with self.clock.bare:
            predictions = predict(potential, data.frames, neighborhoods=data.structures)
        every = _quantity_rows(potential.last_layer(), data.structures, names)
        for sample, prediction in zip(data.samples, predictions, strict=True):
            with self.clock.rows:
                rows = next(every)
            labelled_rows = {}
            for name, (residual, counts) in label_residuals(sample, prediction, names).items():
                if name in rows:
                    labelled_rows[name] = rows[name][counts.ravel()], residual[counts]
            yield labelled_rows
            self.done += 1
            self.bar.advance()

    def keep(self, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write what there is of all structures so far, the latest one included, if it is time to."""
        seconds = np.array([self.clock.bare.seconds, self.clock.rows.seconds])
        self.files.save(lambda: {"done": np.array(self.done + 1), "seconds": seconds, **arrays()})


def _summed(summing: _Pass, names: Sequence[str], n_features: int) -> tuple[RowCovariance, dict[str, float]]:
    """Covariance of the rows of a training set, and the lengths below which they vanish by symmetry."""
    covariance, lengths = RowCovariance(n_features), {}
    if summing.known is not None:
        covariance = RowCovariance.from_arrays(part_of(summing.known, "covariance:"))
        lengths = {name: [values] for name, values in part_of(summing.known, "lengths:").items()}
        summing.known = None

    def arrays() -> dict[str, np.ndarray]:
        joined = {f"lengths:{name}": np.concatenate(values) for name, values in lengths.items()}
        return joined | {f"covariance:{name}": array for name, array in covariance.arrays().items()}

    for rows in summing.rows(names):
        for name, (g, r) in rows.items():
            covariance.add(g, name, residuals=r)
            if quantity(name).symmetric_zeros:
                lengths.setdefault(name, []).append(np.linalg.norm(g, axis=1))
        summing.keep(arrays)
    return covariance, {n: SYMMETRY_ZERO * float(np.median(np.concatenate(x))) for n, x in lengths.items()}


def _collected(
    collecting: _Pass, names: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, tuple[Rows, np.ndarray]]:
    """All rows and residuals of a held-out set by quantity, without those that vanish by symmetry."""
    parts: dict[str, list[tuple[Rows, np.ndarray]]] = {}
    if collecting.known is not None:
        residuals = part_of(collecting.known, "residuals:")
        parts = {name: [(g, residuals[name])] for name, g in part_of(collecting.known, "rows:").items()}
        collecting.known = None

    def joined() -> dict[str, tuple[Rows, np.ndarray]]:
        return {
            name: (np.concatenate([g for g, _ in each]), np.concatenate([r for _, r in each]))
            for name, each in parts.items()
        }

    def arrays() -> dict[str, np.ndarray]:
        both = joined().items()
        return {f"rows:{n}": g for n, (g, _) in both} | {f"residuals:{n}": r for n, (_, r) in both}

    for rows in collecting.rows(names):
        for name, (g, r) in rows.items():
            keep = np.linalg.norm(g, axis=1) > thresholds[name] if name in thresholds else slice(None)
            parts.setdefault(name, []).append((g[keep], r[keep]))
        collecting.keep(arrays)
    return joined()


def _posterior(
    layer: LastLayerPotential,
    covariance: RowCovariance,
    validation: Mapping[str, tuple[Rows, np.ndarray]],
    regularizer: float | str | Mapping[str, float] | None,
) -> tuple[LLPRPosterior, dict[str, float]]:
    """Posterior of the weights, and the weight of the rows of each quantity."""
    weights = _precision_weights(covariance, validation)
    matrix = covariance.combined(weights)
    used = {kind: value for kind, value in covariance.n_rows.items() if weights[kind] > 0}
    varsigma2 = resolve_regularizer(
        regularizer,
        matrix,
        n_rows=sum(used.values()),
        sum_sq_residuals=sum(weights[k] * covariance.sum_squared_residuals[k] for k in used),
        weight_norm2=float(np.sum(np.asarray(layer.readout, np.float64) ** 2)),
        validation=validation,  # type: ignore[arg-type]
        floor=covariance.regularizer_floor if layer.dtype == np.float64 else 1e-6,
    )
    return LLPRPosterior.from_covariance(matrix, varsigma2), weights


def _kinds(sets: Sequence[LabelledSet], known: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    """Quantities whose rows are summed: those asked for, or all that have labels found by name."""
    present = {name: any(_has(sample, name) for part in sets for sample in part.samples) for name in known}
    usual = [name for name in labelled(known) if present[name]]
    chosen = tuple(name for name in known if name in (usual if asked is None else asked))
    missing = [name for name in chosen if not present[name]]
    if missing:
        raise DataError(f"row_kinds asks for {missing[0]}, but no structure has such a label")
    return chosen


def _has(sample: Sample, name: str) -> bool:
    if name not in sample.labels or (name == "stress" and not sample.structure.periodic):
        return False
    return sample.trained_energy if name == "energy" else True


def _completed(
    maps: Mapping[str, CalibrationMap], outputs: Sequence[str], shared: float, pairs: Mapping[str, HeldOut]
) -> dict[str, CalibrationMap]:
    """Maps with one for the energy and for every output, though there may be no labels of them.

    The alpha^2 of the energy is averaged with that of the forces, which counts as `shared` energies: rows are
    weighted by precision, so one alpha would serve all kinds if the posterior were exact.
    """
    forces = maps.get("forces")
    # Without energies that count, as in nearsighted training, the forces know the one alpha.
    alone = float(getattr(forces, "alpha", 1.0))
    energy = maps.get("energy") or AlphaMap(alone if alone > 0 else 1.0, calibrated=False)
    # A force alpha of zero is all floor: the spread of the last layer says nothing.
    if (
        shared > 0
        and isinstance(energy, AlphaMap)
        and isinstance(forces, AlphaMap | AlphaSigma0Map)
        and forces.alpha > 0
    ):
        n = len(pairs["energy"].residuals) if energy.calibrated else 0
        alpha2 = (n * energy.alpha**2 + shared * forces.alpha**2) / (n + shared)
        energy = replace(energy, alpha=float(np.sqrt(alpha2)), calibrated=True)
    unlabelled = AlphaMap(float(getattr(energy, "alpha", 1.0)), calibrated=False)
    return {**{name: unlabelled for name in outputs}, **maps, "energy": energy}


def _precision_weights(
    covariance: RowCovariance, validation: Mapping[str, tuple[Rows, np.ndarray]]
) -> dict[str, float]:
    """1/s^2 with s the RMSE of the validation residuals (of the training ones if there are none)."""
    weights = {}
    for kind, n in covariance.n_rows.items():
        if kind in validation:
            mean_square = float(np.mean(validation[kind][1] ** 2))
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
