"""Foundation models with their last layer solved for silicon: `python benchmarks/foreign.py chgnet`.

Models of other packages (see `surefield.foreign`) are taken as they are, with the energy per atom fitted, and
with their last layer solved on a few training frames of mlearn. A `MomentNetwork` is trained on the same
frames. All are scored on the published test frames: errors, rank correlation of errors and sigmas of LLPR,
and the share of errors within one and two sigmas; around the model as it is from rows of energies alone, of
which LLPR needs no derivatives. A fifth of the frames is held out of every fit, and calibrates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from surefield.calibration.metrics import spearman
from surefield.foreign import chgnet, nequix, sevennet
from surefield.potentials import MomentNetwork
from surefield.potentials.potential import Potential, TrainingData
from surefield.structures.read import read_frames
from surefield.structures.splits import split_frames
from surefield.training import train
from surefield.training.dataset import LabelledSet, prepare
from surefield.training.loss import residuals
from surefield.uncertainty import LLPR
from surefield.uncertainty.evaluation import evaluate_uncertainty

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


def thinned(data: LabelledSet, n: int) -> LabelledSet:
    """At most so many structures, evenly spaced like those whose forces the exact solution takes."""
    keep = min(1.0, n / len(data))
    return data[np.flatnonzero(np.diff(np.floor(np.arange(len(data) + 1) * keep)) > 0)]


def sigmas(potential: Potential, *sets: LabelledSet, kinds: tuple[str, ...] | None = None) -> Row:
    """Rank correlation of energy errors and sigmas, and shares of errors within one and two sigmas.

    Args:
        potential: which LLPR is put around.
        sets: of its fit, of its calibration, and of the test.
        kinds: rows of the fit; None: all that have labels.
    """
    fitted, held, test = sets
    sure = LLPR.fit(potential, fitted, held, row_kinds=kinds, progress=False)
    found = evaluate_uncertainty(sure, test, ("energy", "forces") if kinds is None else kinds)
    row: Row = {}
    for name in found.quantities:
        r, sigma = found.residuals(name)  # without those that symmetry sets to zero
        row[f"{name}_rank"] = spearman(np.abs(r), sigma)
        row |= {f"{name}_within_{k}": float(np.mean(np.abs(r) <= k * sigma)) for k in (1, 2)}
    return row


def aligned(potential: Potential, data: LabelledSet) -> Potential:
    """The model as it is, with the mean energy per atom of the labels; they are of one element."""
    left = residuals(potential, data.samples).flat("energy")
    offset = -float(np.mean(left))
    return potential.prepared(TrainingData([], [], {z: offset for z in potential.species}))


def measure(name: str, model: Potential, n: int, n_sigma: int, max_force_rows: int) -> Iterator[Row]:
    """Rows of the table for one model (or "scratch") and number of training frames (0: all)."""
    folder = SHARED / "mlearn"
    frames, test_frames = (read_frames(folder / f"Si_{part}.xyz.xz") for part in ("train", "test"))
    chosen = np.random.default_rng(0).permutation(len(frames))[: n or len(frames)]
    frames = frames[np.sort(chosen)]
    fitted, held = split_frames(frames, 0.2, seed=0)
    data, test = prepare(frames, model), prepare(test_frames, model)
    sets = [thinned(part, n_sigma) for part in (data[fitted], data[held], test)]
    if name != "scratch":
        plain = aligned(model, data)
        row = {"model": f"{name} as it is", "frames": len(frames), **errors(plain, test)}
        yield row | (sigmas(plain, data[fitted], data[held], test, kinds=("energy",)) if n_sigma else {})
    begin = time.process_time()
    fit = train(model, data[fitted], data[held], progress=False, max_force_rows=max_force_rows)
    row = {"model": f"{name}{'' if name == 'scratch' else ', last layer solved'}", "frames": len(frames)}
    row |= {"cpu_seconds": time.process_time() - begin, **errors(fit.potential, test)}
    yield row | (sigmas(fit.potential, *sets) if n_sigma else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["scratch"], choices=[*MODELS, "scratch"])
    parser.add_argument("--frames", type=int, nargs="+", default=[20], help="training frames; 0: all")
    parser.add_argument(
        "--sigma-frames",
        type=int,
        default=1000,
        help="frames at most of the fit, the calibration and the test of force sigmas; 0: errors alone",
    )
    parser.add_argument("--max-force-rows", type=int, default=60_000, help="of the exact solution")
    options = parser.parse_args()
    for name in options.models:
        # One for all: rows of frames that come again are kept.
        model = MomentNetwork(["Si"], cutoff=5.0) if name == "scratch" else MODELS[name]()
        for n in options.frames:
            for row in measure(name, model, n, options.sigma_frames, options.max_force_rows):
                rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
                print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
