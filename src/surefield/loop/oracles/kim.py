"""Labels by models of OpenKIM, computed by the KIM API through the calculator of ASE."""

from __future__ import annotations

from functools import partial
from typing import Unpack

from ase.calculators.calculator import BaseCalculator

from surefield.errors import ConfigError, PotentialError
from surefield.foreign.opaque_kim import find_installed
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle

__all__ = ["kim"]


def kim(model: str, **attempts: Unpack[Attempts]) -> CalculatorOracle:
    """Oracle of an installed model of OpenKIM (Tadmor et al., JOM 63 (2011) 17).

    Args:
        model: full or short id; the version that is installed enters the labels' settings.
        attempts: see `Attempts`; without retries by default, as a model says the same again.

    Raises:
        ConfigError: kimpy is not installed, or there is no such model.
    """
    try:
        model_id = find_installed(model)
    except PotentialError as error:
        raise ConfigError(f"the oracle 'kim': {error}") from error
    settings = {"kind": "kim", "model": model_id}
    make = partial(_make, model_id)
    attempts.setdefault("retries", 0)
    return CalculatorOracle(make, f"KIM {model_id}", settings, **attempts)


def _make(model_id: str) -> BaseCalculator:
    find_installed(model_id)  # switches off that KIM writes a file into the current folder
    from ase.calculators.kim import KIM

    calculator = KIM(model_id)
    if not isinstance(calculator, BaseCalculator):
        raise ConfigError(f"ASE has no calculator for the KIM model {model_id}")
    return calculator
