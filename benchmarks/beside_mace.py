"""Accuracy beside mace-torch at equal CPU time: `python benchmarks/beside_mace.py --peer mace/bin/python`.

Trains a `MessageNetwork` with its defaults and mace-torch's smallest sensible model (32 channels, L = 0, two
interactions, batches of 5, rate 0.01, averaged weights, energies weighed up in the last quarter) on the 500
frames of 3BPA at 300 K, one thread each, for the same minutes, and scores both on the published tests: root
mean square errors, energy of a molecule in meV / force components in meV/Å. A tenth of the frames is held out
by both. mace-torch stays in an environment of its own (`pip install torch==2.13.0 mace-torch`) and is run by
its own programs; it gets as many epochs as fit into the minutes by the time of its first ones. Fails where
ours is worse in forces.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write

sys.path.insert(0, str(Path(__file__).parent))
molecules = importlib.import_module("molecules")  # the script beside this one

Errors = dict[str, tuple[float, float]]


def child_seconds(command: Sequence[str | Path], folder: Path) -> float:
    """CPU seconds of a program and of all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (folder / "log.txt").open("a") as log:
        subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **threads, "PYTHONPATH": ""},
            stdout=log,
            stderr=log,
            check=True,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def written(path: Path, frames: Sequence[Atoms]) -> Path:
    """Frames as mace-torch reads them."""
    bare = []
    for atoms in frames:
        copy = Atoms(atoms.numbers, atoms.positions)
        copy.info["REF_energy"] = atoms.get_potential_energy()
        copy.arrays["REF_forces"] = atoms.get_forces()
        bare.append(copy)
    write(path, bare, format="extxyz")
    return path


def mace(python: Path, minutes: float, seed: int, folder: Path) -> tuple[dict[str, Any], Errors]:
    """Train and score mace-torch: what it took, and errors by test."""
    name = "3bpa"
    train_file, _, tests = molecules.SETS[name]
    train = written(folder / "train.xyz", list(molecules.frames_of(name, train_file)))

    def command(label: str, epochs: int) -> list[str | Path]:
        return [
            python, "-m", "mace.cli.run_train",
            *("--name", label, "--train_file", train, "--valid_fraction", "0.1", "--E0s", "average"),
            *("--energy_key", "REF_energy", "--forces_key", "REF_forces", "--model", "MACE"),
            *("--num_channels", "32", "--max_L", "0", "--num_interactions", "2", "--r_max", "5.0"),
            *("--batch_size", "5", "--valid_batch_size", "10", "--lr", "0.01"),
            *("--ema", "--ema_decay", "0.99", "--amsgrad", "--seed", str(seed)),
            *("--swa", "--start_swa", str(max(1, epochs * 3 // 4))),
            *("--max_num_epochs", str(epochs), "--device", "cpu", "--default_dtype", "float32"),
            *("--eval_interval", "1" if epochs < 10 else "4", "--patience", "10000"),
        ]  # fmt: skip

    two, four = (child_seconds(command(f"first_{n}", n), folder) for n in (2, 4))
    an_epoch = (four - two) / 2
    epochs = max(4, round((60 * minutes - (two - 2 * an_epoch)) / an_epoch))
    seconds = child_seconds(command("mace", epochs), folder)
    model = folder / "mace_stagetwo.model"
    errors: Errors = {}
    for test, file in tests.items():
        frames = list(molecules.frames_of(name, file))
        given, found = written(folder / "test.xyz", frames), folder / "found.xyz"
        program = [python, "-m", "mace.cli.eval_configs", "--configs", given, "--model", model]
        options = ["--output", found, "--device", "cpu", "--default_dtype", "float32", "--batch_size", "10"]
        child_seconds([*program, *options], folder)
        energy, forces = [], []
        for atoms, predicted in zip(frames, read(found, ":"), strict=True):
            energy.append(predicted.info["MACE_energy"] - atoms.get_potential_energy())
            forces.append(np.ravel(predicted.arrays["MACE_forces"] - atoms.get_forces()))
        rms = [1e3 * float(np.sqrt(np.mean(np.square(x)))) for x in (energy, np.concatenate(forces))]
        errors[test] = rms[0], rms[1]
    return {"cpu_minutes": seconds / 60, "epochs": epochs}, errors


def ours(minutes: float, seed: int) -> tuple[dict[str, Any], Errors]:
    """The same of a `MessageNetwork`."""
    settings = argparse.Namespace(
        frames=None, channels=None, layers=None, epochs=None, minutes=minutes, validation_only=False
    )
    row = molecules.measure("3bpa", seed, settings)
    tests = molecules.SETS["3bpa"][2]
    return row, {test: (row[test]["energy_rmse"], row[test]["forces_rmse"]) for test in tests}


def show(name: str, minutes: float, took: dict[str, Any], errors: Errors) -> None:
    """One line of the table."""
    shown = "; ".join(f"{test}: {e:.1f} / {f:.1f}" for test, (e, f) in errors.items())
    head = f"{minutes:g} minutes, {name}: {took['cpu_minutes']:.1f} CPU minutes, {took['epochs']} epochs"
    print(f"{head}; {shown}", flush=True)


def main() -> int:
    """Measure both, print a table; 1 where ours is worse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="Python of an environment with mace-torch")
    parser.add_argument("--minutes", type=float, nargs="+", default=[15.0, 60.0])
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    if settings.peer is None:
        print("name the Python of an environment with mace-torch: --peer mace/bin/python")
        return 0
    worse = []
    for minutes in settings.minutes:
        took, our_errors = ours(minutes, settings.seed)
        show("MessageNetwork", minutes, took, our_errors)
        with tempfile.TemporaryDirectory() as folder:
            took, errors = mace(settings.peer.absolute(), minutes, settings.seed, Path(folder))
        show("mace-torch", minutes, took, errors)
        worse += [test for test in errors if our_errors[test][1] > errors[test][1]]
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
