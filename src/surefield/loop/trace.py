"""Why a structure was labelled: who picked it, by which potential, how it was labelled, what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from surefield.errors import DataError
from surefield.execution.progress import duration
from surefield.loop.failures import AGAIN
from surefield.loop.journal import Journal
from surefield.loop.ledger import LABELLED
from surefield.structures.images import image_key
from surefield.structures.read import read_frames

__all__ = ["trace"]

#: Events that choose structures, and the words for it.
_CHOSEN: Final = {
    "initial": "drawn at random before there was a potential",
    "drawn": "drawn at random, for the audit of the potential of its round",
    "picked": "picked",
}
_SHOWN: Final = ("config_type", "start", "walker", "step", "time_fs", "temperature_K", "sigma", "pool_index")
JOURNAL: Final = "journal.jsonl"


def trace(frame: str, run: str | Path | None = None) -> list[str]:
    """Lines on one structure of a loop.

    Args:
        frame: a file with the place in it, such as `runs/x-loop/labelled.xyz@7`; or, with `run`, the first
            digits of the key that the journal has for it, or its place in labelled.xyz.
        run: folder of the loop; None: the folder of the file.

    Raises:
        DataError: no such structure in the journal, or several whose keys begin alike.
    """
    folder, key = _located(frame, run)
    journal = Journal(folder / JOURNAL)
    keys = _keys(journal, key)
    if len(keys) != 1:
        got = f"{len(keys)} structures: {', '.join(keys[:3])}" if keys else "none"
        fix = "give more digits of its key, or a frame of labelled.xyz: labelled.xyz@0"
        raise DataError(f"no single structure {key!r} in {journal.path}", got=got, fix=fix)
    return list(_lines(journal, folder, keys[0]))


def _located(frame: str, run: str | Path | None) -> tuple[Path, str]:
    """Folder of the run, and the key of the structure, or how it begins."""
    path = Path(frame.partition("@")[0])
    if path.is_file():
        folder = path.parent if run is None else Path(run)
        frames = read_frames(frame)
        if len(frames) != 1:
            raise DataError(f"{frame} holds {len(frames)} structures", fix=f"name one: {path}@0")
        key = str(frames[0].info.get("surefield_structure") or image_key(frames[0]))
    else:
        folder, key = Path("." if run is None else run), frame
        labelled = folder / LABELLED
        if frame.isdigit() and len(frame) < 8 and labelled.is_file():
            frames = read_frames(labelled)
            if int(frame) >= len(frames):
                raise DataError(f"{labelled} has no structure {frame}", expected=f"0 to {len(frames) - 1}")
            key = str(frames[int(frame)].info["surefield_structure"])
    if not (folder / JOURNAL).is_file():
        raise DataError(
            f"{folder} is no folder of a loop", got=f"no {JOURNAL}", fix="surefield trace RUN FRAME"
        )
    return folder, key


def _keys(journal: Journal, key: str) -> list[str]:
    known = dict.fromkeys(e["structure"] for e in journal.events if isinstance(e.get("structure"), str))
    for event in journal.events:
        known |= dict.fromkeys(event.get("structures", ()))
    return [name for name in known if name.startswith(key)]


def _lines(journal: Journal, folder: Path, key: str) -> Iterator[str]:
    yield f"structure {key} of {folder.name}"
    for event in journal.events:
        if key not in event.get("structures", ()):
            continue
        place = event["structures"].index(key)
        if event["event"] == "imported":
            yield f"labelled: before, imported from {event['source']}"
            continue
        if event["event"] == AGAIN:
            yield f"tried again: in round {event['round']}, for {event['why'][place]}"
            continue
        yield from _choice(journal, folder, event, place)
    for event in journal.find(event="failed", structure=key):
        tries, took = len(event.get("attempts") or []), duration(event.get("seconds") or 0.0)
        yield f"failed: {event['cause']} (after {max(tries, 1)} attempts, {took})"
    for event in journal.find(event="labelled", structure=key):
        start = journal.last(event="start") or {}
        settings = (start.get("inputs") or {}).get("oracle") or {}
        told = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "name")
        yield f"labelled: by {start.get('oracle')}" + (f" ({told})" if told else "")
        if event.get("settings"):
            yield f"  with changed settings: {event['settings']}"
        yield f"  energy {event['energy']:.6f} eV; hash of the label {event['label']}"
        if "core_seconds" in event:
            cores = event["core_seconds"] / 3600
            yield f"  cost: {duration(event.get('seconds') or 0.0)}, {cores:.3g} core hours"
    yield from _use(journal, key)


def _choice(journal: Journal, folder: Path, event: dict[str, Any], place: int) -> Iterator[str]:
    number, kind = event.get("round", 0), event["event"]
    words = _CHOSEN[kind]
    if kind == "picked":
        words = f"picked by {event['method']}, {place + 1}. of {len(event['structures'])}"
    yield f"chosen: in round {number}, {words}"
    if kind == "picked":
        yield f"  by the potential {event['potential']} (rounds/{number:03d}/potential.npz)"
        yield f"  which had been fitted to {event['n_fitted']} labels"
        gain, reason = event["gains"][place], event["reasons"][place]
        yield f"  of {event['n_candidates']} candidates; gain {'none' if gain is None else f'{gain:.4g}'}"
        for name, sigma in (reason.get("sigma") or {}).items():
            yield f"  sigma of the {name} then: {sigma:.4g} {'eV/Å' if name == 'forces' else 'eV/atom'}"
        if "nearest" in reason:
            yield f"  nearest label: {reason['nearest']}, at a feature distance of {reason['distance']:.4g}"
    elif kind == "drawn":
        (fit,) = journal.find(event="round", round=number)
        yield f"  of the potential {fit['potential']}, fitted to {fit['n_labels']} labels"
    names = {"initial": folder / "initial.xyz"}
    file = {"picked": "picked.xyz", "drawn": "audits.xyz"}.get(kind, "")
    path = names.get(kind, folder / "rounds" / f"{number:03d}" / file)
    if path.is_file():
        atoms = read_frames(path)[place]
        told = [f"{name} {atoms.info[name]}" for name in _SHOWN if name in atoms.info]
        yield f"  {atoms.get_chemical_formula()}" + (f": {', '.join(told)}" if told else "")


def _use(journal: Journal, key: str) -> Iterator[str]:
    """Fits that the label entered."""
    seen, fits = False, []
    for event in journal.events:
        seen = seen or event.get("structure") == key or key in event.get("structures", ())
        labelled = event["event"] in ("round", "final")
        if seen and labelled:
            fits.append(f"round {event['round']}" if event["event"] == "round" else "the final potential")
    if fits and not (
        journal.find(event="failed", structure=key) and not journal.find(event="labelled", structure=key)
    ):
        yield f"fitted in: {', '.join(dict.fromkeys(fits))}"
