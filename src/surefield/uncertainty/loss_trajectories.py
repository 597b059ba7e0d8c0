"""Loss trajectory analysis: force errors of training atoms during training, counted in bins.

Vita, Samanta, Zhou, Lordi, arXiv:2407.03462: the errors of an atom over the epochs as a density.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Float, Float64, Int

from surefield.errors import ConfigError, DataError
from surefield.training.force_errors import EDGES, ERRORS, HISTOGRAM, INDEX

__all__ = [
    "Binning",
    "ErrorHistogram",
    "OutOfRange",
    "Spacing",
    "bin_edges",
    "count_errors",
    "expected_errors",
    "logged_errors",
    "logged_histogram",
    "logged_structures",
    "midpoints",
]

Spacing = Literal["log", "linear"]
OutOfRange = Literal["clip", "drop", "error"]
#: Entries of a block of errors or counts that is looked at.
_BLOCK: Final = 2**22


@final
@dataclass(frozen=True, eq=False)
class Binning:
    """How errors are counted.

    Attributes:
        edges: (n_bins + 1,) strictly increasing, eV/Å; None: `n_bins` of `spacing` between the limits.
        n_bins: number of bins.
        limits: smallest and largest, eV/Å; None: those of the errors, with log spacing of those above zero.
        spacing: of the bins, and of their midpoints where the first edge is positive.
        out_of_range: 'clip' counts errors outside to the first or last bin, with a warning; 'drop' leaves
            them out; 'error' refuses.
        last_open: the last bin does not hold its upper edge.
        geometric: midpoints are geometric for any spacing.
    """

    edges: Float64[np.ndarray, " n_edges"] | None = None
    n_bins: int = 100
    limits: tuple[float, float] | None = None
    spacing: Spacing = "log"
    out_of_range: OutOfRange = "clip"
    last_open: bool = False
    geometric: bool = False

    def middle(self, edges: Float64[np.ndarray, " n_edges"]) -> Float64[np.ndarray, " n_bins"]:
        """What an error of each bin counts as, eV/Å."""
        return np.sqrt(edges[:-1] * edges[1:]) if self.geometric else midpoints(edges, self.spacing)


@final
@dataclass(frozen=True, eq=False)
class ErrorHistogram:
    """Errors of each atom during a training, counted.

    Attributes:
        edges: (n_bins + 1,) eV/Å.
        middle: (n_bins,) what an error of each bin counts as, eV/Å.
        counts: (n_atoms, n_bins).
    """

    edges: Float64[np.ndarray, " n_edges"]
    middle: Float64[np.ndarray, " n_bins"]
    counts: Int[np.ndarray, "n_atoms n_bins"]

    @cached_property
    def expected(self) -> Float64[np.ndarray, " n_atoms"]:
        """Mean error of each atom, each error counted as the midpoint of its bin; eV/Å."""
        step = max(1, _BLOCK // len(self.middle))
        blocks = (self.counts[first : first + step] for first in range(0, len(self.counts), step))
        return np.concatenate([block @ self.middle / block.sum(axis=1) for block in blocks])

    def densities(
        self, atoms: Int[np.ndarray, " n"] | slice = slice(None)
    ) -> Float64[np.ndarray, "n n_bins"]:
        """Densities of the errors of atoms, 1/(eV/Å); their integral over the bins is 1."""
        counts = self.counts[atoms]
        return counts / counts.sum(axis=1, keepdims=True) / np.diff(self.edges)


def bin_edges(
    smallest: float, largest: float, n_bins: int = 100, spacing: Spacing = "log"
) -> Float64[np.ndarray, " n_edges"]:
    """Edges of bins of force errors, eV/Å.

    Args:
        smallest: positive with log spacing.
        largest: the last bin is closed and holds it.
        n_bins: number of bins.
        spacing: 'log' or 'linear'.

    Raises:
        ConfigError: fewer than one bin, unknown spacing, or limits out of order.
    """
    if n_bins < 1:
        raise ConfigError("n_bins must be positive", got=n_bins)
    if spacing not in ("log", "linear"):
        raise ConfigError("unknown bin_spacing", got=spacing, expected="log or linear")
    if not smallest <= largest or (spacing == "log" and smallest <= 0):
        raise ConfigError("limits of force errors", got=f"{smallest:g} to {largest:g} eV/Å")
    if smallest == largest:  # all errors are the same
        smallest, largest = smallest * (1 - 1e-6), largest * (1 + 1e-6) or 1e-6
    if spacing == "linear":
        return np.linspace(smallest, largest, n_bins + 1)
    edges = np.logspace(np.log10(smallest), np.log10(largest), n_bins + 1)
    edges[0], edges[-1] = smallest, largest
    return edges


def midpoints(edges: Float64[np.ndarray, " n_edges"], spacing: Spacing) -> Float64[np.ndarray, " n_bins"]:
    """What an error of each bin counts as: the geometric mean of its edges, or their mean; eV/Å."""
    low, high = edges[:-1], edges[1:]
    return np.sqrt(low * high) if spacing == "log" and edges[0] > 0 else 0.5 * (low + high)


def count_errors(logs: Sequence[np.ndarray], binning: Binning | None = None) -> ErrorHistogram:
    """Count the errors of each atom over the epochs of one or several logs, which are read in blocks.

    Args:
        logs: (n_epochs, n_atoms) norms of force errors, eV/Å, or (n_epochs, n_atoms, 3) errors, whose norms
            are taken; may be memory-mapped.
        binning: how they are counted.

    Raises:
        DataError: no errors; some that are negative or not finite, with log spacing all zero, or outside the
            limits where these are strict; or an atom of which nothing is left.
        ConfigError: as `bin_edges`.
    """
    binning = binning or Binning()
    n_atoms = logs[0].shape[1] if logs and logs[0].ndim in (2, 3) else 0
    if not n_atoms or any(log.ndim not in (2, 3) or not log.size or log.shape[1] != n_atoms for log in logs):
        raise DataError("force errors must be (n_epochs, n_atoms)", got=[log.shape for log in logs])
    low, high, n_zero = _limits(logs, binning.spacing)
    edges = _edges(binning, low, high)
    logarithmic = binning.spacing == "log" and edges[0] > 0
    if n_zero and logarithmic:
        warnings.warn(f"{n_zero} force errors are zero and count to the first bin", stacklevel=2)
    counts = np.zeros((n_atoms, len(edges) - 1), np.int32)
    n_below = n_above = 0
    for log in logs:
        for _, atoms, values in _blocks(log, len(edges)):
            if logarithmic:
                values = np.where(values == 0, edges[0], values)
            below = values < edges[0]
            above = values >= edges[-1] if binning.last_open else values > edges[-1]
            n_below, n_above = n_below + int(below.sum()), n_above + int(above.sum())
            place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
            place += (len(edges) - 1) * np.arange(place.shape[1])
            if binning.out_of_range == "drop":
                place = place[~(below | above)]
            own = counts[atoms]
            own += np.bincount(place.ravel(), minlength=own.size).reshape(own.shape)
    _tell_outside(binning, edges, n_below, n_above, sum(log.shape[0] * log.shape[1] for log in logs))
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(empty):
        what = "all force errors of an atom lie outside the bins, so that nothing is left of it"
        raise DataError(what, where=f"atom {empty[0]} of the log", fix="widen range_limits or bins, or clip")
    return ErrorHistogram(edges, binning.middle(edges), counts)


def _edges(binning: Binning, low: float, high: float) -> Float64[np.ndarray, " n_edges"]:
    if binning.edges is not None:
        return binning.edges
    if binning.limits is None:
        if binning.spacing == "log" and high == 0:
            raise DataError("all force errors are zero", fix="take linear spacing of the bins")
        if low == high:
            warnings.warn(f"all force errors are {low:g} eV/Å; the bins are widened around it", stacklevel=3)
        return bin_edges(low, high, binning.n_bins, binning.spacing)
    return bin_edges(*binning.limits, binning.n_bins, binning.spacing)


def _tell_outside(binning: Binning, edges: np.ndarray, n_below: int, n_above: int, n: int) -> None:
    if not n_below + n_above or binning.out_of_range == "drop":
        return
    share = f"{n_below + n_above} of {n} force errors ({100 * (n_below + n_above) / n:.3g} %)"
    where = f"outside {edges[0]:g} to {edges[-1]:g} eV/Å ({n_below} below, {n_above} above)"
    if binning.out_of_range == "error":
        raise DataError(f"{share} are {where}", fix="widen range_limits or bins, or take out_of_range='clip'")
    warnings.warn(f"{share} are {where} and count to the first or last bin", stacklevel=3)


def _limits(logs: Sequence[np.ndarray], spacing: Spacing) -> tuple[float, float, int]:
    """Smallest (with log spacing above zero) and largest error, and the number of zeros."""
    low, high, n_zero = np.inf, 0.0, 0
    for number, log in enumerate(logs):
        for epochs, atoms, values in _blocks(log, 1):
            bad = ~(np.isfinite(values) & (values >= 0))
            if bad.any():
                epoch, atom = np.argwhere(bad)[0]
                name = "the log" if len(logs) == 1 else f"log {number}"
                where = f"epoch {epochs.start + epoch}, atom {atoms.start + atom} of {name}"
                what = "a force error must be finite and not negative"
                raise DataError(what, where=where, got=values[epoch, atom])
            zero = values == 0
            n_zero += int(zero.sum())
            least = values[~zero].min(initial=np.inf) if spacing == "log" else values.min()
            low, high = min(low, float(least)), max(high, float(values.max()))
    return low, high, n_zero


def _blocks(
    log: np.ndarray, width: int
) -> Iterator[tuple[slice, slice, Float64[np.ndarray, "n_epochs n_atoms"]]]:
    """Parts of a log in float64: their epochs, their atoms, the norms of the errors.

    Args:
        log: as `count_errors`.
        width: entries that are held for each atom.
    """
    wide = max(1, _BLOCK // width)
    for first in range(0, log.shape[1], wide):
        atoms = slice(first, min(first + wide, log.shape[1]))
        step = max(1, _BLOCK // (atoms.stop - first))
        for start in range(0, len(log), step):
            epochs = slice(start, min(start + step, len(log)))
            values = np.asarray(log[epochs, atoms], np.float64)
            yield epochs, atoms, np.linalg.norm(values, axis=2) if values.ndim == 3 else values


def expected_errors(
    errors: Float[np.ndarray, "n_epochs n_atoms"], n_bins: int = 100, spacing: Spacing = "log"
) -> Float64[np.ndarray, " n_atoms"]:
    """Mean error of each atom over the epochs, each error counted as the midpoint of its bin; eV/Å.

    Args:
        errors: norms of force errors, eV/Å; may be memory-mapped.
        n_bins: from the smallest positive error to the largest.
        spacing: of the bins.

    Raises:
        DataError: no errors, or errors that are negative, not finite, or with log spacing all zero.
        ConfigError: as `bin_edges`.
    """
    return count_errors([errors], Binning(n_bins=n_bins, spacing=spacing)).expected


def logged_histogram(folder: str | Path, binning: Binning | None = None) -> ErrorHistogram:
    """Counted errors of a force-error log; a log of counts has its own bins.

    Raises:
        DataError: nothing logged, or as `count_errors`.
    """
    folder, binning = Path(folder), binning or Binning()
    if not (folder / HISTOGRAM).exists():
        errors = np.load(folder / ERRORS, mmap_mode="r", allow_pickle=False)
        return count_errors([errors], binning)
    counts = np.load(folder / HISTOGRAM, allow_pickle=False)
    edges = np.load(folder / EDGES, allow_pickle=False)
    if not counts.sum(axis=1).all():
        raise DataError("an atom of the log has no errors", where=folder)
    return ErrorHistogram(edges, binning.middle(edges), counts)


def logged_errors(
    folder: str | Path, n_bins: int = 100, spacing: Spacing = "log"
) -> tuple[list[tuple[str, int]], Float64[np.ndarray, " n_atoms"]]:
    """Atoms of a force-error log (structure id and number), and the expected error of each, eV/Å.

    Args:
        folder: what `train(..., force_error_log=folder)` wrote.
        n_bins, spacing: see `expected_errors`; a log of counts has its own bins.

    Raises:
        DataError: no such log, nothing logged, or as `expected_errors`.
        ConfigError: as `bin_edges`.
    """
    index = _index(Path(folder))
    expected = logged_histogram(folder, Binning(n_bins=n_bins, spacing=spacing)).expected
    if len(expected) != len(index):
        raise DataError("the log has another number of atoms than its index", where=folder)
    return index, expected


def logged_structures(folder: str | Path) -> list[str]:
    """Structure id of each atom of a force-error log.

    Raises:
        DataError: no such log.
    """
    return [name for name, _ in _index(Path(folder))]


def _index(folder: Path) -> list[tuple[str, int]]:
    if not (folder / INDEX).exists():
        fix = "train with force_error_log=FOLDER, or with uncertainty.kind ltau in a run"
        raise DataError("no log of force errors", where=folder, fix=fix)
    return [(str(name), int(atom)) for name, atom in json.loads((folder / INDEX).read_text("utf-8"))]
