"""Label structures one at a time, resumably, and write the labelled set."""

import hashlib
import json
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

#: REF_* labels of one structure; None if the engine did not converge.
Label = dict[str, object] | None


def work_folder(out: Path, record: dict) -> Path:
    """Folder of unfinished work under `out`: another seed, setting or engine version gets another one."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    folder = out / f".{record['name']}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def saved_frames(path: Path, make: Callable[[], list[Atoms]]) -> list[Atoms]:
    """Frames in `path`, made first if absent; always read back, so that labels fit the printed digits."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        ase.io.write(part, make(), format="extxyz")
        part.replace(path)
    return ase.io.read(path, ":", format="extxyz")


def label(frames: list[Atoms], calculate: Callable[[Atoms], Label], folder: Path) -> list[Atoms]:
    """Copies of the frames with labels, without those that did not converge; finished ones are not redone."""
    labelled = []
    for index, frame in enumerate(frames):
        path = folder / f"{index:04d}.json"
        if not path.exists():
            start = time.perf_counter()
            write_atomically(path, json.dumps(calculate(frame)))
            print(f"{index + 1}/{len(frames)}: {time.perf_counter() - start:.1f} s", flush=True)
        found = json.loads(path.read_text())
        if found is None:
            print(f"frame {index}: not converged, left out")
            continue
        copy = frame.copy()
        if "REF_forces" in found:
            copy.arrays["REF_forces"] = np.array(found.pop("REF_forces"))
        copy.info.update({key: np.array(v) if isinstance(v, list) else v for key, v in found.items()})
        labelled.append(copy)
    return labelled


def force_check(frame: Atoms, calculate: Callable[[Atoms], Label], step: float = 0.005) -> dict[str, float]:
    """Largest force component of a labelled frame and the same by central difference of energies (eV/Å)."""
    atom, axis = np.unravel_index(np.abs(frame.arrays["REF_forces"]).argmax(), (len(frame), 3))
    energies = []
    for sign in (1, -1):
        moved = frame.copy()
        moved.positions[atom, axis] += sign * step
        energies.append(calculate(moved)["REF_energy"])
    return {
        "force": float(frame.arrays["REF_forces"][atom, axis]),
        "central_difference": (energies[1] - energies[0]) / (2 * step),
        "step": step,
    }


def write_set(path: Path, frames: list[Atoms]) -> None:
    """Write an .xyz.xz file."""
    part = path.with_name(path.name + ".part")
    with lzma.open(part, "wt", preset=9) as file:
        ase.io.write(file, frames, format="extxyz")
    part.replace(path)


def write_record(path: Path, record: dict, frames: list[Atoms], **more: object) -> None:
    """Write how the set was made and what is in it, next to the data."""
    net = [np.abs(frame.arrays["REF_forces"].sum(axis=0)).max() for frame in frames]
    contents = {
        "frames": len(frames),
        "train": sum(frame.info["split"] == "train" for frame in frames),
        "test": sum(frame.info["split"] == "test" for frame in frames),
        "atoms": sum(map(len, frames)),
        "largest_net_force_eV_per_A": float(max(net)),
    }
    write_atomically(path, json.dumps(record | {"contents": contents} | more, indent=2) + "\n")
