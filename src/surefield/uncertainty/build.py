"""Uncertainties from configurations and from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from surefield.errors import PotentialError
from surefield.potentials.potential import Potential
from surefield.potentials.saving import kind_of
from surefield.structures.read import Source
from surefield.training.dataset import LabelledSet
from surefield.uncertainty.config import (
    ConstantConfig,
    FeatureDistanceConfig,
    LLPRConfig,
    UncertaintyConfig,
)
from surefield.uncertainty.constant import ConstantUncertainty
from surefield.uncertainty.dropout_ensemble import DropoutEnsemble
from surefield.uncertainty.feature_distance import FeatureDistance
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["ESTIMATORS", "fit_uncertainty", "load_uncertainty"]

#: By the kind of their files.
ESTIMATORS: Final[Mapping[str, type[Uncertainty]]] = {
    e.kind: e for e in (LLPR, DropoutEnsemble, ConstantUncertainty, FeatureDistance)
}


def fit_uncertainty(
    config: UncertaintyConfig,
    potential: Potential,
    train: Source | LabelledSet,
    calibration: Source | LabelledSet,
    *,
    shared_alpha: float = 0.0,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Uncertainty:
    """The uncertainty of a configuration around a trained potential.

    Args:
        config: which estimator, and its settings.
        potential: trained.
        train: structures it was trained on.
        calibration: labelled structures it has not seen.
        shared_alpha, folder: see `LLPR.fit`; other estimators have no use for them.
        progress: show a progress bar.
    """
    settings = config.model_dump(exclude={"kind"})
    if isinstance(config, LLPRConfig):
        options: Any = {"shared_alpha": shared_alpha, "folder": folder, "progress": progress}
        return LLPR.fit(potential, train, calibration, **options, **settings)
    if isinstance(config, ConstantConfig):
        return ConstantUncertainty.fit(potential, calibration)
    if isinstance(config, FeatureDistanceConfig):
        return FeatureDistance.fit(potential, train, calibration, **settings)
    return DropoutEnsemble.fit(potential, calibration, **settings)


def load_uncertainty(path: str | os.PathLike[str]) -> Uncertainty:
    """Whatever uncertainty was saved; no code in the file is run.

    Raises:
        PotentialError: no such file, damaged, or of another kind.
    """
    kind = kind_of(path)
    if kind not in ESTIMATORS:
        raise PotentialError(f"{path} holds no uncertainty", got=kind, expected=" or ".join(ESTIMATORS))
    return ESTIMATORS[kind].load(str(path))
