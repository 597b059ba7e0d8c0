"""Temperatures that a data set states in words, against what its energies and forces say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from surefield.keys import CONFIG_TYPE
from surefield.structures.doctor.finding import Finding
from surefield.structures.labels import Labels
from surefield.structures.read import Frames
from surefield.units import BOLTZMANN

__all__ = ["check_temperatures", "temperature_words"]

_KEYS = ("temperature_K", "temperature", "Temperature", "T")
_WORDS = (CONFIG_TYPE, "description", "note", "name")
_PATTERNS = (
    re.compile(r"(\d+(?:\.\d+)?) ?K\b"),
    re.compile(r"(?:^|[_\s-])T(\d+)\b"),
    re.compile(r"(?:^|_)T(\d+)_"),
)
_FEWEST = 3


def temperature_words(frames: Frames) -> np.ndarray:
    """Temperatures (n_structures,) in K by the entries of `info`, NaN where none is stated."""
    return np.array([_stated(atoms.info) for atoms in frames], dtype=np.float64)


def check_temperatures(frames: Frames, labels: Sequence[Labels]) -> list[Finding]:
    """Report groups whose stated temperatures contradict their energies and forces.

    Between two temperatures of one kind of structure (`config_type` and formula) the mean energy per atom
    rises by about 3/2 k dT at least, and the force rms as the square root of T. Reported is a rise below a
    tenth of that (beyond three standard errors), where the force rms does not grow either.
    """
    kelvin = temperature_words(frames)
    groups: dict[tuple[str, str], dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, label in enumerate(labels):
        if np.isfinite(kelvin[i]) and kelvin[i] > 0 and label.energy is not None and label.forces is not None:
            if not (np.isfinite(label.energy) and np.isfinite(label.forces).all()):
                continue
            key = (str(frames[i].info.get(CONFIG_TYPE)), frames[i].get_chemical_formula(empirical=True))
            groups[key][float(kelvin[i])].append(i)
    findings = []
    for (kind, formula), members in groups.items():
        steps = sorted(t for t, chosen in members.items() if len(chosen) >= _FEWEST)
        for low, high in pairwise(steps):
            finding = _compare(
                frames, labels, f"{formula} {kind}", (low, members[low]), (high, members[high])
            )
            findings.extend([finding] if finding else [])
    return findings


def _compare(
    frames: Frames,
    labels: Sequence[Labels],
    group: str,
    low: tuple[float, list[int]],
    high: tuple[float, list[int]],
) -> Finding | None:
    (cold, cold_frames), (hot, hot_frames) = low, high
    energies = [
        np.array([(labels[i].energy or 0.0) / len(frames[i]) for i in c]) for c in (cold_frames, hot_frames)
    ]
    rms = [
        float(np.sqrt(np.mean([np.mean(np.square(np.asarray(labels[i].forces))) for i in c])))
        for c in (cold_frames, hot_frames)
    ]
    expected = 1.5 * BOLTZMANN * (hot - cold)
    rise = float(energies[1].mean() - energies[0].mean())
    error = float(np.sqrt(sum(e.var(ddof=1) / len(e) for e in energies)))
    # Neither a structure at its minimum nor one that melts is a contradiction: both tests have to fail.
    if rise - 0.1 * expected > -3 * error or rms[0] == 0 or rms[1] / rms[0] > 0.75 * np.sqrt(hot / cold):
        return None
    verdict = (
        f"the words look exchanged: the frames called {cold:g} K are the hot ones"
        if rise < -0.5 * expected
        else f"the frames called {hot:g} K look like {cold * (rms[1] / rms[0]) ** 2:.0f} K"
    )
    message = (
        f"{group}: {cold:g} K has {energies[0].mean():.3f} eV/atom and force rms {rms[0]:.2f} eV/Å, "
        f"{hot:g} K {energies[1].mean():.3f} eV/atom and {rms[1]:.2f} eV/Å; {verdict}"
    )
    remedy = "do not use these words where temperature matters; energies and forces are not affected"
    chosen = tuple(sorted(cold_frames + hot_frames))
    return Finding("temperature words", "warning", message, chosen, expected - rise, remedy)


def _stated(info: dict[str, Any]) -> float:
    for key in _KEYS:
        value = info.get(key)
        if isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value):
            return float(value)
    for key in _WORDS:
        for pattern in _PATTERNS:
            match = pattern.search(str(info.get(key, "")))
            if match:
                return float(match.group(1))
    return np.nan
