"""Test errors of charge networks: `python benchmarks/charge_network.py made-up geometry interp`.

Two (20, 20) networks per element (one with --response quadratic) on 36 default symmetry functions, float32,
trained by `surefield.train` without validation data. made-up: Au(111) with H and O, EMT energies and a
made-up response to the electrode potential (160 images; 40 other geometries at three potentials for the
test). geometry, interp: Au(111) with water, GPAW-SJM (303 images; npj Comput. Mater. 9, 73 (2023)), split by
geometry (246 / 57) and by potential (238 / 65). The data are read in place. Fails over a bar.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surefield import train
from surefield.descriptors.cutoffs import Cosine
from surefield.descriptors.symmetry_functions import SymmetryFunctions, make_default_symmetry_functions
from surefield.potentials.electrode.charge_network import ChargeNetwork
from surefield.potentials.electrode.quadratic_charge_network import QuadraticChargeNetwork
from surefield.structures.read import read_frames
from surefield.training.config import TrainConfig
from surefield.training.dataset import prepare
from surefield.training.loss import errors, residuals

SHARED = Path(__file__).resolve().parents[2] / "shared"
ELEMENTS = ("Au", "H", "O")
Frames = Sequence[Atoms]


@dataclass(frozen=True)
class Case:
    """What is trained for how long, and the largest test errors allowed: name of an error to bar."""

    epochs: int
    learning_rate: float
    bars: dict[str, float]
    minutes: float | None = None


CASES = {
    "made-up": Case(200, 1e-2, {"excess_electrons_rmse": 0.04, "energy_rmse": 0.006, "forces_rmse": 0.25}),
    "geometry": Case(
        100, 1e-2, {"excess_electrons_rmse": 0.0146, "energy_rmse": 0.0015, "forces_rmse": 0.08}, minutes=10.0
    ),
    "interp": Case(100, 3e-3, {"excess_electrons_mae": 0.0085}),
}
ERRORS = ("excess_electrons_rmse", "excess_electrons_mae", "energy_rmse", "forces_rmse")
UNITS = {"excess_electrons": (1.0, "e"), "energy": (1e3, "meV/atom"), "forces": (1.0, "eV/Å")}


def sets(name: str) -> tuple[Frames, Frames]:
    """Training and test images."""
    if name == "made-up":
        folder = SHARED / "reference" / "networks" / "charge"
        return tuple(list(read_frames(folder / f"made_up_{part}.extxyz")) for part in ("train", "test"))  # type: ignore[return-value]
    folder = SHARED / "data" / "Au_water_SJM"
    first, second = (list(read_frames(folder / f"{part}.xyz.xz")) for part in ("train", "test_interp"))
    return (first, second) if name == "interp" else by_geometry(first + second)


def by_geometry(frames: Frames) -> tuple[Frames, Frames]:
    """Geometries numbered by first appearance; every fifth is for the test."""
    ordered = sorted(frames, key=lambda atoms: int(atoms.info["source_index"]))
    seen: list[Atoms] = []
    parts: tuple[list[Atoms], list[Atoms]] = ([], [])
    for atoms in ordered:
        number = next((n for n, other in enumerate(seen) if same(atoms, other)), len(seen))
        if number == len(seen):
            seen.append(atoms)
        parts[number % 5 == 4].append(atoms)
    return parts


def same(a: Atoms, b: Atoms) -> bool:
    return np.array_equal(a.numbers, b.numbers) and np.allclose(a.positions, b.positions, rtol=0, atol=1e-6)


def network(response: str, seed: int) -> ChargeNetwork | QuadraticChargeNetwork:
    descriptor = SymmetryFunctions.from_lists(
        ELEMENTS, Cosine(6.5), make_default_symmetry_functions(ELEMENTS)
    )
    sizes = [(20, 20)] * len(ELEMENTS)
    if response == "quadratic":
        return QuadraticChargeNetwork(descriptor, sizes, slab_metal="Au", seed=seed, dtype="float32")
    return ChargeNetwork(descriptor, sizes, sizes, slab_metal="Au", seed=seed, dtype="float32")


def run(name: str, response: str, seeds: Sequence[int], settings: Mapping[str, Any]) -> bool:
    """Train and test once per seed, print a table; whether all bars hold."""
    case = CASES[name]
    training, test = sets(name)
    own = {"epochs": case.epochs, "learning_rate": case.learning_rate}
    config = TrainConfig(**own | {key: value for key, value in settings.items() if value is not None})
    print(
        f"\n{name}, response {response!r}: {len(training)} training images, {len(test)} test images, "
        f"{config.epochs} epochs"
    )
    print(f"{'seed':<8}" + "".join(f"{error:>24}" for error in ERRORS) + f"{'wall s':>10}{'CPU s':>10}")
    rows, longest = [], 0.0
    for seed in seeds:
        wall, cpu = time.perf_counter(), time.process_time()
        fit = train(network(response, seed), training, 0, config=config.model_copy(update={"seed": seed}))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found = errors(residuals(fit.potential, prepare(test, fit.potential).samples)).as_dict()
        rows.append([found[error] for error in ERRORS])
        longest = max(longest, wall)
        print(f"{seed:<8}" + "".join(map(cell, ERRORS, rows[-1])) + f"{wall:>10.0f}{cpu:>10.0f}", flush=True)
    mean = dict(zip(ERRORS, np.mean(rows, axis=0).tolist(), strict=True))
    print(f"{'mean':<8}" + "".join(map(cell, ERRORS, mean.values())))
    print(f"{'bar':<8}" + "".join(cell(e, case.bars[e]) if e in case.bars else f"{'-':>24}" for e in ERRORS))
    in_time = case.minutes is None or longest <= 60 * case.minutes
    return in_time and all(mean[error] <= bar for error, bar in case.bars.items())


def cell(error: str, value: float) -> str:
    factor, unit = UNITS[error.rpartition("_")[0]]
    return f"{factor * value:>15.4g} {unit:<8}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="those of the case")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, help="that of the case")
    parser.add_argument("--response", choices=("network", "quadratic"), default="network")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        print(f"no data at {SHARED}: nothing to measure")
        return 0
    settings = {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "energy_weight": 25.0,
        "forces_weight": 1.0,
        "charge_weight": 250.0,
    }
    return int(
        not all([run(name, arguments.response, arguments.seeds, settings) for name in arguments.cases])
    )


if __name__ == "__main__":
    sys.exit(main())
