"""Shallow ensembles: last layers on one body, trained together with it by a proper score of their spread."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np

from surefield.calibration.maps import AlphaMap
from surefield.config import parse
from surefield.errors import ConfigError, DataError
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import HasPotential, LastLayerPotential, Potential, as_potential
from surefield.quantities import uncertain
from surefield.sensitivity.rows import energy_features
from surefield.structures.labels import Mapped
from surefield.structures.neighbors import Neighborhood
from surefield.structures.read import Source
from surefield.training.config import TrainConfig
from surefield.training.dataset import AT_ONCE, LabelledSet, as_labelled
from surefield.training.recipe import recipe
from surefield.training.train import fit_samples
from surefield.uncertainty.abilities import HasMembers
from surefield.uncertainty.architecture import LLPRTraining
from surefield.uncertainty.config import LossName
from surefield.uncertainty.deep_ensemble import restarted
from surefield.uncertainty.ensemble_training import train_members
from surefield.uncertainty.member_deviations import displaced, member_deviations
from surefield.uncertainty.member_learner import Displacements
from surefield.uncertainty.spread import Spread, check_n_members, spread_of_members
from surefield.uncertainty.trained_body import trainable_layer
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["ShallowEnsemble"]

#: Standard deviation of members at the start, relative to the weights, where the energies tell none.
_USUAL: Final = 0.1
#: Times the rate: weights that were solved exactly, which large steps would only spoil.
_SOLVED_FACTOR: Final = 0.1


@final
@dataclass(frozen=True, eq=False)
class ShallowEnsemble(Uncertainty, HasMembers):
    """Mean and spread (ddof = 1) of members that share everything but their last-layer weights.

    Body and members are trained together, on energies, forces and stresses, so that the spread is the error
    that is to be expected. The prediction is the mean, which is the potential with the mean weights; a
    member costs one more pass back through the network, and no training of its own.
    Kellner and Ceriotti, Mach. Learn.: Sci. Technol. 5 (2024) 035006.

    Attributes:
        displacements: (n_members, n_features) of the last-layer weights; they add up to zero.
    """

    kind: ClassVar[str] = "shallow_ensemble"
    zeros_by_values: ClassVar[bool] = True

    displacements: Displacements

    @classmethod
    def fit(
        cls,
        potential: Potential | HasPotential,
        train: Source | LabelledSet,
        calibration: Source | LabelledSet,
        *,
        M: int = 16,
        seed: int = 0,
        loss: LossName = "ensemble_nll",
        learning_rate: float = 1e-3,
        training: TrainConfig | None = None,
        isolated_atoms: Mapping[str | int, float] | None = None,
        folder: str | Path | None = None,
        labels: Mapped | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> Self:
        """Train a body and members from random weights, and calibrate their spread.

        Args:
            potential: what is trained; its weights do not matter.
            train: structures to train on.
            calibration: structures held out, for the choice of the best epoch and the calibration.
            M: members, at least 2.
            seed: of the start, of the members and of the order of batches.
            loss: of the members, see `ensemble_loss`.
            learning_rate: of Adam, after the warm-up.
            training: whose epochs, steps and batches count, and the exact solution that it begins with; None:
                what suits the potential.
            isolated_atoms: energies of free atoms in eV, as `train` takes them.
            folder: keeps checkpoints; a fit that was interrupted goes on from them.
            labels: explicit keys of the labels.
            progress: show a progress bar.
            options: of `calibrated`.

        Raises:
            ConfigError: M < 2, an unknown loss, or a training that starts from another potential.
            DataError: unusable structures or labels.
            PotentialError: a potential without a body and a last layer of its own; files in the folder are of
                another training.
        """
        check_n_members(M)
        config, start = training or TrainConfig(), as_potential(potential)
        if config.start_from is not None:
            what = "a shallow ensemble starts from random weights"
            raise ConfigError(what, got=f"training.start_from {config.start_from}", fix="leave it out")
        trainable_layer(start)
        chosen = recipe(config, start)
        train_set, held = (as_labelled(part, start, labels) for part in (train, calibration))
        if not len(train_set) or not len(held):
            raise DataError(
                "a shallow ensemble needs labelled structures to train on, and others to calibrate"
            )
        settings = parse(
            LLPRTraining,
            {
                "loss": loss,
                "train_all_parameters": True,
                "num_epochs": chosen.n_epochs_of(len(train_set)),
                "batch_size": chosen.batch_size,
                "learning_rate": learning_rate,
                "seed": seed,
            },
            "ShallowEnsemble",
        )
        folder = None if folder is None else Path(folder)
        solved = fit_samples(
            restarted(start, seed),
            train_set,
            held,
            config.model_copy(update={"epochs": 0, "minutes": None, "train_body": True}),
            isolated_atoms=dict(train_set.isolated_atoms) | dict(isolated_atoms or {}),
            folder=None if folder is None else folder / "start",
            progress=progress,
        ).potential
        drawn = _drawn(solved, held, M, seed)
        sets = train_set, held
        trained = train_members(
            *(solved, drawn, sets, {}, settings, "energy", folder),
            calibrated_later=True,
            rate_factors=(_SOLVED_FACTOR, chosen.radial_factor),
        )
        ensemble = cls(
            potential=trained.potential,
            maps={name: AlphaMap(1.0, calibrated=False) for name in uncertain(start.supplies)},
            thresholds={},
            statistics={"n_members": M, "epoch": trained.epoch, "history": trained.history},
            displacements=trained.displacements,
        )
        return ensemble.calibrated(held, **options)

    def count_members(self) -> int:
        """Number of members."""
        return len(self.displacements)

    def member_potential(self, member: int) -> Potential:
        """The potential with the last-layer weights of a member."""
        return displaced(self.potential, self.displacements[member - 1])

    def spreads(
        self, structures: Sequence[Neighborhood], names: Collection[str], *, batch_size: int
    ) -> Iterator[tuple[int, Mapping[str, Spread]]]:
        """Index of each structure and the spreads over the members, batch by batch."""
        every = member_deviations(
            self.last_layer(), self.displacements, structures, names, batch_size=batch_size
        )
        for index, values in every:
            n_atoms = structures[index].n_atoms
            yield index, {name: spread_of_members(name, own, n_atoms) for name, own in values.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """The members."""
        return {"displacements": self.displacements}

    @classmethod
    def fields_from(cls, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The members."""
        return {"displacements": arrays["displacements"]}


def _drawn(potential: Potential, held: LabelledSet, n_members: int, seed: int) -> Displacements:
    """Random members whose spread of the energies is about as large as the errors of these at the start."""
    layer: LastLayerPotential = potential.last_layer()
    some = held[[i for i, s in enumerate(held.samples) if s.trained_energy][:AT_ONCE]]
    scale = 0.0
    if len(some):
        predictions = predict(potential, some.frames, neighborhoods=some.structures)
        r = [p.energy - s.labels.energy for p, s in zip(predictions, some.samples, strict=True)]
        lengths = np.linalg.norm(energy_features(layer, some.structures), axis=1)
        scale = float(np.sqrt(np.mean(np.square(r)) / np.mean(lengths**2)))
    if not scale > 0:
        scale = _USUAL * float(np.sqrt(np.mean(np.square(np.asarray(layer.readout, np.float64)))))
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    members = scale * rng.standard_normal((n_members, layer.n_features))
    return members - members.mean(axis=0)
