"""Loss trajectory analysis: expected force errors of training atoms from their errors during training.

Vita, Samanta, Zhou, Lordi, arXiv:2407.03462: the errors of an atom over the epochs as a density.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Float64

from surefield.errors import ConfigError, DataError
from surefield.training.force_errors import EDGES, ERRORS, HISTOGRAM, INDEX

__all__ = ["Spacing", "bin_edges", "expected_errors", "logged_errors", "logged_structures", "midpoints"]

Spacing = Literal["log", "linear"]
#: Entries of a block of errors that is looked at.
_BLOCK: Final = 2**22


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
    if errors.ndim != 2 or not errors.size:
        raise DataError("force errors must be (n_epochs, n_atoms)", got=errors.shape)
    step = max(1, _BLOCK // len(errors))
    blocks = [slice(first, first + step) for first in range(0, errors.shape[1], step)]
    low, high, n_zero = np.inf, 0.0, 0
    for block in blocks:
        values = np.asarray(errors[:, block], np.float64)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            epoch, atom = np.argwhere(bad)[0]
            where = f"epoch {epoch}, atom {block.start + atom} of the log"
            raise DataError("a force error must be finite and not negative", where=where)
        positive = values[values > 0]
        n_zero += values.size - positive.size
        least = positive.min(initial=np.inf) if spacing == "log" else values.min()
        low, high = min(low, float(least)), max(high, float(values.max()))
    if spacing == "log" and high == 0:
        raise DataError("all force errors are zero", fix="take linear spacing of the bins")
    if spacing == "log" and n_zero:
        warnings.warn(f"{n_zero} force errors are zero and count to the first bin", stacklevel=2)
    edges = bin_edges(low, high, n_bins, spacing)
    middle = midpoints(edges, spacing)
    means = []
    for block in blocks:
        place = np.searchsorted(edges, np.asarray(errors[:, block], np.float64), side="right") - 1
        means.append(middle[np.clip(place, 0, len(middle) - 1)].mean(axis=0))
    return np.concatenate(means)


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
    folder = Path(folder)
    index = _index(folder)
    if (folder / HISTOGRAM).exists():
        counts = np.load(folder / HISTOGRAM, allow_pickle=False).astype(np.float64)
        middle = midpoints(np.load(folder / EDGES, allow_pickle=False), spacing)
        if not counts.sum(axis=1).all():
            raise DataError("an atom of the log has no errors", where=folder)
        expected = counts @ middle / counts.sum(axis=1)
    else:
        expected = expected_errors(
            np.load(folder / ERRORS, mmap_mode="r", allow_pickle=False), n_bins, spacing
        )
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
