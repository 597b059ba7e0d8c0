"""Time of a parametric fit: `python benchmarks/parametric_fit.py` (methods: L-BFGS-B lm).

Case kliff_sw_fit of ../shared/reference/trainers: three parameters of Stillinger-Weber silicon, 1000
configurations, 58,400 atoms. KLIFF 1.0.1 took 78 s with L-BFGS-B (numerical gradients) and 20.1 s with
Levenberg-Marquardt, reading not counted. Each method is fitted twice: cold is the first fit of the process
and includes compilation, warm the second. Counted are neighbours, blocks and minimisation. Fails over a bar:
20 times faster than KLIFF with L-BFGS-B, 5 times with lm, and 1e-9 of the loss at the optimum.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import surefield as sf
from surefield.formats.kim_models import MODELS
from surefield.trainers.inputs import gather, make_configurations
from surefield.trainers.parametric import ParametricModelTrainer
from surefield.trainers.result import FitResult
from surefield.training.problem import Problem, TrainingRun, Weights

SHARED = Path(__file__).resolve().parents[2] / "shared"
NAME = "SW_StillingerWeber_1985_Si"
#: KLIFF's seconds, and how many times faster a warm fit must be.
BARS = {"L-BFGS-B": (78.0, 20.0), "lm": (20.1, 5.0)}


def frames() -> list[Atoms]:
    """Both halves of the set; energies of the molecular dynamics as they stand in the file."""
    found = list(sf.read_frames(SHARED / "data" / "Si_SW" / "varying_alat.xyz.xz"))
    for atoms in sf.read_frames(SHARED / "data" / "Si_SW" / "nvt.xyz.xz"):
        copy = atoms.copy()
        energy = copy.info.pop("energy_in_file")
        copy.calc = SinglePointCalculator(copy, energy=energy, forces=atoms.get_forces())
        found.append(copy)
    return found


def fitted(method: str, data: Sequence[Atoms], folder: Path) -> FitResult:
    """One fit with KLIFF's weights and start."""
    weights = [{"forces": 0.1 * float(np.sqrt(3 / len(atoms)))} for atoms in data]
    (folder / "weights.yaml").write_text(json.dumps(weights))
    start = [5.0, 1.0, 20.0] if method == "L-BFGS-B" else [5.0]
    trainer = ParametricModelTrainer(
        NAME,
        {"A": [start], "B": [["default"]], "gamma": [[1.5]], "sigma": [[2.0951, "fix"]]},
        optimization_method=method,
        energy_per_atom=True,
        manifest={"training": {"loss": {"weights": str(folder / "weights.yaml")}}},
    )
    model = MODELS[NAME].make()
    found = make_configurations(model, gather(data, None, False), Weights(1.0, 1.0, 0.0))
    train = trainer.weighted(found, None, {c.id for c in found})  # type: ignore[arg-type]
    problem = Problem(tuple(train), (), Weights(1.0, 1.0, 0.0), 0, TrainingRun(folder))
    return trainer.fit(model, problem)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    data = frames()
    path = SHARED / "reference" / "trainers" / "expected" / "kliff_sw_fit.json"
    optimum = json.loads(path.read_text())["optimum"]["loss"]
    missed = False
    for method in parser.parse_args().methods or BARS:
        peer, factor = BARS[method]
        for name in ("cold", "warm"):
            with TemporaryDirectory() as folder:
                begin = time.perf_counter()
                result = fitted(method, data, Path(folder))
                seconds = time.perf_counter() - begin
            above = result.notes["loss"] / 2 - optimum
            line = f"{method} {name}: {seconds:.2f} s, {result.n_evals} evaluations, loss {above:+.1e}"
            print(f"{line} of the best; KLIFF {peer} s, {peer / seconds:.0f} times", flush=True)
        missed |= peer / seconds < factor or above > 1e-9
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
