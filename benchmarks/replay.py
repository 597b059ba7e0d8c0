"""Labels saved by active learning on real DFT sets: `python benchmarks/replay.py Si ethanol`.

The loop of the package replays two published sets: labels of the training file are revealed as they are
picked, test errors come from the test file, random selection runs beside with the same seeds and budget.
Runs are kept in a folder, so that a stopped benchmark goes on. The data (mlearn: Zuo et al., J. Phys. Chem.
A 124, 731 (2020); rMD17 ethanol with PBE labels: BOTNet-datasets) are read in place and are not part of the
project.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surefield.execution.cache import enable_compilation_cache
from surefield.loop import Loop, LoopConfig
from surefield.loop.oracles import ReplayOracle
from surefield.potentials import MomentNetwork
from surefield.structures.read import read_frames
from surefield.training import TrainConfig

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Set:
    """A set to replay: its files, the potential, how many labels, how much of the files."""

    train: str
    test: str
    species: tuple[str, ...]
    cutoff: float
    n_initial: int
    n_per_round: int
    n_pool: int | None = None
    n_test: int | None = None


SETS = {
    "Si": Set("mlearn/Si_train", "mlearn/Si_test", ("Si",), 5.0, 8, 8),
    "ethanol": Set("ethanol/train", "ethanol/test_MD", ("H", "C", "O"), 4.5, 20, 20, 500, 200),
}


def some(path: Path, n: int | None) -> list:
    """All frames of a file, or `n` of them drawn with a fixed seed."""
    frames = list(read_frames(path))
    if n is None:
        return frames
    kept = np.random.default_rng(0).permutation(len(frames))[:n]
    return [frames[i] for i in np.sort(kept)]


def replay(name: str, folder: Path, config: LoopConfig, data: Path) -> None:
    """Run the loop on a set, or what is left of it, and print its table."""
    chosen = SETS[name]
    oracle = ReplayOracle(some(data / f"{chosen.train}.xyz.xz", chosen.n_pool))
    config = config.model_copy(update={"n_initial": chosen.n_initial, "n_per_round": chosen.n_per_round})
    loop = Loop(
        folder,
        config,
        MomentNetwork(chosen.species, cutoff=chosen.cutoff),
        TrainConfig(epochs=20),
        oracle,
        oracle.pool,
        some(data / f"{chosen.test}.xyz.xz", chosen.n_test),
    )
    folder.mkdir(parents=True, exist_ok=True)
    summary = loop.run()
    print(f"\n{name}: {len(oracle.pool)} candidates, {len(loop.test)} test structures, seeds {config.seeds}")
    print(f"{'method':<10}{'labels':>8}{'F MAE eV/Å':>20}{'F RMSE eV/Å':>20}")
    for method in config.methods:
        for number in range(config.n_rounds + 1):
            events = loop.journal.find(event="round", method=method, round=number)
            cells = ""
            for metric in ("forces_mae", "forces_rmse"):
                values = np.array([e["test"][metric] for e in events])
                cells += f"{values.mean():>12.4f} ± {values.std(ddof=1) / np.sqrt(len(values)):.4f}"
            print(f"{method:<10}{events[0]['n_labels']:>8}{cells}")
    print(summary["verdict"])
    print("per seed:", summary["labels_to_match_random"]["per_seed"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=list(SETS), help="Si, ethanol")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--method", default="lcmd")
    parser.add_argument("--features", default="ll_posterior")
    parser.add_argument("--score", default="forces_variance", help="or none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs"), help="of the runs, kept for the next time"
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"no data at {arguments.data}: nothing to replay")
        return
    enable_compilation_cache()
    config = LoopConfig(
        methods=(arguments.method,),
        features=arguments.features,
        score=None if arguments.score == "none" else arguments.score,
        seeds=tuple(arguments.seeds),
        n_rounds=arguments.rounds,
    )
    for name in arguments.sets:
        label = f"replay-{name}-{arguments.method}-{arguments.features}-{arguments.score}"
        replay(name, arguments.folder / label, config, arguments.data)


if __name__ == "__main__":
    main()
