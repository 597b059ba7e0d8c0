"""Why structures were picked, as data: sigma, group, nearest training structure, and a map of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from surefield.keys import CONFIG_TYPE
from surefield.quantities import UNCERTAINTY
from surefield.selection.selection import Selection
from surefield.structures.read import read_frames
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["explain", "feature_map", "reasons_of"]


def explain(
    picks: Selection, train: Sequence[Atoms], pool: Sequence[Atoms], uncertainty: Uncertainty
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """`reasons_of` picks, and the arrays of the map of their features.

    Returns:
        The reasons. Arrays `train`, `pool` (n, 2) and `shares` of `feature_map`, and `picks` (indices).
    """
    arrays = {"picks": picks.indices}
    if picks.g_pool is not None:
        nothing = np.zeros((0, picks.g_pool.shape[1]))
        train_rows = nothing if picks.g_train is None else picks.g_train
        arrays |= feature_map(train_rows, picks.g_pool, squares=picks.config.get("features") == "ll_force")
    return reasons_of(picks, train, pool, uncertainty), arrays


def reasons_of(
    picks: Selection, train: Sequence[Atoms], pool: Sequence[Atoms], uncertainty: Uncertainty
) -> list[dict[str, Any]]:
    """Reasons of picks with all that a reader asks next.

    Args:
        picks: with the features that they were made with.
        train: labelled structures.
        pool: candidates.
        uncertainty: gives the sigmas of the picks.

    Returns:
        One entry per pick: those of its `Reason`, `origin`, `group` (`config_type`), `sigma` by quantity
        (forces: root mean square of the components, eV/Å; energy: eV/atom), `nearest` (origin of the nearest
        training structure) and `distance` (to it, of features).
    """
    candidates, labelled = read_frames(pool), read_frames(train)
    chosen = candidates[picks.indices]
    forces = "forces" in uncertainty.maps
    predictions = uncertainty.predict(chosen, forces=forces) if len(chosen) else []
    entries = []
    for order, (index, prediction) in enumerate(zip(picks.indices.tolist(), predictions, strict=True)):
        atoms = candidates[index]
        sigma = {"energy": float(prediction[f"energy{UNCERTAINTY}"]) / len(atoms)}
        if forces:
            sigma["forces"] = float(np.sqrt(np.mean(prediction[f"forces{UNCERTAINTY}"] ** 2)))
        entry = picks.reasons[order].to_dict() | {"origin": candidates.origin(index), "sigma": sigma}
        if atoms.info.get(CONFIG_TYPE):
            entry["group"] = str(atoms.info[CONFIG_TYPE])
        if picks.g_train is not None and picks.g_pool is not None and len(picks.g_train):
            distances = np.linalg.norm(picks.g_train - picks.g_pool[index], axis=1)
            nearest = int(np.argmin(distances))
            entry |= {"nearest": labelled.origin(nearest), "distance": float(distances[nearest])}
        entries.append(entry)
    return entries


def feature_map(
    train: Float[np.ndarray, "n_train n_features"],
    pool: Float[np.ndarray, "n_pool n_features"],
    *,
    squares: bool = False,
) -> dict[str, np.ndarray]:
    """The two principal components of features of both sets together.

    Rows that are `squares` of what tells structures apart, such as information matrices, are shortened to the
    roots of their lengths: else the few largest take the whole plane.

    Returns:
        `train` (n_train, 2), `pool` (n_pool, 2), and `shares` (2,) of the variance along them.
    """
    rows = np.concatenate([train, pool])
    if squares:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.sqrt(np.where(lengths > 0, lengths, 1.0))
    rows = rows - rows.mean(axis=0)
    # From the smaller of both Gram matrices: there may be many structures, or many features.
    wide = rows.shape[1] > rows.shape[0]
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    leading = vectors[:, :2] * np.sqrt(values[:2]) if wide else rows @ vectors[:, :2]
    first = np.zeros((len(rows), 2))
    first[:, : leading.shape[1]] = leading
    shares = np.pad(values[:2] / max(values.sum(), np.finfo(float).tiny), (0, max(2 - len(values), 0)))
    return {"train": first[: len(train)], "pool": first[len(train) :], "shares": shares}
