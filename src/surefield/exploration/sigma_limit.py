"""The limit of sigma in dynamics: an observer of ASE that warns, stops the run, or collects structures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, Literal, final

from ase import Atoms

from surefield.errors import ConfigError, nearest
from surefield.potentials.prediction import Prediction
from surefield.structures.label_sources import without_labels
from surefield.uncertainty.guard import (
    CALIBRATION,
    Exceedance,
    SigmaWarning,
    WatchedModel,
    exceeded,
    sigma_limits,
)

__all__ = ["SigmaLimit"]

_ACTIONS: Final = ("stop", "warn", "collect")


@final
class SigmaLimit:
    """Watches the sigmas of the structure that dynamics or a relaxation moves; attach it to these.

        limit = SigmaLimit(dynamics, action="collect")
        dynamics.attach(limit, interval=10)

    A structure beyond the limit is kept in `frames`: without labels, its sigmas in `info` and `arrays` under
    names with the prefix `surefield_`, the step under `step`, and what exceeded the limit under `uncertain`.

    Args:
        dynamics: molecular dynamics or an optimiser of ASE whose structure has a calculator with sigmas.
        max_sigma: limit, see `surefield.uncertainty.guard.sigma_limits`; "calibration": that of the
            calculator, or twice the largest sigma of the calibration set where that has none.
        action: 'stop' ends the run after the step (its first structure beyond the limit is kept), 'warn' says
            the first and goes on, 'collect' goes on; the latter two keep up to `n_frames` structures.
        n_frames: structures that are kept at most; the run of 'collect' ends with the last.
        spacing: steps from one kept structure to the next, at least.

    Attributes:
        frames: structures that were kept.
        found: what exceeded the limit in each.
        n_exceeded: how often it was exceeded when the observer was called.

    Raises:
        ConfigError: an unknown action, a calculator without sigmas, no limit, or a number out of range.
    """

    def __init__(
        self,
        dynamics: Any,
        *,
        max_sigma: float | str | Mapping[str, float] = CALIBRATION,
        action: Literal["stop", "warn", "collect"] = "stop",
        n_frames: int = 100,
        spacing: int = 1,
    ) -> None:
        if action not in _ACTIONS:
            raise ConfigError(f"unknown action {action!r}", fix=nearest(action, _ACTIONS))
        for name, value in (("n_frames", n_frames), ("spacing", spacing)):
            if isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number, at least 1", got=value)
        model = getattr(getattr(dynamics.atoms, "calc", None), "model", None)
        if not isinstance(model, WatchedModel):
            raise ConfigError(
                "the calculator gives no sigmas to limit",
                got=type(getattr(dynamics.atoms, "calc", None)).__name__,
                fix="atoms.calc = sf.LLPR.fit(potential, train, calibration).calculator()",
            )
        self.limits = model.guard.limits if max_sigma == CALIBRATION else {}
        self.limits = self.limits or sigma_limits(max_sigma, model.uncertainty.statistics)
        if not self.limits:
            what = "the calibration set of this uncertainty set no limit (a file of an older version)"
            raise ConfigError(what, fix="give max_sigma, eV of the energy of an atom, or calibrate again")
        self.dynamics, self.action, self.n_frames, self.spacing = dynamics, action, n_frames, spacing
        self.frames: list[Atoms] = []
        self.found: list[Exceedance] = []
        self.n_exceeded = 0

    def __call__(self) -> None:
        """Look at the present structure; called by ASE."""
        atoms = self.dynamics.atoms
        atoms.get_potential_energy()  # its sigma is part of the results
        results = atoms.calc.results
        found = exceeded(results, atoms.get_chemical_symbols(), self.limits)
        if found is None:
            return
        self.n_exceeded += 1
        step = int(self.dynamics.nsteps)
        if len(self.frames) < self.n_frames and (
            not self.frames or step - self.frames[-1].info["step"] >= self.spacing
        ):
            self.frames.append(_kept(atoms, results, step, found))
            self.found.append(found)
        if self.action == "warn" and self.n_exceeded == 1:
            warnings.warn(f"step {step}: {found}; said once", SigmaWarning, stacklevel=2)
        if self.action == "stop" or (self.action == "collect" and len(self.frames) == self.n_frames):
            self.dynamics.max_steps = step  # ASE compares it with the steps done


def _kept(atoms: Atoms, results: Mapping[str, Any], step: int, found: Exceedance) -> Atoms:
    known = {name: value for name, value in results.items() if Prediction.knows(name)}
    frame = Prediction(**known).written_to(without_labels(atoms))
    frame.info |= {"step": step, "uncertain": str(found)}
    return frame
