"""The QUESTS scores under the names of Orchestrator; the functions of `entropy` do the work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from ase import Atoms
from jaxtyping import Float64
from numpy.typing import ArrayLike

from surefield.errors import ConfigError
from surefield.scores.quests.arguments import BANDWIDTH, BATCH_SIZE, checked_bandwidth
from surefield.scores.quests.entropy import SetEntropy, set_entropy
from surefield.scores.quests.environments import environments_of, reference_environments, selected_atoms
from surefield.scores.quests.novelty import Reference
from surefield.scoring import AtomCenteredScore, DatasetScore, ScoreQuantity
from surefield.scoring.array_files import content_hash
from surefield.scoring.descriptor_arrays import descriptors_of

__all__ = ["QUESTSDeltaEntropyScore", "QUESTSDiversityScore", "QUESTSEfficiencyScore"]

#: Warnings on the bandwidth: share of environments without another one near, and least part of ln N.
_ALONE: Final = 0.99
_LEAST: Final = 1e-3
_GRAPH_NEIGHBORS: Final = 10
#: Array of distances to the nearest reference environment, in bandwidths.
_NEAREST_KEY: Final = "quests_delta_entropy_nearest_distance"


@final
class QUESTSEfficiencyScore(DatasetScore):
    """How little the environments of a data set repeat each other: H / ln N, 0 (all alike) to 1 (none alike).

    H = -(1/N) Σ_i ln(S_i/N) with S_i = Σ_j exp(-|x_i - x_j|²/(2h²)), self included, over all atoms of all
    configurations: Schwalbe-Koda et al., Nature Communications 16, 4014 (2025).
    """

    key: ClassVar[str] = "quests_efficiency_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.EFFICIENCY

    def settings(self) -> Mapping[str, Any]:
        """No settings."""
        return {}

    def compute(
        self,
        dataset: Sequence[Atoms],
        score_quantity: ScoreQuantity | str = ScoreQuantity.EFFICIENCY,
        apply_mask: bool = False,
        descriptors_key: str = "descriptors",
        bandwidth: float = BANDWIDTH,
        batch_size: int = BATCH_SIZE,
    ) -> float:
        """Efficiency of a data set.

        Args:
            dataset: structures with descriptors; not changed.
            score_quantity: EFFICIENCY.
            apply_mask: count only atoms that `arrays['selection_mask']` selects.
            descriptors_key: of `atoms.arrays`; any descriptor, also features of a model.
            bandwidth: h in the unit of the descriptors; the default is made for the QUESTS descriptor with 32
                neighbours within 5 Å, see `suggest_bandwidth` for others.
            batch_size: environments held at once; bounds memory, not the result.

        Raises:
            ConfigError: another quantity, or a bandwidth that is not positive.
            DataError: missing or unusable descriptors or masks, or a single environment.
        """
        self.check_quantity(score_quantity)
        arguments = _arguments(apply_mask, descriptors_key, bandwidth)
        result = _of_dataset(self.dataset(dataset), arguments, batch_size)
        value = result.efficiency
        _warn_about_bandwidth(result)
        return self.recorded(value, arguments, notes=_notes(result))


@final
class QUESTSDiversityScore(DatasetScore):
    """Logarithm of the effective number of distinct environments: D = ln Σ_i 1/S_i, 0 to ln N.

    S_i as in `QUESTSEfficiencyScore`.
    """

    key: ClassVar[str] = "quests_diversity_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.DIVERSITY

    def settings(self) -> Mapping[str, Any]:
        """No settings."""
        return {}

    def compute(
        self,
        dataset: Sequence[Atoms],
        score_quantity: ScoreQuantity | str = ScoreQuantity.DIVERSITY,
        apply_mask: bool = False,
        descriptors_key: str = "descriptors",
        bandwidth: float = BANDWIDTH,
        batch_size: int = BATCH_SIZE,
    ) -> float:
        """Diversity of a data set; arguments and errors as for `QUESTSEfficiencyScore.compute`.

        A single environment has the diversity 0.
        """
        self.check_quantity(score_quantity)
        arguments = _arguments(apply_mask, descriptors_key, bandwidth)
        result = _of_dataset(self.dataset(dataset), arguments, batch_size)
        _warn_about_bandwidth(result)
        return self.recorded(result.diversity, arguments, notes=_notes(result))


@final
class QUESTSDeltaEntropyScore(AtomCenteredScore):
    """How new an environment is to a reference: dH(y) = -ln Σ_x exp(-|y - x|²/(2h²)), in nats.

    Positive: novel; negative: well covered; zero: one reference environment at the same place, others far.
    """

    key: ClassVar[str] = "quests_delta_entropy_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.DELTA_ENTROPY
    array_arguments: ClassVar[tuple[str, ...]] = ("reference_set",)
    may_be_nan: ClassVar[bool] = True  # of atoms that a mask leaves out

    def settings(self) -> Mapping[str, Any]:
        """No settings."""
        return {}

    def compute(
        self,
        atoms: Atoms,
        score_quantity: ScoreQuantity | str,
        reference_set: ArrayLike | str | Path | Sequence[Atoms],
        descriptors_key: str = "descriptors",
        approx: bool = False,
        bandwidth: float = BANDWIDTH,
        num_nearest_neighbors: int = 3,
        graph_neighbors: int = _GRAPH_NEIGHBORS,
        batch_size: int = BATCH_SIZE,
        apply_mask: bool = False,
    ) -> Float64[np.ndarray, " n_atoms"]:
        """dH of each atom of one structure.

        Args:
            atoms: with descriptors; not changed.
            score_quantity: DELTA_ENTROPY.
            reference_set: (n_environments, n_features), a file of it, or structures with descriptors.
            descriptors_key: of `atoms.arrays`, also of reference structures.
            approx: sum over the `num_nearest_neighbors` nearest reference environments only, which are
                found exactly; never below the exact dH.
            bandwidth: h in the unit of the descriptors.
            num_nearest_neighbors: for `approx`.
            graph_neighbors: kept for scripts that give it; has no effect.
            batch_size: environments held at once; bounds memory, not the result.
            apply_mask: only atoms that `arrays['selection_mask']` selects; others get NaN. Also of reference
                structures only selected atoms count.

        Raises:
            ConfigError: a list of structures, another quantity, or numbers out of range.
            DataError: descriptors, masks or a reference that are missing, empty or unusable.
        """
        self.check_quantity(score_quantity)
        arguments = _arguments(apply_mask, descriptors_key, bandwidth)
        arguments |= _neighbors(approx, num_nearest_neighbors, graph_neighbors)
        return self._computed([self.one(atoms)], reference_set, arguments, batch_size)[0]

    def compute_batch(
        self,
        list_of_atoms: Sequence[Atoms],
        score_quantity: ScoreQuantity | str,
        reference_set: ArrayLike | str | Path | Sequence[Atoms],
        descriptors_key: str = "descriptors",
        approx: bool = False,
        bandwidth: float = BANDWIDTH,
        num_nearest_neighbors: int = 3,
        graph_neighbors: int = _GRAPH_NEIGHBORS,
        batch_size: int = BATCH_SIZE,
        apply_mask: bool = False,
    ) -> list[Float64[np.ndarray, " n_atoms"]]:
        """`compute` for a list, in its order."""
        self.check_quantity(score_quantity)
        arguments = _arguments(apply_mask, descriptors_key, bandwidth)
        arguments |= _neighbors(approx, num_nearest_neighbors, graph_neighbors)
        return self._computed(self.several(list_of_atoms), reference_set, arguments, batch_size)

    def _computed(
        self, frames: list[Atoms], reference_set: Any, arguments: Mapping[str, Any], batch_size: int
    ) -> list[np.ndarray]:
        masked, key = arguments["apply_mask"], arguments["descriptors_key"]
        known = reference_environments(reference_set, key, masked)
        rows = descriptors_of(frames, key, known.shape[1])
        masks = selected_atoms(frames) if masked else [np.ones(len(atoms), bool) for atoms in frames]
        reference = self._arranged(known, arguments["bandwidth"])
        selected = np.concatenate([own[mask] for own, mask in zip(rows, masks, strict=True)])
        k = arguments["num_nearest_neighbors"] if arguments["approx"] else None
        found = reference.novelty(selected, nearest_only=k, batch_size=batch_size)
        results, notes, extras, first = [], [], [], 0
        for mask in masks:
            last = first + int(mask.sum())
            result, nearest = np.full(len(mask), np.nan), np.full(len(mask), np.nan)
            result[mask], nearest[mask] = found.values[first:last], found.nearest[first:last]
            results.append(result)
            notes.append(_distances(nearest[mask]))
            extras.append({_NEAREST_KEY: nearest})
            first = last
        arguments = {**arguments, "reference_set": reference_set}
        return self.recorded(results, arguments, notes=notes, extras=extras)

    def _arranged(self, known: Float64[np.ndarray, "n_rows n_features"], bandwidth: float) -> Reference:
        """The reference; the last one is remembered, for structures that come one by one."""
        name = f"{content_hash(known)} {bandwidth!r}"
        kept = vars(self).get("_last_reference")
        if kept is None or kept[0] != name:
            kept = vars(self)["_last_reference"] = (name, Reference.of(known, bandwidth))
        return kept[1]


def _arguments(apply_mask: bool, descriptors_key: str, bandwidth: float) -> dict[str, Any]:
    """What determines a score, checked."""
    if not isinstance(apply_mask, bool | np.bool_):
        raise ConfigError("apply_mask must be True or False", got=repr(apply_mask))
    return {
        "apply_mask": bool(apply_mask),
        "descriptors_key": descriptors_key,
        "bandwidth": checked_bandwidth(bandwidth),
    }


def _neighbors(approx: bool, k: int, graph_neighbors: int) -> dict[str, Any]:
    if graph_neighbors != _GRAPH_NEIGHBORS:
        text = f"graph_neighbors={graph_neighbors} has no effect: nearest environments are found exactly"
        warnings.warn(text, stacklevel=3)
    return {"approx": bool(approx), "num_nearest_neighbors": k}


def _of_dataset(frames: list[Atoms], arguments: Mapping[str, Any], batch_size: int) -> SetEntropy:
    rows = environments_of(frames, arguments["descriptors_key"], arguments["apply_mask"])
    return set_entropy(rows, arguments["bandwidth"], batch_size=batch_size, nearest=True)


def _notes(result: SetEntropy) -> dict[str, Any]:
    """Distances to the nearest other environment, in bandwidths; none where there is no other."""
    median, least, _ = result.nearest
    there = result.n_rows > 1
    return {
        "n_environments": result.n_rows,
        "entropy": result.entropy,
        "median_nearest_distance": median if there else None,
        "minimum_nearest_distance": least if there else None,
    }


def _distances(nearest: Float64[np.ndarray, " n"]) -> dict[str, Any]:
    """Distances to the nearest reference environment, in bandwidths; none where no atom is selected."""
    there = len(nearest) > 0
    return {
        "median_nearest_distance": float(np.median(nearest)) if there else None,
        "minimum_nearest_distance": float(nearest.min()) if there else None,
    }


def _warn_about_bandwidth(result: SetEntropy) -> None:
    if result.n_rows < 2:
        return
    median = result.nearest[0]
    known = f"the nearest other environment is {median:.3g} bandwidths away in the median"
    if result.alone > _ALONE:
        text = (
            f"the bandwidth is too small for these descriptors: {100 * result.alone:.1f} % of environments "
            f"have no other within 5 bandwidths ({known}), and every such data set scores the same; "
            "see suggest_bandwidth"
        )
        warnings.warn(text, stacklevel=3)
    elif result.entropy < _LEAST * math.log(result.n_rows):
        text = f"the bandwidth is too large for these descriptors, or all environments are alike: {known}"
        warnings.warn(f"{text}; see suggest_bandwidth", stacklevel=3)
