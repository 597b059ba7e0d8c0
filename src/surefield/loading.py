"""Load whatever was saved: a potential, an uncertainty around one, or a network model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from surefield.errors import PotentialError
from surefield.networks.model_files import load_model
from surefield.potentials.saving import kind_of, load_potential
from surefield.uncertainty.build import ESTIMATORS

__all__ = ["load_any"]


def load_any(path: str | os.PathLike[str]) -> Any:
    """What is in a file; no code in it is run.

    Raises:
        PotentialError: no such file, damaged, or of another kind.
        DataError: a .amp file that is not what such files are.
    """
    kind = kind_of(path)
    loaders: dict[str, Any] = {"potential": load_potential, "model": load_model}
    loaders |= {name: estimator.load for name, estimator in ESTIMATORS.items()}
    if kind is None:
        return load_model(Path(path))
    if kind not in loaders:
        raise PotentialError(f"{path} holds a {kind}, which is nothing to predict with")
    return loaders[kind](path)
