"""Checkpoints of network training: one file of arrays, written after each epoch, refused for another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import optax

from surefield.errors import PotentialError, explain
from surefield.potentials.dropout_network import DropoutNetwork
from surefield.potentials.saving import load_arrays, pack, save_arrays, unpack
from surefield.training.problem import Problem, TrainingRun

__all__ = ["Checkpoint", "TrainingState", "problem_hash"]

CHECKPOINT: Final = "checkpoint.npz"
#: Parts of the state that are trees of arrays.
_TREES: Final = ("parameters", "optimizer", "best")


class TrainingState(NamedTuple):
    """All that changes in a training.

    Attributes:
        parameters: trainable arrays (others None).
        optimizer: state of the optimiser.
        best: parameters that would be kept.
        epoch: epochs done.
        step: steps done.
        best_loss: what `best` was chosen by.
        best_epoch: after which it was found.
    """

    parameters: DropoutNetwork
    optimizer: optax.OptState
    best: DropoutNetwork
    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0


class Checkpoint:
    """The file from which an interrupted training goes on, bit by bit.

    Args:
        start: state before the first step.
        header: what must be the same for a training to go on: settings, start values, data.
        run: whose folder the file is in.
    """

    def __init__(self, start: TrainingState, header: Mapping[str, Any], run: TrainingRun) -> None:
        self.start, self.header, self.run = start, dict(header), run
        self.path = run.path(CHECKPOINT)

    def save(self, state: TrainingState, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the state, whole or not at all."""
        arrays = {"history": np.array(json.dumps(list(history)))}
        for name, value in zip(TrainingState._fields, state, strict=True):
            arrays |= pack(value, f"{name}:") if name in _TREES else {name: np.asarray(value)}
        save_arrays(self.path, "network_checkpoint", self.header, arrays, compressed=False)

    def load(self) -> tuple[TrainingState, list[dict[str, Any]]]:
        """State and rows of the checkpoint, or of the start; metrics.csv is made to agree with them.

        Raises:
            PotentialError: a checkpoint of other settings, data or start values, or a damaged one.
        """
        self.run.path("metrics.csv").unlink(missing_ok=True)
        if not self.path.exists():
            return self.start, []
        header, arrays = load_arrays(self.path, "network_checkpoint")
        for key, value in self.header.items():
            if header.get(key) != value:
                fix = "train into another folder"
                got = f"another {key}"
                raise PotentialError(explain(f"{self.path} belongs to another training", got=got, fix=fix))
        values = {
            name: unpack(template, arrays, f"{name}:") if name in _TREES else arrays[name].item()
            for name, template in zip(TrainingState._fields, self.start, strict=True)
        }
        history = json.loads(str(arrays["history"]))
        for row in history:
            self.run.add_metrics(row)
        return TrainingState(**values), history


def problem_hash(problem: Problem) -> str:
    """Hash of ids, labels and weights of all configurations."""
    digest = hashlib.sha256()
    for c in (*problem.train, None, *problem.validation):
        if c is None:
            digest.update(b"validation")
            continue
        weights = problem.residual_weights(c)
        digest.update(json.dumps([c.id, c.energy, weights.energy, weights.stress]).encode())
        for values in (c.structure.positions, c.structure.cell, c.forces, c.stress, weights.forces):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]
