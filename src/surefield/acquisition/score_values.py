"""Scores of candidates, as they were computed or are stored with them, as one number per structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, get_args

import numpy as np
from ase import Atoms
from jaxtyping import Float64

from surefield.acquisition.candidate_score_config import PerStructure
from surefield.errors import ConfigError, DataError, nearest
from surefield.selection.selection import Dropped

__all__ = ["Window", "outside_window", "structure_scores"]

#: Least and largest score of a candidate; None: no limit.
Window = tuple[float | None, float | None]
#: Scores that are variances, of which people know the roots.
_VARIANCES: Final = ("forces_variance", "energy_variance")
_REDUCTIONS: Final[dict[str, Callable[[np.ndarray], Any]]] = {"max": np.max, "mean": np.mean, "sum": np.sum}


def structure_scores(
    scores: Mapping[str, Any] | str | None, frames: Sequence[Atoms], per_structure: PerStructure = "max"
) -> dict[str, Float64[np.ndarray, " n_structures"]] | None:
    """One number per structure of a score of atoms or structures.

    Args:
        scores: `{name: values}`, where values are one number per structure, or what `compute_batch` of a
            score gave: one array per structure; or the name of a score that is stored in `info` or `arrays`
            of the structures. None: no score.
        frames: the structures.
        per_structure: how atoms become their structure: by their largest, mean or total score.

    Returns:
        The name and (n_structures,) values.

    Raises:
        ConfigError: an unknown reduction, or not one name.
        DataError: a structure without this score, or with a matrix or a number of values that fits no atoms.
    """
    if scores is None:
        return None
    if per_structure not in _REDUCTIONS:
        known = get_args(PerStructure)
        raise ConfigError(f"unknown per_structure {per_structure!r}; {nearest(str(per_structure), known)}")
    if isinstance(scores, str):
        scores = {scores: [_stored(atoms, scores, i) for i, atoms in enumerate(frames)]}
    if not isinstance(scores, Mapping) or len(scores) != 1:
        got = f"{len(scores)} entries" if isinstance(scores, Mapping) else type(scores).__name__
        raise ConfigError("scores must be one entry {name: values}, or the name of a stored score", got=got)
    [(name, values)] = scores.items()
    if np.ndim(values[0] if len(values) else 0) == 0:
        return {str(name): values}
    if len(values) != len(frames):
        raise DataError(f"score {name!r} must be one per structure", got=len(values), expected=len(frames))
    pairs = zip(values, frames, strict=True)
    rows = [_reduced(name, value, atoms, i, per_structure) for i, (value, atoms) in enumerate(pairs)]
    return {str(name): np.array(rows, np.float64)}


def outside_window(
    scores: Mapping[str, Float64[np.ndarray, " n_structures"]] | None, window: Window, n_structures: int
) -> list[Dropped]:
    """Candidates whose score lies outside a window, with the reason in words.

    Args:
        scores: of the candidates, one name.
        window: least and largest score; of `forces_variance` (eV/Å) and `energy_variance` (eV/atom) of its
            root, the σ.
        n_structures: candidates.

    Raises:
        ConfigError: no scores, or no window.
        DataError: not one score per candidate.
    """
    if scores is None:
        raise ConfigError("a window needs the scores that it is of", fix="scores={name: values}")
    low, high = (-np.inf if window[0] is None else window[0], np.inf if window[1] is None else window[1])
    if not low < high:
        raise ConfigError("the window is empty", got=tuple(window), expected="(least, largest)")
    [(name, values)] = scores.items()
    shown, numbers = name, np.asarray(values, np.float64)
    if numbers.shape != (n_structures,):
        raise DataError(f"score {name!r} must be one per structure", got=numbers.shape, expected=n_structures)
    if name in _VARIANCES:
        shown, numbers = f"σ ({name.removesuffix('_variance')})", np.sqrt(numbers)
    return [
        Dropped(i, f"{shown} of {numbers[i]:.3g} is outside the window {low:g} to {high:g}")
        for i in np.flatnonzero(~((numbers >= low) & (numbers <= high))).tolist()
    ]


def _stored(atoms: Atoms, name: str, index: int) -> Any:
    for place in (atoms.arrays, atoms.info):
        if name in place:
            return place[name]
    known = sorted(key for key in (*atoms.arrays, *atoms.info) if str(key).endswith("_score"))
    fix = f"it has {', '.join(known)}" if known else "compute it, and select from its score_results.xyz"
    raise DataError(f"no score {name!r}", where=f"candidate {index}", fix=fix)


def _reduced(name: str, value: Any, atoms: Atoms, index: int, per_structure: str) -> float:
    array = np.asarray(value, np.float64)
    if array.ndim > 1 or (array.ndim and len(array) != len(atoms)):
        expected = f"one number, or one for each of {len(atoms)} atoms"
        raise DataError(f"score {name!r}", where=f"candidate {index}", got=array.shape, expected=expected)
    # of atoms that were masked out when it was computed
    known = array[~np.isnan(array)] if array.ndim else array
    return float(_REDUCTIONS[per_structure](known)) if known.size else np.nan
