"""Configurations of what explores: walkers, changes of structures, files; and of the stability check."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from surefield.config import Config

__all__ = [
    "BreakageConfig",
    "DynamicsConfig",
    "ExplorationConfig",
    "PoolFilesConfig",
    "RattleConfig",
    "RelaxationConfig",
    "SigmaBiasConfig",
    "SigmaWindowConfig",
    "StabilityConfig",
    "StrainConfig",
    "SurfacesConfig",
]


class StabilityConfig(Config):
    """Short molecular dynamics with a trained potential: does it run, also where there are no data?"""

    seconds: float = Field(
        default=20.0, gt=0, description="of all runs together, without compiling; each has its share"
    )
    steps: int = Field(default=500, ge=1, description="of each run, at most")
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="of the hot runs, K; null: the highest that a training structure states, or 600",
    )
    n_structures: int = Field(default=2, ge=0, description="training structures, of different formulas")
    n_alloys: int = Field(default=3, ge=0, description="random alloys of the metals among the elements")
    seed: int = Field(default=0, ge=0, description="of velocities, thermostat and places in alloys")


class SigmaWindowConfig(Config):
    """Which structures a walker collects, and where it stops.

    What counts is the largest sigma of an atom of the structure. Without numbers the window comes from the
    calibration set, whose structures have each such a largest sigma: its lower edge is their median (below,
    the potential knows the structure as well as most of its data), the limit twice their largest, but at most
    ten times their median: beyond, the structure is unlike the data. Of forces the limit is at most a quarter
    of the largest force of a structure, in the median (or two medians of sigma, if that is more): beyond, the
    potential cannot be trusted to lead on. A start beyond that limit has twice its own sigma.
    """

    quantity: Literal["auto", "forces", "energies"] = Field(
        default="auto",
        description="whose sigma: forces (eV/Å, length over the components) or energies of atoms (eV); "
        "auto: forces where the uncertainty has them",
    )
    lower: float | None = Field(
        default=None, ge=0, description="collect from here on; null: the median of the calibration set"
    )
    limit: float | None = Field(
        default=None,
        gt=0,
        description="stop beyond; null: twice the largest of the calibration set, at most ten medians, "
        "and of forces at most a quarter of the largest force of a structure, in the median",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower is not None and self.limit is not None and not self.lower < self.limit:
            raise ValueError(f"lower {self.lower:g} must be below limit {self.limit:g}")
        return self


class BreakageConfig(Config):
    """When a structure counts as broken."""

    contact: float = Field(
        default=0.6, ge=0, lt=1, description="atoms nearer than this part of the sum of their covalent radii"
    )
    fragment_gap: float | None = Field(
        default=5.0,
        gt=0,
        description="Å; a part of a molecule that is farther from the rest has flown off; null: it may",
    )


class SigmaBiasConfig(Config):
    """Dynamics on E - strength * S * (1 - exp(-sigma / S)): drawn to where sigma, of the energy, is large.

    S = saturation * number of atoms bounds the bias: it is -strength * sigma at small sigmas and never more
    than strength * S.
    """

    strength: float = Field(default=1.0, gt=0, description="eV of bias per eV of sigma; 1 to 5 are usual")
    saturation: float | None = Field(
        default=None,
        gt=0,
        description="eV per atom at which the bias ends; null: the largest sigma of the calibration set",
    )


class DynamicsConfig(Config):
    """Molecular dynamics with the current potential, from the starts at several temperatures."""

    kind: Literal["dynamics"] = "dynamics"
    ensemble: Literal["nve", "nvt", "npt"] = Field(
        default="nvt", description="nvt: Langevin; npt: Langevin with a barostat, of periodic structures"
    )
    temperatures: tuple[float, ...] = Field(
        default=(300.0, 500.0, 700.0), min_length=1, description="K; walkers take turns"
    )
    n_walkers: int = Field(default=8, ge=1, description="they take turns with starts and temperatures")
    steps: int = Field(default=2000, ge=1, description="of a walker, at most")
    timestep_fs: float | None = Field(
        default=None, gt=0, description="fs; null: 0.5, 1 or 2, by the lightest atom"
    )
    friction: float = Field(default=0.02, gt=0, description="1/fs, of nvt and npt")
    pressure_gpa: float = Field(default=0.0, description="GPa, of npt")
    check_every: int = Field(
        default=20, ge=1, description="steps between looks at sigma; a look costs as much as 3 to 26 steps"
    )
    n_frames: int = Field(default=10, ge=1, description="structures of a walker, at most")
    window: SigmaWindowConfig = SigmaWindowConfig()
    breakage: BreakageConfig = BreakageConfig()
    bias: SigmaBiasConfig | None = Field(default=None, description="towards large sigmas; null: none")

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < t < float("inf") for t in temperatures):
            raise ValueError(f"temperatures must be above 0 K, got {list(temperatures)}")
        return temperatures


class RelaxationConfig(Config):
    """Relaxations with the current potential: structures along their paths."""

    kind: Literal["relaxation"] = "relaxation"
    optimizer: Literal["bfgs", "fire"] = Field(default="bfgs", description="fire for rough starts")
    n_walkers: int = Field(default=8, ge=1, description="relaxations; starts take turns")
    rattle: float = Field(
        default=0.1, ge=0, description="Å; random displacement of every coordinate before, but for the first"
    )
    fmax: float = Field(default=0.02, gt=0, description="eV/Å; ends where no force is larger")
    steps: int = Field(default=200, ge=1, description="at most")
    relax_cell: bool = Field(default=False, description="relax the cell, too, of periodic structures")
    check_every: int = Field(default=5, ge=1, description="steps between looks at sigma")
    n_frames: int = Field(default=10, ge=1, description="structures of a relaxation, at most")
    window: SigmaWindowConfig = SigmaWindowConfig()
    breakage: BreakageConfig = BreakageConfig()


class RattleConfig(Config):
    """Random displacements of the atoms of the starts."""

    kind: Literal["rattle"] = "rattle"
    displacements: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.05, 0.1, 0.2),
        min_length=1,
        description="Å; standard deviations of a coordinate, which take turns",
    )
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(),
        description="K, which take turns: molecules are displaced as by springs between their atoms, in "
        "place of displacements",
    )
    contact: float = Field(
        default=0.7, ge=0, lt=1, description="no atoms nearer than this part of the sum of covalent radii"
    )
    n_structures: int = Field(default=30, ge=1, description="in all; starts take turns")


class StrainConfig(Config):
    """Random symmetric strains of periodic starts."""

    kind: Literal["strain"] = "strain"
    max_strain: float = Field(default=0.06, gt=0, lt=0.5, description="of each component, at most")
    rattle: float = Field(default=0.0, ge=0, description="Å; standard deviation of a coordinate, besides")
    contact: float = Field(
        default=0.7, ge=0, lt=1, description="no atoms nearer than this part of the sum of covalent radii"
    )
    n_structures: int = Field(default=30, ge=1, description="in all; starts take turns")


class SurfacesConfig(Config):
    """Slabs with low-index surfaces, cut from periodic starts."""

    kind: Literal["surfaces"] = "surfaces"
    max_index: int = Field(default=1, ge=1, le=3, description="largest Miller index")
    layers: int = Field(default=4, ge=1, description="of the slab")
    vacuum: float = Field(default=6.0, gt=0, description="Å on each side")
    max_atoms: int = Field(default=100, ge=1, description="larger slabs are left out")
    rattle: float = Field(default=0.05, ge=0, description="Å; standard deviation of a coordinate")
    n_structures: int = Field(default=20, ge=1, description="in all; different slabs take turns")


class PoolFilesConfig(Config):
    """Candidates from files, read one by one; labels in them are not looked at."""

    kind: Literal["file"] = "file"
    files: tuple[str, ...] = Field(min_length=1, description="any format of ASE; paths as for data")
    n_structures: int | None = Field(
        default=None, ge=1, description="drawn at random, at most; null: all, which must fit into memory"
    )


#: Told apart by `kind`.
ExplorationConfig = Annotated[
    DynamicsConfig | RelaxationConfig | RattleConfig | StrainConfig | SurfacesConfig | PoolFilesConfig,
    Field(discriminator="kind"),
]
