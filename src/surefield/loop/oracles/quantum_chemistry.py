"""Quantum chemistry of molecules by PySCF; the only module that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Unpack

import numpy as np
from ase import Atoms

from surefield.errors import ConfigError, ExecutionError
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle
from surefield.loop.oracles.engine import MakeEngine
from surefield.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

__all__ = ["pyscf"]


def pyscf(
    method: str = "PBE",
    *,
    basis: str = "def2-svp",
    charge: int = 0,
    multiplicity: int | None = None,
    density_fit: bool = False,
    max_iterations: int = 50,
    convergence: float = 1e-9,
    level_shift: float = 0.0,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of molecules by PySCF (Sun et al., J. Chem. Phys. 153 (2020) 024109): energies and forces.

    Args:
        method: "HF", or the name of a density functional that PySCF knows.
        basis: of PySCF's basis sets.
        charge: total charge in e.
        multiplicity: 2S + 1; the lowest possible by default. Above 1 orbitals are unrestricted.
        density_fit: whether to approximate Coulomb integrals.
        max_iterations: of the self-consistent field; one that has not converged by then is a failed label.
        convergence: of its energy, Hartree.
        level_shift: of empty orbitals, Hartree, which helps it to converge.
        attempts: see `Attempts`; a further attempt may change any of the above.

    Raises:
        ConfigError: PySCF is not installed, or an unknown functional.
    """
    if method.upper() != "HF":
        try:
            _pyscf().dft.libxc.parse_xc(method)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"PySCF knows no density functional {method!r}: {error}") from error
    settings = {
        "method": method,
        "basis": basis,
        "charge": charge,
        "multiplicity": multiplicity,
        "density_fit": density_fit,
        "max_iterations": max_iterations,
        "convergence": convergence,
        "level_shift": level_shift,
    }
    _pyscf()
    make = MakeEngine(molecule_results, settings)
    name = f"PySCF {method}/{basis}"
    return CalculatorOracle(make, name, settings, **attempts)


def molecule_results(
    atoms: Atoms,
    *,
    method: str,
    basis: str,
    charge: int,
    multiplicity: int | None,
    density_fit: bool,
    max_iterations: int,
    convergence: float,
    level_shift: float,
) -> Mapping[str, Any]:
    """Energy (eV) and forces (eV/Å) of a molecule.

    Raises:
        ExecutionError: a periodic structure, an impossible spin, or a field that has not converged.
    """
    code = _pyscf()
    if atoms.pbc.any():
        raise ExecutionError("PySCF's oracle is for molecules, this structure is periodic")
    electrons = int(atoms.numbers.sum()) - charge
    unpaired = electrons % 2 if multiplicity is None else multiplicity - 1
    if unpaired > electrons or (electrons - unpaired) % 2:
        raise ExecutionError(f"{electrons} electrons cannot have the multiplicity {unpaired + 1}")
    positions = (atoms.positions / ANGSTROM_PER_BOHR).tolist()
    molecule = code.gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), positions, strict=True)),
        unit="Bohr",
        basis=basis,
        charge=charge,
        spin=unpaired,
        verbose=0,
    )
    field = code.scf.HF(molecule) if method.upper() == "HF" else code.dft.KS(molecule, xc=method)
    if density_fit:
        field = field.density_fit()
    field.max_cycle, field.conv_tol, field.level_shift = max_iterations, convergence, level_shift
    energy = field.kernel()
    if not field.converged:
        raise ExecutionError(f"the self-consistent field did not converge in {max_iterations} iterations")
    gradient = np.asarray(field.nuc_grad_method().kernel())
    forces = -gradient * EV_PER_HARTREE / ANGSTROM_PER_BOHR
    return {"energy": float(energy) * EV_PER_HARTREE, "forces": forces}


def _pyscf() -> Any:
    try:
        code = import_module("pyscf")
        for part in ("gto", "scf", "dft", "grad"):
            import_module(f"pyscf.{part}")
    except ImportError as error:
        what = f"the oracle 'pyscf' needs PySCF: pip install 'surefield[pyscf]' ({error})"
        raise ConfigError(what) from error
    return code
