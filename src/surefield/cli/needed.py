"""What a verb needs before it begins: sections of the configuration, and files of earlier verbs.

Nothing heavy is imported here, so that what is missing is told at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from surefield.cli.config import RunConfig
from surefield.errors import ConfigError
from surefield.properties.config import CrystalPropertyConfig
from surefield.scores.config import FIMPropertyConfig, PotentialScoreConfig, ScoreConfig, StructureScoreConfig
from surefield.uncertainty.config import LLPRConfig

__all__ = [
    "FORCE_ERRORS",
    "check_needed",
    "need",
    "property_settings",
    "score_settings",
    "trained",
    "trained_model",
    "uncertainty_file",
    "uses_trained_potential",
]

#: Folder of the log of force errors in the run folder of `train`.
FORCE_ERRORS: Final = "force_errors"


def check_needed(verb: str, config: RunConfig) -> None:
    """Tell what is missing for a verb, as far as the configuration and the names of files say it.

    Raises:
        ConfigError: a section, a key or a file of an earlier verb.
    """
    if verb == "properties":
        property_settings(config)
        trained_model(config, verb)
    if verb == "score":
        settings = score_settings(config)
        if uses_trained_potential(settings):
            trained(config, "potential.npz", verb)
        if not (isinstance(settings, FIMPropertyConfig) or settings.structures):
            need(config.data.pool, "pool", verb)
    if verb in ("uq", "select"):
        trained(config, uncertainty_file(config), verb)
    if verb in ("eval", "uq-compare"):
        trained(config, "potential.npz", verb)


def property_settings(config: RunConfig) -> tuple[CrystalPropertyConfig, ...]:
    """The section `properties`."""
    if not config.properties:
        fix = "add a section such as properties: [{kind: lattice_constant, ...}]; see 'surefield schema'"
        raise ConfigError("'properties' needs the section properties", fix=fix)
    return config.properties


def score_settings(config: RunConfig) -> ScoreConfig:
    """The section `score`."""
    if config.score is None:
        fix = "add a section such as score: {kind: ltau}; see 'surefield schema'"
        raise ConfigError("'score' needs the section score", fix=fix)
    return config.score


def uses_trained_potential(settings: StructureScoreConfig) -> bool:
    """Whether a score is of the potential that `train` wrote, or of its features."""
    learned = getattr(settings, "descriptors", None) == "potential"
    return learned or (isinstance(settings, PotentialScoreConfig) and settings.potential is None)


def need(value: str | tuple[str, ...] | None, key: str, verb: str) -> str | tuple[str, ...]:
    """A setting without which a verb has nothing to do."""
    if not value:
        raise ConfigError(f"'{verb}' needs the key data.{key}")
    return value


def uncertainty_file(config: RunConfig) -> str:
    """Name in the run folder of `train`."""
    return "llpr.npz" if isinstance(config.uncertainty, LLPRConfig) else "uncertainty.npz"


def trained_model(config: RunConfig, verb: str) -> Path:
    """File of the fitted uncertainty, or of the bare potential where there is none."""
    bare = config.data.validation == 0
    return trained(config, "potential.npz" if bare else uncertainty_file(config), verb)


def trained(config: RunConfig, name: str, verb: str) -> Path:
    """A file that `train` wrote.

    Raises:
        ConfigError: it did not, or not yet.
    """
    folder = Path(config.root) / f"{config.name}-train"
    path = folder / name
    if path.exists():
        return path
    again = f"run 'surefield train' with this configuration {'again' if folder.exists() else 'first'}"
    if name == uncertainty_file(config) and config.data.validation == 0 and folder.exists():
        raise ConfigError(
            f"'{verb}' needs an uncertainty: without validation none was fitted; train again with "
            f"data.validation (a share such as 0.1, or a file) and --overwrite, or under another name",
        )
    raise ConfigError(f"'{verb}' needs the trained {path}: {again}")
