"""Accuracy on molecules beside published figures: `python benchmarks/molecules.py 3bpa --seeds 0 1 2`.

Trains one `MessageNetwork` per seed on frames of 3BPA (Kovács et al., JCTC 17, 7696 (2021)), acetylacetone
(Batatia et al., arXiv:2205.06643) or ethanol (PBE, geometries of rMD17), a tenth of them held out to choose
the state that is kept, and scores it on the published test sets: root mean square errors of the energy of a
molecule (meV) and of force components (meV/Å), mean absolute ones in brackets. CPU time is that of the
process, compiling included. The data are read in place and are not part of the project.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surefield.files import json_text, write_atomic
from surefield.potentials import MessageNetwork, Potential, predict
from surefield.structures.read import Frames, read_frames
from surefield.training import train

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: Training frames, free atoms, and tests by name.
SETS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "3bpa": ("train_300K", "iso_atoms", {"300 K": "test_300K_sub", "600 K": "test_600K_sub"}),
    "acac": ("train_300K", "isolated_atoms", {"300 K": "test_MD_300K"}),
    "ethanol": ("train", "isolated_atoms", {"MD": "test_MD"}),
}
#: Root mean square errors that are published for the same training frames, energy / forces.
PUBLISHED = {
    "3bpa": {
        "MACE, L = 2": {"300 K": (3.0, 8.8), "600 K": (9.7, 21.8)},
        "MACE, L = 0": {"300 K": (4.5, 14.6), "600 K": (13.7, 33.3)},
        "NequIP": {"300 K": (3.3, 10.8), "600 K": (11.2, 26.4)},
        "linear ACE": {"300 K": (7.1, 27.1), "600 K": (24.0, 64.3)},
        "GAP": {"300 K": (22.8, 87.3), "600 K": (61.4, 151.9)},
    },
    "acac": {
        "MACE": {"300 K": (0.9, 5.1)},
        "NequIP": {"300 K": (0.81, 5.9)},
    },
    "ethanol": {},
}


def frames_of(name: str, file: str) -> Frames:
    """Frames of a file of a set."""
    return read_frames(DATA / name / f"{file}.xyz.xz")


def errors(potential: Potential, frames: Sequence[Atoms]) -> dict[str, float]:
    """Errors of energies of structures in meV and of force components in meV/Å."""
    found = predict(potential, frames, stress=False)
    energy = np.array([p.energy - a.get_potential_energy() for p, a in zip(found, frames, strict=True)])
    forces = np.concatenate([np.ravel(p.forces - a.get_forces()) for p, a in zip(found, frames, strict=True)])
    return {
        f"{name}_{what}": 1e3 * value
        for name, errors in (("energy", energy), ("forces", forces))
        for what, value in (
            ("rmse", float(np.sqrt(np.mean(errors**2)))),
            ("mae", float(np.mean(np.abs(errors)))),
        )
    }


def measure(name: str, seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Train with one seed and score."""
    train_file, atoms_file, tests = SETS[name]
    frames = frames_of(name, train_file)[: settings.frames]
    free = frames_of(name, atoms_file)
    atoms: dict[str | int, float] = {int(a.numbers[0]): a.get_potential_energy() for a in free}
    species = sorted({int(z) for a in frames for z in a.numbers})
    given = {"n_channels": settings.channels, "n_layers": settings.layers}
    given = {key: value for key, value in given.items() if value is not None}
    budget = {"epochs": settings.epochs, "minutes": settings.minutes}
    budget = {key: value for key, value in budget.items() if value is not None}
    begun = time.process_time()
    fit = train(
        MessageNetwork(species, seed=seed, **given), frames, isolated_atoms=atoms, seed=seed, **budget
    )
    row: dict[str, Any] = {
        "seed": seed,
        "cpu_minutes": (time.process_time() - begun) / 60,
        "epochs": len(fit.history),
        "validation": errors(fit.potential, fit.validation_frames),
    }
    if not settings.validation_only:
        for test, file in tests.items():
            row[test] = errors(fit.potential, frames_of(name, file))
    return row


def main() -> None:
    """Measure, print a table, write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--channels", type=int)
    parser.add_argument("--frames", type=int, help="the first so many training frames")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float, help="wall time of a training instead of epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--validation-only", action="store_true", help="leave the tests alone")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    rows = []
    for seed in settings.seeds:
        rows.append(measure(settings.name, seed, settings))
        print(_line(f"seed {seed}, {rows[-1]['cpu_minutes']:.1f} CPU min", rows[-1]), flush=True)
    for source, values in PUBLISHED[settings.name].items():
        shown = "; ".join(f"{test}: {e:g} / {f:g}" for test, (e, f) in values.items())
        print(f"{source}: {shown}")
    if settings.json:
        write_atomic(settings.json, json_text({"set": settings.name, "rows": rows}))


def _line(head: str, row: Mapping[str, Any]) -> str:
    parts = [
        f"{name}: {e['energy_rmse']:.1f} / {e['forces_rmse']:.1f} "
        f"(MAE {e['energy_mae']:.1f} / {e['forces_mae']:.1f})"
        for name, e in row.items()
        if isinstance(e, dict)
    ]
    return f"{head}: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
