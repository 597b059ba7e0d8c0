"""Scores as jobs: a run is a folder of batches, each a call as data with a folder and a job of its own.

`run.json` says what a run is of, `jobs.jsonl` which job does which batch, `arguments/` holds what all batches
share. A run that was interrupted is gone on with when the same run is asked for again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.identity import digest
from surefield.execution.job_process import description
from surefield.execution.job_records import process_state
from surefield.execution.task_folder import INPUTS, Task, write_task
from surefield.execution.workflow import Workflow
from surefield.files import append_jsonl, json_text, read_json, read_jsonl, write_atomic
from surefield.scoring.descriptions import described, picked
from surefield.scoring.stored_arguments import read_arguments, store_arguments
from surefield.structures.contents import frame_contents
from surefield.structures.read import read_frames, write_frames

__all__ = ["CALL", "ScoreCall", "call_of", "clean", "finished_folders", "given_structures", "submit"]

#: What tasks of scores call.
CALL: Final = "score"
ARGUMENTS: Final = "arguments"
CONFIGURATIONS: Final = "configurations.extxyz"
_RUN, _JOBS = "run.json", "jobs.jsonl"
#: Module that does what the folder of a batch says; it stands above all scores.
_PROGRAM: Final = "surefield.scores.job"


@dataclass(frozen=True)
class ScoreCall:
    """One call of a score, as far as its jobs need it.

    Attributes:
        name: of the class.
        settings: constructor arguments.
        arguments: of the call, without what is scored.
        array_arguments, per_configuration: see `Score`.
        described: what metadata says of settings and of arrays that all jobs share.
        result: file that a job leaves.
    """

    name: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    array_arguments: Sequence[str]
    per_configuration: Sequence[str]
    described: Mapping[str, Any]
    result: str


def submit(
    call: ScoreCall,
    configs: Any,
    batch_size: int,
    path_type: str,
    flow: Workflow,
    job_details: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> tuple[Path, list[str]]:
    """Submit a job for each batch, or for what an interrupted run of the same has left undone.

    On this machine no more jobs than processors are submitted at once; the next waits for one of them.

    Args:
        call: what to compute.
        configs: structures; or what else is scored, as data.
        batch_size: structures of a job.
        path_type: name of the run; its folder is `<root>/<class>/<path_type>/<number>`.
        flow: where it runs.
        job_details: of each job.
        say: is told of each job.

    Returns:
        Folder of the run and the ids of the jobs, in the order of the configurations.
    """
    structures = _are_structures(configs)
    n = len(configs) if structures else 1
    batches = [range(first, min(first + batch_size, n)) for first in range(0, n, batch_size)]
    parts = [picked(call.arguments, call.per_configuration, which, n) for which in batches]
    identity = _identity(call, configs, batch_size)
    folder, known = _interrupted(flow, call.name, path_type, identity) or (None, {})
    if folder is None:
        folder = flow.make_path(call.name, path_type)
    else:
        say(f"going on with {folder}: {len(known)} of {len(batches)} jobs are done or under way")
    names = {name.partition(".")[0] for name in call.per_configuration}
    shared = {k: v for k, v in call.arguments.items() if k not in names}
    stored = {
        "settings": store_arguments(call.settings, call.array_arguments, folder / ARGUMENTS / "settings"),
        "arguments": store_arguments(shared, call.array_arguments, folder / ARGUMENTS),
    }
    if not structures:
        stored["data"] = store_arguments({"data": configs}, (), folder / ARGUMENTS)
    header = {"identity": identity, "batches": len(batches), "submitter": description(os.getpid())}
    write_atomic(folder / _RUN, json_text(header, indent=1) + "\n")
    calc_ids = []
    for number, (which, part) in enumerate(zip(batches, parts, strict=True)):
        if number in known:
            calc_ids.append(known[number])
            continue
        own = {k: v for k, v in part.items() if k in names}
        frames = [configs[i] for i in which] if structures else None
        batch = folder / f"{number:05d}"
        _write_batch(batch, call, stored, own, frames)
        _wait_for_room(flow, calc_ids)
        command = [sys.executable, "-m", _PROGRAM, str(batch)]
        calc_ids.append(flow.submit_job(command, batch, job_details, expects=call.result))
        append_jsonl(folder / _JOBS, {"batch": number, "calc_id": calc_ids[-1]})
        say(f"job {calc_ids[-1]}: batch {number + 1} of {len(batches)} in {batch}")
    return folder, calc_ids


def _are_structures(configs: Any) -> bool:
    return isinstance(configs, Sequence) and bool(configs) and all(isinstance(c, Atoms) for c in configs)


def _identity(call: ScoreCall, configs: Any, batch_size: int) -> str:
    """Hash of everything that a run computes with."""
    content = frame_contents(read_frames(configs)) if _are_structures(configs) else described({"": configs})
    arguments = described(call.arguments, call.array_arguments)
    return digest(call.name, dict(call.described), arguments, content, batch_size)


def _write_batch(
    folder: Path,
    call: ScoreCall,
    stored: Mapping[str, Any],
    own: Mapping[str, Any],
    frames: Sequence[Atoms] | None,
) -> None:
    folder.mkdir(exist_ok=True)
    own = store_arguments(own, call.array_arguments, folder / INPUTS)
    divided = {name.partition(".")[0] for name in call.per_configuration}
    paths = [name for name in call.array_arguments if name not in divided]
    arguments = {
        "class": call.name,
        "settings": stored["settings"],
        "data": stored.get("data"),
        "paths": paths,
    }
    arguments |= {"arguments": {**stored["arguments"], **own}, "described": call.described}
    files = {} if frames is None else {CONFIGURATIONS: lambda path: write_frames(path, frames)}
    write_task(folder, Task(CALL, arguments, result=call.result), files)


def _interrupted(
    flow: Workflow, name: str, path_type: str, identity: str
) -> tuple[Path, dict[int, str]] | None:
    """Latest run of the same that needs going on with, and the jobs of it that do not."""
    parent = flow.root / name / path_type
    for folder in sorted(parent.glob("[0-9]*"), reverse=True) if parent.is_dir() else ():
        header = read_json(folder / _RUN) if (folder / _RUN).is_file() else {}
        if header.get("identity") != identity:
            continue
        jobs = {entry["batch"]: entry["calc_id"] for entry in read_jsonl(folder / _JOBS)}
        fine = {}
        for batch, calc_id in jobs.items():
            if flow.get_job_status(calc_id).state not in ("failed", "cancelled"):
                fine[batch] = calc_id
        missing = range(header["batches"] - len(jobs))
        if missing and process_state(header["submitter"]) == "alive" and len(fine) == len(jobs):
            continue  # it is being submitted
        return (folder, fine) if len(fine) < header["batches"] else None
    return None


def _wait_for_room(flow: Workflow, calc_ids: Sequence[str]) -> None:
    """On this machine, wait until fewer jobs than processors have not ended."""
    if flow.kind != "LOCAL":
        return
    active = [calc_id for calc_id in calc_ids if not flow.get_job_status(calc_id).ended]
    while len(active) >= (os.cpu_count() or 1):
        flow.block_until_completed(active[:1])
        active = [calc_id for calc_id in active if not flow.get_job_status(calc_id).ended]


def call_of(task: Task, folder: Path) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Settings, arguments and what is scored, of a task that `submit` wrote.

    Arrays that all batches share are given as paths, those of single configurations as arrays.

    Args:
        task: of a batch.
        folder: of the batch.
    """
    names = task.arguments["paths"]
    settings = read_arguments(task.arguments["settings"], names)
    arguments = read_arguments(task.arguments["arguments"], names)
    if task.arguments["data"] is not None:
        return settings, arguments, read_arguments(task.arguments["data"], ())["data"]
    return settings, arguments, list(read_frames(folder / INPUTS / CONFIGURATIONS))


def finished_folders(calc_ids: Sequence[str] | str, flow: Workflow, name: str) -> list[Path]:
    """Folders of jobs when all of them are done, each run's in the order of its configurations.

    Raises:
        ExecutionError: a job failed or was cancelled; with the last lines of its log.
        ConfigError: a job of something else.
    """
    ids = [calc_ids] if isinstance(calc_ids, str) else list(calc_ids)
    if not ids:
        raise ConfigError("no calc_ids")
    flow.block_until_completed(ids)
    statuses = {calc_id: flow.get_job_status(calc_id) for calc_id in ids}
    bad = {calc_id: status for calc_id, status in statuses.items() if status.state != "done"}
    if bad:
        calc_id, status = next(iter(bad.items()))
        more = f" ({len(bad)} of {len(ids)} jobs of this kind)" if len(bad) > 1 else ""
        fix = "the same `run` again does what is left"
        raise ExecutionError(f"job {calc_id} of {name} {status.state}{more}: {status.message}", fix=fix)
    folders = [Path(status.path) for status in statuses.values()]
    for calc_id, folder in zip(ids, folders, strict=True):
        if not (folder.parent / _RUN).is_file():
            raise ConfigError(f"job {calc_id} is none of {name}.run", got=str(folder))
    runs = list(dict.fromkeys(folder.parent for folder in folders))
    return sorted(folders, key=lambda folder: (runs.index(folder.parent), folder.name))


def given_structures(folders: Sequence[Path]) -> list[Atoms]:
    """Structures that jobs were given, in their order.

    Raises:
        DataError: they were cleaned away.
    """
    paths = [folder / INPUTS / CONFIGURATIONS for folder in folders]
    if not all(path.is_file() for path in paths):
        missing = next(path for path in paths if not path.is_file())
        fix = "give the dataset_handle of the data set that the result is about"
        raise DataError("the structures of this job are not there any more", got=str(missing), fix=fix)
    return [atoms for path in paths for atoms in read_frames(path)]


def clean(folder: Path, batches: Sequence[Path] | None = None) -> None:
    """Remove the arguments of a run and the inputs of its batches; results, logs and records stay.

    Args:
        folder: of a run, or of one of its batches.
        batches: only the inputs of these; what all share goes when no other batch needs it. None: all.

    Raises:
        DataError: the folder of something else.
    """
    run = folder if (folder / _RUN).is_file() else folder.parent
    if not (run / _RUN).is_file():
        raise DataError("no run of a score", got=str(folder), expected=f"a folder with {_RUN}")
    every = [path for path in run.iterdir() if path.is_dir() and path.name.isdigit()]
    for batch in every if batches is None else batches:
        shutil.rmtree(batch / INPUTS, ignore_errors=True)
    done = len(every) == read_json(run / _RUN)["batches"] and not any((b / INPUTS).exists() for b in every)
    if batches is None or done:
        shutil.rmtree(run / ARGUMENTS, ignore_errors=True)
