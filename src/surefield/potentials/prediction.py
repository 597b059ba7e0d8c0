"""What a potential, with or without uncertainty, says of one structure."""

from __future__ import annotations

from typing import Any, final

from ase import Atoms

from surefield.quantities import ENSEMBLE, Values, quantity_of

__all__ = ["Prediction"]


@final
class Prediction(Values):
    """Results for one structure; None where something was not asked for or is not defined.

    The names are those of the table of quantities, everywhere: in calculators, in files, in run folders.
    Besides each result there may be its `<name>_uncertainty`, a calibrated standard deviation in the unit of
    the quantity, and its `<name>_ensemble`, the values of all members (first axis).

    Every potential gives `energy` (eV), most `energies` ((n_atoms,) eV, their sum is the energy), `forces`
    ((n_atoms, 3) eV/Å) and `stress` ((6,) eV/Å^3, Voigt xx yy zz yz xz xy, positive = tensile);
    `extrapolation` is the largest distance of an atom's inputs from their range over the training set, in
    units of that range.
    """

    def written_to(self, atoms: Atoms) -> Atoms:
        """Copy of a structure that carries the results as plain entries and survives write and read.

        Numbers of the structure go to `info`, numbers of atoms to `arrays`, under names with the prefix
        `surefield_`, so that they never take the place of labels; values of members are left out.
        """
        copy = atoms.copy()
        copy.calc = atoms.calc
        for name, value in self.results().items():
            if not name.endswith(ENSEMBLE):
                place: dict[str, Any] = copy.arrays if quantity_of(name).per == "atom" else copy.info
                place[f"surefield_{name}"] = value
        return copy
