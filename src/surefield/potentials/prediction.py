"""What a potential, with or without uncertainty, says of one structure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

__all__ = ["Prediction", "voigt"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Results for one structure; None where something was not asked for or is not defined.

    Every `*_uncertainty` is a calibrated standard deviation in the unit of its quantity. The field names are
    the names of the results everywhere: in calculators, in files, in run folders.

    Attributes:
        energy: eV.
        energies: (n_atoms,) eV, their sum is the energy.
        forces: (n_atoms, 3) eV/Å.
        stress: (6,) eV/Å^3, Voigt xx yy zz yz xz xy, positive = tensile.
        charges: (n_atoms,) e, of potentials that know an electrode potential; so the next three.
        excess_electrons: minus the sum of the charges.
        electrode_potential: V on the absolute scale.
        capacitance: -d(excess_electrons)/d(electrode_potential), e/V.
        extrapolation: (n_atoms,) largest distance of an input from its range over the training set, in
            units of that range; 0 inside.
        energy_uncertainty: eV.
        energies_uncertainty: (n_atoms,) eV.
        forces_uncertainty: (n_atoms, 3) eV/Å.
        stress_uncertainty: (6,) eV/Å^3.
        excess_electrons_uncertainty: electrons.
    """

    energy: float
    energies: Float[np.ndarray, " n_atoms"] | None = None
    forces: Float[np.ndarray, "n_atoms 3"] | None = None
    stress: Float[np.ndarray, " 6"] | None = None
    charges: Float[np.ndarray, " n_atoms"] | None = None
    excess_electrons: float | None = None
    electrode_potential: float | None = None
    capacitance: float | None = None
    extrapolation: Float[np.ndarray, " n_atoms"] | None = None
    energy_uncertainty: float | None = None
    energies_uncertainty: Float[np.ndarray, " n_atoms"] | None = None
    forces_uncertainty: Float[np.ndarray, "n_atoms 3"] | None = None
    stress_uncertainty: Float[np.ndarray, " 6"] | None = None
    excess_electrons_uncertainty: float | None = None

    def results(self) -> dict[str, float | np.ndarray]:
        """The values that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def written_to(self, atoms: Atoms) -> Atoms:
        """Copy of a structure that carries the results as plain entries and survives write and read.

        Numbers of the structure go to `info`, numbers of atoms to `arrays`, under names with the prefix
        `surefield_`, so that they never take the place of labels.
        """
        copy = atoms.copy()
        copy.calc = atoms.calc
        for name, value in self.results().items():
            per_atom = name.startswith(("forces", "energies", "charges", "extrapolation"))
            place: dict[str, Any] = copy.arrays if per_atom else copy.info
            place[f"surefield_{name}"] = value
        return copy


def voigt(tensor: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 6"]:
    """Components xx yy zz yz xz xy of a symmetric tensor."""
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
