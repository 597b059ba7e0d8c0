"""Properties as configurations, each with the argument names of its class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from surefield.config import Config

__all__ = [
    "CohesiveEnergyConfig",
    "CrystalPropertyConfig",
    "ElasticConstantsConfig",
    "EquationOfStateConfig",
    "LatticeConstantConfig",
    "PhononFrequenciesConfig",
    "PropertyConfig",
    "StackingFaultEnergyConfig",
    "SurfaceEnergyConfig",
    "VacancyFormationEnergyConfig",
]

Miller = tuple[int, int, int]
Vector = tuple[float, float, float]
StressUnit = Literal["GPa", "eV/A^3"]
AreaUnit = Literal["J/m^2", "eV/A^2"]
_CUT = "between which planes of atoms: 0 is the widest gap, 1 the next"


class CrystalPropertyConfig(Config):
    """What all properties of crystals have: the crystal to begin with, and when it counts as relaxed."""

    lattice_param: float | tuple[float, ...] | None = Field(
        default=None, description="a, or a and c, Å: where the relaxation begins"
    )
    lattice_type: str | None = Field(
        default=None, description="such as fcc, bcc, diamond, hcp, rocksalt, zincblende"
    )
    elements: tuple[str, ...] | None = Field(default=None, description="such as [Si] or [Na, Cl]")
    structure: str | None = Field(
        default=None, description="file whose first structure is the crystal, in place of these three"
    )
    max_force: float = Field(default=1e-8, gt=0, description="of relaxed atoms, eV/Å")
    max_stress: float = Field(default=1e-9, gt=0, description="of relaxed cells, eV/Å³")
    max_steps: int = Field(default=100, ge=1, description="of a relaxation")
    simulator_path: str | None = Field(
        default=None, description="a LAMMPS, such as lmp, that computes energies and forces; null: none"
    )

    @model_validator(mode="after")
    def _one_crystal(self) -> Self:
        named = [part is not None for part in (self.lattice_param, self.lattice_type, self.elements)]
        if self.structure is not None and any(named):
            raise ValueError("give a structure, or lattice_param, lattice_type and elements")
        if self.structure is None and not all(named):
            raise ValueError("needs lattice_param, lattice_type and elements, or a structure")
        return self

    def placed(self, folder: Path) -> Self:
        """Copy whose path does not depend on the current folder.

        Args:
            folder: to which it is relative.
        """
        if self.structure is None:
            return self
        return self.model_copy(update={"structure": str((folder / self.structure).resolve())})


class LatticeConstantConfig(CrystalPropertyConfig):
    """Lengths of the relaxed conventional cell."""

    kind: Literal["lattice_constant"] = "lattice_constant"


class CohesiveEnergyConfig(CrystalPropertyConfig):
    """Energy per atom of the crystal minus that of free atoms."""

    kind: Literal["cohesive_energy"] = "cohesive_energy"
    free_atoms: dict[str, float] | None = Field(
        default=None, description="energy of a free atom of each element, eV; null: the potential's own"
    )


class ElasticConstantsConfig(CrystalPropertyConfig):
    """Elastic constants of the relaxed crystal."""

    kind: Literal["elastic_constants"] = "elastic_constants"
    deformation_mag: float | None = Field(
        default=1e-4, description="strain of the differences; null: second derivatives"
    )
    components: tuple[str, ...] | None = Field(default=("C11", "C12", "C44"), description="null: all 36")
    unit: StressUnit = "GPa"
    clamped: bool = Field(default=False, description="internal coordinates stay where the strain puts them")
    fixed_cell: bool = Field(default=False, description="at the cell as given, which may be under stress")


class EquationOfStateConfig(CrystalPropertyConfig):
    """E0, V0, B and B' by a Birch-Murnaghan fit."""

    kind: Literal["equation_of_state"] = "equation_of_state"
    strain: float = Field(default=0.02, ge=1e-4, le=0.1, description="largest linear strain")
    n_points: int = Field(default=9, ge=5, description="volumes")
    unit: StressUnit = "GPa"


class VacancyFormationEnergyConfig(CrystalPropertyConfig):
    """Formation energy of a vacancy in an element."""

    kind: Literal["vacancy_formation_energy"] = "vacancy_formation_energy"
    repeats: Miller = Field(default=(2, 2, 2), description="of the conventional cell")
    site: int = Field(default=0, ge=0, description="atom of the primitive cell that is missing")
    relaxed: bool = True
    rattle: float = Field(default=0.02, ge=0, le=0.3, description="before the relaxation, Å")
    seed: int = Field(default=0, ge=0, description="of the rattling")


class SurfaceEnergyConfig(CrystalPropertyConfig):
    """Energy of an unreconstructed surface of an element."""

    kind: Literal["surface_energy"] = "surface_energy"
    miller: Miller = (1, 0, 0)
    layers: int = Field(default=8, ge=1, description="lattice planes in the slab")
    vacuum: float = Field(default=12.0, gt=0, description="between slabs, Å")
    cut: int = Field(default=0, ge=0, description=_CUT)
    relaxed: bool = True
    unit: AreaUnit = "J/m^2"


class StackingFaultEnergyConfig(CrystalPropertyConfig):
    """Energy of a stacking fault; by default the intrinsic one of fcc crystals."""

    kind: Literal["stacking_fault_energy"] = "stacking_fault_energy"
    miller: Miller = (1, 1, 1)
    shift: Vector = Field(default=(1 / 6, 1 / 6, -1 / 3), description="in units of the conventional cell")
    layers: int = Field(default=9, ge=1, description="lattice planes between faults")
    cut: int = Field(default=0, ge=0, description=_CUT)
    relaxed: bool = Field(default=True, description="along the normal of the plane")
    unit: AreaUnit = "J/m^2"


class PhononFrequenciesConfig(CrystalPropertyConfig):
    """Frequencies of phonons at wave vectors."""

    kind: Literal["phonon_frequencies"] = "phonon_frequencies"
    q: tuple[Vector, ...] = Field(
        default=((0.0, 0.0, 0.0),), min_length=1, description="in units of the primitive reciprocal cell"
    )
    repeats: Miller = Field(default=(2, 2, 2), description="of the primitive cell in the supercell")


PropertyConfig = Annotated[
    LatticeConstantConfig
    | CohesiveEnergyConfig
    | ElasticConstantsConfig
    | EquationOfStateConfig
    | VacancyFormationEnergyConfig
    | SurfaceEnergyConfig
    | StackingFaultEnergyConfig
    | PhononFrequenciesConfig,
    Field(discriminator="kind"),
]
