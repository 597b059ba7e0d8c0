"""Checkpoints of minibatch training: one file, arrays only, exact resume."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from surefield.errors import PotentialError
from surefield.potentials.saving import load_arrays, pack, save_arrays, unpack
from surefield.training.config import TrainConfig
from surefield.training.gradient import History, State

__all__ = ["load_checkpoint", "save_checkpoint"]

_NUMBERS = ("step", "epoch", "batch", "loss_sum", "best_loss", "best_epoch")
_TREES = ("parameters", "optimizer", "average", "best")


def save_checkpoint(path: Path, state: State, history: History, config: TrainConfig, data_hash: str) -> None:
    """Write the state of training; a kill at any moment leaves the old file or the new one."""
    arrays: dict[str, np.ndarray] = {}
    for name in _TREES:
        arrays |= pack(getattr(state, name), f"{name}:")
    arrays |= {name: np.asarray(getattr(state, name)) for name in _NUMBERS}
    arrays["history"] = np.array(json.dumps(history.rows))
    header = {"train": config.model_dump(mode="json"), "data": data_hash}
    save_arrays(path, "checkpoint", header, arrays)


def load_checkpoint(
    path: Path, template: State, config: TrainConfig, data_hash: str
) -> tuple[State, History]:
    """Read a checkpoint into the shapes of `template`.

    Raises:
        PotentialError: file damaged, of a newer version, of other settings or of other data.
    """
    header, arrays = load_arrays(path, "checkpoint")
    mine = config.model_dump(mode="json")
    for key, value in mine.items():
        if header["train"].get(key) != value:
            raise PotentialError(
                f"{path} belongs to another run: {key} was {header['train'].get(key)!r}, now {value!r}; "
                "train into another folder, or restore the setting"
            )
    if header["data"] != data_hash:
        raise PotentialError(f"{path} belongs to other data or another potential; train into another folder")
    trees = [unpack(getattr(template, name), arrays, f"{name}:") for name in _TREES]
    numbers = [arrays[name].item() for name in _NUMBERS]
    return State(*jax.tree.map(lambda x: x, trees), *numbers), History(json.loads(str(arrays["history"])))
