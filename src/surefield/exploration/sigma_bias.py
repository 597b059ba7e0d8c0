"""Dynamics that sigma draws: a bias on the energy that is lower where the potential is less sure.

After uncertainty-driven dynamics (Kulichenko et al., Nat. Comput. Sci. 3, 230 (2023)), whose bias is bounded,
and hyperactive learning (van der Oord et al., npj Comput. Mater. 9, 168 (2023)), whose bias is proportional
to sigma: the bias here is the latter at small sigmas and ends as the former.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from surefield.calibration.maps import CalibrationMap
from surefield.errors import ConfigError
from surefield.exploration.config import SigmaBiasConfig
from surefield.potentials.potential import Potential
from surefield.uncertainty.guard import SIGMA_RANGE
from surefield.uncertainty.llpr import LLPR
from surefield.uncertainty.member_deviations import displaced
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["SigmaBiasedCalculator", "biased_calculator"]

#: eV per atom where the calibration set tells nothing.
_SATURATION = 0.01
#: Relative step of the slope of a calibration map.
_STEP = 1e-5


def biased_calculator(
    uncertainty: Uncertainty, config: SigmaBiasConfig, *, stress: bool = False
) -> SigmaBiasedCalculator:
    """Calculator of ASE of the biased energy.

    Raises:
        ConfigError: sigmas that have no slope, or no saturation where the calibration set tells none.
    """
    saturation = config.saturation
    if saturation is None:
        ranges = uncertainty.statistics.get(SIGMA_RANGE, {})
        saturation = next((ranges[name][1] for name in ("energies", "energy") if name in ranges), _SATURATION)
    return SigmaBiasedCalculator(uncertainty, config.strength, saturation, stress=stress)


@final
class SigmaBiasedCalculator(Calculator):
    """Calculator of E - strength * S * (1 - exp(-sigma / S)), S = saturation * number of atoms.

    sigma is that of the energy. Of LLPR, sigma = n map(u), u^2 = g M g with g the mean over the n atoms of
    the derivatives of their energies by the last-layer weights. Its slope is that of an energy with other
    last weights, d(sigma) = map'(u)/u (M g) . d(n g), so that biased forces (and stresses) are those of the
    same potential with displaced weights, and cost one evaluation of it. Of ensembles, d(sigma) follows from
    the forces of all members.

    Args:
        uncertainty: LLPR, or an ensemble.
        strength: eV per eV of sigma.
        saturation: eV per atom.
        stress: also stresses.

    Raises:
        ConfigError: an uncertainty whose sigmas have no slope.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]  # type: ignore[misc]

    def __init__(
        self, uncertainty: Uncertainty, strength: float, saturation: float, *, stress: bool = False
    ) -> None:
        super().__init__()
        if not (_is_posterior(uncertainty) or uncertainty.n_members):
            fix = "use llpr or an ensemble, or dynamics without bias"
            raise ConfigError("its sigmas have no slope to bias dynamics", got=uncertainty.kind, fix=fix)
        self.uncertainty, self.stress = uncertainty, stress
        self.strength, self.saturation = strength, saturation

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE. `energy_uncertainty` is sigma, `unbiased_energy` the potential's."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        frame, sure, n = self.atoms, self.uncertainty, len(self.atoms)
        ((_, spreads),) = sure.spreads([sure.potential.neighborhood(frame)], ["energy"], batch_size=1)
        u, vector, calibration = float(spreads["energy"].u), spreads["energy"].vectors, sure.maps["energy"]
        sigma, most = n * float(calibration.sigma(u)), self.saturation * n
        bias = -self.strength * most * (1.0 - np.exp(-sigma / most))
        slope = -self.strength * np.exp(-sigma / most) * _slope(calibration, u)
        if not u > 0:  # no slope: sigma is as small as it can be
            results = self._results(sure.potential, frame)
        elif isinstance(sure, LLPR) and _is_posterior(sure):
            assert vector is not None
            results = self._results(
                displaced(sure.potential, slope / u * sure.posterior.color(vector[None])[0]), frame
            )
            results["energy"] -= slope * n * u  # what the displacement adds: slope/u (M g) . (n g)
        else:
            results = self._of_members(slope / u, frame)
        energy = results["energy"]
        biased = {"energy": energy + bias, "free_energy": energy + bias}
        self.results = {**results, **biased, "unbiased_energy": energy, "energy_uncertainty": sigma}

    def _of_members(self, factor: float, frame: Atoms) -> dict[str, Any]:
        """Those of the potential, plus c_m times those of each member by the slope of their deviation."""
        sure, n = self.uncertainty, len(frame)
        numbers = range(sure.first_member, sure.n_members + 1)
        members = [self._results(sure.member(number), frame) for number in numbers]
        energies = np.array([member["energy"] for member in members])
        weights = factor * (energies - energies.mean()) / (n * (len(members) - 1))
        results = self._results(sure.potential, frame)
        for name in ("forces", "stress"):
            if name in results:
                added = [w * member[name] for w, member in zip(weights, members, strict=True)]
                results[name] = results[name] + np.sum(added, axis=0)
        return results

    def _results(self, potential: Potential, frame: Atoms) -> dict[str, Any]:
        results = potential.predict([frame], stress=self.stress)[0].results()
        return {name: results[name] for name in ("energy", "forces", "stress") if name in results}


def _is_posterior(uncertainty: Uncertainty) -> bool:
    """Whether sigmas are analytic ones of the last layer."""
    return isinstance(uncertainty, LLPR) and not uncertainty.stale and uncertainty.probes is None


def _slope(calibration: CalibrationMap, u: float) -> float:
    """Derivative of a calibration map."""
    if not u > 0:
        return 0.0
    above, below = (float(calibration.sigma(u * (1 + step))) for step in (_STEP, -_STEP))
    return (above - below) / (2 * _STEP * u)
