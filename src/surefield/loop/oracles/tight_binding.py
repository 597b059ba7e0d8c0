"""Semiempirical tight binding by tblite; the only module that imports it."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Unpack

from surefield.errors import ConfigError
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle

__all__ = ["tblite"]


def tblite(
    method: str = "GFN2-xTB",
    *,
    charge: float = 0.0,
    multiplicity: int | None = None,
    accuracy: float = 1.0,
    electronic_temperature: float = 300.0,
    max_iterations: int = 250,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of semiempirical tight binding by tblite.

    GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput. 15 (2019) 1652.

    Args:
        method: "GFN2-xTB", "GFN1-xTB" or "IPEA1-xTB".
        charge: total charge in e.
        multiplicity: 2S + 1; the lowest possible by default.
        accuracy: tblite's accuracy; smaller is tighter.
        electronic_temperature: K.
        max_iterations: of the self-consistent field.
        attempts: see `Attempts`; a further attempt may change any of the above.

    Raises:
        ConfigError: tblite is not installed.
    """
    try:
        calculator = import_module("tblite.ase").TBLite
    except ImportError as error:
        raise ConfigError(
            f"the oracle 'tblite' needs tblite: pip install 'surefield[tblite]' ({error})"
        ) from error
    settings = {
        "method": method,
        "charge": charge,
        "multiplicity": multiplicity,
        "accuracy": accuracy,
        "electronic_temperature": electronic_temperature,
        "max_iterations": max_iterations,
    }
    make = partial(calculator, **settings, verbosity=0)
    return CalculatorOracle(make, f"tblite {method}", settings, **attempts)
