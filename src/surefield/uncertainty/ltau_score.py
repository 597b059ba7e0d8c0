"""`LTAUForcesUQScore`: force errors of similar training atoms during training, as a score of every atom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
from ase import Atoms
from jaxtyping import Float, Float64, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, nearest
from surefield.potentials.potential import HasPotential, Potential
from surefield.scoring import AtomCenteredScore, ScoreQuantity
from surefield.scoring.array_files import is_path, load_array, load_arrays
from surefield.scoring.contract import DescribesItself
from surefield.scoring.descriptions import described
from surefield.scoring.descriptor_arrays import descriptors_of
from surefield.scoring.results import check_finite_rows
from surefield.selection.approximate_neighbors import CompressedRows, NeighborGraph, check_faiss
from surefield.selection.distances import k_nearest
from surefield.selection.features import positive_int
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet
from surefield.training.force_errors import DESCRIPTORS, ERRORS, HISTOGRAM
from surefield.uncertainty.loss_trajectories import (
    Binning,
    ErrorHistogram,
    OutOfRange,
    Spacing,
    bin_edges,
    count_errors,
    logged_histogram,
)
from surefield.uncertainty.ltau import LTAU
from surefield.uncertainty.ltau_details import LTAUDetails

__all__ = ["LTAUForcesUQScore"]

IndexType = Literal["IndexFlatL2", "IndexHNSWFlat", "HNSW+IVFPQ"]
#: Arguments of each type of index: documented name to that of `selection.approximate_neighbors`.
_HNSW: Final = {"efConstruction": "at_making", "efSearch": "at_search"}
_INDICES: Final[Mapping[str, Mapping[str, str]]] = {
    "IndexFlatL2": {},
    "IndexHNSWFlat": {"M": "links", **_HNSW},
    "HNSW+IVFPQ": {"nlist": "cells", "M": "parts", "nbits": "bits", "hnsw_m": "links", **_HNSW},
}
_N_BINS: Final = 100
#: Distances between training atoms that are looked at to know what an outlier is: those of all up to 20,000
#: atoms; of more, evenly spaced ones stand for all, but not fewer than a thousand.
_OUTLIER_DISTANCES: Final = 20_000**2
_OUTLIER_ATOMS: Final = 1000
_OUTLIER_QUANTILE: Final = 0.99
_DISTANCE_KEY: Final = "ltau_forces_uq_mean_sq_distance"
_OUTLIER_KEY: Final = "ltau_forces_uq_outlier"


@final
class LTAUForcesUQScore(AtomCenteredScore, DescribesItself):
    """Expected error of the force on an atom, eV/Å: what the most similar training atoms had during training.

    Vita, Samanta, Zhou, Lordi, arXiv:2407.03462. The number is the mean length of an error, not a standard
    deviation: times sqrt(pi/8) it is that of a component of an isotropic Gaussian, to be calibrated; see
    `as_uncertainty`. Similar are atoms with near descriptors; any descriptor will do.

    Args:
        train_descriptors: (n_train, n_features), one row per training atom; array, file, or the folder of a
            force-error log.
        error_pdfs: (n_train, n_bins) densities, 1/(eV/Å). With `from_error_logs` (n_epochs, n_train) errors,
            eV/Å, or a list of such logs, of the members of an ensemble; arrays, files, which are read in
            blocks, or the folder of a force-error log.
        bins: (n_bins + 1,) edges, eV/Å; needed with densities.
        from_error_logs: whether `error_pdfs` are logs.
        error_logs_norm: logs are (n_epochs, n_train, 3) vectors, whose norms are taken.
        nbins: number of bins without `bins`; None: 100.
        range_limits: smallest and largest edge without `bins`; None: those of the errors, with log spacing
            of those above zero.
        bin_spacing: 'log' or 'linear'; with 'log' the midpoints of bins are geometric, unless an edge is 0.
        index_type: 'IndexFlatL2' is exact; 'IndexHNSWFlat' and 'HNSW+IVFPQ' are approximate, by faiss (extra
            `[ann]`), and pay for some ten thousand training atoms and more.
        index_args: of these: M, efConstruction, efSearch; and nlist, M, nbits, hnsw_m, efConstruction,
            efSearch.
        out_of_range: 'clip' counts errors outside the bins to the first or last, with a warning; 'drop'
            leaves them out; 'error' refuses.
        compat: 'ltau-ff' for comparison with that package: the last bin does not hold its edge, errors
            outside are dropped, all midpoints are geometric.

    Attributes:
        bins: (n_bins + 1,) edges, eV/Å.
        expected_errors: (n_train,) expected error of each training atom, eV/Å.

    Raises:
        ConfigError: unusable arguments, or an index that cannot be built.
        DataError: unusable descriptors, densities or logs, or files that cannot be read.
    """

    key: ClassVar[str] = "ltau_forces_uq_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.UNCERTAINTY
    array_arguments: ClassVar[tuple[str, ...]] = ("train_descriptors", "error_pdfs", "bins")

    def __init__(
        self,
        train_descriptors: ArrayLike | str | Path,
        error_pdfs: Any,
        bins: ArrayLike | str | Path | None = None,
        from_error_logs: bool = False,
        error_logs_norm: bool = False,
        nbins: int | None = None,
        range_limits: Sequence[float] | None = None,
        bin_spacing: Spacing = "log",
        index_type: IndexType = "IndexFlatL2",
        index_args: Mapping[str, Any] | None = None,
        *,
        out_of_range: OutOfRange = "clip",
        compat: Literal["ltau-ff"] | None = None,
    ) -> None:
        descriptors_file = _in_log(train_descriptors, DESCRIPTORS)
        self.bin_spacing: Spacing = _one_of(bin_spacing, ("log", "linear"), "bin_spacing")
        self.compat: Literal["ltau-ff"] | None = _one_of(compat, (None, "ltau-ff"), "compat")
        self.out_of_range: OutOfRange = _one_of(out_of_range, ("clip", "drop", "error"), "out_of_range")
        if self.compat:
            self.out_of_range = "drop"
        self.index_type: IndexType = _one_of(index_type, tuple(_INDICES), "index_type")
        self.index_args = _checked_index_args(self.index_type, index_args)
        self._given: dict[str, Any] = {
            "train_descriptors": descriptors_file,
            "error_pdfs": error_pdfs,
            "bins": bins,
            "from_error_logs": bool(from_error_logs),
            "error_logs_norm": bool(error_logs_norm),
            "nbins": nbins,
            "range_limits": None if range_limits is None else [float(x) for x in range_limits],
        }
        rows = load_array(descriptors_file, "train_descriptors")
        if rows.ndim != 2 or not rows.size:
            raise DataError("train_descriptors must be (n_train, n_features)", got=rows.shape)
        self.train_descriptors: Float64[np.ndarray, "n_train n_features"] = np.asarray(rows, np.float64)
        check_finite_rows(self.train_descriptors, "train_descriptors")
        binning = self._binning(bins, nbins, range_limits)
        if not from_error_logs and error_logs_norm:
            raise ConfigError("error_logs_norm is about logs", fix="give from_error_logs=True with them")
        self._errors: ErrorHistogram | _Densities = (
            _counted(error_pdfs, len(rows), bool(error_logs_norm), binning)
            if from_error_logs
            else _densities(error_pdfs, len(rows), binning)
        )
        self.bins: Float64[np.ndarray, " n_edges"] = self._errors.edges
        self.expected_errors: Float64[np.ndarray, " n_train"] = self._errors.expected
        self._search = _index(self.train_descriptors, self.index_type, self.index_args)
        self._limits: dict[int, float] = {}

    def _binning(self, bins: Any, nbins: int | None, range_limits: Sequence[float] | None) -> Binning:
        edges = None if bins is None else _checked_edges(load_array(bins, "bins"))
        named = {"nbins": nbins, "range_limits": range_limits}
        both = [name for name, value in named.items() if value is not None]
        if edges is not None and both:
            raise ConfigError(f"bins and {' and '.join(both)} cannot be given together")
        n_bins = _N_BINS if nbins is None else positive_int(nbins, "nbins")
        limits = None
        if range_limits is not None:
            if len(range_limits) != 2:
                raise ConfigError("range_limits must be (lo, hi)", got=range_limits)
            limits = float(range_limits[0]), float(range_limits[1])
            if not 0 <= limits[0] < limits[1] < np.inf or (self.bin_spacing == "log" and limits[0] == 0):
                expected = f"{'0 < lo' if self.bin_spacing == 'log' else '0 <= lo'} < hi, in eV/Å"
                raise ConfigError("unusable range_limits", got=list(limits), expected=expected)
            bin_edges(*limits, n_bins, self.bin_spacing)
        settings = (self.bin_spacing, self.out_of_range, self.compat is not None, self.compat is not None)
        return Binning(edges, n_bins, limits, *settings)

    def settings(self) -> Mapping[str, Any]:
        """Arguments with which the errors need not be counted again."""
        return {
            "train_descriptors": self._given["train_descriptors"],
            "error_pdfs": self._errors.densities(),
            "bins": self.bins,
            "bin_spacing": self.bin_spacing,
            "index_type": self.index_type,
            "index_args": dict(self.index_args),
            "out_of_range": self.out_of_range,
            "compat": self.compat,
        }

    def settings_in_words(self) -> dict[str, Any]:
        """The arguments as they were given; files are hashed once."""
        return dict(self._described)

    @cached_property
    def _described(self) -> dict[str, Any]:
        given = {**self._given, "bin_spacing": self.bin_spacing, "index_type": self.index_type}
        given |= {"index_args": dict(self.index_args), "out_of_range": self.out_of_range}
        if is_path(given["error_pdfs"]) and Path(given["error_pdfs"]).is_dir():
            folder = Path(given["error_pdfs"])
            given["error_pdfs"] = folder / (HISTOGRAM if (folder / HISTOGRAM).exists() else ERRORS)
        if self._given["bins"] is None:
            given["nbins"] = len(self.bins) - 1
        return described({**given, "compat": self.compat}, self.array_arguments)

    def compute(
        self,
        atoms: Atoms,
        score_quantity: ScoreQuantity | str = ScoreQuantity.UNCERTAINTY,
        descriptors_key: str = "descriptors",
        num_nearest_neighbors: int = 1,
    ) -> Float64[np.ndarray, " n_atoms"]:
        """Expected force error of each atom of one structure, eV/Å.

        Args:
            atoms: with descriptors; not changed.
            score_quantity: UNCERTAINTY.
            descriptors_key: of `atoms.arrays`.
            num_nearest_neighbors: training atoms that are averaged.

        Raises:
            ConfigError: a list of structures, or more neighbours than training atoms.
            DataError: no descriptors, or others than those of the training atoms.
        """
        self.check_quantity(score_quantity)
        return self._computed([self.one(atoms)], descriptors_key, num_nearest_neighbors)[0]

    def compute_batch(
        self,
        list_of_atoms: Sequence[Atoms],
        score_quantity: ScoreQuantity | str = ScoreQuantity.UNCERTAINTY,
        descriptors_key: str = "descriptors",
        num_nearest_neighbors: int = 1,
    ) -> list[Float64[np.ndarray, " n_atoms"]]:
        """`compute` for a list, in its order."""
        self.check_quantity(score_quantity)
        return self._computed(self.several(list_of_atoms), descriptors_key, num_nearest_neighbors)

    def _computed(self, frames: list[Atoms], key: str, k: int) -> list[np.ndarray]:
        details = self._details(descriptors_of(frames, key, self.train_descriptors.shape[1]), k, pdf=False)
        stops = np.cumsum([len(atoms) for atoms in frames])[:-1]
        parts = (details.uncertainty, details.mean_sq_distance, details.outlier)
        results, distances, outliers = (np.split(part, stops) for part in parts)
        extras = [{_DISTANCE_KEY: d, _OUTLIER_KEY: o} for d, o in zip(distances, outliers, strict=True)]
        arguments = {"descriptors_key": key, "num_nearest_neighbors": int(k)}
        return self.recorded(results, arguments, extras=extras)

    def predict(
        self,
        descriptors: Float[ArrayLike, "n_atoms n_features"],
        num_nearest_neighbors: int = 1,
        details: bool = False,
    ) -> Float64[np.ndarray, " n_atoms"] | LTAUDetails:
        """Expected force error for descriptors, eV/Å; with `details` all that is known of it.

        Raises:
            ConfigError, DataError: as `compute`.
        """
        rows = load_array(descriptors, "descriptors")
        if rows.ndim != 2 or rows.shape[1] != self.train_descriptors.shape[1]:
            expected = f"(n_atoms, {self.train_descriptors.shape[1]})"
            raise DataError("descriptors do not fit train_descriptors", got=rows.shape, expected=expected)
        rows = np.asarray(rows, np.float64)
        check_finite_rows(rows, "descriptors")
        result = self._details([rows], num_nearest_neighbors, pdf=details)
        return result if details else result.uncertainty

    def compute_details(
        self, atoms: Atoms, descriptors_key: str = "descriptors", num_nearest_neighbors: int = 1
    ) -> LTAUDetails:
        """`predict` with details, for the atoms of one structure."""
        rows = descriptors_of([self.one(atoms)], descriptors_key, self.train_descriptors.shape[1])
        return self._details(rows, num_nearest_neighbors, pdf=True)

    def _details(self, rows: Sequence[np.ndarray], k: int, *, pdf: bool) -> LTAUDetails:
        k = positive_int(k, "num_nearest_neighbors")
        n_train = len(self.train_descriptors)
        if k > n_train:
            what = "num_nearest_neighbors is larger than the number of training atoms"
            raise ConfigError(what, got=k, expected=f"at most {n_train}")
        distances, which = self._search(np.concatenate(rows), k)
        apart = distances.mean(axis=1)
        outlier = apart > self._limit(k)
        if outlier.any():
            text = f"{int(outlier.sum())} of {len(outlier)} atoms are unlike all training atoms"
            warnings.warn(f"{text}: their force errors may be larger than what LTAU expects", stacklevel=4)
        density = self._mean_density(which) if pdf else np.empty((len(which), 0))
        uncertainty = self.expected_errors[which].mean(axis=1)
        return LTAUDetails(uncertainty, apart, density, which, outlier, self.bins)

    def _mean_density(self, which: Int[np.ndarray, "n_atoms k"]) -> Float64[np.ndarray, "n_atoms n_bins"]:
        total = self._errors.densities(which[:, 0])
        for column in which.T[1:]:
            total = total + self._errors.densities(column)
        return total / which.shape[1]

    def _limit(self, k: int) -> float:
        """Mean squared distance to k neighbours beyond which an atom is an outlier."""
        if k not in self._limits:
            n = len(self.train_descriptors)
            n_own = min(n, max(_OUTLIER_ATOMS, _OUTLIER_DISTANCES // n))
            own = np.linspace(0, n - 1, n_own).round().astype(np.int64)
            rows, others = self.train_descriptors[own], self.train_descriptors
            limit = np.inf
            if n > 1:
                apart = k_nearest(rows, others, min(k, n - 1), without=own)[0].mean(axis=1)
                limit = float(np.quantile(apart, _OUTLIER_QUANTILE))
            self._limits[k] = limit
        return self._limits[k]

    def as_uncertainty(
        self,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        k: int = 10,
        **options: Any,
    ) -> LTAU:
        """The same errors as a calibrated uncertainty around a potential, with sigmas of all its quantities.

        Neighbours are atoms of the same element by the last-layer features of the potential; for one element
        and the descriptors of its force-error log these are those of the score, and the raw spread of a force
        component is sqrt(pi/8) times the score.

        Args:
            potential: trained, with a last layer.
            train: structures whose atoms, with forces, are the training atoms of the score, in this order.
            calibration: labelled structures that the potential has not seen.
            k: training atoms that are averaged.
            options: of `LTAU.fit`.

        Raises:
            ConfigError, DataError, PotentialError: as `LTAU.fit`.
        """
        return LTAU.fit(potential, train, calibration, self.expected_errors, k=k, **options)


@final
class _Densities:
    """Densities of the errors of training atoms that were given as such."""

    def __init__(self, densities: np.ndarray, edges: np.ndarray, middle: np.ndarray) -> None:
        self.edges = edges
        self._densities = densities
        self.expected: Float64[np.ndarray, " n_train"] = densities @ (np.diff(edges) * middle)

    def densities(self, atoms: Int[np.ndarray, " n"] | slice = slice(None)) -> np.ndarray:
        """Densities of atoms, 1/(eV/Å)."""
        return self._densities[atoms]


def _densities(error_pdfs: Any, n_train: int, binning: Binning) -> _Densities:
    if binning.edges is None:
        fix = "give bins, the edges of the densities; or from_error_logs=True if error_pdfs are logs"
        raise ConfigError("densities of errors need their bins", fix=fix)
    pdfs = np.asarray(load_array(error_pdfs, "error_pdfs"), np.float64)
    expected = (n_train, len(binning.edges) - 1)
    if pdfs.shape != expected:
        what = "error_pdfs must have one row per training atom and one column per bin"
        raise DataError(what, got=pdfs.shape, expected=expected)
    check_finite_rows(pdfs, "error_pdfs")
    negative = (pdfs < 0).any(axis=1)
    if negative.any():
        raise DataError("a density must not be negative", where=f"row {np.argmax(negative)} of error_pdfs")
    total = pdfs @ np.diff(binning.edges)
    bad = np.abs(total - 1) > 1e-6
    if bad.any():
        row = int(np.argmax(bad))
        fix = "give densities, in 1/(eV/Å), not counts or probabilities"
        what = "a density must integrate to 1 over the bins"
        raise DataError(what, where=f"row {row} of error_pdfs", got=f"{total[row]:.8g}", fix=fix)
    return _Densities(pdfs, binning.edges, binning.middle(binning.edges))


def _counted(error_pdfs: Any, n_train: int, vectors: bool, binning: Binning) -> ErrorHistogram:
    if is_path(error_pdfs) and Path(error_pdfs).is_dir():
        histogram = logged_histogram(error_pdfs, binning)
        edges = binning.edges
        same = edges is None or np.array_equal(edges, histogram.edges)
        if (Path(error_pdfs) / HISTOGRAM).exists() and not (same and binning.limits is None):
            fix = "leave bins and range_limits out"
            raise ConfigError("a log of counts has bins of its own", got=str(error_pdfs), fix=fix)
        if len(histogram.counts) != n_train:
            got = f"{len(histogram.counts)} atoms in {error_pdfs}"
            raise DataError("the log is of other atoms", got=got, expected=f"{n_train}, as train_descriptors")
        return histogram
    logs = load_arrays(error_pdfs, "error_pdfs", mmap=True)
    if len(logs) == 1 and logs[0].ndim == 3 + (not vectors) and isinstance(error_pdfs, list | tuple):
        logs = list(logs[0])
    wanted = "(n_epochs, n_train, 3)" if vectors else "(n_epochs, n_train)"
    for number, log in enumerate(logs):
        where = f"log {number} of error_pdfs" if len(logs) > 1 else "error_pdfs"
        fine = log.ndim == (3 if vectors else 2) and log.shape[1] == n_train and log.size
        if fine and (not vectors or log.shape[2] == 3):
            continue
        fix = ""
        if log.ndim == 3 and not vectors:
            fix = "error_logs_norm=True takes the norms of vectors"
        elif log.ndim == 2 and log.shape[0] == n_train:
            fix = "epochs come first and atoms second: give its transpose"
        expected = f"{wanted} with n_train = {n_train} as in train_descriptors"
        raise DataError(
            "error logs have another shape", where=where, got=log.shape, expected=expected, fix=fix
        )
    return count_errors(logs, binning)


def _in_log(value: Any, name: str) -> Any:
    """File of a force-error log, where its folder is given."""
    return Path(value) / name if is_path(value) and Path(value).is_dir() else value


def _one_of(value: Any, known: tuple[Any, ...], name: str) -> Any:
    if value not in known:
        names = [str(k) for k in known if k is not None]
        expected = ", ".join(names) + (" or None" if None in known else "")
        raise ConfigError(f"unknown {name} {value!r}; {nearest(str(value), names)}", expected=expected)
    return value


def _checked_edges(edges: np.ndarray) -> Float64[np.ndarray, " n_edges"]:
    values = np.asarray(edges, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        expected = "at least two finite edges, strictly increasing, in eV/Å"
        raise ConfigError("unusable bins", got=f"an array of shape {values.shape}", expected=expected)
    return values


def _checked_index_args(index_type: str, given: Mapping[str, Any] | None) -> dict[str, int]:
    known = _INDICES[index_type]
    for name, value in (given or {}).items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigError(f"unknown index_args {name!r} of {index_type}", fix=takes)
        positive_int(value, f"{name} of index_args")
    return dict(given or {})


def _index(rows: np.ndarray, index_type: str, index_args: Mapping[str, int]) -> Any:
    """Function of descriptors and k: squared distances of the k nearest rows, and their indices."""
    if index_type == "IndexFlatL2":
        return lambda query, k: k_nearest(query, rows, k)
    try:
        check_faiss()
    except ConfigError as error:
        fix = f"{error}; supported: {', '.join(_INDICES)}; IndexFlatL2 needs no package"
        raise ConfigError(f"index_type {index_type!r} cannot be built", fix=fix) from None
    named = {_INDICES[index_type][name]: value for name, value in index_args.items()}
    return (NeighborGraph if index_type == "IndexHNSWFlat" else CompressedRows)(rows, **named).nearest
