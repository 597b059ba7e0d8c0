"""What a run asks of a trainer: how it fits, weighs and splits configurations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Literal, Protocol

from surefield.potentials.potential import Potential
from surefield.trainers.handle import PotentialHandle
from surefield.trainers.result import FitResult
from surefield.training.breakdown import Pairs
from surefield.training.dataset import Sample
from surefield.training.problem import Problem, Weights

__all__ = ["Fitting"]


class Fitting(Protocol):
    """The part of a `Trainer` that a run and its folder need; see there."""

    bracket: ClassVar[Literal["rows", "sum", "mean"]]
    energy_per_atom: bool
    loss_method: str

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, fit for JSON."""
        ...

    def fit(self, model: Potential, problem: Problem) -> FitResult:
        """Minimise the loss, starting from a potential."""
        ...

    def weighted(
        self, configurations: Sequence[Sample], handle: PotentialHandle, fitted: Collection[str]
    ) -> list[Sample]:
        """Copies with the factors of groups or weights files."""
        ...

    def minimised_rows(
        self, model: Potential, configurations: Sequence[Sample], weights: Weights
    ) -> Iterable[Pairs] | None:
        """Weighted rows that the fit minimises, where these are not those of all trainers."""
        ...

    def own_split(
        self, configurations: Sequence[Sample], handle: PotentialHandle, seed: int
    ) -> tuple[list[int], list[int]] | None:
        """Training and validation indices where settings of the potential rule them."""
        ...
