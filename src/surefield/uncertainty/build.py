"""Uncertainties from configurations and from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from surefield.errors import ConfigError, PotentialError
from surefield.potentials.potential import Potential
from surefield.potentials.saving import kind_of
from surefield.structures.read import Source
from surefield.training.config import TrainConfig
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.config import (
    ConstantConfig,
    DeepEnsembleConfig,
    FeatureDistanceConfig,
    LLPRConfig,
    LTAUConfig,
    ShallowEnsembleConfig,
    UncertaintyConfig,
)
from surefield.uncertainty.constant import ConstantUncertainty
from surefield.uncertainty.deep_ensemble import DeepEnsemble
from surefield.uncertainty.dropout_ensemble import DropoutEnsemble
from surefield.uncertainty.feature_distance import FeatureDistance
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.ltau import LTAU
from surefield.uncertainty.shallow_ensemble import ShallowEnsemble
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["ESTIMATORS", "TrainingRecord", "fit_uncertainty", "load_uncertainty"]

#: By the kind of their files.
ESTIMATORS: Final[Mapping[str, type[Uncertainty]]] = {
    e.kind: e
    for e in (
        *(LLPR, DropoutEnsemble, ConstantUncertainty, FeatureDistance),
        *(DeepEnsemble, ShallowEnsemble, LTAU),
    )
}


@dataclass(frozen=True)
class TrainingRecord:
    """How a potential was trained, for the estimators that ask.

    Attributes:
        config: of the training; members of deep and shallow ensembles are trained by it.
        isolated_atoms: energies of free atoms, eV.
        force_errors: folder of the log of force errors, if there is one.
    """

    config: TrainConfig = field(default_factory=TrainConfig)
    isolated_atoms: Mapping[str | int, float] = field(default_factory=dict)
    force_errors: str | Path | None = None


def fit_uncertainty(
    config: UncertaintyConfig,
    potential: Potential,
    train: Source | LabelledSet,
    calibration: Source | LabelledSet,
    *,
    record: TrainingRecord | None = None,
    shared_alpha: float = 0.0,
    folder: str | Path | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
) -> Uncertainty:
    """The uncertainty of a configuration around a trained potential.

    Args:
        config: which estimator, and its settings.
        potential: trained.
        train: structures it was trained on.
        calibration: labelled structures it has not seen.
        record: how the potential was trained; None: by the defaults, without a log of force errors.
        shared_alpha: see `LLPR.fit`; other estimators have no use for it.
        folder: keeps what is done of a long fit, which goes on from it.
        progress: show a progress bar.
        executor: where members of a deep ensemble are trained, in place of `processes` of its configuration.

    Raises:
        ConfigError: the estimator needs a log of force errors, and there is none.
    """
    record = record or TrainingRecord()
    settings = config.model_dump(exclude={"kind"})
    if isinstance(config, LLPRConfig):
        options: Any = {"shared_alpha": shared_alpha, "folder": folder, "progress": progress}
        return LLPR.fit(potential, train, calibration, **options, **settings)
    if isinstance(config, ConstantConfig):
        return ConstantUncertainty.fit(potential, calibration)
    if isinstance(config, FeatureDistanceConfig):
        return FeatureDistance.fit(potential, train, calibration, **settings)
    if isinstance(config, DeepEnsembleConfig):
        workers = settings.pop("processes")
        if executor is not None:
            settings["executor"] = executor
        elif workers > 1:
            settings |= {"executor": "processes", "max_workers": workers}
        return DeepEnsemble.fit(
            potential,
            train,
            calibration,
            training=record.config,
            # A member of a bootstrap has not seen all structures.
            trained=() if config.bootstrap else (potential,),
            isolated_atoms=record.isolated_atoms,
            folder=None if folder is None else Path(folder) / "members",
            progress=progress,
            **settings,
        )
    if isinstance(config, ShallowEnsembleConfig):
        return ShallowEnsemble.fit(
            potential,
            train,
            calibration,
            training=record.config,
            isolated_atoms=record.isolated_atoms,
            folder=None if folder is None else Path(folder) / "shallow",
            progress=progress,
            **settings,
        )
    if isinstance(config, LTAUConfig):
        if record.force_errors is None:
            fix = "train with force_error_log=FOLDER, in a run with uncertainty.kind ltau"
            raise ConfigError("LTAU needs the force errors of the training", got="no log of them", fix=fix)
        return LTAU.fit(potential, train, calibration, record.force_errors, **settings)
    return DropoutEnsemble.fit(potential, calibration, **settings)


def load_uncertainty(path: str | os.PathLike[str]) -> Uncertainty:
    """Whatever uncertainty was saved; no code in the file is run.

    Raises:
        PotentialError: no such file, damaged, or of another kind.
    """
    kind = kind_of(path)
    if kind is None:
        raise PotentialError(f"{path} is cut short, damaged, or nothing that was saved here")
    if kind not in ESTIMATORS:
        raise PotentialError(f"{path} holds no uncertainty", got=kind, expected=" or ".join(ESTIMATORS))
    return ESTIMATORS[kind].load(str(path))
