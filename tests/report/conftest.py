"""A run folder of made-up numbers (test data, no physics) in the binding format of run folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

METHODS = ("lcmd", "random")
SEEDS = (0, 1, 2)
N_ROUNDS = 8
N_PICKS = 20
CONFIG = """\
# test data: made-up run, no physics
kind: loop
potential: {kind: moment_network, cutoff: 5.0, species: [H, C, O]}
selection: {method: lcmd, n: 20}
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a finished loop leaves; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("runs") / "ethanol-loop-test-data"
    folder.mkdir()
    rng = np.random.default_rng(7)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "versions.json").write_text(
        json.dumps({"surefield": "0.1.0", "python": "3.11.2", "jax": "0.8.0", "numpy": "2.3.5"})
    )
    write_journal(folder, rng)
    write_metrics(folder, rng)
    write_predictions(folder, rng)
    scores = {
        "coverage_68": 0.70,
        "miscalibration_area": 0.021,
        "nll": -2.31,
        "nll_constant": -2.02,
        "alpha": 1.7,
    }
    summary = {
        "verb": "loop",
        "test": {"energy_mae": 0.0011, "energy_rmse": 0.0016, "forces_mae": 0.023, "forces_rmse": 0.036},
        "calibration": {"forces": scores, "energy": scores | {"coverage_68": 0.58, "nll": -1.8}},
        "labels_to_match_random": {"fraction": 0.62, "per_seed": [0.58, 0.62, 0.66]},
        "verdict": "lcmd reached the force error of 170 random labels with 105 labels (62 %).",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_journal(folder: Path, rng: np.random.Generator) -> None:
    start = {"event": "start", "version": 1, "config_hash": "0", "n_pool": 2000, "n_test": 200}
    events: list[dict] = [start | {"methods": list(METHODS), "seeds": list(SEEDS)}]
    for seed in SEEDS:
        for method in METHODS:
            here = {"method": method, "seed": seed}
            events.append({"event": "initial", **here, "picks": rng.integers(0, 2000, N_PICKS).tolist()})
            for number in range(1, N_ROUNDS + 1):
                events.append(journal_round(method, seed, number, rng))
            events.append({"event": "end", **here})
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "journal.jsonl").write_text(text, encoding="utf-8")


def journal_round(method: str, seed: int, number: int, rng: np.random.Generator) -> dict:
    n_labels = N_PICKS * number
    slope = 0.75 if method == "lcmd" else 0.55
    mae = 0.4 * n_labels**-slope * float(np.exp(0.06 * rng.standard_normal()))
    informed = method != "random"
    return {
        "event": "round",
        "method": method,
        "seed": seed,
        "round": number,
        "n_labels": n_labels,
        "test": {
            "energy_mae": mae / 20,
            "energy_rmse": mae / 14,
            "forces_mae": mae,
            "forces_rmse": 1.5 * mae,
        },
        "calibration": {"forces": {"coverage_68": 0.68 - 0.3 / number + 0.03 * float(rng.standard_normal())}},
        "picks": rng.integers(0, 2000, N_PICKS).tolist(),
        "gains": (np.sort(rng.uniform(0.2, 1, N_PICKS))[::-1] / number).tolist() if informed else [],
        "reasons": [f"farthest from the {n_labels + k} structures before it" for k in range(N_PICKS)]
        if informed
        else ["drawn at random"] * N_PICKS,
    }


def write_metrics(folder: Path, rng: np.random.Generator) -> None:
    columns = ["step", "epoch", "seconds", "loss", "learning_rate", "train_energy_rmse", "train_forces_rmse"]
    columns += ["valid_energy_mae", "valid_energy_rmse", "valid_forces_mae", "valid_forces_rmse"]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for epoch in range(1, 101):
            error = 0.5 * epoch**-0.6 * float(np.exp(0.05 * rng.standard_normal()))
            valid = ["", "", "", ""] if epoch % 5 else [error / 12, error / 9, 0.8 * error, 1.2 * error]
            writer.writerow([10 * epoch, epoch, 1.3 * epoch, error**2, 1e-3, error / 10, error, *valid])


def write_predictions(folder: Path, rng: np.random.Generator) -> None:
    n_structures, species = 200, np.tile([6, 6, 8, 1, 1, 1, 1, 1, 1], 200)
    n_atoms = np.full(n_structures, 9)
    energy = -4200 + rng.normal(0, 0.3, n_structures)
    energy_sigma = 0.012 * np.exp(0.5 * rng.standard_normal(n_structures))
    forces = rng.normal(0, 1, 3 * len(species))
    forces_sigma = 0.03 * np.exp(0.7 * rng.standard_normal(len(forces)))
    forces_sigma[:30] = 0.0  # as for components that symmetry makes zero
    np.savez(
        folder / "predictions.npz",
        energy_reference=energy,
        energy=energy + 1.3 * energy_sigma * rng.standard_normal(n_structures),
        energy_uncertainty=energy_sigma,
        n_atoms=n_atoms,
        forces_reference=forces,
        forces=forces + forces_sigma * rng.standard_normal(len(forces)),
        forces_uncertainty=forces_sigma,
        species=species,
        origin=np.array([f"frame {k} of test.xyz" for k in range(n_structures)]),
        group=np.array(["cold", "hot"])[np.arange(n_structures) % 2],
    )
