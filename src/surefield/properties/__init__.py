"""Properties of crystals as functions of a potential: with derivatives through relaxation, and sigmas."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.properties.defects import StackingFaultEnergy, SurfaceEnergy, VacancyFormationEnergy
    from surefield.properties.elastic import ElasticConstants
    from surefield.properties.energies import CohesiveEnergy, EquationOfState, LatticeConstant
    from surefield.properties.phonons import PhononFrequencies
    from surefield.properties.property import Property, PropertyResult
    from surefield.properties.relaxation import Tolerances

_HOMES = {
    "surefield.properties.defects": ("StackingFaultEnergy", "SurfaceEnergy", "VacancyFormationEnergy"),
    "surefield.properties.elastic": ("ElasticConstants",),
    "surefield.properties.energies": ("CohesiveEnergy", "EquationOfState", "LatticeConstant"),
    "surefield.properties.phonons": ("PhononFrequencies",),
    "surefield.properties.property": ("Property", "PropertyResult"),
    "surefield.properties.relaxation": ("Tolerances",),
}
__all__ = [
    "CohesiveEnergy",
    "ElasticConstants",
    "EquationOfState",
    "LatticeConstant",
    "PhononFrequencies",
    "Property",
    "PropertyResult",
    "StackingFaultEnergy",
    "SurfaceEnergy",
    "Tolerances",
    "VacancyFormationEnergy",
]

import_on_first_use(__name__, _HOMES)
