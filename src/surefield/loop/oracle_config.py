"""Configuration of oracles: one model a kind, told apart by `kind:`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

from pydantic import Field

from surefield.config import Config
from surefield.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from surefield.loop.oracle import Oracle

__all__ = [
    "ASEOracleConfig",
    "EMTOracleConfig",
    "OracleConfig",
    "ReplayOracleConfig",
    "TBLiteOracleConfig",
    "make_oracle",
]


class ReplayOracleConfig(Config):
    """Reveal the labels that the pool's file carries."""

    kind: Literal["replay"] = "replay"


class TBLiteOracleConfig(Config):
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
    retries: int = Field(default=1, ge=0, description="further attempts after a failed one")


class EMTOracleConfig(Config):
    """ASE's effective medium theory, for trying things out."""

    kind: Literal["emt"] = "emt"


class ASEOracleConfig(Config):
    """Any calculator of ASE that can be imported."""

    kind: Literal["ase"] = "ase"
    calculator: str = Field(description="'module:Class', such as 'ase.calculators.lj:LennardJones'")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of the class")
    retries: int = Field(default=1, ge=0, description="further attempts after a failed one")


OracleConfig = Annotated[
    ReplayOracleConfig | TBLiteOracleConfig | EMTOracleConfig | ASEOracleConfig, Field(discriminator="kind")
]


def make_oracle(config: OracleConfig, labelled: Sequence[Atoms] | None = None) -> Oracle:
    """Make the oracle of a configuration.

    Args:
        config: one of the kinds.
        labelled: the pool with its labels, for kind "replay".

    Raises:
        ConfigError: a package is missing, the calculator cannot be made, or replay without labels.
    """
    # Configurations are read without what oracles need.
    from surefield.loop.oracle import ReplayOracle, ase_calculator, emt, tblite

    match config:
        case ReplayOracleConfig():
            if labelled is None:
                raise ConfigError("the oracle 'replay' needs the labelled structures of the pool")
            return ReplayOracle(labelled)
        case TBLiteOracleConfig():
            return tblite(**config.model_dump(exclude={"kind"}))
        case EMTOracleConfig():
            return emt()
        case ASEOracleConfig():
            return ase_calculator(config.calculator, config.arguments, retries=config.retries)
        case _:
            assert_never(config)
