"""Training as a job of a real Slurm: the same parameters as here, and failures that are told."""

from __future__ import annotations

import pytest

from surefield.errors import ExecutionError
from surefield.trainers.chimes import ChIMESPotential, ChIMESTrainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::surefield.trainers.result.TrainingWarning"),
]


def potential():
    pair = {"PAIRIDX": "1", "ATM_TY1": "Si", "ATM_TY2": "Si", "S_MINIM": 1.8, "S_MAXIM": 4.0}
    settings = {
        "TYPEIDX": [{"TYPEIDX": "1", "ATM_TYP": "Si", "ATMCHRG": 0.0, "ATMMASS": 28.0855}],
        "PAIRIDX": [pair | {"MORSE_LAMBDA": 2.3}],
        "PAIRTYP": "CHEBYSHEV 5 0 0 -1 1",
        "CHBTYPE": "MORSE",
        "FCUTTYP": "CUBIC",
    }
    return ChIMESPotential(["Si"], settings_path=settings)


def test_slurm_gives_the_same_parameters(slurm_cluster, silicon, tmp_path):
    trainer = ChIMESTrainer(algorithm="ridge")
    options = {"per_atom_weights": [*[1.0] * 63, 3.0], "training_split": 0.75, "seed": 2}
    local = {"workflow_args": {"root": str(tmp_path / "here")}}
    here = trainer.train("t", potential(), silicon, None, local, registry=tmp_path / "a", **options)
    slurm = {"workflow_type": "SLURM", "workflow_args": {"root": str(tmp_path / "jobs")}}
    details = {"walltime": 5, "tasks": 1}
    job = trainer.submit_train(
        "t", potential(), silicon, None, slurm, details, registry=tmp_path / "b", **options
    )
    handle = potential()
    there = trainer.load_from_submitted_training(job, handle, slurm)
    assert handle.training_hash == here.potential.training_hash
    assert there.split == here.split
    assert there.kim_id.endswith("_000")


def test_a_job_that_fails_on_slurm(slurm_cluster, silicon, tmp_path):
    trainer = ChIMESTrainer(algorithm="ridge")
    slurm = {"workflow_type": "SLURM", "workflow_args": {"root": str(tmp_path)}}
    blocked = tmp_path / "registry"
    blocked.write_text("a file where the registry should be")
    job = trainer.submit_train("t", potential(), silicon, None, slurm, registry=blocked)
    handle = potential()
    with pytest.raises(ExecutionError, match=r"failed.*exit code 1"):
        trainer.load_from_submitted_training(job, handle, slurm)
    assert handle.training_hash is None
