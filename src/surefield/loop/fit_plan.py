"""How a loop fits: a potential and its uncertainty from labels, in every round and once more in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.potentials.potential import HasPotential, Potential, as_potential
from surefield.structures.read import Frames
from surefield.structures.splits import split_frames
from surefield.training.checkpoint import potential_entries
from surefield.training.config import TrainConfig
from surefield.training.continuation import starting_potential
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.growth import with_species
from surefield.training.recipe import settled_for
from surefield.training.train import fit_samples
from surefield.uncertainty.build import TrainingRecord, fit_uncertainty
from surefield.uncertainty.config import LLPRConfig, LTAUConfig, UncertaintyConfig
from surefield.uncertainty.guard import LARGEST_FORCE, LARGEST_SIGMA, SIGMA_RANGE
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["FitPlan"]

#: Of `fit_uncertainty`: a round holds out a few energies only, and they steer the early stop as well.
SHARED_ALPHA: Final = 10.0
#: What an uncertainty says of the data that it was calibrated on.
_OF_CALIBRATION: Final = (LARGEST_SIGMA, SIGMA_RANGE, LARGEST_FORCE, "calibration_rows")


@dataclass(frozen=True, eq=False)
class FitPlan:
    """Potential, training and uncertainty of a loop; made by `of`.

    Attributes:
        potential: untrained, or the one to start from.
        training: how each fit trains.
        uncertainty: which one each fit has.
        validation: share of the labels for early stop and calibration.
        isolated_atoms: energies of free atoms, eV; with them element offsets do not depend on the labels.
        start: trained potential that each fit begins with, if any.
        executor: where members of an ensemble are trained at the same time; None: as the uncertainty says.
    """

    potential: Potential
    training: TrainConfig
    uncertainty: UncertaintyConfig
    validation: float
    isolated_atoms: Mapping[str | int, float] = field(default_factory=dict)
    start: Potential | None = None
    executor: Executor | None = None

    @classmethod
    def of(
        cls,
        potential: Potential | HasPotential,
        training: TrainConfig,
        uncertainty: UncertaintyConfig,
        validation: float,
        *,
        features: str | None,
        isolated_atoms: Mapping[str | int, float] | None = None,
        executor: Executor | None = None,
    ) -> FitPlan:
        """Plan with the potential that `training.start_from` names, if it names any, for the same elements.

        Raises:
            ConfigError: no potential, or features that the uncertainty lacks.
        """
        if features == "ll_posterior" and not isinstance(uncertainty, LLPRConfig):
            fix = "set loop.features to ll_grad or full_grad_rp, or uncertainty.kind to llpr"
            raise ConfigError("features 'll_posterior' need an LLPR", got=uncertainty.kind, fix=fix)
        plain, start = as_potential(potential), None
        if training.start_from is not None:
            start = starting_potential(training.start_from)
            plain = with_species(start, plain.species)
        return cls(plain, training, uncertainty, validation, isolated_atoms or {}, start, executor)

    def fit(self, labelled: Sequence[Atoms], seed: int) -> tuple[Uncertainty, Sequence[str]]:
        """Train on labels, a share of them held out; the quantities that counted in the loss beside it.

        Raises:
            DataError: no two different structures.
        """
        data = self._prepared(labelled)
        fitted, held = split_frames(data.frames, self.validation, seed=seed)
        return self._fitted(data[fitted], data[held], data[held])

    def fit_all(self, labelled: Sequence[Atoms], seed: int) -> tuple[Uncertainty, Sequence[str]]:
        """Train on every label, with sigmas whose calibration is that of `fit`, whose share it had not seen.

        The posterior is that of all labels; the potential has seen more than the one whose residuals set the
        scale of the sigmas, which are rather too large than too small for it.
        """
        data = self._prepared(labelled)
        held_out, _ = self.fit(labelled, seed)
        settings: dict[str, Any] = {}
        if isinstance(held_out, LLPR):
            # Residuals of what was fitted are too small to weigh rows by, or to choose a regulariser.
            weights = held_out.statistics["weights"]
            regularizer = float(np.sqrt(held_out.statistics["varsigma2"]))
            settings = {"row_kinds": tuple(weights), "row_weights": weights, "regularizer": regularizer}
        whole, fitted = self._fitted(data, data[[]], data, **settings)
        return whole.calibrated_as(held_out, _OF_CALIBRATION), fitted

    def inputs(self) -> dict[str, Any]:
        """What enters a fit besides labels, as a table of `execution.identity`."""
        training = settled_for(self.training, self.potential).model_dump(mode="json", exclude={"start_from"})
        return {
            "training": training | {"isolated_atoms": self.isolated_atoms},
            "uncertainty": self.uncertainty.model_dump(mode="json"),
            **potential_entries(self.potential),
        }

    def _prepared(self, labelled: Sequence[Atoms]) -> LabelledSet:
        if not labelled:
            raise DataError("there are no labels to fit")
        frames = Frames(tuple(labelled), tuple(f"label {i}" for i in range(len(labelled))))
        return prepare(frames, self.potential)

    def _fitted(
        self, train: LabelledSet, stop: LabelledSet, calibration: LabelledSet, **settings: Any
    ) -> tuple[Uncertainty, Sequence[str]]:
        with TemporaryDirectory() as folder:
            log = Path(folder) / "force_errors" if isinstance(self.uncertainty, LTAUConfig) else None
            fit = fit_samples(
                self.potential,
                train,
                stop,
                self.training,
                start=self.start,
                isolated_atoms=self.isolated_atoms,
                force_error_log=log,
                progress=False,
            )
            if settings:
                options: Any = {"shared_alpha": SHARED_ALPHA, "progress": False, **settings}
                return LLPR.fit(fit.potential, train, calibration, **options), tuple(fit.weights)
            uncertainty = fit_uncertainty(
                self.uncertainty,
                fit.potential,
                train,
                calibration,
                record=TrainingRecord(self.training, self.isolated_atoms, log),
                shared_alpha=SHARED_ALPHA,
                progress=False,
                executor=self.executor,
            )
        return uncertainty, tuple(fit.weights)
