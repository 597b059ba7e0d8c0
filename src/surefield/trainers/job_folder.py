"""A training as data: all inputs in the folder of its run, from which a job or a script repeats the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surefield.errors import ExecutionError
from surefield.execution.identity import check_inputs, digest
from surefield.execution.task_folder import INPUTS, Task, run_task, write_task
from surefield.files import read_arrays, read_json, write_arrays, write_atomic
from surefield.potentials.saving import arrays_hash, load_potential, save_potential
from surefield.structures.contents import frame_contents
from surefield.structures.read import Frames, read_frames, write_frames
from surefield.trainers.classes import HANDLES, TRAINERS, look_up, trainer_class
from surefield.trainers.fitting import Fitting
from surefield.trainers.handle import BareHandle, PotentialHandle
from surefield.trainers.inputs import Inputs
from surefield.trainers.result import Call
from surefield.trainers.run import execute

__all__ = ["run_job", "write_inputs", "write_script"]


_START, _DATA, _WEIGHTS, _CONTENTS = "start.npz", "data.extxyz", "arrays.npz", "contents.json"
_CALL = "train"
#: Job folders of version 0.1, which this version still runs.
_OLD_JOB, _OLD_WEIGHTS = "job.json", "atom_weights.npz"


def write_inputs(folder: Path, trainer: Fitting, handle: PotentialHandle, inputs: Inputs, call: Call) -> None:
    """Write trainer, potential, configurations, weights and arguments into `folder/inputs`, as data."""
    arguments = {
        "trainer": [type(trainer).__name__, trainer.settings()],
        "potential": [type(handle).__name__, handle.settings(), handle.kim_id],
        "call": asdict(call) | {"per_atom_weights": inputs.atom_weights is not None},
        "ids": list(inputs.ids),
        "datasets": [dict(d) for d in inputs.datasets],
        "url": inputs.url,
        "start_hash": arrays_hash(handle.model),
    }
    task = Task(_CALL, arguments, dict(inputs.atom_weights or {}))
    # Of the file as it is read again, after it was written.
    table = {
        _CONTENTS: lambda path: check_inputs(path, _contents(task, read_frames(path.parent / _DATA)), "")
    }
    write_task(folder, task, _files(handle, inputs) | table)


def _contents(task: Task, frames: Frames) -> dict[str, Any]:
    """All that a submitted training is to be done with."""
    named = dict(task.arguments)
    for name in ("trainer", "potential"):
        kind, settings, *_ = named[name]
        named[name] = {"class": kind, **settings}
    return named | {"atom weights": digest(dict(task.arrays)), "configurations": frame_contents(frames)}


def _files(handle: PotentialHandle, inputs: Inputs) -> dict[str, Callable[[Path], None]]:
    """Writers of the start potential and of the configurations."""
    return {
        _START: lambda path: save_potential(path, handle.model),
        _DATA: lambda path: write_frames(path, list(inputs.frames)),
    }


def run_job(folder: Path) -> None:
    """Do the training that a folder holds."""
    if (folder / INPUTS / _OLD_JOB).is_file():
        weights = folder / INPUTS / _OLD_WEIGHTS
        arrays = read_arrays(weights) if weights.exists() else {}
        _train(Task(_CALL, read_json(folder / INPUTS / _OLD_JOB), arrays), folder)
    else:
        run_task(folder, {_CALL: _train})


def _train(task: Task, folder: Path) -> None:
    """Repeat the call of `write_inputs`; the run writes its result itself.

    Raises:
        ExecutionError: an unknown class, or a start potential that is not the one that was written.
        ConfigError: other inputs than those that were written.
    """
    source, job = folder / INPUTS, task.arguments
    frames = read_frames(source / _DATA)
    if (source / _CONTENTS).exists():
        fix = "submit the training anew, or restore what changed"
        check_inputs(source / _CONTENTS, _contents(task, frames), fix)
    trainer = trainer_class(job["trainer"][0])(**job["trainer"][1])
    start = load_potential(source / _START)
    if arrays_hash(start) != job["start_hash"]:
        raise ExecutionError(f"the start potential in {source} is not the one that was submitted")
    name, settings, kim_id = job["potential"]
    handle = BareHandle(start) if name == "BareHandle" else look_up(name, HANDLES)(**settings)
    handle.set_model(start)
    handle.kim_id = kim_id
    call = Call(**job["call"])
    inputs = Inputs(
        tuple(frames),
        tuple(job["ids"]),
        dict(task.arrays) if call.per_atom_weights else None,
        tuple(job["datasets"]),
        job["url"],
    )
    execute(trainer, handle, inputs, call, folder)


def write_script(
    folder: Path,
    trainer: Fitting,
    handle: PotentialHandle,
    inputs: Inputs,
    call: Call,
    dataset_list: str | Sequence[str] | None,
) -> None:
    """Write `training_script.py`, which repeats the call, and what it needs besides the storage."""
    target = folder / INPUTS
    target.mkdir(exist_ok=True)
    for name, write in _files(handle, inputs).items():
        if name != _DATA or inputs.url is None:
            write(target / name)
    if inputs.atom_weights is not None:
        write_arrays(target / _WEIGHTS, inputs.atom_weights)
    lines = [
        '"""Repeats the training of this folder."""',
        "",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "",
    ]
    homes = {type(trainer).__name__: TRAINERS[type(trainer).__name__]}
    if not isinstance(handle, BareHandle):
        homes[type(handle).__name__] = HANDLES[type(handle).__name__]
    lines += [f"from surefield.trainers.{module} import {name}" for name, module in sorted(homes.items())]
    lines += ["from surefield.potentials import load_potential"]
    if inputs.url is None:
        lines += ["from surefield import read_frames"]
        storage, datasets = f'list(read_frames(inputs / "{_DATA}"))', None
    else:
        lines += ["from surefield.storage import open_storage"]
        storage, datasets = f"open_storage({inputs.url!r})", dataset_list
    lines += ["", 'inputs = Path(__file__).resolve().parent / "inputs"']
    lines += [f"trainer = {type(trainer).__name__}(**{trainer.settings()!r})"]
    if isinstance(handle, BareHandle):
        lines += [f'potential = load_potential(inputs / "{_START}")']
    else:
        lines += [f"potential = {type(handle).__name__}(**{handle.settings()!r})"]
        lines += [f'potential.set_model(load_potential(inputs / "{_START}"))']
        lines += [f"potential.kim_id = {handle.kim_id!r}"]
    weights = "False"
    if inputs.atom_weights is not None:
        lines += [f'with np.load(inputs / "{_WEIGHTS}") as file:', "    weights = dict(file)"]
        weights = "weights"
    root = folder.parents[len(Path(call.path_type).parts) + 1].resolve()
    arguments = {k: v for k, v in asdict(call).items() if k not in ("path_type", "per_atom_weights")}
    lines += [
        "result = trainer.train(",
        f"    {call.path_type!r},",
        "    potential,",
        f"    {storage},",
        f"    {None if datasets is None else datasets if isinstance(datasets, str) else list(datasets)!r},",
        f'    {{"workflow_type": "LOCAL", "workflow_args": {{"root": {str(root)!r}}}}},',
        f"    per_atom_weights={weights},",
        *(f"    {name}={value!r}," for name, value in arguments.items()),
        ")",
        "print(result.errors)",
        "",
    ]
    write_atomic(folder / "training_script.py", "\n".join(lines))
