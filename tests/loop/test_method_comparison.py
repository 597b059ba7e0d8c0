"""The loop: journal, picks, resume after kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import yaml
from tests.copper import copper

from surefield.errors import ConfigError, DataError
from surefield.loop import LoopConfig, MethodComparison
from surefield.loop.config import MolecularDynamicsPoolConfig
from surefield.loop.journal import Journal
from surefield.loop.method_comparison import summarise
from surefield.loop.oracles import ReplayOracle
from surefield.loop.oracles.config import EMTOracleConfig
from surefield.loop.pools import dynamics_pool
from surefield.potentials import MomentNetwork
from surefield.potentials.snap.snap import Snap, SnapConfig
from surefield.selection.select_rows import select_features
from surefield.structures.read import write_frames
from surefield.training import TrainConfig

SHAPE = {"cutoff": 3.6, "n_basis": 4, "n_channels": 3, "n_triple": 2, "hidden": [8]}


def snap() -> Snap:
    """Solved in no time: what is tested is the loop around it."""
    return Snap.from_settings(SnapConfig(cutoff=3.6, twojmax=2), ["Cu"])


def loop(
    folder: Path,
    properties: Sequence[str] = ("energy", "forces"),
    stress_weight: float | None = None,
    **settings: Any,
) -> MethodComparison:
    pool, test = (copper(n, seed, rattle=0.15, properties=properties) for seed, n in enumerate((14, 4)))
    given = {"methods": ("max_dist",), "seeds": (0,), "n_initial": 6, "n_per_round": 3, "n_rounds": 1}
    config = LoopConfig(**{**given, "validation": 0.3, **settings})
    oracle = ReplayOracle(pool)
    training = TrainConfig(stress_weight=stress_weight)
    return MethodComparison(folder, config, snap(), training, oracle, oracle.pool, test)


def test_a_loop_labels_what_it_says(tmp_path: Path) -> None:
    summary = loop(tmp_path).run(progress=False)
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    for method in ("max_dist", "random"):
        rounds = [e for e in events if e["event"] == "round" and e["method"] == method]
        assert [e["n_labels"] for e in rounds] == [6, 9]
        labelled = [e["index"] for e in events if e["event"] == "labelled" and e["method"] == method]
        assert len(set(labelled)) == 9
        assert labelled[6:] == rounds[0]["picks"]
    first = {e["method"]: e["test"] for e in events if e["event"] == "round" and e["round"] == 0}
    assert first["max_dist"] == first["random"]
    assert "random" in summary["verdict"]
    assert {*summary["labels_to_match_random"]["by_error"]} == {"mae", "rmse", "q95", "worst"}
    tails = summary["tails"]
    assert tails["forces_worst"] >= summary["test"]["forces_rmse"]
    assert tails["forces_q95"] > summary["test"]["forces_mae"]
    (event,) = (e for e in events if e["event"] == "round" and e["method"] == "max_dist" and e["picks"])
    initial = {f"pool {e['index']}" for e in events if e["event"] == "labelled" and e["round"] == 0}
    for index, reason in zip(event["picks"], event["reasons"], strict=True):
        assert reason["origin"] == f"pool {index}"
        assert reason["nearest"] in initial
        assert min(reason["distance"], *reason["sigma"].values()) > 0
    with np.load(tmp_path / "map.npz") as arrays:
        assert (len(arrays["train"]), len(arrays["pool"])) == (6, 14)
        assert arrays["picks"].tolist() == arrays["picks_max_dist"].tolist() == event["picks"]
        (other,) = (e for e in events if e["event"] == "round" and e["method"] == "random" and e["picks"])
        assert arrays["picks_random"].tolist() == other["picks"]
    journal = (tmp_path / "journal.jsonl").read_bytes()
    loop(tmp_path).run(progress=False)
    assert (tmp_path / "journal.jsonl").read_bytes() == journal


def test_picks_of_largest_expected_force_error(tmp_path: Path) -> None:
    """`max_diag` with a score takes the structures whose forces are least sure, in that order."""
    active = loop(tmp_path, methods=("max_diag",), score="forces_variance")
    active.run(progress=False)
    (event,) = active.journal.find(event="round", method="max_diag", round=0)
    labelled = [e["index"] for e in active.journal.find(event="labelled", method="max_diag")][:6]
    llpr, _ = active._fit(labelled, 0)
    left = np.setdiff1d(np.arange(14), labelled)
    sigma = [np.mean(p.forces_uncertainty**2) for p in llpr.predict(active.pool[left], forces=True)]
    assert event["picks"] == left[np.argsort(-np.array(sigma), kind="stable")[:3]].tolist()
    np.testing.assert_allclose(event["gains"], np.sort(sigma)[::-1][:3], rtol=1e-5)


@pytest.mark.parametrize(("weight", "reported"), [(None, True), (0.0, False)])
def test_stresses_are_reported_where_they_count(tmp_path: Path, weight: float | None, reported: bool) -> None:
    """Also where their weight follows from the data."""
    active = loop(tmp_path, ("energy", "forces", "stress"), weight, methods=("random",))
    summary = active.run(progress=False)
    scores = [event["test"] for event in active.journal.find(event="round")]
    assert len(scores) == 2
    assert [("stress_mae" in score) for score in [*scores, summary["test"]]] == [reported] * 3
    assert ("stress" in summary["calibration"]) is reported
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert ("stress_reference" in arrays) is reported


def test_transforms_and_noise_reach_the_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(method: str, features: Any, *args: Any, **options: Any) -> Any:
        if method != "random":
            seen.append((features, options["sigma"]))
        return select_features(method, features, *args, **options)

    monkeypatch.setattr("surefield.loop.method_comparison.select_features", watched)
    oracle = ReplayOracle(copper(8, 0))
    plan = {"methods": ("max_det",), "seeds": (0,), "n_initial": 4, "n_per_round": 2, "n_rounds": 1}
    plan |= {"features": "ll_grad", "validation": 0.34}
    for name, more in {"plain": {}, "set": {"transforms": ({"kind": "scale"},), "sigma": 0.5}}.items():
        (tmp_path / name).mkdir()
        active = MethodComparison(
            tmp_path / name,
            LoopConfig(**plan, **more),
            snap(),
            TrainConfig(),
            oracle,
            oracle.pool,
            copper(3, 1),
        )
        active.run(progress=False)
        (start,) = active.journal.find(event="start")
        # Loops that were begun before these settings go on.
        assert {"sigma", "transforms"} & set(start["inputs"]["loop"]) == set(more)
    (plain, sigma), (scaled, larger) = seen
    length = plain.root_mean_square()
    assert sigma == pytest.approx(0.1 * length)
    np.testing.assert_allclose(scaled.train, plain.train / length)
    assert larger == pytest.approx(0.5)


def test_too_small_a_pool(tmp_path: Path) -> None:
    oracle = ReplayOracle(copper(5, 0))
    with pytest.raises(ConfigError, match="pool holds 5"):
        MethodComparison(
            tmp_path, LoopConfig(), MomentNetwork(["Cu"]), TrainConfig(), oracle, oracle.pool, copper(2, 1)
        )


def test_labels_are_compared_on_mean_curves(tmp_path: Path) -> None:
    """Random ends at 0.2 with 20 labels; the other method meets that halfway, one of its seeds never."""
    journal = Journal(tmp_path / "journal.jsonl")
    errors = {("lcmd", 0): [0.4, 0.1], ("lcmd", 1): [0.4, 0.4 / 1.5], ("random", 0): [0.4, 0.2]}
    errors["random", 1] = errors["random", 0]
    for (method, seed), curve in errors.items():
        for number, error in enumerate(curve):
            scores = {"test": {"forces_mae": error}, "calibration": {}}
            event = {"event": "round", "method": method, "seed": seed, "round": number}
            journal.append({**event, "n_labels": 10 + 10 * number, **scores})
    found = summarise(journal, LoopConfig(methods=("lcmd",), seeds=(0, 1), n_rounds=1))
    mean = np.sqrt(0.1 * 0.4 / 1.5)
    assert found["labels_to_match_random"]["fraction"] == pytest.approx(0.5 + 0.5 * 0.2 / (0.4 - mean))
    assert found["labels_to_match_random"]["per_seed"] == (pytest.approx(0.5 + 0.5 * 2 / 3), None)
    assert found["labels_to_match_random"]["most"] == "mae"


def test_the_headline_names_the_error_in_which_most_was_gained(tmp_path: Path) -> None:
    """RMSE and worst structure fall sooner than the MAE: the verdict names the first of them and the MAE."""
    journal = Journal(tmp_path / "journal.jsonl")
    for seed in range(3):
        for method, last in {"lcmd": (0.2, 0.1, 0.2, 0.25), "random": (0.2, 0.2, 0.2, 0.2)}.items():
            for number in range(2):
                scale = 1.0 + 0.1 * seed
                values = last if number else (0.4, 0.4, 0.4, 0.4)
                names = ("forces_mae", "forces_rmse", "forces_q95", "forces_worst")
                scores = dict(zip(names, scale * np.array(values), strict=True))
                event = {"event": "round", "method": method, "seed": seed, "round": number}
                event |= {
                    "test": {k: scores[k] for k in names[:2]},
                    "tails": {k: scores[k] for k in names[2:]},
                }
                journal.append({**event, "n_labels": 10 + 10 * number, "calibration": {}})
    found = summarise(journal, LoopConfig(methods=("lcmd",), seeds=(0, 1, 2), n_rounds=1))
    entry = found["labels_to_match_random"]
    assert (entry["most"], entry["fraction"]) == ("rmse", pytest.approx(1.0))
    assert entry["by_error"]["rmse"]["fraction"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert entry["by_error"]["worst"]["fraction"] is None
    assert found["verdict"] == (
        "lcmd reaches the final force RMSE of random selection with 83 % of its labels (mean curves of 3 "
        "repetitions, 95 % interval 83 % to 83 %); for the force MAE it needs 100 %."
    )


@pytest.mark.slow
def test_killed_up_to_ten_times_it_ends_the_same(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "train.xyz", copper(20, 0, rattle=0.15))
    ase.io.write(tmp_path / "test.xyz", copper(5, 1, rattle=0.15))
    found = {
        "name": "x",
        "data": {"train": str(tmp_path / "train.xyz"), "test": str(tmp_path / "test.xyz")},
        "potential": SHAPE,
        "training": {"epochs": 2},
        "loop": {"seeds": [0], "n_initial": 6, "n_per_round": 3, "n_rounds": 3, "validation": 0.3},
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(found))
    code = "from surefield.cli import main; main()"

    def start(root: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code, "loop", str(tmp_path / "loop.yaml"), f"root={tmp_path / root}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("compiling").wait() == 0
    begin = time.perf_counter()
    assert start("whole").wait() == 0
    whole = time.perf_counter() - begin
    rng, n_kills = random.Random(0), 0
    for _ in range(10):
        process = start("cut")
        try:
            process.wait(timeout=rng.uniform(0.2, 0.5) * whole)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            n_kills += 1
    assert n_kills >= 2
    assert start("cut").wait() == 0
    journals = [(tmp_path / root / "x-loop" / "journal.jsonl").read_bytes() for root in ("whole", "cut")]
    assert journals[0] == journals[1]


def test_labels_are_those_of_their_structures(tmp_path: Path) -> None:
    """A label file with another structure, or with another energy than the journal has, is not taken."""
    loop(tmp_path).run(progress=False)
    first, second = sorted((tmp_path / "labels").iterdir())[:2]
    label = first.read_text()
    first.write_text(second.read_text())
    with pytest.raises(DataError, match="label of another structure than number"):
        loop(tmp_path).run(progress=False)
    energy = float(label.split("energy=")[1].split()[0])
    first.write_text(label.replace(f"energy={energy!r}", f"energy={energy + 1!r}"))
    with pytest.raises(ConfigError, match=r"label of structure .* that of the journal; got another"):
        loop(tmp_path).run(progress=False)
    first.write_text(label)
    loop(tmp_path).run(progress=False)


def test_candidates_are_those_of_their_settings(tmp_path: Path) -> None:
    settings = {
        "n_pool": 2,
        "n_test": 2,
        "steps_between": 1,
        "equilibration_steps": 0,
        "temperatures": (300.0,),
    }
    write_frames(tmp_path / "start.xyz", copper(1, 0))

    def pool(**changes: Any) -> int:
        all_settings = {"structure": str(tmp_path / "start.xyz"), "engine": EMTOracleConfig(), **settings}
        config = MolecularDynamicsPoolConfig(**{**all_settings, **changes})
        made, _ = dynamics_pool(config, EMTOracleConfig(), tmp_path)
        return len(made.candidates)

    assert pool() == pool() == 2
    with pytest.raises(ConfigError, match=r"dynamics\.seed was 0, now 1"):
        pool(seed=1)
    write_frames(tmp_path / "start.xyz", copper(1, 1))
    with pytest.raises(ConfigError, match="energy, forces, positions of the structure"):
        pool()
