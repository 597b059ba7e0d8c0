"""How a potential is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import Field, field_validator

from surefield.config import Config
from surefield.quantities import fitted, names, quantity

__all__ = ["TrainConfig"]

#: What is taken where neither the training nor the potential names it.
_USUAL: Final[Mapping[str, Any]] = {
    "epochs": 60,
    "max_steps": None,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "radial_factor": 0.1,
    "ema": 0.99,
    "patience": 20,
    "energy_ramp": (1.0, 1.0),
    "fit_offsets": False,
}


def _weight(name: str) -> float:
    return quantity(name).weight


class TrainConfig(Config):
    """Settings of `train`; the defaults are meant to be good for any data set."""

    epochs: int | None = Field(
        default=None,
        ge=0,
        description="passes over the data after the exact solution; 0 keeps that; null: what suits the "
        "potential (message network 240, others 60)",
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps of the optimiser at most: of many data fewer passes are enough; null: message "
        "network 20000, others as many as the epochs have",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="structures per step, about; null: message network 5, others 8"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="at its highest; null: message network 0.007, others 0.001"
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="wall time of a training, exact solution and compiling included, in place of epochs: as "
        "many as fit; the learning rate falls with the time, and patience is a third of it or more",
    )
    start_from: str | None = Field(
        default=None,
        description="file of a trained potential that is continued on these data, which may have further "
        "elements; element offsets are found anew; null: an untrained one",
    )
    train_body: bool = Field(
        default=True,
        description="false, with start_from: all but the last layer and the offsets stays as it is",
    )
    solved_factor: float = Field(
        default=0.0, ge=0, description="times the rate: weights that were solved exactly"
    )
    radial_factor: float | None = Field(
        default=None,
        ge=0,
        description="times the rate: radial functions; null: message network 1, others 0.1",
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="of AdamW; null: what suits the potential (moment network 1, others 0)",
    )
    gradient_clip: float = Field(default=10.0, gt=0, description="largest global norm of a gradient")
    ema: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of the average of the weights; null: message network 0.999, others 0.99",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a validation score near the least until it stops; null: message network "
        "150, others 20",
    )
    energy_weight: float = Field(
        default=_weight("energy"), ge=0, description="of mean squared energy errors, (eV/atom)^-2"
    )
    energy_ramp: tuple[float, float] | None = Field(
        default=None,
        description="factors of energy_weight: of the first half of the steps, and of the end, to which it "
        "grows; where energies count little at first, forces and in the end energies of other structures are "
        "better; null: message network 0.1 and 10, others 1 and 1",
    )
    fit_offsets: bool | None = Field(
        default=None,
        description="offsets of elements are fitted once more to what the last epoch leaves of the energies; "
        "null: message network true, others, whose last layer is solved for exactly first, false",
    )
    forces_weight: float = Field(
        default=_weight("forces"), ge=0, description="of mean squared force errors, (eV/Å)^-2"
    )
    stress_weight: float | None = Field(
        default=None,
        ge=0,
        description="of mean squared stress errors, (eV/Å^3)^-2; null: from the sizes of the labels",
    )
    charge_weight: float = Field(
        default=_weight("excess_electrons"),
        ge=0,
        description="of mean squared errors of excess electrons, (e/atom)^-2; electrodes",
    )
    weights: dict[str, float] = Field(
        default={}, description="of mean squared errors of further quantities, by their names"
    )
    max_force_rows: int = Field(
        default=60_000, ge=0, description="force components used by the exact solution"
    )
    checkpoint_every: int = Field(default=200, ge=1, description="steps between checkpoints")
    seed: int = Field(default=0, ge=0, description="of splits and batch order")

    @field_validator("energy_ramp")
    @classmethod
    def _positive(cls, ramp: tuple[float, float] | None) -> tuple[float, float] | None:
        if ramp is not None and not all(0 < factor < math.inf for factor in ramp):
            raise ValueError(f"both factors must be positive numbers, got {list(ramp)}")
        return ramp

    @field_validator("weights")
    @classmethod
    def _further(cls, weights: dict[str, float]) -> dict[str, float]:
        settled = ("energy", "forces", "stress", "excess_electrons")  # have settings of their own
        further = [name for name in fitted(names()) if name not in settled]
        for name, weight in weights.items():
            if name not in further:
                raise ValueError(f"{name!r} is no further quantity; known: {', '.join(further) or 'none'}")
            if not weight >= 0:
                raise ValueError(f"the weight of {name!r} must not be negative, got {weight}")
        return weights

    def settled(self, suited: Mapping[str, Any]) -> Self:
        """Copy in which nothing of the epochs is open.

        Args:
            suited: what suits the potential, see `Potential.training_defaults`.
        """
        chosen = {name: suited.get(name, value) for name, value in _USUAL.items()}
        return self.model_copy(update={k: v for k, v in chosen.items() if getattr(self, k) is None})

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of the mean squared residuals of each quantity."""
        return {
            "energy": self.energy_weight,
            "forces": self.forces_weight,
            "stress": self.stress_weight or 0.0,
            "excess_electrons": self.charge_weight,
            **self.weights,
        }
