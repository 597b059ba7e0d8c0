"""Peaks of resident memory against what is asked for before a fit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from tests.copper import labelled

from surefield.errors import ConfigError
from surefield.execution import memory
from surefield.potentials import MomentNetwork
from surefield.potentials.potential import TrainingData
from surefield.training import train
from surefield.training.dataset import prepare
from surefield.training.loss import LossWeights
from surefield.training.readout import solution_memory, solve_readout
from surefield.uncertainty import LLPR
from surefield.uncertainty.llpr import fit_memory

METALS = ("Cu", "Ag", "Au", "Al")


def alloys(n: int, seed: int) -> list[Atoms]:
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True, a=3.9)
        atoms.symbols = rng.permutation(METALS)
        atoms.positions += 0.1 * rng.normal(size=(4, 3))
        frames.append(labelled(atoms, ("energy", "forces", "stress")))
    return frames


def network(n_channels: int) -> MomentNetwork:
    return MomentNetwork(METALS, cutoff=4.0, n_channels=n_channels, n_triple=2, hidden=(8,), n_basis=6)


def peak(work: Callable[[], Any]) -> tuple[Any, float]:
    """What work gives, and the resident memory that it added at most, bytes."""

    def resident(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    result = work()
    return result, resident("VmHWM") - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are those that Linux counts")
def test_peaks_are_those_that_are_asked_for():
    potential = network(16)
    data, held = prepare(alloys(40, 0), potential), prepare(alloys(8, 1), potential)
    energies = [sample.labels.energy for sample in data.samples]
    start = potential.prepared(TrainingData(data.structures, energies, dict.fromkeys(data.species, 0.0)))
    weights = LossWeights(energy=1.0, forces=1.0, stress=100.0)

    def solved() -> MomentNetwork:
        return solve_readout(start, data.samples, held.samples, weights)[0]

    solved()  # compiles
    found, taken = peak(solved)
    assert 0.7 < taken / solution_memory(start.solvable().n_features) < 1.1
    LLPR.fit(found, data, held, progress=False)
    _, taken = peak(lambda: LLPR.fit(found, data, held, progress=False))
    assert 0.7 < taken / fit_memory(found.n_features) < 1.1


def test_what_does_not_fit_is_refused_before_any_row(monkeypatch: pytest.MonkeyPatch):
    potential, frames = network(2), alloys(6, 0)
    fit = train(potential, frames, 0.0, epochs=0, progress=False)
    needed = {"LLPR": fit_memory(fit.potential.n_features)}
    needed["the exact solution"] = solution_memory(potential.solvable().n_features)
    for what, work in (
        ("the exact solution", lambda: train(potential, frames, 0.0, epochs=0, progress=False)),
        ("LLPR", lambda: LLPR.fit(fit.potential, frames, frames, progress=False)),
    ):
        monkeypatch.setattr(memory, "available_memory", lambda what=what: 0.99 * needed[what])
        with pytest.raises(ConfigError, match=rf"{what}.* needs about .* of memory.*fewer elements"):
            work()
