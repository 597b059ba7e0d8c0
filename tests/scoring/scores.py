"""Small scores of each base, on which the shared part is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from ase import Atoms

from surefield.scoring import (
    AtomCenteredScore,
    ConfigurationScore,
    DatasetScore,
    ModelScore,
    ScoreQuantity,
)
from surefield.scoring.array_files import load_array


@final
class Heights(AtomCenteredScore):
    key: ClassVar[str] = "heights_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.UNCERTAINTY
    array_arguments: ClassVar[tuple[str, ...]] = ("unit",)

    def __init__(self, unit: Any) -> None:
        self.unit = unit

    def settings(self) -> Mapping[str, Any]:
        return {"unit": self.unit}

    def compute(self, atoms: Atoms, score_quantity: Any, power: float = 1.0) -> np.ndarray:
        return self._computed([self.one(atoms)], score_quantity, power)[0]

    def compute_batch(
        self, list_of_atoms: Sequence[Atoms], score_quantity: Any, power: float = 1.0
    ) -> list[Any]:
        return self._computed(self.several(list_of_atoms), score_quantity, power)

    def _computed(self, frames: list[Atoms], score_quantity: Any, power: float) -> list[Any]:
        self.check_quantity(score_quantity)
        with np.errstate(divide="ignore", over="ignore"):
            results = [(a.positions[:, 2] / load_array(self.unit, "unit")[0]) ** power for a in frames]
        extras = [{"heights_low": r < 0.5} for r in results]
        return self.recorded(results, {"power": power}, extras=extras)


@final
class Masked(ConfigurationScore):
    key: ClassVar[str] = "masked_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.SENSITIVITY
    array_arguments: ClassVar[tuple[str, ...]] = ("list_of_mask",)
    per_configuration: ClassVar[tuple[str, ...]] = ("list_of_mask", "options.scale")

    def __init__(self, size: int = 2) -> None:
        self.size = size

    def settings(self) -> Mapping[str, Any]:
        return {"size": self.size}

    def compute(self, atoms: Atoms, score_quantity: Any) -> Any:
        return self.compute_batch([self.one(atoms)], score_quantity)[0]

    def compute_batch(
        self,
        list_of_atoms: Sequence[Atoms],
        score_quantity: Any,
        list_of_mask: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        self.check_quantity(score_quantity)
        frames = self.several(list_of_atoms)
        scales = np.broadcast_to((options or {}).get("scale", 1.0), len(frames))
        results = []
        for i, atoms in enumerate(frames):
            mask = 1.0 if list_of_mask is None else np.sum(list_of_mask[i])
            matrix = np.outer(*2 * [atoms.positions[0, 0] + np.arange(1.0, self.size + 1)]) / 3
            results.append(float(scales[i]) * mask * matrix)
        return self.recorded(results, {"list_of_mask": list_of_mask, "options": options})


@final
class Count(DatasetScore):
    key: ClassVar[str] = "count_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.DIVERSITY

    def settings(self) -> Mapping[str, Any]:
        return {}

    def compute(self, dataset: Sequence[Atoms], score_quantity: Any, bandwidth: float = 1.0) -> float:
        self.check_quantity(score_quantity)
        value = float(sum(map(len, self.dataset(dataset)))) / bandwidth
        return self.recorded(value, {"bandwidth": bandwidth})


@final
class Square(ModelScore):
    key: ClassVar[str] = "square_score"
    quantity: ClassVar[ScoreQuantity] = ScoreQuantity.SENSITIVITY

    def settings(self) -> Mapping[str, Any]:
        return {}

    def compute(self, rows: Any, score_quantity: Any) -> np.ndarray:
        return self.compute_batch([rows], score_quantity)

    def compute_batch(self, list_of_rows: Sequence[Any], score_quantity: Any) -> np.ndarray:
        self.check_quantity(score_quantity)
        return self.recorded(sum(np.asarray(r).T @ np.asarray(r) for r in list_of_rows), {})
