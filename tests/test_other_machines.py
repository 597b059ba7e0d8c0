"""What was killed goes on where programs round otherwise: on another processor, with another compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Two ways to compile, whose results differ in the last digits.
OPTIMISED, PLAIN = "--xla_backend_optimization_level=1", "--xla_backend_optimization_level=0"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("training", ["message_network", "full_batch", "dropout"])
def test_goes_on_elsewhere(training, tmp_path):
    run(training, tmp_path, OPTIMISED, "stop")
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert run(training, tmp_path, PLAIN, "go").splitlines()[-1] == "went on"


@pytest.mark.parametrize("training", ["full_batch", "dropout"])
def test_other_data_are_still_refused(training, tmp_path):
    run(training, tmp_path, OPTIMISED, "stop")
    answer = run(training, tmp_path, OPTIMISED, "other data")
    assert "another training" in answer
    assert "training set" in answer


def run(training: str, folder: Path, flags: str, how: str) -> str:
    done = subprocess.run(
        [sys.executable, __file__, training, how],
        cwd=folder,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main(training: str, how: str) -> None:
    """Train in the working directory; "stop" interrupts it when it has saved for the second time."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import numpy as np
    from ase.build import bulk
    from tests.copper import labelled

    from surefield.errors import SurefieldError
    from surefield.networks.full_batch.checkpoints import Checkpoints
    from surefield.training import checkpoint

    rng = np.random.default_rng(5 if how != "other data" else 6)
    frames = []
    for _ in range(8):
        atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
        atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
        frames.append(labelled(atoms, ("energy", "forces", "stress")))
    loads: list[bool] = []
    whole = training == "message_network"  # is stopped in the fit of its uncertainty
    for kind in (checkpoint.PartialSums,) if whole else (checkpoint.Checkpoint, Checkpoints):
        count_loads(kind, loads)
        if how == "stop":
            stop_after_two(kind)
    checkpoint.SAVE_SECONDS = checkpoint.SAVE_SHARE = 0.0
    try:
        {"message_network": network, "full_batch": full_batch, "dropout": dropout}[training](frames)
    except KeyboardInterrupt:
        if how != "stop":
            raise
    except SurefieldError as error:
        if how != "other data":
            raise
        print(error)
    else:
        print("went on" if any(loads) else "began anew")


def count_loads(kind, loads) -> None:
    load = kind.load

    def counted(self, *arguments):
        found = load(self, *arguments)
        loads.append(found is not None)
        return found

    kind.load = counted


def stop_after_two(kind) -> None:
    save, count = kind.save, []

    def stopping(self, *arguments):
        save(self, *arguments)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    kind.save = stopping


def network(frames) -> None:
    import surefield as sf
    from surefield.potentials import MessageNetwork
    from surefield.uncertainty import LLPR

    potential = MessageNetwork(["Cu"], cutoff=3.0, n_channels=4, n_layers=1)
    fit = sf.train(potential, frames[:6], frames[6:], folder="run", epochs=20, progress=False)
    LLPR.fit(fit.potential, fit.train_set, fit.validation_set, folder="run", progress=False)


def full_batch(frames) -> None:
    from surefield.networks import Amp, Gaussian, LossFunction, NeuralNetwork

    loss = LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=6)
    model = NeuralNetwork((3,), randomseed=1, checkpoints=1, lossfunction=loss)
    Amp(Gaussian(3.8), model, label="amp", logging=False, raise_unconverged=False).train(frames)


def dropout(frames) -> None:
    from surefield.trainers import DUNNTrainer, KliffBPPotential
    from surefield.trainers.inputs import gather
    from surefield.trainers.result import Call
    from surefield.trainers.run import execute

    functions = {"g2": [{"eta": 0.2, "Rs": 0.0}, {"eta": 0.05, "Rs": 1.0}]}
    handle = KliffBPPotential(["Cu"], cutoff={"Cu-Cu": 3.8}, hyperparams=functions, neurons=(4,))
    handle.build_potential()
    names = [f"{i:06d}" for i in range(len(frames))]
    call = Call("run", split={"train": names[:6], "validation": names[6:]}, upload_to_kimkit=False)
    Path("run").mkdir(exist_ok=True)
    Path("run/inputs.json").unlink(missing_ok=True)  # what is left is the checkpoint
    trainer = DUNNTrainer(epochs=5, log_per_atom_pred=False)
    execute(trainer, handle, gather(frames, None, False), call, Path("run"))


if __name__ == "__main__":
    main(*sys.argv[1:])
