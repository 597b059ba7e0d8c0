"""The potential of a loop in the registry, with where it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ase.data import chemical_symbols

from surefield.errors import DataError
from surefield.execution.identity import digest
from surefield.files import json_text, read_json, write_atomic
from surefield.loop.campaign import POTENTIAL
from surefield.loop.journal import TIMES, Journal
from surefield.loop.ledger import LABELLED
from surefield.storage.potential_registry import PotentialRegistry
from surefield.uncertainty.build import load_uncertainty

__all__ = ["register"]

REGISTERED: Final = "registered.json"


def register(folder: Path, root: Path, name: str) -> str:
    """Save the final potential of a loop, the labels it was fitted to and its sigmas in a registry, once.

    A loop that went on saves the next version of what it saved before. The manifest has, under `loop`, the
    oracle, numbers of labels, settings, the hash of the journal (without times), errors of test set or audit.

    Args:
        folder: of the run.
        root: of the registry.
        name: of the run, which the id begins with.

    Returns:
        The full id.

    Raises:
        DataError: the loop has not ended.
    """
    journal = Journal(folder / "journal.jsonl")
    final, start = journal.last(event="final"), journal.last(event="start")
    if final is None or start is None:
        raise DataError("the loop has no final potential yet", where=folder, fix="run it to its end")
    registry, path = PotentialRegistry(root), folder / REGISTERED
    known = read_json(path) if path.exists() else {}
    parent = known.get("kim_id") if known.get("kim_id") and registry.holds(known["kim_id"]) else None
    if parent is not None and known["potential"] == final["potential"]:
        return str(parent)
    kim_id = _registered(registry, final["potential"]) or _save(registry, journal, folder, name, parent)
    write_atomic(path, json_text({"kim_id": kim_id, "potential": final["potential"]}) + "\n")
    return kim_id


def _registered(registry: PotentialRegistry, potential: str) -> str | None:
    """Id of a potential that was saved before a kill, without a word of it in the run folder."""
    for line in registry.list_potentials():
        if registry.manifest(line.kim_id).get("loop", {}).get("potential") == potential:
            return line.kim_id
    return None


def _save(registry: PotentialRegistry, journal: Journal, folder: Path, name: str, parent: str | None) -> str:
    potential = load_uncertainty(folder / POTENTIAL).potential
    species = list(registry.manifest(parent)["species"]) if parent else []
    events = [{key: value for key, value in e.items() if key not in TIMES} for e in journal.events]
    final, start = journal.last(event="final") or {}, journal.last(event="start") or {}
    audited, end = journal.last(event="audited") or {}, journal.last(event="end") or {}
    provenance: dict[str, Any] = {
        "potential": final["potential"],
        "oracle": start["inputs"]["oracle"],
        "n_labels": final["n_labels"],
        "n_paid": len(journal.find(event="labelled")),
        "n_failed": len(journal.find(event="failed")),
        "n_rounds": end.get("round"),
        "ended_by": end.get("reason"),
        "settings": start["settings"],
        "changes": [event["changes"] for event in journal.find(event="changed")],
        "journal": digest(json_text(events)),
        "test": final["test"],
        "audit": audited.get("test", {}),
    }
    prefix = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
    prefix = prefix if re.match("[A-Za-z]", prefix) else f"loop_{prefix}".strip("_")
    fork = bool(species) and species != [chemical_symbols[z] for z in potential.species]
    files = {"uncertainty.npz": folder / POTENTIAL, LABELLED: folder / LABELLED}
    return registry.save(
        potential, prefix=prefix, parent=parent, fork=fork, manifest={"loop": provenance}, files=files
    )
