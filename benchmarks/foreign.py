"""Foundation models with their last layer solved for silicon: `python benchmarks/foreign.py chgnet`.

Models of other packages (see `surefield.foreign`) are taken as they are, with the energy per atom fitted, and
with their last layer solved on a few training frames of mlearn. A `MomentNetwork` is trained on the same
frames. All are scored on the published test frames: errors, and the share of force components within one and
two sigmas of LLPR. A fifth of the frames is held out of every fit, and calibrates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from surefield.foreign import chgnet, nequix, sevennet
from surefield.potentials import MomentNetwork
from surefield.potentials.potential import Potential, TrainingData
from surefield.structures.read import read_frames
from surefield.structures.splits import split_frames
from surefield.training import train
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.loss import residuals
from surefield.uncertainty import LLPR

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS: dict[str, Callable[[], Potential]] = {
    "chgnet": chgnet,
    "sevennet": sevennet,
    "nequix": lambda: nequix(SHARED / "models" / "nequix-mp-1.nqx"),
}
Row = dict[str, Any]


def errors(potential: Potential, test: LabelledSet) -> Row:
    """Mean absolute errors: meV/atom and meV/Å."""
    found = residuals(potential, test.samples)
    return {
        "energy_mae": 1e3 * float(np.mean(np.abs(found.flat("energy")))),
        "forces_mae": 1e3 * float(np.mean(np.abs(found.flat("forces")))),
    }


def shares(potential: Potential, fitted: LabelledSet, held: LabelledSet, test: LabelledSet) -> Row:
    """Shares of force components within one and two sigmas; those that symmetry sets to zero are left out."""
    sure = LLPR.fit(potential, fitted, held, progress=False)
    predictions = sure.predict(test.frames, stress=False)
    pairs = [
        (p.forces - s.labels.forces, p.forces_uncertainty)
        for p, s in zip(predictions, test.samples, strict=True)
    ]
    residual, sigma = (
        np.concatenate([np.ravel(part) for part in parts]) for parts in zip(*pairs, strict=True)
    )
    z = np.abs(residual[sigma > 0] / sigma[sigma > 0])
    return {"within_1_sigma": float(np.mean(z <= 1)), "within_2_sigma": float(np.mean(z <= 2))}


def aligned(potential: Potential, data: LabelledSet) -> Potential:
    """The model as it is, with the mean energy per atom of the labels; they are of one element."""
    left = residuals(potential, data.samples).flat("energy")
    offset = -float(np.mean(left))
    return potential.prepared(TrainingData([], [], {z: offset for z in potential.species}))


def measure(name: str, n: int, sigmas: bool, max_force_rows: int) -> list[Row]:
    """Rows of the table for one model (or "scratch") and number of training frames (0: all)."""
    folder = SHARED / "mlearn"
    frames, test_frames = (read_frames(folder / f"Si_{part}.xyz.xz") for part in ("train", "test"))
    chosen = np.random.default_rng(0).permutation(len(frames))[: n or len(frames)]
    frames = frames[np.sort(chosen)]
    fitted, held = split_frames(frames, 0.2, seed=0)
    scratch = name == "scratch"
    model = MomentNetwork(["Si"], cutoff=5.0) if scratch else MODELS[name]()
    data, test = prepare(frames, model), prepare(test_frames, model)
    rows: list[Row] = []
    if not scratch:
        rows.append(
            {"model": f"{name} as it is", "frames": len(frames), **errors(aligned(model, data), test)}
        )
    begin = time.process_time()
    fit = train(model, data[fitted], data[held], progress=False, max_force_rows=max_force_rows)
    row = {"model": f"{name}{'' if scratch else ', last layer solved'}", "frames": len(frames)}
    row |= {"cpu_seconds": time.process_time() - begin, **errors(fit.potential, test)}
    if sigmas:
        row |= shares(fit.potential, fit.train_set, fit.validation_set, test)
    return [*rows, row]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["scratch"], choices=[*MODELS, "scratch"])
    parser.add_argument("--frames", type=int, nargs="+", default=[20], help="training frames; 0: all")
    parser.add_argument("--no-sigma", action="store_true", help="errors alone")
    parser.add_argument("--max-force-rows", type=int, default=60_000, help="of the exact solution")
    options = parser.parse_args()
    for n in options.frames:
        for name in options.models:
            for row in measure(name, n, not options.no_sigma, options.max_force_rows):
                print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))


if __name__ == "__main__":
    main()
