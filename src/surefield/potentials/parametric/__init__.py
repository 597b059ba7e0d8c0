"""Physics models with named parameters: Stillinger-Weber, Lennard-Jones, Morse, Tersoff, embedded atoms."""

from surefield.potentials.parametric.eam import EAM
from surefield.potentials.parametric.edges import BondPotential
from surefield.potentials.parametric.free_parameters import FreeParameters
from surefield.potentials.parametric.lennard_jones import LennardJones
from surefield.potentials.parametric.morse import Morse
from surefield.potentials.parametric.parameters import Entry, ParameterForm, ParametricPotential
from surefield.potentials.parametric.stillinger_weber import StillingerWeber
from surefield.potentials.parametric.tersoff import Tersoff

__all__ = [
    "EAM",
    "BondPotential",
    "Entry",
    "FreeParameters",
    "LennardJones",
    "Morse",
    "ParameterForm",
    "ParametricPotential",
    "StillingerWeber",
    "Tersoff",
]
