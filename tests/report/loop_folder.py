"""A folder of a loop under way, of made-up numbers (test data, no physics)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from surefield.exploration.explore import write_walkers
from surefield.exploration.walker import WalkerRecord
from surefield.structures.read import write_frames

LIMIT, LOWER = 0.36, 0.06
N_ROUNDS = 4
CAUSE = "the SCF did not converge in 250 iterations"


def write_loop_folder(folder: Path, *, n_rounds: int = N_ROUNDS, ended: bool = False) -> Path:
    """Write journal, walkers and picks; the last picks are half labelled, unless the loop has ended."""
    rng = np.random.default_rng(11)
    folder.mkdir(parents=True, exist_ok=True)
    events: list[dict[str, Any]] = [{"event": "start", "version": 2, "n_test": 0, "oracle": "gfn2-xtb"}]
    frames = structures(10, rng)
    for atoms in frames:  # there was no potential yet
        atoms.info = {"config_type": "rattle_0.1A"}
    write_frames(folder / "initial.xyz", frames)
    keys = [f"{k:016x}" for k in range(10)]
    events.append(chosen("initial", 0, keys, frames, picks=list(range(10))))
    events += labels("initial", 0, keys, rng)
    n_labels = 10
    for number in range(n_rounds):
        place = folder / "rounds" / f"{number:03d}"
        place.mkdir(parents=True)
        here = {"method": "lcmd", "seed": 0, "round": number}
        events.append({"event": "round", **here, "n_labels": n_labels, "potential": "ab12", "test": {}})
        walkers = [walker(k, number, rng) for k in range(8)]
        if number == 1:
            relaxed = {"kind": "relaxation", "ensemble": "bfgs", "temperature": None, "timestep_fs": None}
            walkers.append(replace(walkers[0], walker=8, **relaxed))
        write_walkers(place / "walkers.json", walkers, round=number)
        events.append({"event": "explored", "round": number, "n_candidates": 60 + 9 * number})
        error = 0.21 * (n_labels / 10) ** -0.7
        audit = [f"{1000 * (number + 1) + k:016x}" for k in range(3)]
        write_frames(place / "audits.xyz", structures(3, rng))
        events.append(chosen("drawn", number, audit, frames[:3], picks=[1, 2, 3]))
        events += labels("audit", number, audit, rng)
        scores = {"forces_mae": error, "forces_rmse": 1.5 * error, "energy_mae": error / 40}
        calibration = {"forces": {"coverage_68": 0.55 + 0.03 * number}, "energy": {"coverage_68": 0.7}}
        judged = {"n": 3, "n_labels": n_labels, "test": scores, "calibration": calibration}
        events.append({"event": "audited", **here, **judged})
        picked = [f"{5000 * (number + 1) + k:016x}" for k in range(12)]
        frames = structures(12, rng)
        write_frames(place / "picked.xyz", frames)
        sigma = {"forces": 0.2, "energy": 0.004}
        reasons = [{"rule": "lcmd", "sigma": sigma, "nearest": "label 3", "distance": 0.7}] * 12
        gains = np.sort(rng.uniform(0.1, 1, 12))[::-1].tolist()
        events.append(chosen("picked", number, picked, frames, gains=gains, reasons=reasons))
        done = picked if ended or number < n_rounds - 1 else picked[:7]
        events += labels("pick", number, done, rng, failed=(4,))
        n_labels += 3 + len(done) - 1
    if ended:
        events.append(
            {"event": "end", "round": n_rounds, "n_labels": n_labels, "reason": "rounds: 4 are done"}
        )
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "journal.jsonl").write_text(text, encoding="utf-8")
    return folder


def structures(n: int, rng: np.random.Generator) -> list[Atoms]:
    frames = []
    for k in range(n):
        atoms = molecule(("CH3CH2OH", "C6H6", "CH3COOH")[k % 3])
        atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
        atoms.info |= {"walker": k % 8, "sigma": 0.1 + 0.02 * k, "sigma_quantity": "forces"}
        atoms.info |= {"temperature_K": 300.0 + 200 * (k % 3), "config_type": f"nvt_{300 + 200 * (k % 3)}K"}
        frames.append(atoms)
    return frames


def chosen(event: str, number: int, keys: list[str], frames: list[Atoms], **entries: Any) -> dict[str, Any]:
    formulas = [atoms.get_chemical_formula() for atoms in frames]
    return {
        "event": event,
        "method": "lcmd",
        "round": number,
        "structures": keys,
        "formulas": formulas,
        **entries,
    }


def labels(
    purpose: str, number: int, keys: list[str], rng: np.random.Generator, failed: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    events = []
    for k, key in enumerate(keys):
        seconds = float(20 * np.exp(0.4 * rng.standard_normal()))
        entry = {"purpose": purpose, "round": number, "index": k, "structure": key}
        entry |= {"seconds": seconds, "core_seconds": 4 * seconds}
        if k in failed:
            attempts = [{"accuracy": 1.0, "cause": CAUSE}, {"electronic_temperature": 1000, "cause": CAUSE}]
            events.append(
                {"event": "failed", **entry, "formula": "C6H6", "cause": CAUSE, "attempts": attempts}
            )
        else:
            events.append({"event": "labelled", **entry, "energy": -1.0, "label": "cd34"})
    return events


def walker(k: int, number: int, rng: np.random.Generator) -> WalkerRecord:
    """Those of early rounds and of high temperatures leave first."""
    temperature = (300.0, 500.0, 700.0)[k % 3]
    looked_at = tuple(range(0, 2001, 20))
    growth = 0.002 * (temperature / 300) ** 2 / (1 + number)
    level = (
        0.05
        * (1 + np.arange(len(looked_at)) * growth * 10)
        * np.exp(0.2 * rng.standard_normal(len(looked_at)))
    )
    beyond = np.flatnonzero(level > LIMIT)
    stop = int(beyond[0]) + 1 if len(beyond) else len(looked_at)
    ended = "sigma limit: sigma of the forces is 0.4 eV/Å, beyond 0.36" if len(beyond) else "finished"
    if k == 5 and number < 2:
        stop, ended = 30 + 20 * number, "structure broke: atoms 3 (H) and 5 (H) are 0.31 Å apart"
    return WalkerRecord(
        walker=k,
        kind="dynamics",
        start=k % 2,
        formula="C2H6O",
        ensemble="nvt",
        temperature=temperature,
        timestep_fs=0.5,
        steps=looked_at[stop - 1],
        quantity="forces",
        lower=LOWER,
        limit=LIMIT,
        looked_at=looked_at[:stop],
        sigma=tuple(level[:stop].tolist()),
        ended=ended,
        n_frames=min(stop, 10),
    )
