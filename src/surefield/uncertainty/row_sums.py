"""Rows of labelled sets for the last-layer posterior: summed for training, collected for calibration.

A pass goes over the structures once, in blocks, and goes on where one that was interrupted had got to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float

from surefield.calibration.held_out import SYMMETRY_ZERO, check_names, label_residuals, row_zero
from surefield.errors import ConfigError, DataError, PotentialError
from surefield.execution.process_group import ProcessGroup
from surefield.execution.progress import Track
from surefield.execution.stopwatch import Stopwatch
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import LastLayerPotential, Potential
from surefield.quantities import labelled, quantity
from surefield.sensitivity.covariance import RowCovariance
from surefield.sensitivity.posterior import LLPRPosterior, resolve_regularizer
from surefield.sensitivity.rows import structure_rows
from surefield.structures.labels import Labels
from surefield.structures.neighbors import Neighborhood
from surefield.training.checkpoint import (
    PartialSums,
    identity_of,
    part_of,
    potential_entries,
    sample_contents,
)
from surefield.training.dataset import LabelledSet, Sample
from surefield.uncertainty.config import Regularizer

__all__ = [
    "Blocks",
    "Clock",
    "RowPass",
    "RowSums",
    "fitted_posterior",
    "masked_values",
    "partial_files",
    "quantity_rows",
    "row_kinds_of",
    "summed_rows",
    "sums_of",
    "without_offset",
]

Rows = Float[np.ndarray, "n_rows n_features"]
#: Rows and residuals of one structure by quantity.
LabelledRows = Mapping[str, tuple[Rows, Float[np.ndarray, " n_rows"]]]


class Clock(NamedTuple):
    """Seconds of plain predictions, and of rows beside them."""

    bare: Stopwatch
    rows: Stopwatch


def quantity_rows(
    layer: LastLayerPotential, structures: Sequence[Neighborhood], names: Collection[str]
) -> Iterator[dict[str, Rows]]:
    """Rows of each structure by quantity, one per component; of means over the atoms where it is per atom."""
    for rows in structure_rows(layer, structures, names):
        yield {
            name: np.atleast_2d(g) / (rows.n_atoms if quantity(name).per_atom else 1)
            for name, g in rows.values.items()
        }


def partial_files(
    folder: str | Path | None,
    potential: Potential,
    sets: Sequence[LabelledSet],
    kinds: Sequence[str],
    group: ProcessGroup | None = None,
) -> list[PartialSums]:
    """What keeps the rows of both sets, or of this process's part of them, while a fit goes on."""
    if folder is None:
        return [PartialSums(None, {}) for _ in sets]
    parts = ("training", "calibration")
    contents = [sample_contents(part.samples) for part in sets]
    named: dict[str, Any] = {f"{part} set": content for part, content in zip(parts, contents, strict=True)}
    # Rows that vanish are dropped as they come: with another limit those of before do not fit.
    named["limit of rows that vanish by symmetry"] = SYMMETRY_ZERO
    identity = identity_of(**potential_entries(potential), rows=list(kinds), **named)
    mark = "" if group is None else f"-{group.rank}-of-{group.size}"
    return [PartialSums(Path(folder) / f"{part}-rows{mark}.npz", identity) for part in parts]


class Blocks(NamedTuple):
    """How many structures are looked at in one go; results do not depend on it.

    Attributes:
        n_structures: at most.
        max_atoms: of a block of more than one structure; None: no limit.
        min_atoms: a block with fewer takes further structures, as far as `max_atoms` allows.
    """

    n_structures: int = 512
    max_atoms: int | None = None
    min_atoms: int = 0

    def of(self, sizes: Sequence[int]) -> Iterator[slice]:
        """Consecutive structures with these numbers of atoms, block by block."""
        start = total = 0
        for stop, size in enumerate([*sizes, 0]):
            full = stop - start >= self.n_structures and total >= self.min_atoms
            over = self.max_atoms is not None and total + size > self.max_atoms
            if stop > start and (full or over or stop == len(sizes)):
                yield slice(start, stop)
                start, total = stop, 0
            total += size


class RowPass:
    """One pass over the rows of a labelled set, which goes on where one that was interrupted had got to.

    Args:
        potential: whose rows.
        data: labelled structures.
        clock: counts seconds.
        files: keeps what there is while the pass goes on.
        bar: of progress.
        blocks: structures in one go.
        whole: quantities whose rows and residuals are those of the structure, not of the mean over its atoms.

    Attributes:
        known: what an interrupted pass had kept; None for nothing.
    """

    def __init__(
        self,
        potential: Potential,
        data: LabelledSet,
        clock: Clock,
        files: PartialSums,
        bar: Track,
        blocks: Blocks = Blocks(),  # noqa: B008 (frozen)
        whole: Collection[str] = (),
    ) -> None:
        self.potential, self.clock, self.files, self.bar = potential, clock, files, bar
        self.blocks, self.whole = blocks, whole
        self.known, self.done = files.load(), 0
        if self.known is not None:
            self.done = int(self.known["done"])
            clock.bare.seconds, clock.rows.seconds = self.known["seconds"].tolist()
        self.data = data[np.arange(self.done, len(data))] if self.done else data

    def rows(self, names: Sequence[str]) -> Iterator[LabelledRows]:
        """Rows and residuals of each structure that is left by quantity, of labels that count."""
        potential, layer = self.potential, self.potential.last_layer()
        for block in self.blocks.of([sample.n_atoms for sample in self.data.samples]):
            data = self.data[np.arange(block.start, block.stop)]
            with self.clock.bare:
                predictions = predict(potential, data.frames, neighborhoods=data.structures)
            every = quantity_rows(layer, data.structures, names)
            for sample, prediction in zip(data.samples, predictions, strict=True):
                with self.clock.rows:
                    rows = next(every)
                labelled_rows = {}
                for name, (residual, counts) in label_residuals(sample, prediction, names).items():
                    if name in rows:
                        _check_finite(sample, name, prediction[name], rows[name])
                        n = sample.n_atoms if name in self.whole and quantity(name).per_atom else 1
                        labelled_rows[name] = n * rows[name][counts.ravel()], n * residual[counts]
                yield labelled_rows
                self.done += 1
                self.bar.advance()

    def keep(self, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write what there is of all structures so far, the latest one included, if it is time to."""
        seconds = np.array([self.clock.bare.seconds, self.clock.rows.seconds])
        self.files.save(lambda: {"done": np.array(self.done + 1), "seconds": seconds, **arrays()})


def _check_finite(sample: Sample, name: str, value: Any, rows: Rows) -> None:
    """Raise `PotentialError` that names the structure unless a prediction and its rows are finite."""
    for what, numbers in (("prediction", value), ("last-layer features", rows)):
        if not np.isfinite(numbers).all():
            where = f"{sample.id} ({sample.atoms.get_chemical_formula()})"
            fix = "look for overlapping atoms, or for a training that diverged"
            raise PotentialError(f"{what} of the {name} not finite", where=where, fix=fix)


class RowSums(NamedTuple):
    """What a posterior and its calibration are made from.

    Attributes:
        covariance: of the rows of the training set.
        thresholds: lengths of rows below which they vanish by symmetry.
        held: rows of the held-out set that do not, by quantity.
        n_zeros: rows of the training set that vanish by symmetry, by quantity.
    """

    covariance: RowCovariance
    thresholds: dict[str, float]
    held: dict[str, HeldRows]
    n_zeros: dict[str, int]


class HeldRows(NamedTuple):
    """Rows (n, n_features), residuals (n,) and numbers of the structures (n,) of one quantity."""

    rows: Rows
    residuals: np.ndarray
    structures: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[HeldRows]) -> HeldRows:
        """One behind the other; structures of different parts are different."""
        sizes = [int(part.structures.max(initial=-1)) + 1 for part in parts]
        before = np.cumsum([0, *sizes[:-1]])
        numbers = [part.structures + first for part, first in zip(parts, before, strict=True)]
        rows, residuals = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return cls(rows, residuals, np.concatenate(numbers))

    @staticmethod
    def arrays(held: Mapping[str, HeldRows]) -> dict[str, np.ndarray]:
        """By name, for a file or another process."""
        return {f"{key}:{name}": x for name, of in held.items() for key, x in of._asdict().items()}

    @classmethod
    def by_name(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, HeldRows]:
        """What `arrays` gave."""
        columns = [part_of(arrays, f"{key}:") for key in cls._fields]
        return {name: cls(*(column[name] for column in columns)) for name in columns[0]}


def sums_of(
    passes: Sequence[RowPass],
    kinds: Sequence[str],
    outputs: Sequence[str],
    n_features: int,
    group: ProcessGroup | None = None,
) -> RowSums:
    """Sums over the training set, and rows of the calibration set; of all processes, if there are several."""
    covariance, lengths = summed_rows(passes[0], kinds, n_features)
    if group is not None:
        own = {f"covariance:{name}": array for name, array in covariance.arrays().items()}
        every = group.gathered(own | {f"lengths:{name}": values for name, values in lengths.items()})
        covariance, *others = (RowCovariance.from_arrays(part_of(one, "covariance:")) for one in every)
        for other in others:
            covariance.merge(other)
        lengths = _joined(part_of(one, "lengths:") for one in every)
    thresholds = {name: row_zero(n_features) * float(np.median(values)) for name, values in lengths.items()}
    held = collected_rows(passes[1], [*kinds, *outputs], thresholds)
    if group is not None:
        parts = [HeldRows.by_name(one) for one in group.gathered(HeldRows.arrays(held))]
        names = [name for name in (*kinds, *outputs) if any(name in part for part in parts)]
        held = {name: HeldRows.joined([part[name] for part in parts if name in part]) for name in names}
    n_zeros = {name: int(np.sum(values <= thresholds[name])) for name, values in lengths.items()}
    return RowSums(covariance, thresholds, held, n_zeros)


def masked_values(
    data: LabelledSet, kinds: Sequence[str], n_zeros: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """How many values of labels do not count, by quantity and reason; those of stresses in Voigt order."""
    masked: dict[str, dict[str, int]] = {}
    for name in kinds:
        labelled_samples = [sample for sample in data.samples if name in sample.labels]
        unknown = sum(int(np.sum(~sample.known(name))) for sample in labelled_samples)
        counted = sum(int(np.sum(sample.component_weights(name) > 0)) for sample in labelled_samples)
        n_known = sum(int(np.sum(sample.known(name))) for sample in labelled_samples)
        reasons = {"NaN": unknown, "weight 0": n_known - counted, "symmetry": n_zeros.get(name, 0)}
        masked[name] = {reason: n for reason, n in reasons.items() if n}
    return {name: reasons for name, reasons in masked.items() if reasons}


def _joined(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, array in part.items():
            columns.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in columns.items()}


def summed_rows(
    summing: RowPass, names: Sequence[str], n_features: int
) -> tuple[RowCovariance, dict[str, np.ndarray]]:
    """Covariance of the rows of a training set, and lengths of those that may vanish by symmetry."""
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
    return covariance, {name: np.concatenate(values) for name, values in lengths.items()}


def collected_rows(
    collecting: RowPass, names: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, HeldRows]:
    """All rows and residuals of a held-out set by quantity, without those that vanish by symmetry."""
    parts: dict[str, list[HeldRows]] = {}
    if collecting.known is not None:
        parts = {name: [known] for name, known in HeldRows.by_name(collecting.known).items()}
        collecting.known = None

    def joined() -> dict[str, HeldRows]:
        return {name: HeldRows.joined(each) for name, each in parts.items()}

    for rows in collecting.rows(names):
        for name, (g, r) in rows.items():
            keep = np.linalg.norm(g, axis=1) > thresholds[name] if name in thresholds else slice(None)
            own = HeldRows(g[keep], r[keep], np.zeros(len(r[keep]), int))
            parts.setdefault(name, []).append(own)
        collecting.keep(lambda: HeldRows.arrays(joined()))
    return joined()


def fitted_posterior(
    layer: LastLayerPotential,
    covariance: RowCovariance,
    validation: Mapping[str, tuple[Rows, np.ndarray]],
    regularizer: Regularizer,
    row_weights: str | Mapping[str, float] = "precision",
    compat: Literal["metatrain"] | None = None,
    n_zeros: Mapping[str, int] | None = None,
) -> tuple[LLPRPosterior, dict[str, float]]:
    """Posterior of the weights, and the weight of the rows of each quantity; zero rows say nothing."""
    weights = row_weights_of(covariance, validation, "unit" if compat else row_weights)
    matrix = covariance.combined(weights)
    if compat is not None:
        if isinstance(regularizer, str):
            raise ConfigError("compat: metatrain takes a number or null as regularizer", got=regularizer)
        return LLPRPosterior.from_covariance(matrix, regularizer=regularizer, compat=compat), weights  # type: ignore[arg-type]
    zeros = n_zeros or {}
    used = {kind: n - zeros.get(kind, 0) for kind, n in covariance.n_rows.items() if weights[kind] > 0}
    varsigma2 = resolve_regularizer(
        regularizer,  # type: ignore[arg-type]
        matrix,
        n_rows=sum(used.values()),
        sum_sq_residuals=sum(weights[k] * covariance.sum_squared_residuals[k] for k in used),
        weight_norm2=float(np.sum(np.asarray(layer.readout, np.float64) ** 2)),
        validation=validation,  # type: ignore[arg-type]
        floor=covariance.regularizer_floor if layer.dtype == np.float64 else 1e-6,
    )
    return LLPRPosterior.from_covariance(matrix, varsigma2), weights


def row_kinds_of(
    sets: Sequence[LabelledSet], known: Sequence[str], asked: Sequence[str] | None
) -> tuple[str, ...]:
    """Quantities whose rows are summed: those asked for, or all that have labels found by name."""
    present = {name: any(_has(sample, name) for part in sets for sample in part.samples) for name in known}
    usual = [name for name in labelled(known) if present[name]]
    chosen = tuple(name for name in known if name in (usual if asked is None else asked))
    for name in chosen:
        if not present[name]:
            raise DataError(f"row_kinds asks for {name}, but no structure has such a label")
        if asked is not None and not any(_has(sample, name) for sample in sets[0].samples):
            where = "labels of the training set"
            raise DataError(f"row_kinds asks for {name}, of which no value is known", where=where)
    return chosen


def _has(sample: Sample, name: str) -> bool:
    return bool(np.any(sample.component_weights(name) > 0))


def row_weights_of(
    covariance: RowCovariance,
    validation: Mapping[str, tuple[Rows, np.ndarray]],
    rule: str | Mapping[str, float] = "precision",
) -> dict[str, float]:
    """Weight of the rows of each quantity.

    Those of 'precision' are 1/s^2 with s the RMSE of the validation residuals (of the training ones if there
    are none), of 'unit' 1, of 'loss' those of the usual loss of a training; others are given by quantity.
    """
    kinds = covariance.n_rows
    if isinstance(rule, Mapping):
        check_names(rule, tuple(kinds), "in row_weights")
        return {kind: float(rule.get(kind, 0.0)) for kind in kinds}
    if rule == "unit":
        return dict.fromkeys(kinds, 1.0)
    if rule == "loss":
        return {kind: quantity(kind).weight for kind in kinds}
    weights = {}
    for kind, n in kinds.items():
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


def without_offset(
    data: LabelledSet, potential: Potential, rule: str, known: Mapping[str, float] | None = None
) -> tuple[LabelledSet, dict[str, float]]:
    """A set whose energies lack a mean difference from those of the potential, as at another level of theory.

    Args:
        data: labelled structures.
        potential: trained.
        rule: 'none', 'per_atom' or 'per_element'.
        known: the difference, from another set; None: it is fitted on this one.

    Returns:
        The set, and reference minus prediction in eV by element, or of any atom under "atom".
    """
    if rule == "none":
        return data, {}
    symbols = [chemical_symbols[z] for z in data.species]
    counts = [np.array([np.sum(s.structure.numbers == z) for z in data.species]) for s in data.samples]
    if known is None:
        predictions = predict(potential, data.frames, neighborhoods=data.structures)
        usable = [i for i, s in enumerate(data.samples) if s.component_weights("energy") > 0]
        if not usable:
            raise DataError(f"residual_offset {rule} needs energies", fix="residual_offset: none")
        differences = np.array(
            [
                (data.samples[i].labels.energy - predictions[i].energy) / data.samples[i].n_atoms
                for i in usable
            ]
        )
        if rule == "per_atom":
            known = {"atom": float(differences.mean())}
        else:
            shares = np.array([counts[i] / counts[i].sum() for i in usable])
            known = dict(zip(symbols, np.linalg.lstsq(shares, differences)[0].tolist(), strict=True))
    each = [known.get(symbol, known.get("atom", 0.0)) for symbol in symbols]
    samples = []
    for sample, count in zip(data.samples, counts, strict=True):
        labels = sample.labels.results()
        if "energy" in labels:
            labels["energy"] = labels["energy"] - float(count @ each)
        samples.append(replace(sample, labels=Labels(**labels)))
    return replace(data, samples=tuple(samples)), dict(known)
