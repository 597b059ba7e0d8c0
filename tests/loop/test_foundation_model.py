"""A loop that begins with a foundation model: its body stays, its last layer is solved in every round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import yaml
from ase.build import molecule
from tests.foreign.test_jax_potential import toy

import surefield as sf
from surefield.cli.jobs import run_verb
from surefield.files import read_json
from surefield.loop.journal import Journal
from surefield.structures.read import read_frames, write_frames

WIDE = {"lower": 0, "limit": 1e9}
WALK = {
    "kind": "dynamics",
    "temperatures": [300],
    "n_walkers": 1,
    "steps": 6,
    "check_every": 3,
    "window": WIDE,
}
LOOP: dict[str, Any] = {
    "oracle": {"kind": "emt"},
    "starts": ["start.xyz"],
    "exploration": [WALK, {"kind": "rattle", "n_structures": 6, "displacements": [0.05]}],
    **{"n_initial": 6, "n_per_round": 2, "n_rounds": 1, "n_audit": 1, "validation": 0.34},
}


def foundation_loop(folder: Path, weights: Path, start: Any) -> Path:
    """Folder of the run of a loop that begins with the weights of a foundation model."""
    write_frames(folder / "start.xyz", [start])
    config = {
        "name": "x",
        "root": str(folder / "runs"),
        "potential": {"kind": "foreign", "model": "nequix", "file": str(weights)},
        "loop": LOOP,
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(config))
    report = run_verb("loop", folder / "x.yaml", [], dry_run=False, overwrite=False)
    assert report is not None
    return report.parent


def arrays(potential: Any) -> list[np.ndarray]:
    """What a model brings along: all of it but the last layer, which is kept apart."""
    return [
        np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(potential.parameters, eqx.is_inexact_array))
    ]


def force_error(potential: Any, frames: Any) -> float:
    errors = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = potential.calculator()
        errors.append(np.abs(copy.get_forces() - atoms.get_forces()).mean())
    return float(np.mean(errors))


def check(folder: Path, model: Any) -> None:
    """Rounds and their potentials: the last layer has learned, the body is that of the model."""
    rounds = Journal(folder / "journal.jsonl").find(event="round")
    assert [event["n_labels"] for event in rounds] == [6, 9]
    files = [folder / "rounds" / f"{number:03d}" / "potential.npz" for number in (0, 1)]
    potentials = [sf.load(path).potential for path in (*files, folder / "potential.npz")]
    assert not np.allclose(potentials[0].readout, potentials[1].readout)
    for potential in potentials:
        for after, before in zip(arrays(potential), arrays(model), strict=True):
            np.testing.assert_array_equal(after, before)
    frames = read_frames(folder / "labelled.xyz")
    assert len(frames) == read_json(folder / "summary.json")["n_labels"] == 10
    assert force_error(potentials[-1], frames) < 0.7 * force_error(model, frames)


def test_rounds_solve_the_last_layer_of_a_foundation_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surefield.foreign.published.nequix", lambda path: toy(seed=1, name="jax toy"))
    (tmp_path / "weights.nqx").write_text("the made-up model has none")
    start = molecule("H2O")
    start.rattle(0.02, seed=0)
    check(foundation_loop(tmp_path, tmp_path / "weights.nqx", start), toy(seed=1))
