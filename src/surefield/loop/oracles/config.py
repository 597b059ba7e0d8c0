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
    "CommandOracleConfig",
    "EMTOracleConfig",
    "EngineConfig",
    "EspressoOracleConfig",
    "KIMOracleConfig",
    "LammpsOracleConfig",
    "OracleConfig",
    "PySCFOracleConfig",
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


class PySCFOracleConfig(EngineConfig):
    """Quantum chemistry of molecules by PySCF (extra `pyscf`)."""

    kind: Literal["pyscf"] = "pyscf"
    method: str = Field(default="PBE", description="HF, or a density functional that PySCF knows")
    basis: str = Field(default="def2-svp", description="of PySCF's basis sets")
    charge: int = Field(default=0, description="total charge in e")
    multiplicity: int | None = Field(default=None, ge=1, description="2S + 1; the lowest possible by default")
    density_fit: bool = Field(default=False, description="approximate Coulomb integrals")
    max_iterations: int = Field(default=50, ge=1, description="steps of the self-consistent field")
    convergence: float = Field(default=1e-9, gt=0, description="of its energy, Hartree")
    level_shift: float = Field(default=0.0, ge=0, description="of empty orbitals, Hartree; helps to converge")


class EspressoOracleConfig(EngineConfig):
    """Density functional theory of crystals by pw.x of Quantum ESPRESSO."""

    kind: Literal["espresso"] = "espresso"
    pseudopotentials: dict[str, str] = Field(description="element to file")
    pseudo_dir: str = Field(default=".", description="folder of these files")
    input_data: dict[str, dict[str, Any]] = Field(
        description="namelists of pw.x, such as {system: {ecutwfc: 30}}"
    )
    kpts: tuple[int, int, int] | None = Field(
        default=None, description="k-points along each reciprocal vector; the gamma point by default"
    )
    kspacing: float | None = Field(
        default=None, gt=0, description="1/Å, largest distance of k-points, in place of kpts"
    )
    koffset: tuple[int, int, int] = Field(default=(0, 0, 0), description="1: shifted by half a step")
    command: str = Field(default="pw.x", description="with what starts it: mpirun -np 4 pw.x")


class LammpsOracleConfig(EngineConfig):
    """Any pair style of LAMMPS."""

    kind: Literal["lammps"] = "lammps"
    commands: tuple[str, ...] = Field(
        min_length=1, description="lines that define the potential: pair_style, pair_coeff"
    )
    species: tuple[str, ...] = Field(min_length=1, description="elements in the order of atom types")
    units: Literal["metal", "real"] = Field(default="metal", description="of LAMMPS")
    setup: tuple[str, ...] = Field(
        default=(), description="lines in place of units and atom_style, such as kim init"
    )
    command: str = Field(default="lmp", description="the program, with what starts it")


class KIMOracleConfig(EngineConfig):
    """A model of OpenKIM, computed by the KIM API (extra `kim`)."""

    kind: Literal["kim"] = "kim"
    model: str = Field(description="id of an installed model")


class CommandOracleConfig(EngineConfig):
    """Any program: an input from a template, results from its output."""

    kind: Literal["command"] = "command"
    command: str = Field(description="run in a new folder; {here} is the folder of this configuration")
    structure: str | None = Field(default=None, description="file to write the structure to")
    template: str | None = Field(
        default=None, description="input file with {{n_atoms}}, {{atoms}}, {{cell}}, {{formula}}, {{value}}"
    )
    values: dict[str, Any] = Field(default_factory=dict, description="further places of the template")
    files: tuple[str, ...] = Field(default=(), description="to be copied beside it")
    output: str = Field(default="log.txt", description="what is read; log.txt is what the program prints")
    patterns: dict[str, str] | None = Field(
        default=None,
        description="regular expressions of energy, forces, stress; None: structures",
    )
    units: dict[str, str] | None = Field(default=None, description="of these, {energy: Hartree}")
    requires: str | None = Field(
        default=None, description="regular expression without which the output is no label"
    )


OracleConfig = Annotated[
    ReplayOracleConfig
    | TBLiteOracleConfig
    | EMTOracleConfig
    | ASEOracleConfig
    | PySCFOracleConfig
    | EspressoOracleConfig
    | LammpsOracleConfig
    | KIMOracleConfig
    | CommandOracleConfig,
    Field(discriminator="kind"),
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
    from surefield.loop import oracles

    match config:
        case ReplayOracleConfig():
            if labelled is None:
                raise ConfigError("the oracle 'replay' needs the labelled structures of the pool")
            return oracles.ReplayOracle(labelled)
        case TBLiteOracleConfig():
            return oracles.tblite(**config.what(), **config.how())
        case EMTOracleConfig():
            return oracles.emt()
        case ASEOracleConfig():
            return oracles.ase_calculator(config.calculator, config.arguments, folder=folder, **config.how())
        case PySCFOracleConfig():
            return oracles.pyscf(**config.what(), **config.how())
        case EspressoOracleConfig():
            return oracles.espresso(**config.what(), folder=folder, **config.how())
        case LammpsOracleConfig():
            return oracles.lammps(**config.what(), folder=folder, **config.how())
        case KIMOracleConfig():
            return oracles.kim(config.model, **config.how())
        case CommandOracleConfig():
            return oracles.command(**config.what(), folder=folder, **config.how())
        case _:
            assert_never(config)
