"""Configuration of oracles: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

from pydantic import Field

from surefield.config import Config
from surefield.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from surefield.loop.oracles.oracle import Oracle

__all__ = [
    "ASEOracleConfig",
    "EMTOracleConfig",
    "EngineConfig",
    "OracleConfig",
    "ReplayOracleConfig",
    "TBLiteOracleConfig",
    "make_oracle",
]


class ReplayOracleConfig(Config):
    """Reveal the labels that the pool's file carries."""

    kind: Literal["replay"] = "replay"


class EngineConfig(Config):
    """What all engines that compute have in common."""

    retries: int | tuple[dict[str, Any], ...] = Field(
        default=1,
        description="further attempts after a failed one: their number, or settings changed in each",
    )
    time_limit: float | None = Field(
        default=None, gt=0, description="s of one attempt, after which the engine is killed"
    )
    cores: int = Field(default=1, ge=1, description="that one label takes, for its cost")

    def how(self) -> dict[str, Any]:
        """The settings of this class: they do not change what a label is."""
        return {"retries": self.retries, "time_limit": self.time_limit, "cores": self.cores}

    def what(self) -> dict[str, Any]:
        """All other settings but the kind."""
        return self.model_dump(exclude={"kind", *EngineConfig.model_fields})


class TBLiteOracleConfig(EngineConfig):
    """Semiempirical tight binding by tblite (extra `tblite`)."""

    kind: Literal["tblite"] = "tblite"
    method: Literal["GFN2-xTB", "GFN1-xTB", "IPEA1-xTB"] = Field(
        default="GFN2-xTB", description="parametrisation"
    )
    charge: float = Field(default=0.0, description="total charge in e")
    multiplicity: int | None = Field(default=None, ge=1, description="2S + 1; the lowest possible by default")
    accuracy: float = Field(default=1.0, gt=0, description="tblite's accuracy; smaller is tighter")
    electronic_temperature: float = Field(default=300.0, ge=0, description="K")
    max_iterations: int = Field(default=250, ge=1, description="steps of the self-consistent field")


class EMTOracleConfig(Config):
    """ASE's effective medium theory, for trying things out."""

    kind: Literal["emt"] = "emt"


class ASEOracleConfig(EngineConfig):
    """Any calculator of ASE that can be imported, or that a file of the user makes."""

    kind: Literal["ase"] = "ase"
    calculator: str = Field(
        description="'module:Class', such as 'ase.calculators.lj:LennardJones', or 'file.py:function' with a "
        "file beside the configuration"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of the class or function")


OracleConfig = Annotated[
    ReplayOracleConfig | TBLiteOracleConfig | EMTOracleConfig | ASEOracleConfig, Field(discriminator="kind")
]


def make_oracle(
    config: OracleConfig, labelled: Sequence[Atoms] | None = None, *, folder: Path | None = None
) -> Oracle:
    """Make the oracle of a configuration.

    Args:
        config: one of the kinds.
        labelled: the pool with its labels, for kind "replay".
        folder: that paths of files are relative to: the one of the configuration.

    Raises:
        ConfigError: a package or program is missing, the calculator cannot be made, or replay without labels.
    """
    # Configurations are read without what oracles need.
    from surefield.loop.oracles.calculator import ase_calculator, emt
    from surefield.loop.oracles.replay import ReplayOracle
    from surefield.loop.oracles.tight_binding import tblite

    match config:
        case ReplayOracleConfig():
            if labelled is None:
                raise ConfigError("the oracle 'replay' needs the labelled structures of the pool")
            return ReplayOracle(labelled)
        case TBLiteOracleConfig():
            return tblite(**config.what(), **config.how())
        case EMTOracleConfig():
            return emt()
        case ASEOracleConfig():
            return ase_calculator(config.calculator, config.arguments, folder=folder, **config.how())
        case _:
            assert_never(config)
